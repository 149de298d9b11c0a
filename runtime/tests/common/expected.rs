//! What a request must get, computed token by token from the mock model without engine, pages or batches.

use swiftlm_runtime::request::{FinishReason, Request, ScoredToken};
use swiftlm_runtime::sampler::{Candidates, Sampler, score};

use super::model::logits_after;

/// Tokens, the scored prompt, and why it ends.
pub type Outcome = (Vec<ScoredToken>, Option<Vec<ScoredToken>>, FinishReason);

/// What `request` must get in a context of `context` tokens.
pub fn expected(request: &Request, context: usize) -> Outcome {
    let Request { prompt, sampling, max_new_tokens, stop_tokens, logprobs, prompt_logprobs, cached: _ } = request;
    let unscored = |id| ScoredToken { id, logprob: None, top: vec![] };
    let scored_prompt = prompt_logprobs.map(|top| {
        let score_at = |i: usize| score(&logits_after(&prompt[..i]), prompt[i], top).expect("finite");
        (0..prompt.len()).map(|i| if i == 0 { unscored(prompt[0]) } else { score_at(i) }).collect()
    });
    let mut sampler = Sampler::new(sampling.clone(), prompt);
    let (mut history, mut tokens) = (prompt.clone(), vec![]);
    while tokens.len() < *max_new_tokens && history.len() < context {
        let logits = logits_after(&history);
        let id = sampler.sample(&logits, history.len(), &mut Candidates::default()).expect("finite");
        if stop_tokens.contains(&id) {
            return (tokens, scored_prompt, FinishReason::Stop);
        }
        sampler.accept(id);
        tokens.push(logprobs.map_or_else(|| unscored(id), |top| score(&logits, id, top).expect("finite")));
        history.push(id);
    }
    (tokens, scored_prompt, FinishReason::Length)
}
