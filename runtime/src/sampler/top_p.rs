//! `top_p` (nucleus sampling, Holtzman et al. 2020): keeps the smallest set of tokens whose probability reaches p.

use super::Candidates;

/// Keeps most likely tokens until their probability reaches `p`; at least one.
pub(super) fn apply(candidates: &mut Candidates, p: f32) {
    let best = f64::from(candidates.best().logit);
    let enough = f64::from(p) * candidates.shares().iter().sum::<f64>();
    let (mut reached, mut kept, mut sorted) = (0.0, 0, 0);
    // The nucleus is small as a rule, so more of the order is made only when needed.
    while kept == 0 || (reached < enough && kept < candidates.items.len()) {
        if kept == sorted {
            sorted = (sorted * 4).max(64);
            candidates.lead_with(sorted);
        }
        reached += (f64::from(candidates.items[kept].logit) - best).exp();
        kept += 1;
    }
    candidates.items.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_set_that_reaches_p_stays() {
        // Probabilities 1/2, 1/4, 1/8, 1/8.
        let logits = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln);
        let cases = [
            (0.0, vec![1]),
            (0.49, vec![1]),
            (0.51, vec![1, 3]),
            (0.74, vec![1, 3]),
            (0.8, vec![0, 1, 3]),
            (0.9, vec![0, 1, 2, 3]),
        ];
        for (p, expected) in cases {
            let mut candidates = Candidates::of(&logits);
            apply(&mut candidates, p);
            assert_eq!(candidates.ids(), expected, "p = {p}");
        }
    }

    #[test]
    fn a_wide_nucleus_needs_more_than_the_first_look() {
        let mut candidates = Candidates::of(&[0.0; 1000]);
        apply(&mut candidates, 0.4995);
        assert_eq!(candidates.ids(), (0..500).collect::<Vec<u32>>(), "500 equal tokens reach 0.4995, the lowest ids");
    }
}
