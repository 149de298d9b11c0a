//! Repetition (Keskar et al. 2019), frequency and presence penalties (as OpenAI's API documents them).

use indexmap::IndexMap;

use super::Candidates;
use crate::request::Sampling;

/// How often each token occurred in the reply; tokens of the prompt alone count 0.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    counts: IndexMap<u32, u32>,
}

impl Seen {
    /// What a prompt holds.
    pub fn in_prompt(prompt: &[u32]) -> Self {
        Self { counts: prompt.iter().map(|id| (*id, 0)).collect() }
    }

    /// One more token of the reply.
    pub fn in_reply(&mut self, id: u32) {
        *self.counts.entry(id).or_insert(0) += 1;
    }
}

/// Whether any penalty differs from its neutral value.
pub(super) fn act(sampling: &Sampling) -> bool {
    sampling.repetition_penalty != 1.0 || sampling.frequency_penalty != 0.0 || sampling.presence_penalty != 0.0
}

/// Penalises what was seen; candidates are still in order of id.
pub(super) fn apply(candidates: &mut Candidates, sampling: &Sampling, seen: &Seen) {
    if !act(sampling) {
        return;
    }
    for (id, count) in &seen.counts {
        if let Some(candidate) = candidates.items.get_mut(*id as usize) {
            let logit = &mut candidate.logit;
            if *logit > 0.0 {
                *logit /= sampling.repetition_penalty;
            } else {
                *logit *= sampling.repetition_penalty;
            }
            *logit -= *count as f32 * sampling.frequency_penalty;
            *logit -= if *count > 0 { sampling.presence_penalty } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalised(sampling: &Sampling) -> Vec<f32> {
        let mut candidates = Candidates::of(&[4.0, -4.0, 4.0, -4.0, 4.0]);
        // The prompt is 0 1 0, the reply 2 3 3.
        let mut seen = Seen::in_prompt(&[0, 1, 0]);
        [2, 3, 3].into_iter().for_each(|id| seen.in_reply(id));
        apply(&mut candidates, sampling, &seen);
        candidates.items.iter().map(|c| c.logit).collect()
    }

    #[test]
    fn repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_reply() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(penalised(&sampling), [2.0, -8.0, 2.0, -8.0, 4.0]);
    }

    #[test]
    fn frequency_counts_the_reply_and_presence_only_whether() {
        let sampling = Sampling { frequency_penalty: 0.5, ..Sampling::default() };
        assert_eq!(penalised(&sampling), [4.0, -4.0, 3.5, -5.0, 4.0]);
        let sampling = Sampling { presence_penalty: 0.5, ..Sampling::default() };
        assert_eq!(penalised(&sampling), [4.0, -4.0, 3.5, -4.5, 4.0]);
    }

    #[test]
    fn a_negative_infinite_logit_stays() {
        let mut candidates = Candidates::default();
        candidates.fill(&[f32::NEG_INFINITY, 0.0]).expect("finite enough");
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        apply(&mut candidates, &sampling, &Seen::in_prompt(&[0]));
        assert_eq!(candidates.items[0].logit, f32::NEG_INFINITY);
    }
}
