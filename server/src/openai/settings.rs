//! What chat and raw completions have in common: sampling, stops, number of replies, streaming, and the fields of features
//! that this build does not have.

use axum::http::HeaderMap;
use serde_json::Value;

use super::fields::Fields;
use super::sampling::Effective;
use crate::error::ApiError;
use crate::load::LoadedModel;
use crate::state::{AppState, Config};

/// Replies to one request at most.
const CHOICES: i64 = 128;
/// Stop strings at most, and their length in bytes.
const STOPS: usize = 16;
const STOP_BYTES: usize = 1024;

/// Everything but the prompt and the log-probabilities.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Sampling and length.
    pub effective: Effective,
    /// Replies per prompt.
    pub n: usize,
    /// Stop strings.
    pub stops: Vec<String>,
    /// Go on behind the model's own end.
    pub ignore_eos: bool,
    /// Send the reply as it grows.
    pub stream: bool,
    /// Send the usage in a last chunk.
    pub include_usage: bool,
    /// Send how far the prompt is.
    pub progress: bool,
    /// Take from the prefix cache what it has of the prompt.
    pub cached: bool,
    /// Fields that were given and did nothing.
    pub ignored: Vec<String>,
}

impl Settings {
    /// Takes the common fields.
    pub fn take(
        state: &AppState,
        model: &LoadedModel,
        fields: &mut Fields,
        headers: &HeaderMap,
        least_tokens: i64,
    ) -> Result<Self, ApiError> {
        let config = state.config();
        let mut ignored = Vec::new();
        if let Some(name) = fields.text("model")?
            && !is_known(config, model, &name)
        {
            if config.strict_model {
                return Err(ApiError::Model(name));
            }
            ignored.push("model".to_owned());
        }
        refuse_absent(fields)?;
        let vocabulary = model.engine.vocabulary();
        let effective = Effective::take(fields, &config.sampling, &model.text.recommended, vocabulary, least_tokens)?;
        let stream = fields.flag("stream")?.unwrap_or(false);
        let include_usage = match fields.object("stream_options")? {
            None => false,
            Some(_) if !stream => return Err(fields.wrong("stream_options", "needs 'stream': true")),
            Some(mut options) => {
                let usage = options.flag("include_usage")?.unwrap_or(false);
                ignored.extend(options.rest());
                usage
            }
        };
        let header = headers.get("x-swiftlm-prefill-progress").and_then(|value| value.to_str().ok());
        let asked =
            header.is_some_and(|value| ["1", "on", "true", "yes"].contains(&value.to_ascii_lowercase().as_str()));
        let progress = match fields.flag("return_progress")? {
            Some(true) if !stream => {
                ignored.push("return_progress".to_owned());
                false
            }
            wanted => wanted.unwrap_or(asked),
        };
        let n = fields.whole("n", 1..=CHOICES)?.unwrap_or(1);
        Ok(Self {
            effective,
            n: usize::try_from(n).unwrap_or(1),
            stops: stops(fields)?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            stream,
            include_usage,
            progress,
            cached: fields.flag("cache_prompt")?.unwrap_or(true),
            ignored,
        })
    }
}

/// A model is known by its id, the last part of it, and its aliases.
pub fn is_known(config: &Config, model: &LoadedModel, name: &str) -> bool {
    let id = model.info.id.as_str();
    name == id || Some(name) == id.rsplit('/').next() || config.aliases.iter().any(|alias| alias == name)
}

/// Fields of features to come; each is fine while it asks for what happens anyway.
fn refuse_absent(fields: &mut Fields) -> Result<(), ApiError> {
    let zero = |value: &Value| value.as_f64() == Some(0.0);
    let no = |value: &Value| value == &Value::Bool(false);
    let empty = |value: &Value| value.as_str() == Some("");
    for name in ["xtc_probability", "dry_multiplier", "mirostat"] {
        fields.absent(name, zero)?;
    }
    fields.absent("top_n_sigma", |value| value.as_f64().is_some_and(|sigma| sigma <= 0.0))?;
    fields.absent("grammar", empty)?;
    fields.absent("return_tokens", no)?;
    for name in ["thinking_budget", "modalities", "audio", "prediction", "web_search_options", "json_schema"] {
        fields.absent(name, |value| name == "modalities" && value == &serde_json::json!(["text"]))?;
    }
    for (name, known) in [("kv_bits", &[4, 8][..]), ("kv_group_size", &[32, 64, 128])] {
        let Some(value) = fields.take(name) else { continue };
        if value.as_i64().is_some_and(|bits| known.contains(&bits)) {
            return Err(ApiError::unsupported(name));
        }
        return Err(match name {
            "kv_bits" => ApiError::InvalidKvBits(value.to_string()),
            _ => fields.wrong(name, "must be 32, 64 or 128"),
        });
    }
    Ok(())
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let list = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => vec![Value::String(stop)],
        Some(Value::Array(list)) => list,
        Some(_) => return Err(fields.wrong("stop", "must be a string or a list of strings")),
    };
    if list.len() > STOPS {
        return Err(fields.wrong("stop", &format!("must have at most {STOPS} strings, got {}", list.len())));
    }
    let stop = |value| match value {
        Value::String(stop) if (1..=STOP_BYTES).contains(&stop.len()) => Ok(stop),
        _ => Err(fields.wrong("stop", &format!("must hold strings of 1 to {STOP_BYTES} bytes"))),
    };
    list.into_iter().map(stop).collect()
}
