//! Replies: the two shapes of a choice, whole and in chunks, and what stands around them.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::choice::{Piece, TokenScore};
use super::run::{Output, Run, Totals};
use super::scores;
use crate::error::ApiError;
use crate::text::{Segment, Tokenizer};

/// Which of OpenAI's two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// What all chunks of a reply have in common.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its shape.
    pub kind: Kind,
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Unix time of the request.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// The package's hash.
    pub fingerprint: String,
    /// Sampling as it was.
    pub effective: Map<String, Value>,
    /// How less is computed than the model says, if it is.
    pub lossy: Option<String>,
    /// How older keys and values are kept, if not as they are.
    pub kv: Option<String>,
    /// Whether scores were asked for.
    pub scored: bool,
    /// For the tokens' names.
    pub tokenizer: Arc<Tokenizer>,
    /// For the header.
    pub ignored: Vec<String>,
}

impl Reply {
    /// Collects the whole reply.
    pub async fn whole(self, mut run: Run) -> Result<Response, ApiError> {
        let mut parts: Vec<(Vec<Segment>, Vec<TokenScore>, &str)> = vec![(Vec::new(), Vec::new(), "length"); run.len()];
        while let Some(output) = run.next().await? {
            match output {
                Output::Progress { .. } => {}
                Output::Piece(Piece { index, segments, tokens }) => {
                    if let Some(part) = parts.get_mut(index) {
                        part.0.extend(segments);
                        part.1.extend(tokens);
                    }
                }
                Output::Finished { index, reason } => {
                    if let Some(part) = parts.get_mut(index) {
                        part.2 = reason;
                    }
                }
            }
        }
        let choices = parts.into_iter().enumerate().map(|(index, (segments, tokens, reason))| {
            let logprobs = self.logprobs(&tokens);
            match self.kind {
                Kind::Chat => json!({
                    "index": index,
                    "message": message(&segments),
                    "logprobs": logprobs,
                    "finish_reason": reason,
                }),
                Kind::Completion => {
                    let text = Piece { index, segments, tokens: Vec::new() }.text();
                    json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
                }
            }
        });
        let object = if self.kind == Kind::Chat { "chat.completion" } else { "text_completion" };
        let mut body = self.envelope(object, choices.collect());
        let totals = run.totals();
        body["usage"] = usage(&totals);
        self.add_numbers(&mut body, &totals);
        Ok((self.headers(), Json(body)).into_response())
    }

    /// The chunk that opens a chat reply.
    pub fn first(&self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
        (self.kind == Kind::Chat).then(|| self.chunk(vec![choice]))
    }

