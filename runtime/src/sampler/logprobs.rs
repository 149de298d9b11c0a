//! Log-probabilities of the model's own distribution: log-softmax in f64 of logits that no sampling field has touched.

use super::NotFinite;
use crate::request::ScoredToken;

/// Token `id` with its log-probability and the `top` most likely tokens, ties to the lowest id.
///
/// # Errors
/// The logits are not finite.
pub fn score(logits: &[f32], id: u32, top: usize) -> Result<ScoredToken, NotFinite> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !best.is_finite() || logits.iter().any(|l| l.is_nan()) {
        return Err(NotFinite);
    }
    let shares: f64 = logits.iter().map(|l| (f64::from(*l) - f64::from(best)).exp()).sum();
    let log_total = f64::from(best) + shares.ln();
    let log_probability = |logit: f32| (f64::from(logit) - log_total) as f32;
    let logprob = logits.get(id as usize).map(|l| log_probability(*l));
    let top = most_likely(logits, top).into_iter().map(|(id, logit)| (id, log_probability(logit))).collect();
    Ok(ScoredToken { id, logprob, top })
}

/// The `count` largest, largest first, ties to the lowest id; one pass, since `count` is small.
fn most_likely(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count.min(logits.len()) + 1);
    for (logit, id) in logits.iter().zip(0u32..) {
        if best.len() < count || best.last().is_some_and(|(_, last)| logit > last) {
            let at = best.partition_point(|(_, b)| b >= logit);
            best.insert(at, (id, *logit));
            best.truncate(count);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_of_a_distribution_that_is_known() {
        // Adding a constant to logits changes nothing; probabilities 1/2, 1/4, 1/8, 1/8.
        let logits = [0.125f32, 0.5, 0.125, 0.25].map(|p| p.ln() + 300.0);
        let scored = score(&logits, 3, 3).expect("finite");
        let near = |got: f32, probability: f32| (got - probability.ln()).abs() < 1e-4;
        assert!(scored.logprob.is_some_and(|l| near(l, 0.25)), "{scored:?}");
        assert_eq!(scored.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 0], "the tie goes to the lower id");
        assert!(scored.top.iter().zip([0.5, 0.25, 0.125]).all(|((_, l), p)| near(*l, p)), "{scored:?}");
    }

    #[test]
    fn a_flat_distribution_over_many_tokens_is_exact() {
        let scored = score(&[1.0; 150_000], 77_777, 0).expect("finite");
        assert_eq!(scored.logprob, Some((-(150_000f64.ln())) as f32));
        assert_eq!(scored.top, []);
    }

    #[test]
    fn broken_logits_are_refused() {
        assert_eq!(score(&[0.0, f32::NAN], 0, 1), Err(NotFinite));
        assert_eq!(score(&[f32::INFINITY, 0.0], 0, 1), Err(NotFinite));
        assert_eq!(score(&[f32::NEG_INFINITY; 3], 0, 1), Err(NotFinite));
    }
}
