//! `/v1/completions`: a raw prompt, no template.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::Value;

use super::body::JsonBody;
use super::chat::finish;
use super::fields::Fields;
use super::prompt::{aside, check_bytes, encode};
use super::reply::Kind;
use super::run::{Job, Prompt};
use super::settings::Settings;
use crate::error::ApiError;
use crate::load::LoadedModel;
use crate::state::{AppState, Config};
use crate::text::Dialect;

/// Prompts in one request at most; with `n` replies each, no more than this together.
const SEQUENCES: usize = 512;

/// Continues raw prompts.
pub async fn create(State(state): State<AppState>, body: JsonBody) -> Result<Response, ApiError> {
    let JsonBody { mut fields, headers, id } = body;
    let model = Arc::clone(state.model()?);
    let mut settings = Settings::take(&state, &model, &mut fields, &headers, 0)?;
    let logprobs = fields.whole("logprobs", 0..=20)?.map(|count| usize::try_from(count).unwrap_or(0));
    let echo = fields.flag("echo")?.unwrap_or(false);
    fields.absent("suffix", |value| value.as_str() == Some(""))?;
    fields.absent("response_format", |value| value.get("type").is_some_and(|kind| kind == "text"))?;
    let n = i64::try_from(settings.n).unwrap_or(1);
    fields.absent("best_of", |value| value.as_i64() == Some(n))?;
    let prompts = prompts(&mut fields, model.engine.vocabulary())?;
    if prompts.len() * settings.n > SEQUENCES {
        let message = format!("'prompt' and 'n' ask for {} replies, at most {SEQUENCES}", prompts.len() * settings.n);
        return Err(ApiError::invalid("prompt", message));
    }
    settings.ignored.extend(fields.rest());
    let (config, encoder) = (state.config().clone(), Arc::clone(&model));
    let prompts = aside(&id, move || {
        prompts.into_iter().enumerate().map(|(at, prompt)| prompt.encode(&config, &encoder, echo, at)).collect()
    });
    let job = Job { model, prompts: prompts.await?, settings, logprobs, dialect: Dialect::default() };
    finish(&state, Kind::Completion, job, &id).await
}

enum Raw {
    Text(String),
    Ids(Vec<u32>),
}

impl Raw {
    fn encode(self, config: &Config, model: &LoadedModel, echo: bool, at: usize) -> Result<Prompt, ApiError> {
        let (ids, text) = match self {
            Self::Text(text) => {
                check_bytes(config, model, &text)?;
                (encode(model, &text, true, "prompt")?, text)
            }
            Self::Ids(ids) => {
                let text = if echo { model.text.tokenizer.decode_all(&ids) } else { String::new() };
                (ids, text)
            }
        };
        if ids.is_empty() {
            return Err(ApiError::invalid(
                "prompt",
                format!("prompt {at} is empty, and the model begins with nothing"),
            ));
        }
        Ok(Prompt { ids, echo: echo.then_some(text) })
    }
}

/// A string, a list of strings, a list of ids, or a list of such lists.
fn prompts(fields: &mut Fields, vocabulary: usize) -> Result<Vec<Raw>, ApiError> {
    let wrong = |fields: &Fields| fields.wrong("prompt", "must be a string, a list of strings, or a list of token ids");
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocabulary);
        id.ok_or_else(|| {
            ApiError::invalid(
                "prompt",
                format!("'prompt' holds {value}, token ids are whole numbers below {vocabulary}"),
            )
        })
    };
    let ids = |list: &[Value]| list.iter().map(id).collect::<Result<Vec<u32>, _>>();
    match fields.take("prompt") {
        None => Err(fields.wrong("prompt", "is missing")),
        Some(Value::String(text)) => Ok(vec![Raw::Text(text)]),
        Some(Value::Array(list)) if list.is_empty() => Err(fields.wrong("prompt", "must not be empty")),
        Some(Value::Array(list)) if list.iter().all(Value::is_number) => Ok(vec![Raw::Ids(ids(&list)?)]),
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(Raw::Text(text)),
                Value::Array(list) if list.iter().all(Value::is_number) => Ok(Raw::Ids(ids(&list)?)),
                _ => Err(wrong(fields)),
            })
            .collect(),
        Some(_) => Err(wrong(fields)),
    }
}
