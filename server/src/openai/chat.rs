//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::Value;

use super::body::JsonBody;
use super::fields::Fields;
use super::prompt::{self, Chat};
use super::reply::{Kind, Reply};
use super::run::{Job, Prompt, Run};
use super::settings::Settings;
use super::stream::{Extras, respond};
use crate::error::ApiError;
use crate::load::LoadedModel;
use crate::state::AppState;
use crate::text::Dialect;

/// Answers a chat.
pub async fn create(State(state): State<AppState>, body: JsonBody) -> Result<Response, ApiError> {
    let JsonBody { mut fields, headers, id } = body;
    let model = Arc::clone(state.model()?);
    let mut settings = Settings::take(&state, &model, &mut fields, &headers, 1)?;
    let logprobs = logprobs(&mut fields)?;
    response_format(&mut fields)?;
    for name in ["functions", "function_call"] {
        fields.absent(name, |_| false)?;
    }
    let chat = Chat::take(state.config(), &model, &mut fields, &mut settings.ignored)?;
    settings.ignored.extend(fields.rest());
    let calls = chat.has_tools();
    let (text, ids) = prompt::chat(state.config(), &model, chat, &id).await?;
    let dialect = Dialect::of(&model.text.tokenizer, &text, calls);
    let prompts = vec![Prompt { ids, echo: None }];
    finish(&state, Kind::Chat, Job { model, prompts, settings, logprobs, dialect }, &id).await
}

/// Generates for these prompts and answers, in the end or as it grows.
pub async fn finish(state: &AppState, kind: Kind, job: Job, id: &str) -> Result<Response, ApiError> {
    let Job { model, prompts, mut settings, logprobs, dialect } = job;
    let new = settings.effective.max_tokens;
    for prompt in &prompts {
        prompt::check_length(state.config(), &model, prompt.ids.len(), new)?;
    }
    // The reply says so if the context ends before the tokens asked for.
    let shortest = prompts.iter().map(|prompt| prompt.ids.len()).min().unwrap_or(0);
    settings.effective.max_tokens = new.min(model.engine.context_length() - shortest);
    let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
    let reply = Reply {
        kind,
        id: format!("{prefix}-{id}"),
        created: std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs()),
        model: model.info.id.clone(),
        fingerprint: model.info.fingerprint.clone(),
        effective: settings.effective.body(),
        lossy: model.info.lossy.clone(),
        kv: model.info.kv.archived(),
        scored: logprobs.is_some(),
        tokenizer: Arc::clone(&model.text.tokenizer),
        ignored: settings.ignored.clone(),
    };
    let (stream, usage, progress) = (settings.stream, settings.include_usage, settings.progress);
    let run = Run::start(state, Job { model, prompts, settings, logprobs, dialect }, id)?;
    if stream {
        Ok(respond(reply, run, Extras { usage, progress, keepalive: state.config().keepalive }))
    } else {
        reply.whole(run).await
    }
}

/// A boolean, and how many alternatives.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    match fields.whole("top_logprobs", 0..=20)? {
        Some(count) if count > 0 && !wanted => Err(fields.wrong("top_logprobs", "needs 'logprobs': true")),
        count => Ok(wanted.then(|| usize::try_from(count.unwrap_or(0)).unwrap_or(0))),
    }
}

fn response_format(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(()) };
    match format.text("type")?.as_deref() {
        Some("text") => Ok(()),
        Some("json_object" | "json_schema") => Err(ApiError::Unsupported {
            param: "response_format".to_owned(),
            hint: " other than {\"type\": \"text\"}".to_owned(),
        }),
        _ => Err(format.wrong("type", "must be text, json_object or json_schema")),
    }
}

/// The model as `/v1/models` shows it.
pub fn describe(model: &LoadedModel) -> Value {
    let tools = model.text.template.as_ref().is_some_and(crate::text::ChatTemplate::takes_tools);
    serde_json::json!({
        "id": model.info.id,
        "object": "model",
        "created": model.info.created,
        "owned_by": "swiftlm",
        "context_length": model.engine.context_length(),
        "capabilities": {
            "chat": model.text.template.is_some(),
            "vision": false,
            "audio": false,
            "tools": tools,
            "context_length": model.engine.context_length(),
        },
    })
}
