//! How tokens are drawn: the engine's own defaults, then what the model's makers recommend, then the flags, then the request.

use serde_json::{Map, Value, json};
use swiftlm_runtime::request::Sampling;

use super::fields::Fields;
use crate::error::ApiError;
use crate::flags::SamplingFlags;
use crate::text::model::Recommended;

/// Far below any logit and yet finite: the token is never drawn.
const NEVER: f32 = -1e9;

/// The effective values of one request.
#[derive(Clone, Debug)]
pub struct Effective {
    temperature: f64,
    top_p: f64,
    top_k: i64,
    min_p: f64,
    typical_p: f64,
    repetition_penalty: f64,
    frequency_penalty: f64,
    presence_penalty: f64,
    seed: u64,
    logit_bias: Vec<(u32, f32)>,
    /// Tokens of a reply at most.
    pub max_tokens: usize,
}

impl Effective {
    /// Takes the sampling fields out of a request.
    pub fn take(
        fields: &mut Fields,
        flags: &SamplingFlags,
        model: &Recommended,
        vocabulary: usize,
        least_tokens: i64,
    ) -> Result<Self, ApiError> {
        let or = |request: Option<f64>, flag: Option<f64>, model: Option<f64>, wire: f64| {
            request.or(flag).or(model).unwrap_or(wire)
        };
        let penalty = match fields.number("repetition_penalty", 1e-3..=100.0)? {
            Some(penalty) => Some(penalty),
            None => fields.number("repeat_penalty", 1e-3..=100.0)?,
        };
        let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        // -1 is how several servers write "all".
        let top_k = fields.whole("top_k", -1..=i64::MAX)?.map(|k| k.max(0));
        let (newer, older) = (
            fields.whole("max_completion_tokens", least_tokens..=i64::MAX)?,
            fields.whole("max_tokens", least_tokens..=i64::MAX)?,
        );
        let max_tokens =
            newer.or(older).or(flags.max_tokens.map(whole)).or(model.max_tokens.map(whole)).unwrap_or(2048);
        Ok(Self {
            temperature: or(fields.number("temperature", 0.0..=2.0)?, flags.temp, model.temperature, 0.6),
            top_p: or(fields.number("top_p", 0.0..=1.0)?, flags.top_p, model.top_p, 1.0),
            top_k: top_k.or(flags.top_k.map(whole)).or(model.top_k.map(whole)).unwrap_or(50),
            min_p: or(fields.number("min_p", 0.0..=1.0)?, flags.min_p, model.min_p, 0.0),
            typical_p: or(fields.number("typical_p", 0.0..=1.0)?, None, model.typical_p, 1.0),
            repetition_penalty: or(penalty, flags.repeat_penalty, model.repetition_penalty, 1.0),
            frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            // Drawn here, so that the reply can name it and any reply can be had again.
            seed: fields.whole("seed", i64::MIN..=i64::MAX)?.map_or_else(fresh_seed, i64::cast_unsigned),
            logit_bias: bias(fields, vocabulary)?,
            max_tokens: usize::try_from(max_tokens).unwrap_or(usize::MAX),
        })
    }

    /// For the engine; `choice` counts the replies to one request, which must differ. `never` are tokens not to draw.
    pub fn sampling(&self, choice: usize, never: &[u32]) -> Sampling {
        let mut logit_bias = self.logit_bias.clone();
        logit_bias.extend(never.iter().map(|&id| (id, NEVER)));
        Sampling {
            temperature: self.temperature as f32,
            // 0 keeps the most likely token alone.
            top_p: (self.top_p as f32).max(f32::MIN_POSITIVE),
            top_k: usize::try_from(self.top_k).unwrap_or(0),
            min_p: self.min_p as f32,
            typical_p: (self.typical_p as f32).max(f32::MIN_POSITIVE),
            repetition_penalty: self.repetition_penalty as f32,
            frequency_penalty: self.frequency_penalty as f32,
            presence_penalty: self.presence_penalty as f32,
            seed: Some(self.seed.wrapping_add(choice as u64)),
            logit_bias,
        }
    }

    /// For the reply.
    pub fn body(&self) -> Map<String, Value> {
        let pairs = [
            ("temperature", json!(self.temperature)),
            ("top_p", json!(self.top_p)),
            ("top_k", json!(self.top_k)),
            ("min_p", json!(self.min_p)),
            ("typical_p", json!(self.typical_p)),
            ("repetition_penalty", json!(self.repetition_penalty)),
            ("frequency_penalty", json!(self.frequency_penalty)),
            ("presence_penalty", json!(self.presence_penalty)),
            ("seed", json!(self.seed.cast_signed())),
            ("max_tokens", json!(self.max_tokens)),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Within 53 bits, so that clients whose numbers are floats can send it back.
fn fresh_seed() -> u64 {
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    low & ((1 << 53) - 1)
}

fn bias(fields: &mut Fields, vocabulary: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(mut biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let names: Vec<String> = biases.clone().into_map().into_iter().map(|(name, _)| name).collect();
    let mut list = Vec::with_capacity(names.len());
    for name in names {
        let id = name.parse::<u32>().ok().filter(|&id| (id as usize) < vocabulary);
        let id = id.ok_or_else(|| biases.wrong(&name, &format!("must be a token id below {vocabulary}")))?;
        if let Some(bias) = biases.number(&name, -100.0..=100.0)? {
            list.push((id, bias as f32));
        }
    }
    Ok(list)
}
