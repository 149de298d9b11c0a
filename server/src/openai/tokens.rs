//! `/tokenize`, `/detokenize`, `/apply-template`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::body::JsonBody;
use super::prompt::{self, Chat, aside, check_length, encode};
use super::reply::ignored_header;
use crate::error::ApiError;
use crate::state::AppState;

/// Text to ids: `{content, add_special, with_pieces}`.
pub async fn tokenize(State(state): State<AppState>, body: JsonBody) -> Result<Response, ApiError> {
    let JsonBody { mut fields, id, .. } = body;
    let model = Arc::clone(state.model()?);
    let text = match fields.text("content")? {
        Some(text) => text,
        None => fields.text("prompt")?.ok_or_else(|| fields.wrong("content", "is missing"))?,
    };
    let special = fields.flag("add_special")?.unwrap_or(false);
    let pieces = fields.flag("with_pieces")?.unwrap_or(false);
    fields.absent("parse_special", |value| value == &Value::Bool(true))?;
    let ignored = fields.rest();
    prompt::check_bytes(state.config(), &model, &text)?;
    let body = aside(&id, move || {
        let ids = encode(&model, &text, special, "content")?;
        let count = ids.len();
        let tokenizer = &model.text.tokenizer;
        let piece = |id: u32| match std::str::from_utf8(tokenizer.bytes(id)) {
            Ok(text) => json!({"id": id, "piece": text}),
            Err(_) => json!({"id": id, "piece": tokenizer.bytes(id)}),
        };
        let tokens = if pieces { ids.into_iter().map(piece).collect() } else { json!(ids) };
        Ok(json!({"tokens": tokens, "count": count}))
    });
    Ok((ignored_header(&ignored), Json(body.await?)).into_response())
}

/// Ids to text, special tokens written out: `{tokens}`.
pub async fn detokenize(State(state): State<AppState>, body: JsonBody) -> Result<Response, ApiError> {
    let JsonBody { mut fields, id, .. } = body;
    let model = Arc::clone(state.model()?);
    let list = fields.list("tokens")?.ok_or_else(|| fields.wrong("tokens", "is missing"))?;
    let vocabulary = model.engine.vocabulary();
    let token =
        |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocabulary);
    let ids: Option<Vec<u32>> = list.iter().map(token).collect();
    let ids = ids.ok_or_else(|| fields.wrong("tokens", &format!("must hold token ids below {vocabulary}")))?;
    let ignored = fields.rest();
    let text = aside(&id, move || Ok(model.text.tokenizer.decode_all(&ids)));
    Ok((ignored_header(&ignored), Json(json!({"content": text.await?}))).into_response())
}

/// A chat as the model will see it: its text and ids.
pub async fn apply_template(State(state): State<AppState>, body: JsonBody) -> Result<Response, ApiError> {
    let JsonBody { mut fields, id, .. } = body;
    let model = Arc::clone(state.model()?);
    let mut ignored = Vec::new();
    let chat = Chat::take(state.config(), &model, &mut fields, &mut ignored)?;
    ignored.extend(fields.rest());
    let (text, ids) = prompt::chat(state.config(), &model, chat, &id).await?;
    check_length(state.config(), &model, ids.len(), 0)?;
    Ok((ignored_header(&ignored), Json(json!({"prompt": text, "tokens": ids, "count": ids.len()}))).into_response())
}