    /// Chunks of a piece, the scores with the first. `calls` counts the calls of this reply so far.
    pub fn piece(&self, piece: &Piece, calls: &mut usize) -> Vec<Value> {
        let index = piece.index;
        let mut logprobs = if piece.tokens.is_empty() { Value::Null } else { self.logprobs(&piece.tokens) };
        if self.kind == Kind::Completion {
            let text = piece.text();
            let choice = json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": null});
            return vec![self.chunk(vec![choice])];
        }
        let mut deltas: Vec<Value> = Vec::new();
        for segment in &piece.segments {
            match segment {
                Segment::Content(text) => deltas.push(json!({"content": text})),
                Segment::Reasoning(text) => deltas.push(json!({"reasoning_content": text})),
                Segment::Call { name, arguments } => {
                    let begun = json!({"index": *calls, "id": call_id(), "type": "function",
                        "function": {"name": name, "arguments": ""}});
                    deltas.push(json!({"tool_calls": [begun]}));
                    let rest = json!({"index": *calls, "function": {"arguments": arguments}});
                    deltas.push(json!({"tool_calls": [rest]}));
                    *calls += 1;
                }
            }
        }
        if deltas.is_empty() {
            deltas.push(json!({"content": ""}));
        }
        let chunk = |delta| {
            let logprobs = std::mem::take(&mut logprobs);
            self.chunk(vec![json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null})])
        };
        deltas.into_iter().map(chunk).collect()
    }

    /// The chunk that ends a reply.
    pub fn last(&self, index: usize, reason: &str) -> Value {
        let choice = match self.kind {
            Kind::Chat => json!({"index": index, "delta": {}, "logprobs": null, "finish_reason": reason}),
            Kind::Completion => json!({"index": index, "text": "", "logprobs": null, "finish_reason": reason}),
        };
        self.chunk(vec![choice])
    }

    /// The chunk with the usage.
    pub fn usage(&self, totals: &Totals) -> Value {
        let mut chunk = self.chunk(Vec::new());
        chunk["usage"] = usage(totals);
        self.add_numbers(&mut chunk, totals);
        chunk
    }

    /// Adds times and effective sampling.
    pub fn add_numbers(&self, body: &mut Value, totals: &Totals) {
        let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let speed = |tokens: usize, time: std::time::Duration| {
            if time.is_zero() { 0.0 } else { (tokens as f64 / time.as_secs_f64() * 100.0).round() / 100.0 }
        };
        body["timings"] = json!({
            "prompt_n": totals.computed,
            "prompt_ms": milliseconds(totals.prefill),
            "prompt_per_second": speed(totals.computed, totals.prefill),
            "predicted_n": totals.generated,
            "predicted_ms": milliseconds(totals.decode),
            "predicted_per_second": speed(totals.decoded, totals.decode),
        });
        body["swiftlm"] = json!({"effective": self.effective});
        if let Some(lossy) = &self.lossy {
            body["swiftlm"]["lossy"] = lossy.as_str().into();
        }
        if let Some(kv) = &self.kv {
            body["swiftlm"]["kv"] = kv.as_str().into();
        }
    }

    /// Headers of the reply.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = ignored_header(&self.ignored);
        if let Some(lossy) = self.lossy.as_ref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert("x-swiftlm-lossy", lossy);
        }
        headers
    }

    fn chunk(&self, choices: Vec<Value>) -> Value {
        let object = if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" };
        self.envelope(object, choices)
    }

    fn envelope(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    fn logprobs(&self, tokens: &[TokenScore]) -> Value {
        match self.kind {
            _ if !self.scored => Value::Null,
            Kind::Chat => scores::chat(&self.tokenizer, tokens),
            Kind::Completion => scores::completion(&self.tokenizer, tokens),
        }
    }
}

/// A whole message. One that only calls has no content.
fn message(segments: &[Segment]) -> Value {
    let (mut words, mut thoughts, mut calls) = (String::new(), String::new(), Vec::new());
    for segment in segments {
        match segment {
            Segment::Content(text) => words.push_str(text),
            Segment::Reasoning(text) => thoughts.push_str(text),
            Segment::Call { name, arguments } => calls
                .push(json!({"id": call_id(), "type": "function", "function": {"name": name, "arguments": arguments}})),
        }
    }
    let content = if words.is_empty() && !calls.is_empty() { Value::Null } else { words.into() };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !thoughts.is_empty() {
        message["reasoning_content"] = thoughts.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    message
}

fn call_id() -> String {
    format!("call_{}", uuid::Uuid::new_v4().simple())
}

fn usage(totals: &Totals) -> Value {
    json!({
        "prompt_tokens": totals.prompt,
        "completion_tokens": totals.generated,
        "total_tokens": totals.prompt + totals.generated,
        "prompt_tokens_details": {"cached_tokens": totals.cached},
        "completion_tokens_details": {"reasoning_tokens": totals.thoughts, "accepted_prediction_tokens": 0},
    })
}

/// `x-swiftlm-ignored`, if anything was. Names come from the client, so what a header cannot carry is replaced.
pub fn ignored_header(ignored: &[String]) -> HeaderMap {
    let mut names: Vec<String> = ignored
        .iter()
        .map(|name| name.chars().take(64).map(|c| if c.is_ascii_graphic() && c != ',' { c } else { '?' }).collect())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(64);
    let mut headers = HeaderMap::new();
    if !names.is_empty()
        && let Ok(value) = HeaderValue::from_str(&names.join(", "))
    {
        headers.insert("x-swiftlm-ignored", value);
    }
    headers
}
