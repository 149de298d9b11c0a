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
use crate::text::Tokenizer;

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
        let mut parts: Vec<(String, Vec<TokenScore>, &str)> = vec![(String::new(), Vec::new(), "length"); run.len()];
        while let Some(output) = run.next().await? {
            match output {
                Output::Progress { .. } => {}
                Output::Piece(Piece { index, text, tokens }) => {
                    if let Some(part) = parts.get_mut(index) {
                        part.0.push_str(&text);
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
        let choices = parts.into_iter().enumerate().map(|(index, (text, tokens, reason))| {
            let logprobs = self.logprobs(&tokens);
            match self.kind {
                Kind::Chat => json!({
                    "index": index,
                    "message": {"role": "assistant", "content": text, "refusal": null},
                    "logprobs": logprobs,
                    "finish_reason": reason,
                }),
                Kind::Completion => {
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

    /// A chunk of text.
    pub fn piece(&self, piece: &Piece) -> Value {
        let logprobs = if piece.tokens.is_empty() { Value::Null } else { self.logprobs(&piece.tokens) };
        let choice = match self.kind {
            Kind::Chat => {
                let delta = json!({"content": piece.text});
                json!({"index": piece.index, "delta": delta, "logprobs": logprobs, "finish_reason": null})
            }
            Kind::Completion => {
                json!({"index": piece.index, "text": piece.text, "logprobs": logprobs, "finish_reason": null})
            }
        };
        self.chunk(vec![choice])
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
    }

    /// Headers of the reply.
    pub fn headers(&self) -> HeaderMap {
        ignored_header(&self.ignored)
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

fn usage(totals: &Totals) -> Value {
    json!({
        "prompt_tokens": totals.prompt,
        "completion_tokens": totals.generated,
        "total_tokens": totals.prompt + totals.generated,
        "prompt_tokens_details": {"cached_tokens": totals.cached},
        "completion_tokens_details": {"reasoning_tokens": 0, "accepted_prediction_tokens": 0},
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
