//! One request in progress: its tokens, its events, where its time went. Knows which rows of a step it wants and what to
//! do with them; never pages or other requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::executable::{StepOutput, Want};
use crate::request::{Delivery, Event, FinishReason, Request, ScoredToken, Sink, Timings};
use crate::sampler::{Candidates, Sampler, score};
use crate::scheduler::{Demand, RowDemand};
use crate::state::{Lookup, kept_of_prompt};

/// One request in progress.
pub(super) struct Task {
    request: Request,
    sink: Sink,
    cancelled: Arc<AtomicBool>,
    sampler: Sampler,
    context: usize,
    /// Prompt, then reply.
    tokens: Vec<u32>,
    /// Tokens of the prompt that were taken from the prefix cache.
    taken: usize,
    prompt_scores: Vec<ScoredToken>,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Task({} of {} prompt tokens)", self.tokens.len(), self.request.prompt.len())
    }
}

impl Task {
    /// A request that has just been submitted.
    pub(super) fn new(request: Request, sink: Sink, cancelled: Arc<AtomicBool>, context: usize) -> Self {
        let sampler = Sampler::new(request.sampling.clone(), &request.prompt);
        let tokens = request.prompt.clone();
        Self {
            request,
            sink,
            cancelled,
            sampler,
            context,
            tokens,
            taken: 0,
            prompt_scores: vec![],
            submitted: Instant::now(),
            started: None,
            first_token: None,
            last_token: None,
        }
    }

    /// Whether its caller called it off or went away.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Most tokens its sequence can come to hold.
    pub(super) fn most_tokens(&self) -> usize {
        self.request.prompt.len().saturating_add(self.request.max_new_tokens).min(self.context)
    }

