//! `/cache`: what the prefix cache holds, and for the last prompts how much of them it had and why not more. Lengths only;
//! nobody's conversation is in it.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use swiftlm_ir::ty::PAGE_TOKENS;
use swiftlm_runtime::state::{Found, PrefixReport};

use crate::error::ApiError;
use crate::state::AppState;

/// The cache as it is now.
pub async fn cache(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let Some(model) = state.loaded() else { return Err(ApiError::Loading) };
    Ok(Json(body(&model.engine.prefixes())))
}

fn body(report: &PrefixReport) -> Value {
    let kept = |(tokens, hits): &(usize, u64)| json!({"tokens": tokens, "hits": hits});
    let recent = |found: &Found| json!({"prompt_tokens": found.prompt, "cached_tokens": found.taken, "common_tokens": found.common, "reason": reason(found, report)});
    json!({
        "entries_max": report.limit,
        "page_tokens": PAGE_TOKENS,
        "files": report.saved,
        "entries": report.kept.iter().map(kept).collect::<Vec<_>>(),
        "lookups": report.lookups,
        "hits": report.hits,
        "cached_tokens": report.tokens,
        "evictions": report.evictions,
        "recent": report.recent.iter().rev().map(recent).collect::<Vec<_>>(),
    })
}

/// Why no more of a prompt was taken.
fn reason(found: &Found, report: &PrefixReport) -> &'static str {
    let pages = |tokens: usize| tokens / PAGE_TOKENS * PAGE_TOKENS;
    if report.limit == 0 {
        "the cache is off (--prompt-cache-entries 0)"
    } else if found.most == 0 {
        "the request wants its whole prompt computed"
    } else if pages(found.most) == 0 {
        "the prompt is no longer than a page, and its last token is always computed"
    } else if found.taken >= pages(found.most) {
        "all whole pages but the last token were there"
    } else if pages(found.common) == 0 {
        "nothing that is kept begins with the same page of tokens"
    } else if found.taken >= pages(found.common.min(found.most)) {
        "the prompt goes on differently from all that is kept"
    } else {
        "sliding windows or recurrent states of what is kept are past the point where the prompt differs"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_why_not_more_was_taken() {
        let on = PrefixReport { limit: 8, ..PrefixReport::default() };
        let found = |most, common, taken| Found { prompt: 100, most, common, taken };
        let why = |found, word: &str| assert!(reason(&found, &on).contains(word), "{}", reason(&found, &on));
        why(found(99, 100, 96), "all whole pages");
        why(found(99, 31, 0), "begins with");
        why(found(99, 70, 64), "differently");
        why(found(99, 70, 32), "recurrent");
        why(found(0, 70, 0), "whole prompt");
        why(found(31, 31, 0), "no longer than a page");
        assert!(reason(&found(99, 0, 0), &PrefixReport::default()).contains("off"));
    }
}
