//! What steps chose, written down, and what a policy would have made of it with any number of slots.

use std::fmt;

use super::Residency;

/// The experts that steps chose, layer by layer, in the order in which the store was asked for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Experts of a layer.
    pub experts: usize,
    /// A layer, and its distinct experts in ascending order.
    pub choices: Vec<(usize, Vec<u32>)>,
}

/// Who makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The least recently used: what the store does.
    LeastRecentlyUsed,
    /// The one whose next use lies farthest ahead (Belady 1966): nobody can do better, and nobody who does not know the
    /// future can do it.
    Belady,
}

/// What came of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Chosen experts that were in a slot.
    pub hits: u64,
    /// Those that were not.
    pub misses: u64,
}

impl Replayed {
    /// Share of hits; 0 where nothing was chosen.
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / (self.hits + self.misses).max(1) as f64
    }
}

impl Trace {
    /// Layers that chose.
    pub fn layers(&self) -> usize {
        self.choices.iter().map(|(layer, _)| layer + 1).max().unwrap_or(0)
    }

    /// Runs the choices through `slots` slots of each layer, which begin with the first experts in them.
    pub fn replay(&self, slots: usize, policy: Policy) -> Replayed {
        let mut layers = vec![Residency::new(self.experts, slots); self.layers()];
        let mut replayed = Replayed::default();
        let uses = self.uses();
        for (now, (layer, chosen)) in self.choices.iter().enumerate() {
            let residency = &mut layers[*layer];
            let (present, absent): (Vec<u32>, Vec<u32>) =
                chosen.iter().partition(|expert| residency.use_slot(**expert).is_some());
            replayed.hits += present.len() as u64;
            replayed.misses += absent.len() as u64;
            let mut arrived: Vec<u32> = vec![];
            for expert in absent {
                let next = |resident: u32| uses[*layer][resident as usize].iter().find(|at| **at > now).copied();
                let rank = |resident: u32, used: u64| match policy {
                    Policy::LeastRecentlyUsed => used,
                    Policy::Belady => u64::MAX - next(resident).map_or(u64::MAX, |at| at as u64),
                };
                let room = residency.make_room_by(|resident| !arrived.contains(&resident), rank);
                // Where a step wants more than there are slots, what was computed with makes room.
                let room = room.or_else(|| {
                    arrived.clear();
                    residency.make_room_by(|_| true, rank)
                });
                if let Some(slot) = room {
                    residency.fill(slot, expert);
                    arrived.push(expert);
                }
            }
        }
        replayed
    }

    /// When each expert of each layer is chosen, ascending.
    fn uses(&self) -> Vec<Vec<Vec<usize>>> {
        let mut uses = vec![vec![vec![]; self.experts]; self.layers()];
        for (now, (layer, chosen)) in self.choices.iter().enumerate() {
            chosen.iter().for_each(|expert| uses[*layer][*expert as usize].push(now));
        }
        uses
    }
}

/// A line `experts N`, then a line for each choice: the layer, a colon, its experts.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "experts {}", self.experts)?;
        for (layer, chosen) in &self.choices {
            let chosen: Vec<String> = chosen.iter().map(u32::to_string).collect();
            writeln!(f, "{layer}: {}", chosen.join(" "))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Trace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// Bounds of what a file may ask to have memory for.
        const MOST: usize = 1 << 16;
        /// Experts of all layers together.
        const MOST_IN_ALL: usize = 1 << 20;
        let mut lines = text.lines().enumerate();
        let first = lines.next().and_then(|(_, line)| line.strip_prefix("experts ")?.parse().ok());
        let experts: usize = first.filter(|n| *n <= MOST).ok_or("line 1: expected `experts` and their number")?;
        let mut choices = vec![];
        for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
            let wrong = || format!("line {}: expected a layer, a colon and experts below {experts}: `{line}`", at + 1);
            let (layer, chosen) = line.split_once(':').ok_or_else(wrong)?;
            let layer = layer.parse().ok().filter(|layer: &usize| *layer < MOST).ok_or_else(wrong)?;
            let chosen: Option<Vec<u32>> = chosen.split_whitespace().map(|n| n.parse().ok()).collect();
            let inside = |chosen: &Vec<u32>| chosen.iter().all(|expert| (*expert as usize) < experts);
            choices.push((layer, chosen.filter(inside).ok_or_else(wrong)?));
        }
        let trace = Self { experts, choices };
        match trace.layers() * experts {
            all if all <= MOST_IN_ALL => Ok(trace),
            all => Err(format!("{all} experts in {} layers: expected {MOST_IN_ALL} at most", trace.layers())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(choices: &[&[u32]]) -> Trace {
        Trace { experts: 5, choices: choices.iter().map(|chosen| (0, chosen.to_vec())).collect() }
    }

    #[test]
    fn belady_keeps_what_comes_back_soonest() {
        // Slots begin with 0 and 1. A cycle of three in two slots: the least recently used one is always the wrong one.
        let cycle = trace(&[&[0], &[1], &[2], &[0], &[1], &[2], &[0]]);
        let lru = cycle.replay(2, Policy::LeastRecentlyUsed);
        let best = cycle.replay(2, Policy::Belady);
        assert_eq!((lru.hits, lru.misses), (2, 5));
        // 2 takes the place of 1, 1 that of 0 … every other one is there.
        assert_eq!((best.hits, best.misses), (4, 3));
        assert_eq!(cycle.replay(5, Policy::LeastRecentlyUsed).hits, 7);
    }

    #[test]
    fn a_step_may_want_more_than_there_are_slots() {
        let replayed = trace(&[&[0, 1, 2, 3, 4], &[4]]).replay(2, Policy::LeastRecentlyUsed);
        assert_eq!((replayed.hits, replayed.misses), (3, 3));
    }

    #[test]
    fn texts_parse_back_and_wrong_ones_are_refused() {
        let trace = Trace { experts: 9, choices: vec![(0, vec![1, 8]), (3, vec![0])] };
        assert_eq!(trace.to_string().parse(), Ok(trace));
        for (text, expected) in [
            ("", "line 1"),
            ("experts x", "line 1"),
            ("experts 99999999999", "line 1"),
            ("experts 4\n0 1", "line 2"),
            ("experts 4\n0: 4", "line 2"),
            ("experts 4\n\n99999999: 1", "line 3"),
            ("experts 65536\n65535: 1", "65536 layers"),
        ] {
            let error = text.parse::<Trace>().expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
