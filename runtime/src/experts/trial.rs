//! Whether reading ahead pays, measured: steps with it and without in alternating short stretches.

use std::time::Duration;

/// Steps with it before the first measured one: until then nobody knows which guesses are worth a read.
const LEARN: usize = 24;
/// Steps of a stretch, the first of which does not count: it still has what the other way left behind.
const STRETCH: usize = 8;
/// Stretches of each way.
const ROUNDS: usize = 8;
/// Pairs of stretches in which it must be faster, by at least a hundredth, to be kept: chance gives so many one time in
/// seven.
const WINS: usize = 6;
const FASTER: f64 = 0.99;

/// Always on, unless it is measured.
#[derive(Clone, Debug, Default)]
pub(super) enum Trial {
    #[default]
    Always,
    Measuring(Measuring),
    /// Whether it is kept, and the times of a step without and with it.
    Decided(bool, [Duration; 2]),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Measuring {
    steps: usize,
    /// Seconds of the stretch so far.
    stretch: f64,
    /// Mean seconds of each stretch, without and with it.
    means: [Vec<f64>; 2],
}

impl Measuring {
    /// The current stretch, and how many of its steps are over; `None` before the first.
    fn stretch(&self) -> Option<(usize, usize)> {
        self.steps.checked_sub(LEARN).map(|n| (n / STRETCH, n % STRETCH))
    }

    /// Whether the current stretch is one with it.
    fn with(&self) -> bool {
        self.stretch().is_none_or(|(stretch, _)| stretch % 2 == 1)
    }

    fn note(&mut self, seconds: f64) {
        if let Some((_, at)) = self.stretch() {
            self.stretch = if at == 0 { 0.0 } else { self.stretch + seconds };
            if at + 1 == STRETCH {
                self.means[usize::from(self.with())].push(self.stretch / (STRETCH - 1) as f64);
            }
        }
        self.steps += 1;
    }

    /// Whether it won, and median times without and with it; once all stretches are over.
    fn outcome(&self) -> Option<(bool, [Duration; 2])> {
        let [without, with] = &self.means;
        if with.len() < ROUNDS {
            return None;
        }
        let median = |means: &Vec<f64>| {
            let mut means = means.clone();
            means.sort_by(f64::total_cmp);
            Duration::from_secs_f64(means[means.len() / 2])
        };
        let won = without.iter().zip(with).filter(|(without, with)| **with < FASTER * **without).count();
        Some((won >= WINS, [median(without), median(with)]))
    }
}

impl Trial {
    /// Begins to measure.
    pub(super) fn start() -> Self {
        Self::Measuring(Measuring::default())
    }

    /// Whether to read ahead now.
    pub(super) fn on(&self) -> bool {
        match self {
            Self::Measuring(measuring) => measuring.with(),
            _ => self.decided() == Some(true),
        }
    }

    /// Whether it stays on or off; `None` while that is measured.
    pub(super) fn decided(&self) -> Option<bool> {
        match self {
            Self::Always => Some(true),
            Self::Measuring(_) => None,
            Self::Decided(on, _) => Some(*on),
        }
    }

    /// Median times of a step without and with it, once that was measured.
    pub(super) fn measured(&self) -> Option<[Duration; 2]> {
        match self {
            Self::Decided(_, times) => Some(*times),
            _ => None,
        }
    }

    /// A step is over; whether that decided.
    pub(super) fn note(&mut self, time: Duration) -> bool {
        let Self::Measuring(measuring) = self else { return false };
        measuring.note(time.as_secs_f64());
        let Some((on, times)) = measuring.outcome() else { return false };
        *self = Self::Decided(on, times);
        true
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
        let measured = run(100, 90).measured().expect("it was measured");
        assert_eq!(measured.map(|time| time.as_millis()), [100, 90]);
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
