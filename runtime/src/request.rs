//! What a caller hands the engine and what comes back. Token ids only: the engine never sees a string.

use std::time::Duration;

use crate::experts::ExpertStats;
use crate::state::PrefixReport;

/// How the next token is drawn. Every field acts; the neutral value of each is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 means greedy: the arg-max, ties to the lowest id.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Drop tokens below this share of the most likely one's probability; 0 keeps all.
    pub min_p: f32,
    /// Locally typical sampling (Meister et al. 2022): keep the tokens nearest the entropy up to this mass; 1 keeps all.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or reply (Keskar et al. 2019); 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once per occurrence in the reply; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurs in the reply; 0 is off.
    pub presence_penalty: f32,
    /// Keys the counter-based generator together with the position; `None` draws a fresh seed.
    pub seed: Option<u64>,
    /// Added to the logits before anything else.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }
}

/// One sequence to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// At least one token id, each below the vocabulary size.
    pub prompt: Vec<u32>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens to generate at most; 0 only evaluates the prompt.
    pub max_new_tokens: usize,
    /// Generation ends before any of these; the stop token itself is reported in no event.
    pub stop_tokens: Vec<u32>,
    /// Report log-probabilities of each generated token and this many alternatives.
    pub logprobs: Option<usize>,
    /// Report them for every prompt position too (the first has none).
    pub prompt_logprobs: Option<usize>,
    /// Whether its prompt may begin with what the prefix cache holds, and its tokens be kept there.
    pub cached: bool,
}

/// A token with what the model's own distribution (before any sampling change) said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// Token id.
    pub id: u32,
    /// Natural logarithm of its probability; present if asked for and the position has a predecessor.
    pub logprob: Option<f32>,
    /// The most likely alternatives, most likely first.
    pub top: Vec<(u32, f32)>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// `max_new_tokens` or the context is full.
    Length,
    /// The caller went away or called it off.
    Cancelled,
}

/// Where the time of a request went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// From submission to the first step that held a token of this request.
    pub queued: Duration,
    /// Prompt tokens computed (those taken from a cache are not).
    pub prefill_tokens: usize,
    /// From there to the first generated token.
    pub prefill: Duration,
    /// Generated tokens.
    pub decode_tokens: usize,
    /// From the first generated token to the last.
    pub decode: Duration,
}

/// What happens to a request, in this order: `Prefill`*, `Prompt`?, `Token`*, then `Done` or `Failed` once.
#[derive(Clone, Debug)]
pub enum Event {
    /// So many prompt tokens are computed.
    Prefill {
        /// Computed so far.
        done: usize,
        /// Prompt length.
        total: usize,
    },
    /// The scored prompt, if asked for.
    Prompt(Vec<ScoredToken>),
    /// One generated token.
    Token(ScoredToken),
    /// The sequence ended.
    Done(FinishReason, Timings),
    /// The engine failed; the message is for people.
    Failed(String),
}

/// Whether the receiver still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Go on.
    Taken,
    /// Nobody listens: the request is cancelled within one step.
    Gone,
}

/// Where the engine thread puts events; it must not block.
pub type Sink = Box<dyn FnMut(Event) -> Delivery + Send>;

/// Why a request was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The bounded queue is full.
    #[error("the queue is full ({0} requests wait)")]
    QueueFull(usize),
    /// Prompt and reply cannot fit the context.
    #[error("prompt of {prompt} tokens does not fit the context of {context}")]
    ContextLength {
        /// Prompt tokens.
        prompt: usize,
        /// Context in tokens.
        context: usize,
    },
    /// The request itself is wrong (an empty prompt, an id outside the vocabulary).
    #[error("{0}")]
    Invalid(String),
    /// The engine is draining or its thread ended.
    #[error("the engine takes no more requests")]
    Closed,
}

/// Counters of a running engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineStats {
    /// Requests in a batch now.
    pub active: usize,
    /// Requests waiting.
    pub queued: usize,
    /// Tokens of all sequences that hold KV pages now.
    pub kv_tokens_used: usize,
    /// Tokens the KV pool can hold.
    pub kv_tokens_total: usize,
    /// Steps run.
    pub steps: u64,
    /// Steps that held both decode and prefill rows.
    pub mixed_steps: u64,
    /// What was read of experts, if they take turns in memory.
    pub experts: Option<ExpertStats>,
    /// What was read of layers, if they take turns in memory.
    pub layers: Option<ExpertStats>,
}

/// The engine as the server sees it; `Engine` implements it, tests may stand in for it.
pub trait Generate: Send + Sync {
    /// Queues a request; returns at once. Dropping the ticket cancels the request.
    fn submit(&self, request: Request, sink: Sink) -> Result<Ticket, SubmitError>;
    /// Counters now.
    fn stats(&self) -> EngineStats;
    /// What the prefix cache holds and how it did.
    fn prefixes(&self) -> PrefixReport;
    /// Tokens a sequence may hold, prompt and reply together.
    fn context_length(&self) -> usize;
    /// Ids a prompt may contain are below this.
    fn vocabulary(&self) -> usize;
}

/// Cancels its request when dropped.
#[derive(Debug)]
pub struct Ticket(pub(crate) std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Ticket {
    /// A ticket and the flag that tells the engine it was dropped.
    pub fn new() -> (Self, std::sync::Arc<std::sync::atomic::AtomicBool>) {
        let flag = std::sync::Arc::default();
        (Self(std::sync::Arc::clone(&flag)), flag)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Release);
    }
}
