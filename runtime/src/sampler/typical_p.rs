//! `typical_p` (Meister et al. 2022): keeps the tokens whose surprise is nearest the entropy, up to a mass.

use super::Candidates;

/// Keeps tokens in order of `|-ln p - H|`, ties to the lowest id, until their probability reaches `mass`; at least one.
pub(super) fn apply(candidates: &mut Candidates, mass: f32) {
    let best = f64::from(candidates.best().logit);
    let log_total = candidates.shares().iter().sum::<f64>().ln();
    let log_probability = |logit: f32| f64::from(logit) - best - log_total;
    let entropy: f64 = candidates.items.iter().map(|c| log_probability(c.logit)).map(|l| -l.exp() * l).sum();
    let distance = |logit: f32| (-log_probability(logit) - entropy).abs();
    candidates.items.sort_unstable_by(|a, b| distance(a.logit).total_cmp(&distance(b.logit)).then(a.id.cmp(&b.id)));
    let mut reached = 0.0;
    let kept = candidates.items.iter().take_while(|c| {
        let go_on = reached < f64::from(mass);
        reached += log_probability(c.logit).exp();
        go_on
    });
    let kept = kept.count().max(1);
    candidates.items.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_to_the_entropy_stay_even_without_the_most_likely() {
        // Surprises in bits: 1, 2, 3, 3; entropy 1.75 bits; distances 0.75, 0.25, 1.25, 1.25.
        let logits = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln);
        let cases = [(0.0, vec![3]), (0.2, vec![3]), (0.3, vec![1, 3]), (0.76, vec![0, 1, 3]), (0.9, vec![0, 1, 2, 3])];
        for (mass, expected) in cases {
            let mut candidates = Candidates::of(&logits);
            apply(&mut candidates, mass);
            assert_eq!(candidates.ids(), expected, "typical_p = {mass}");
        }
    }
}
