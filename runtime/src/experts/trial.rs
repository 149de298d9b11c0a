//! Whether reading ahead pays, measured: steps with it and without in alternating short stretches.

use std::time::Duration;

/// Steps with it before the first measured one: until then nobody knows which guesses are worth a read.
const LEARN: usize = 24;
/// Steps of a stretch, the first of which does not count: it still has what the other way left behind.
const STRETCH: usize = 8;
/// Stretches of each way.
const ROUNDS: usize = 8;
/// What a step with it may take of one without, to be kept.
const WINS: f64 = 0.99;

/// Always on, unless it is measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Trial(Option<Measuring>);

#[derive(Clone, Debug, Default)]
struct Measuring {
    steps: usize,
    /// Seconds of the stretch so far.
    stretch: f64,
    /// Mean seconds of each stretch, without and with it.
    means: [Vec<f64>; 2],
}

impl Measuring {
    /// Whether the current stretch is one with it; `None` when all are over.
    fn with(&self) -> Option<bool> {
        match self.steps.checked_sub(LEARN).map(|n| n / STRETCH) {
            None => Some(true),
            Some(stretch) => (stretch < 2 * ROUNDS).then_some(stretch % 2 == 1),
        }
    }

    fn medians(&self) -> [f64; 2] {
        self.means.clone().map(|mut means| {
            means.sort_by(f64::total_cmp);
            means.get(means.len() / 2).copied().unwrap_or(0.0)
        })
    }
}

impl Trial {
    /// Begins to measure.
    pub(super) fn start() -> Self {
        Self(Some(Measuring::default()))
    }

    /// Whether to read ahead now.
    pub(super) fn on(&self) -> bool {
        self.decided().unwrap_or_else(|| self.0.as_ref().and_then(Measuring::with).unwrap_or(true))
    }

    /// Whether it stays on or off; `None` while that is measured.
    pub(super) fn decided(&self) -> Option<bool> {
        let Some(measuring) = &self.0 else { return Some(true) };
        let [without, with] = measuring.medians();
        measuring.with().is_none().then_some(with < WINS * without)
    }

    /// Median times of a step without and with it, once that was measured.
    pub(super) fn measured(&self) -> Option<[Duration; 2]> {
        let measuring = self.0.as_ref().filter(|measuring| measuring.with().is_none())?;
        Some(measuring.medians().map(Duration::from_secs_f64))
    }

    /// A step is over; whether that decided.
    pub(super) fn note(&mut self, time: Duration) -> bool {
        let Some(measuring) = &mut self.0 else { return false };
        let Some(with) = measuring.with() else { return false };
        if let Some(at) = measuring.steps.checked_sub(LEARN).map(|n| n % STRETCH) {
            measuring.stretch = if at == 0 { 0.0 } else { measuring.stretch + time.as_secs_f64() };
            if at + 1 == STRETCH {
                measuring.means[usize::from(with)].push(measuring.stretch / (STRETCH - 1) as f64);
            }
        }
        measuring.steps += 1;
        measuring.with().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of so many milliseconds without and with it, and sometimes of ten times as many.
    fn run(without: u64, with: u64) -> Trial {
        let mut trial = Trial::start();
        for step in 0.. {
            let time = if trial.on() { with } else { without };
            let time = if step % 97 == 50 { 10 * time } else { time };
            assert_eq!(trial.decided(), None);
            if trial.note(Duration::from_millis(time)) {
                break;
            }
        }
        trial
    }

    #[test]
    fn what_is_faster_is_kept() {
        assert_eq!(run(100, 90).decided(), Some(true));
        assert_eq!(run(100, 90).measured(), Some([100, 90].map(Duration::from_millis)));
        for with in [100, 110] {
            let mut trial = run(100, with);
            assert_eq!(
                (trial.decided(), trial.on()),
                (Some(false), false),
                "no better is not worth its memory traffic"
            );
            assert!(!trial.note(Duration::ZERO), "it decides once");
        }
        assert_eq!((Trial::default().on(), Trial::default().measured()), (true, None));
    }
}
