//! From logits to a token. Knows one row of logits and one request's sampling; never batches, so that a reply depends on
//! its own seed and logits only.
//!
//! Order: `logit_bias`, penalties, then for temperature 0 the arg-max, else `top_k`, `typical_p`, `top_p`, `min_p`,
//! temperature, draw. The filters stand in llama.cpp's order and before the temperature, as there and in mlx-lm: what
//! they keep depends on the model's own confidence, and raising the temperature never lets unlikelier tokens in.

mod candidates;
mod draw;
mod logit_bias;
mod logprobs;
mod min_p;
mod penalties;
mod philox;
mod top_k;
mod top_p;
mod typical_p;

use std::hash::{BuildHasher, Hasher};

pub use candidates::Candidates;
pub use logprobs::score;
pub use penalties::Seen;

use crate::request::Sampling;

/// Logits that nothing can be drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model's logits are not finite: its weights or a kernel are broken")]
pub struct NotFinite;

/// One request's sampling and what it has seen so far.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
    seen: Seen,
}

impl Sampler {
    /// A sampler for a reply to `prompt`; without a seed it takes a fresh one.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let seed = sampling.seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish());
        let seen = if sampling.repetition_penalty == 1.0 { Seen::default() } else { Seen::in_prompt(prompt) };
        Self { sampling, seed, seen }
    }

    /// Whether the arg-max of the untouched logits is the answer, so that nobody need read them.
    pub fn is_plain_greedy(&self) -> bool {
        let Sampling { temperature, logit_bias, .. } = &self.sampling;
        *temperature == 0.0 && logit_bias.is_empty() && !penalties::act(&self.sampling)
    }

    /// The token for `position`, its index in the sequence. `candidates` is memory to work in.
    ///
    /// # Errors
    /// The logits are not finite.
    pub fn sample(&self, logits: &[f32], position: usize, candidates: &mut Candidates) -> Result<u32, NotFinite> {
        let Sampling { temperature, top_p, top_k, min_p, typical_p, .. } = self.sampling;
        candidates.fill(logits)?;
        logit_bias::apply(candidates, &self.sampling.logit_bias);
        penalties::apply(candidates, &self.sampling, &self.seen);
        candidates.drop_impossible()?;
        if temperature == 0.0 {
            return Ok(candidates.best().id);
        }
        if top_k > 0 {
            top_k::apply(candidates, top_k);
        }
        if typical_p < 1.0 {
            typical_p::apply(candidates, typical_p);
        }
        if top_p < 1.0 {
            top_p::apply(candidates, top_p);
        }
        if min_p > 0.0 {
            min_p::apply(candidates, min_p);
        }
        Ok(draw::draw(candidates, temperature, philox::uniform(self.seed, position as u64)))
    }

    /// Remembers a generated token for the penalties.
    pub fn accept(&mut self, id: u32) {
        if penalties::act(&self.sampling) {
            self.seen.in_reply(id);
        }
    }
}

/// Says what is wrong with sampling fields, if anything is.
///
/// # Errors
/// A sentence naming the field and its range.
pub fn check(sampling: &Sampling, vocabulary: usize) -> Result<(), String> {
    let Sampling { temperature, top_p, min_p, typical_p, repetition_penalty, .. } = sampling;
    let ranges = [
        ("temperature", *temperature, 0.0, f32::MAX),
        ("top_p", *top_p, 0.0, 1.0),
        ("min_p", *min_p, 0.0, 1.0),
        ("typical_p", *typical_p, 0.0, 1.0),
        ("repetition_penalty", *repetition_penalty, f32::MIN_POSITIVE, f32::MAX),
        ("frequency_penalty", sampling.frequency_penalty, f32::MIN, f32::MAX),
        ("presence_penalty", sampling.presence_penalty, f32::MIN, f32::MAX),
    ];
    for (name, value, low, high) in ranges {
        if !(low..=high).contains(&value) {
            return Err(format!("{name} is {value}: expected {low:e} to {high:e}"));
        }
    }
    match sampling.logit_bias.iter().find(|(id, bias)| *id as usize >= vocabulary || !bias.is_finite()) {
        Some((id, bias)) => {
            Err(format!("logit_bias {bias} of token {id}: expected a finite number for an id below {vocabulary}"))
        }
        None => Ok(()),
    }
}