    /// What it wants of the prefix cache.
    pub(super) fn lookup(&self) -> Lookup<'_> {
        let prompt = &self.request.prompt;
        let most = if self.is_cached() { prompt.len() - 1 } else { 0 };
        Lookup { prompt, most, tokens: self.most_tokens() }
    }

    /// Whether it may use the prefix cache: logits of every token of a prompt are only had by computing it.
    pub(super) fn is_cached(&self) -> bool {
        self.request.cached && self.request.prompt_logprobs.is_none()
    }

    /// Tokens of the prompt that are worth keeping as soon as they are computed; 0 if it is not to be kept.
    pub(super) fn kept(&self) -> usize {
        if self.is_cached() { kept_of_prompt(self.request.prompt.len()) } else { 0 }
    }

    /// The first `taken` tokens of the prompt need not be computed.
    pub(super) fn take_prefix(&mut self, taken: usize) {
        self.taken = taken;
    }

    /// Prompt, then reply.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether the prompt is done and tokens follow one by one.
    pub(super) fn is_decoding(&self) -> bool {
        self.tokens.len() > self.request.prompt.len()
    }

    /// What it could give to the next step behind `length` tokens whose states are computed.
    pub(super) fn demand(&self, length: usize) -> Demand {
        Demand { pending: self.tokens.len() - length, decoding: self.is_decoding(), rows: self.row_demand() }
    }

    fn row_demand(&self) -> RowDemand {
        if !self.is_decoding() && self.request.prompt_logprobs.is_some() {
            RowDemand::Every
        } else if self.request.max_new_tokens > 0 {
            RowDemand::Last
        } else {
            RowDemand::None
        }
    }

    /// What it wants of the row of its token `index`.
    pub(super) fn want(&self, index: usize) -> Option<Want> {
        if index + 1 < self.request.prompt.len() {
            self.request.prompt_logprobs.map(|_| Want::Logits)
        } else if index + 1 < self.tokens.len() || self.request.max_new_tokens == 0 {
            None
        } else if self.request.logprobs.is_none() && self.sampler.is_plain_greedy() {
            Some(Want::Greedy)
        } else {
            Some(Want::Logits)
        }
    }

    /// A step with tokens of this request begins.
    pub(super) fn start(&mut self, now: Instant) {
        self.started.get_or_insert(now);
    }

    /// A step computed tokens `from..to`; `rows` are those of them that wanted logits, with their rows in the output.
    /// Gives the reason if the request is finished by it.
    ///
    /// # Errors
    /// The logits are broken.
    pub(super) fn advance(
        &mut self,
        from: usize,
        to: usize,
        rows: &[(usize, usize)],
        output: &StepOutput,
        candidates: &mut Candidates,
    ) -> Result<Option<FinishReason>, String> {
        let prompt = self.request.prompt.len();
        if from < prompt {
            self.send(Event::Prefill { done: to.min(prompt), total: prompt });
        }
        let missing = || "the step gave no logits for a row that wanted them".to_owned();
        if let Some(top) = self.request.prompt_logprobs.filter(|_| from < prompt) {
            if from == 0 {
                self.prompt_scores.push(ScoredToken { id: self.tokens[0], logprob: None, top: vec![] });
            }
            for (index, row) in rows.iter().filter(|(index, _)| index + 1 < prompt) {
                let logits = output.logits(*row).ok_or_else(missing)?;
                self.prompt_scores.push(score(logits, self.tokens[index + 1], top).map_err(|e| e.to_string())?);
            }
            if to >= prompt {
                let scores = std::mem::take(&mut self.prompt_scores);
                self.send(Event::Prompt(scores));
            }
        }
        if to < self.tokens.len() {
            return Ok(None);
        }
        if self.request.max_new_tokens == 0 {
            return Ok(Some(FinishReason::Length));
        }
        let (_, row) = rows.last().filter(|(index, _)| *index + 1 == to).ok_or_else(missing)?;
        let token = self.next_token(*row, output, candidates)?;
        Ok(self.take(token))
    }

    fn next_token(&self, row: usize, output: &StepOutput, candidates: &mut Candidates) -> Result<ScoredToken, String> {
        let Some(logits) = output.logits(row) else {
            let id = output.greedy(row).ok_or("the step gave no token for a row that wanted one")?;
            return Ok(ScoredToken { id, logprob: None, top: vec![] });
        };
        let id = self.sampler.sample(logits, self.tokens.len(), candidates).map_err(|e| e.to_string())?;
        match self.request.logprobs {
            Some(top) => score(logits, id, top).map_err(|e| e.to_string()),
            None => Ok(ScoredToken { id, logprob: None, top: vec![] }),
        }
    }

    fn take(&mut self, token: ScoredToken) -> Option<FinishReason> {
        if self.request.stop_tokens.contains(&token.id) {
            return Some(FinishReason::Stop);
        }
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        self.tokens.push(token.id);
        self.sampler.accept(token.id);
        self.send(Event::Token(token));
        let generated = self.tokens.len() - self.request.prompt.len();
        (generated >= self.request.max_new_tokens || self.tokens.len() >= self.context).then_some(FinishReason::Length)
    }

    /// The last event of a request that ended.
    pub(super) fn finish(mut self, reason: FinishReason, computed: usize) {
        let started = self.started.unwrap_or_else(Instant::now);
        let between =
            |a: Option<Instant>, b: Instant| a.map_or_else(Default::default, |a| a.saturating_duration_since(b));
        let timings = Timings {
            queued: started.saturating_duration_since(self.submitted),
            prefill_tokens: computed.min(self.request.prompt.len()).saturating_sub(self.taken),
            prefill: between(self.first_token.or_else(|| self.started.map(|_| Instant::now())), started),
            decode_tokens: self.tokens.len() - self.request.prompt.len(),
            decode: self.first_token.map_or_else(Default::default, |first| between(self.last_token, first)),
        };
        self.send(Event::Done(reason, timings));
    }

    /// The last event of a request that failed.
    pub(super) fn fail(mut self, message: &str) {
        self.send(Event::Failed(message.to_owned()));
    }

    /// A sink that panics is one that nobody listens behind.
    fn send(&mut self, event: Event) {
        let delivery = catch_unwind(AssertUnwindSafe(|| (self.sink)(event))).unwrap_or(Delivery::Gone);
        if delivery == Delivery::Gone {
            self.cancelled.store(true, Ordering::Release);
        }
    }
}
