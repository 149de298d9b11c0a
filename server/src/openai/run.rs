//! The replies to one HTTP request while they are generated. Dropping a run cancels what still runs in the engine.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use swiftlm_runtime::request::{Delivery, Event, FinishReason, Request};
use tokio::sync::{mpsc, watch};

use super::choice::{Choice, Piece};
use super::settings::Settings;
use crate::error::ApiError;
use crate::load::LoadedModel;
use crate::metrics::Active;
use crate::state::AppState;
use crate::text::Dialect;

/// One prompt.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Its ids.
    pub ids: Vec<u32>,
    /// Its text, if the reply begins with it.
    pub echo: Option<String>,
}

/// What to generate.
pub struct Job {
    /// By this model.
    pub model: Arc<LoadedModel>,
    /// After each of these.
    pub prompts: Vec<Prompt>,
    /// So.
    pub settings: Settings,
    /// Scores of each token, with this many alternatives.
    pub logprobs: Option<usize>,
    /// The parts a reply may have.
    pub dialect: Dialect,
}

/// What comes out.
#[derive(Clone, Debug)]
pub enum Output {
    /// So much of a prompt is computed.
    Progress {
        /// Tokens so far.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// Text.
    Piece(Piece),
    /// A reply ended.
    Finished {
        /// Which.
        index: usize,
        /// OpenAI's `finish_reason`.
        reason: &'static str,
    },
}

/// Running replies.
pub struct Run {
    id: String,
    state: AppState,
    events: mpsc::UnboundedReceiver<(usize, Event)>,
    choices: Vec<Choice>,
    open: usize,
    ready: VecDeque<Output>,
    aborted: watch::Receiver<bool>,
    prompt_tokens: usize,
    /// Replies to each prompt.
    replies: usize,
    _active: Active,
}

impl Run {
    /// Hands every reply to the engine, or none.
    pub fn start(state: &AppState, job: Job, id: &str) -> Result<Self, ApiError> {
        let Job { model, prompts, settings, logprobs, dialect } = job;
        // Not bounded by itself, but by the tokens that the request may have.
        let (sender, events) = mpsc::unbounded_channel();
        let mut run = Self {
            id: id.to_owned(),
            state: state.clone(),
            events,
            choices: Vec::new(),
            open: 0,
            ready: VecDeque::new(),
            aborted: state.aborted(),
            prompt_tokens: prompts.iter().map(|prompt| prompt.ids.len()).sum(),
            replies: settings.n,
            _active: state.metrics().request(),
        };
        let stop_tokens = if settings.ignore_eos { Vec::new() } else { model.text.stop_tokens.clone() };
        let never = if settings.ignore_eos { model.text.stop_tokens.as_slice() } else { &[] };
        let context = model.engine.context_length();
        for prompt in prompts {
            for reply in 0..settings.n {
                let index = run.choices.len();
                let (tokenizer, stops) = (&model.text.tokenizer, settings.stops.clone());
                let mut choice = Choice::new(index, tokenizer, stops, dialect, logprobs.is_some(), prompt.ids.len());
                choice.echo.clone_from(&prompt.echo);
                let request = Request {
                    prompt: prompt.ids.clone(),
                    sampling: settings.effective.sampling(reply, never),
                    max_new_tokens: settings.effective.max_tokens.min(context.saturating_sub(prompt.ids.len())),
                    stop_tokens: stop_tokens.clone(),
                    logprobs,
                    prompt_logprobs: logprobs.filter(|_| prompt.echo.is_some()),
                    cached: settings.cached,
                };
                if request.prompt_logprobs.is_none() && prompt.echo.is_some() {
                    run.ready.push_back(Output::Piece(choice.show_prompt(Vec::new())));
                }
                let sender = sender.clone();
                let sink = Box::new(move |event| match sender.send((index, event)) {
                    Ok(()) => Delivery::Taken,
                    Err(_) => Delivery::Gone,
                });
                let ticket = model.engine.submit(request, sink).map_err(|error| ApiError::from_submit(error, id))?;
                choice.ticket = Some(ticket);
                run.choices.push(choice);
                run.open += 1;
            }
        }
        Ok(run)
    }

