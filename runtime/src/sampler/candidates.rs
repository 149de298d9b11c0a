//! The tokens that may still be drawn, with their logits.

use std::cmp::Ordering;

use super::NotFinite;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) logit: f32,
}

/// More likely first, ties to the lower id: a total order, so that nothing depends on how it is reached.
pub(super) fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// The tokens that may still be drawn; never empty once [`Self::drop_impossible`] has passed.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    pub(super) items: Vec<Candidate>,
}

impl Candidates {
    /// All tokens in order of id.
    pub(super) fn fill(&mut self, logits: &[f32]) -> Result<(), NotFinite> {
        if logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
            return Err(NotFinite);
        }
        self.items.clear();
        self.items.extend(logits.iter().zip(0u32..).map(|(logit, id)| Candidate { id, logit: *logit }));
        Ok(())
    }

    /// Drops tokens of probability 0 and caps logits that huge biases or penalties drove out of range.
    pub(super) fn drop_impossible(&mut self) -> Result<(), NotFinite> {
        self.items.retain_mut(|c| {
            c.logit = c.logit.min(f32::MAX);
            c.logit > f32::NEG_INFINITY
        });
        if self.items.is_empty() { Err(NotFinite) } else { Ok(()) }
    }

    /// The most likely.
    pub(super) fn best(&self) -> Candidate {
        let best = self.items.iter().min_by(|a, b| likelier(a, b));
        *best.expect("candidates are never empty")
    }

    /// Puts the `count` most likely first, most likely first of all; leaves the others in any order behind.
    pub(super) fn lead_with(&mut self, count: usize) {
        if count < self.items.len() {
            self.items.select_nth_unstable_by(count, likelier);
        }
        let count = count.min(self.items.len());
        self.items[..count].sort_unstable_by(likelier);
    }

    /// Each candidate's share of the most likely one's probability, in their order.
    pub(super) fn shares(&self) -> Vec<f64> {
        let best = f64::from(self.best().logit);
        self.items.iter().map(|c| (f64::from(c.logit) - best).exp()).collect()
    }

    #[cfg(test)]
    pub(super) fn of(logits: &[f32]) -> Self {
        let mut candidates = Self::default();
        candidates.fill(logits).and_then(|()| candidates.drop_impossible()).expect("test logits are finite");
        candidates
    }

    #[cfg(test)]
    pub(super) fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.items.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }
}
