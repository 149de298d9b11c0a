//! `min_p` (Nguyen et al. 2024): drops tokens below a share of the most likely one's probability.

use super::Candidates;

/// Keeps tokens of at least `share` of the most likely one's probability.
pub(super) fn apply(candidates: &mut Candidates, share: f32) {
    let best = f64::from(candidates.best().logit);
    candidates.items.retain(|c| (f64::from(c.logit) - best).exp() >= f64::from(share));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_below_the_share_go_and_the_most_likely_always_stays() {
        // Shares of the most likely: 1/4, 1, 1/4, 1/2.
        let logits = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln);
        for (share, expected) in [(0.2, vec![0, 1, 2, 3]), (0.3, vec![1, 3]), (0.6, vec![1]), (1.0, vec![1])] {
            let mut candidates = Candidates::of(&logits);
            apply(&mut candidates, share);
            assert_eq!(candidates.ids(), expected, "min_p = {share}");
        }
    }
}
