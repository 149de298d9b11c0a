//! How the compiler decides where several programs are right.
//!
//! Speed is the reason to merge, rewrite and fuse, never correctness: with nothing decided for speed, or with decisions
//! made at random, a program must compute the same. That is what tests and `SLM_NOOPT`, `SLM_CHAOS` are for.

use std::cell::Cell;

/// Who decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choices {
    /// The compiler, for speed.
    #[default]
    Best,
    /// Nobody: no rule, no merge, no fusion; every op is a launch of its own.
    Plain,
    /// Chance, from this seed: some fusions are left out and the e-graph's terms are priced at random.
    Random(u64),
}

/// Decisions for one function, the same in every run.
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    choices: Choices,
    state: Cell<u64>,
}

impl Chooser {
    /// `salt` tells functions, classes and passes apart.
    pub(crate) fn new(choices: Choices, salt: usize) -> Self {
        let seed = if let Choices::Random(seed) = choices { seed } else { 0 };
        let chooser = Self { choices, state: Cell::new(seed) };
        chooser.state.set(chooser.next() ^ salt as u64);
        chooser
    }

    /// Whether a fusion that is possible is made.
    pub(crate) fn fuse(&self) -> bool {
        match self.choices {
            Choices::Best => true,
            Choices::Plain => false,
            Choices::Random(_) => self.next() & 1 == 0,
        }
    }

    /// What a term is taken to cost. By chance it is any power of two, so that a longer term is often the cheaper one; what
    /// is free stays free, since a leaf is no choice.
    pub(crate) fn price(&self, real: u64) -> u64 {
        match self.choices {
            Choices::Random(_) if real > 0 => 1 << (self.next() % 20),
            _ => real,
        }
    }

    /// SplitMix64 (Steele, Lea & Flood 2014).
    fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
