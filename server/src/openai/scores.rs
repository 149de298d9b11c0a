//! Log-probabilities in OpenAI's two shapes.

use serde_json::{Map, Value, json};

use super::choice::TokenScore;
use crate::text::Tokenizer;

/// Chat: `{content: [{token, logprob, bytes, top_logprobs}]}`.
pub fn chat(tokenizer: &Tokenizer, tokens: &[TokenScore]) -> Value {
    let entry = |id: u32, logprob: Option<f32>| {
        let bytes = tokenizer.bytes(id);
        json!({"token": String::from_utf8_lossy(bytes), "logprob": number(logprob), "bytes": bytes})
    };
    let token = |score: &TokenScore| {
        let mut out = entry(score.token.id, score.token.logprob);
        out["top_logprobs"] = score.token.top.iter().map(|&(id, logprob)| entry(id, Some(logprob))).collect();
        out
    };
    json!({"content": tokens.iter().map(token).collect::<Vec<_>>(), "refusal": null})
}

/// Completions: parallel lists; `null` where a position has no predecessor.
pub fn completion(tokenizer: &Tokenizer, tokens: &[TokenScore]) -> Value {
    let text = |id: u32| match std::str::from_utf8(tokenizer.bytes(id)) {
        Ok(text) => text.to_owned(),
        // A part of a character has no text; this is how OpenAI writes its bytes.
        Err(_) => {
            tokenizer.bytes(id).iter().map(|byte| format!("\\x{byte:02x}")).fold("bytes:".to_owned(), |a, b| a + &b)
        }
    };
    let top = |score: &TokenScore| {
        if score.token.logprob.is_none() {
            return Value::Null;
        }
        Value::Object(
            score.token.top.iter().map(|&(id, logprob)| (text(id), number(Some(logprob)))).collect::<Map<_, _>>(),
        )
    };
    json!({
        "tokens": tokens.iter().map(|score| text(score.token.id)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|score| number(score.token.logprob)).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": tokens.iter().map(|score| score.offset).collect::<Vec<_>>(),
    })
}

/// JSON has no infinity; OpenAI writes -9999 for a probability of nothing.
fn number(logprob: Option<f32>) -> Value {
    logprob.map_or(Value::Null, |logprob| if logprob.is_finite() { json!(logprob) } else { json!(-9999.0) })
}