    /// The next output; nothing once every reply has ended. May be called off while it waits.
    pub async fn next(&mut self) -> Result<Option<Output>, ApiError> {
        loop {
            if let Some(output) = self.ready.pop_front() {
                return Ok(Some(output));
            }
            if self.open == 0 {
                return Ok(None);
            }
            if *self.aborted.borrow() {
                return Err(ApiError::Draining);
            }
            tokio::select! {
                event = self.events.recv() => match event {
                    Some((index, event)) => self.take(index, event)?,
                    None => return Err(self.internal("the engine ended")),
                },
                _ = self.aborted.changed() => {}
            }
        }
    }

    /// Whether every reply has ended.
    pub fn is_over(&self) -> bool {
        self.open == 0 && self.ready.is_empty()
    }

    /// Number of replies.
    pub fn len(&self) -> usize {
        self.choices.len()
    }

    /// Whether there is no reply, which never is.
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// Tokens and times so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { prompt: self.prompt_tokens, ..Totals::default() };
        let computed =
            |choice: &Choice| choice.timings.map_or(choice.prompt, |timings| timings.prefill_tokens.min(choice.prompt));
        // A prompt counts once, however many replies it gets.
        for replies in self.choices.chunks(self.replies.max(1)) {
            totals.cached += replies.iter().map(|choice| choice.prompt - computed(choice)).min().unwrap_or(0);
        }
        for choice in &self.choices {
            totals.computed += computed(choice);
            totals.generated += choice.tokens;
            totals.thoughts += choice.thoughts;
            totals.prefill = totals.prefill.max(choice.prefill_time());
            totals.decode = totals.decode.max(choice.decode_time());
            // The first token of a reply comes out of its prefill.
            totals.decoded += choice.tokens.saturating_sub(1);
        }
        totals
    }

    fn take(&mut self, index: usize, event: Event) -> Result<(), ApiError> {
        let Some(choice) = self.choices.get_mut(index) else { return Ok(()) };
        // A reply that ended at a stop string may still be spoken of.
        if choice.ticket.is_none() {
            return Ok(());
        }
        match event {
            Event::Prefill { done, total } => self.ready.push_back(Output::Progress { done, total }),
            Event::Prompt(scores) => {
                let piece = choice.show_prompt(scores);
                self.ready.push_back(Output::Piece(piece));
            }
            Event::Token(token) => {
                let first = choice.is_fresh();
                let (piece, matched, took) = choice.push(token);
                self.state.metrics().token(first, took);
                if !piece.is_empty() {
                    self.ready.push_back(Output::Piece(piece));
                }
                if matched {
                    self.end(index, "stop");
                }
            }
            Event::Done(FinishReason::Cancelled, _) => return Err(ApiError::Draining),
            Event::Done(reason, timings) => {
                choice.timings = Some(timings);
                let (piece, matched) = choice.finish();
                if !piece.is_empty() {
                    self.ready.push_back(Output::Piece(piece));
                }
                self.end(index, if reason == FinishReason::Stop || matched { "stop" } else { "length" });
            }
            Event::Failed(message) => return Err(self.internal(&message)),
        }
        Ok(())
    }

    fn end(&mut self, index: usize, reason: &'static str) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        choice.ticket = None;
        let reason = if choice.calls && reason == "stop" { "tool_calls" } else { reason };
        self.open -= 1;
        self.state.metrics().decoded(choice.tokens.saturating_sub(1), choice.decode_time());
        self.ready.push_back(Output::Finished { index, reason });
    }

    fn internal(&self, message: &str) -> ApiError {
        tracing::error!(id = self.id, message, "the engine failed");
        ApiError::Internal { id: self.id.clone(), message: message.to_owned() }
    }
}

/// Sums over all replies to one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Prompt tokens, each prompt once.
    pub prompt: usize,
    /// Prompt tokens taken from a cache.
    pub cached: usize,
    /// Prompt tokens computed.
    pub computed: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Of these, thoughts.
    pub thoughts: usize,
    /// Tokens generated by decode steps.
    pub decoded: usize,
    /// Longest time to a first token.
    pub prefill: Duration,
    /// Longest time from a first token to the last.
    pub decode: Duration,
}
