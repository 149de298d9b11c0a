//! The sampler as a whole against its definition, written out by hand over plain probabilities.

use proptest::prelude::*;
use swiftlm_runtime::request::Sampling;
use swiftlm_runtime::sampler::{Candidates, NotFinite, Sampler};

fn softmax(logits: &[(usize, f64)], temperature: f64) -> Vec<(usize, f64)> {
    let best = logits.iter().map(|l| l.1).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| ((l.1 - best) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    logits.iter().zip(weights).map(|(l, w)| (l.0, w / total)).collect()
}

/// The first of `order` whose probabilities together reach `mass`.
fn reach(order: &[(usize, f64)], mass: f64) -> Vec<usize> {
    let mut sum = 0.0;
    let mut kept = vec![];
    for (id, p) in order {
        kept.push(*id);
        sum += p;
        if sum >= mass {
            break;
        }
    }
    kept
}

/// Which tokens may be drawn, by the definitions of the fields in their documented order.
fn allowed(logits: &[f32], s: &Sampling) -> Vec<usize> {
    let mut left: Vec<(usize, f64)> = logits.iter().enumerate().map(|(i, l)| (i, f64::from(*l))).collect();
    let keep = |left: &mut Vec<(usize, f64)>, ids: &[usize]| left.retain(|l| ids.contains(&l.0));
    let by_likelihood = |left: &[(usize, f64)]| {
        let mut order = softmax(left, 1.0);
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order
    };
    if s.top_k > 0 {
        let ids: Vec<usize> = by_likelihood(&left).iter().take(s.top_k).map(|p| p.0).collect();
        keep(&mut left, &ids);
    }
    if s.typical_p < 1.0 {
        let p = softmax(&left, 1.0);
        let entropy: f64 = p.iter().map(|(_, p)| -p * p.ln()).sum();
        let mut order = p;
        order.sort_by(|a, b| (-a.1.ln() - entropy).abs().total_cmp(&(-b.1.ln() - entropy).abs()));
        keep(&mut left, &reach(&order, f64::from(s.typical_p)));
    }
    if s.top_p < 1.0 {
        let ids = reach(&by_likelihood(&left), f64::from(s.top_p));
        keep(&mut left, &ids);
    }
    if s.min_p > 0.0 {
        let p = softmax(&left, 1.0);
        let most = p.iter().map(|p| p.1).fold(0.0, f64::max);
        let ids: Vec<usize> = p.iter().filter(|p| p.1 >= f64::from(s.min_p) * most).map(|p| p.0).collect();
        keep(&mut left, &ids);
    }
    left.into_iter().map(|l| l.0).collect()
}

proptest! {
    /// At a huge temperature every kept token is equally likely, so a few hundred draws show which are kept.
    #[test]
    fn draws_come_from_exactly_the_tokens_that_the_definitions_keep(
        logits in proptest::collection::vec(-4.0f32..4.0, 1..12),
        top_k in 0usize..12,
        (top_p, typical_p) in (prop_oneof![Just(1.0f32), 0.05f32..1.0], prop_oneof![Just(1.0f32), 0.05f32..1.0]),
        min_p in prop_oneof![Just(0.0f32), 0.01f32..0.9],
        seed: u64,
    ) {
        let sampling = Sampling { temperature: 1e9, top_p, top_k, min_p, typical_p, seed: Some(seed), ..Sampling::default() };
        let sampler = Sampler::new(sampling.clone(), &[]);
        let mut candidates = Candidates::default();
        let mut drawn: Vec<usize> = (0..400)
            .map(|position| sampler.sample(&logits, position, &mut candidates).expect("finite") as usize)
            .collect();
        drawn.sort_unstable();
        drawn.dedup();
        prop_assert_eq!(drawn, allowed(&logits, &sampling));
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_only(
        logits in proptest::collection::vec(-4.0f32..4.0, 1..50), seed: u64, position in 0usize..10_000,
    ) {
        let sampling = Sampling { temperature: 0.8, seed: Some(seed), ..Sampling::default() };
        let fresh = Sampler::new(sampling.clone(), &[1, 2]).sample(&logits, position, &mut Candidates::default());
        let worn = Sampler::new(sampling, &[3]);
        let mut candidates = Candidates::default();
        for earlier in 0..5 {
            worn.sample(&[1.0, 2.0, 3.0], earlier, &mut candidates).expect("finite");
        }
        prop_assert_eq!(worn.sample(&logits, position, &mut candidates), fresh);
    }
}

fn sample(sampling: Sampling, prompt: &[u32], reply: &[u32], logits: &[f32]) -> Result<u32, NotFinite> {
    let mut sampler = Sampler::new(sampling, prompt);
    reply.iter().for_each(|id| sampler.accept(*id));
    sampler.sample(logits, 0, &mut Candidates::default())
}

#[test]
fn greedy_takes_the_largest_after_bias_and_penalties_with_ties_to_the_lowest() {
    let greedy = Sampling::default();
    assert_eq!(sample(greedy.clone(), &[], &[], &[1.0, 3.0, 3.0]), Ok(1));
    let biased = Sampling { logit_bias: vec![(0, 2.5)], ..greedy.clone() };
    assert_eq!(sample(biased.clone(), &[], &[], &[1.0, 3.0, 3.0]), Ok(0));
    // 3.5 / 2 < 3: the bias is in before the penalty acts on it.
    let both = Sampling { repetition_penalty: 2.0, ..biased };
    assert_eq!(sample(both, &[0], &[], &[1.0, 3.0, 3.0]), Ok(1));
    let frequency = Sampling { frequency_penalty: 0.6, ..greedy.clone() };
    assert_eq!(sample(frequency.clone(), &[], &[1], &[2.0, 3.0]), Ok(1), "once is 0.6");
    assert_eq!(sample(frequency.clone(), &[], &[1, 1], &[2.0, 3.0]), Ok(0), "twice is 1.2");
    assert_eq!(sample(frequency, &[1, 1], &[], &[2.0, 3.0]), Ok(1), "the prompt does not count");
    assert!(Sampler::new(Sampling { top_k: 5, top_p: 0.5, ..greedy.clone() }, &[]).is_plain_greedy());
    assert!(!Sampler::new(Sampling { presence_penalty: 0.1, ..greedy }, &[]).is_plain_greedy());
}

#[test]
fn filters_see_the_distribution_before_the_temperature() {
    // Shares 1 and 0.37: min_p 0.5 drops the second although at temperature 10 its share would be 0.9.
    let sampling = Sampling { temperature: 10.0, min_p: 0.5, ..Sampling::default() };
    for seed in 0..50 {
        let sampling = Sampling { seed: Some(seed), ..sampling.clone() };
        assert_eq!(sample(sampling, &[], &[], &[1.0, 0.0]), Ok(0));
    }
}

#[test]
fn impossible_tokens_are_never_drawn_and_broken_logits_are_refused() {
    let sampling = |seed| Sampling { temperature: 1e6, seed: Some(seed), ..Sampling::default() };
    for seed in 0..50 {
        assert_eq!(sample(sampling(seed), &[], &[], &[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]), Ok(1));
    }
    assert_eq!(sample(sampling(0), &[], &[], &[0.0, f32::NAN]), Err(NotFinite));
    assert_eq!(sample(sampling(0), &[], &[], &[0.0, f32::INFINITY]), Err(NotFinite));
    assert_eq!(sample(Sampling::default(), &[], &[], &[f32::NEG_INFINITY; 2]), Err(NotFinite));
}
