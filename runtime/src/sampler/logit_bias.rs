//! `logit_bias`: a number added to a token's logit. A token named twice gets both.

use super::Candidates;

/// Adds each bias; candidates are still in order of id, and ids are below the vocabulary.
pub(super) fn apply(candidates: &mut Candidates, biases: &[(u32, f32)]) {
    for (id, bias) in biases {
        if let Some(candidate) = candidates.items.get_mut(*id as usize) {
            candidate.logit += bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_add_up() {
        let mut candidates = Candidates::of(&[1.0, 2.0, 3.0]);
        apply(&mut candidates, &[(2, -1.5), (0, 10.0), (2, -1.5)]);
        let logits: Vec<f32> = candidates.items.iter().map(|c| c.logit).collect();
        assert_eq!(logits, [11.0, 2.0, 0.0]);
    }
}
