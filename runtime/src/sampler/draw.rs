//! The draw: one uniform number, inverted through the candidates' distribution in order of id.

use super::Candidates;

/// The candidate that `uniform`, a number in `[0, 1)`, falls on. Order of id, so that the result depends on which
/// candidates there are and not on how the filters left them.
pub(super) fn draw(candidates: &mut Candidates, temperature: f32, uniform: f64) -> u32 {
    let best = candidates.best();
    if !candidates.items.is_sorted_by_key(|c| c.id) {
        candidates.items.sort_unstable_by_key(|c| c.id);
    }
    let weight = |logit: f32| ((f64::from(logit) - f64::from(best.logit)) / f64::from(temperature)).exp();
    let total: f64 = candidates.items.iter().map(|c| weight(c.logit)).sum();
    let mut left = uniform * total;
    for candidate in &candidates.items {
        left -= weight(candidate.logit);
        if left < 0.0 {
            return candidate.id;
        }
    }
    // Rounding of the sum may leave a little over.
    best.id
}

#[cfg(test)]
mod tests {
    use super::super::philox::uniform;
    use super::*;

    /// Pearson's statistic of draws against the exact distribution.
    fn chi_square(logits: &[f32], temperature: f32, seed: u64) -> f64 {
        let draws = 20_000;
        let mut counts = vec![0u32; logits.len()];
        for position in 0..draws {
            let mut candidates = Candidates::of(logits);
            counts[draw(&mut candidates, temperature, uniform(seed, position)) as usize] += 1;
        }
        let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / f64::from(temperature)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let expected = weights.iter().map(|w| w / total * draws as f64);
        expected.zip(&counts).map(|(e, c)| (f64::from(*c) - e).powi(2) / e).sum()
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0, 1.0, -1.0, 2.0, 0.5, 0.0];
        // 99.9 % of samples from the right distribution stay below 20.5 with 5 degrees of freedom.
        for temperature in [0.5, 1.0, 2.0] {
            for seed in 0..3 {
                let statistic = chi_square(&logits, temperature, seed);
                assert!(statistic < 20.5, "temperature {temperature}, seed {seed}: {statistic}");
            }
        }
    }

    #[test]
    fn the_statistic_sees_a_wrong_temperature() {
        let wrong: Vec<f32> = [0.0f32, 1.0, -1.0, 2.0, 0.5, 0.0].iter().map(|l| l * 1.1).collect();
        let mut counts = [0u32; 6];
        for position in 0..20_000 {
            let mut candidates = Candidates::of(&[0.0, 1.0, -1.0, 2.0, 0.5, 0.0]);
            counts[draw(&mut candidates, 1.0, uniform(0, position)) as usize] += 1;
        }
        let total: f64 = wrong.iter().map(|l| f64::from(*l).exp()).sum();
        let expected = wrong.iter().map(|l| f64::from(*l).exp() / total * 20_000.0);
        let statistic: f64 = expected.zip(counts).map(|(e, c)| (f64::from(c) - e).powi(2) / e).sum();
        assert!(statistic > 20.5, "{statistic}");
    }

    #[test]
    fn the_order_of_candidates_and_extreme_temperatures_do_not_matter() {
        let forward = Candidates::of(&[0.3, 0.1, 0.7, 0.2]);
        let mut backward = forward.clone();
        backward.items.reverse();
        for position in 0..100 {
            let u = uniform(7, position);
            assert_eq!(draw(&mut forward.clone(), 1.0, u), draw(&mut backward.clone(), 1.0, u));
            assert_eq!(draw(&mut forward.clone(), f32::MIN_POSITIVE, u), 2, "almost greedy");
        }
        assert_eq!(draw(&mut forward.clone(), 1.0, 0.0), 0);
        assert_eq!(draw(&mut forward.clone(), f32::MAX, 0.999), 3, "almost uniform");
    }
}
