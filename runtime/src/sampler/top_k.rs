//! `top_k`: keeps the k most likely tokens, ties to the lowest ids.

use super::Candidates;

/// Keeps the `k` most likely.
pub(super) fn apply(candidates: &mut Candidates, k: usize) {
    candidates.lead_with(k);
    candidates.items.truncate(k);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stay_and_ties_go_to_the_lowest_ids() {
        let logits = [1.0, 3.0, 2.0, 3.0, 2.0, 2.0];
        for (k, expected) in [(1, vec![1]), (2, vec![1, 3]), (4, vec![1, 2, 3, 4]), (9, vec![0, 1, 2, 3, 4, 5])] {
            let mut candidates = Candidates::of(&logits);
            apply(&mut candidates, k);
            assert_eq!(candidates.ids(), expected, "k = {k}");
        }
    }
}
