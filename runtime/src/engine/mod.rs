//! The engine: one thread owns the executable and serves every request. Knows token ids; never text, HTTP or models.

mod queue;
mod running;
mod saved;
mod task;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::executable::Executable;
use crate::request::{EngineStats, Generate, Request, Sink, SubmitError, Ticket};
use crate::sampler;
use crate::state::PrefixReport;
use queue::Queue;
pub use saved::PrefixStore;
use task::Task;
use worker::Worker;

/// Bounds of what an engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Requests that may wait; at least 1 is taken as 1.
    pub max_queue: usize,
    /// Longest prompt in tokens; `None` for the context.
    pub max_prompt_tokens: Option<usize>,
    /// Sequences that the prefix cache keeps at most; 0 turns it off.
    pub prefixes: usize,
}

/// Sequences that the prefix cache keeps unless told.
pub const PREFIXES: usize = 64;

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_queue: 256, max_prompt_tokens: None, prefixes: PREFIXES }
    }
}

/// A running engine. Dropping it cancels everything and waits for its thread.
#[derive(Debug)]
pub struct Engine {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    options: EngineOptions,
    context: usize,
    vocabulary: usize,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(executable: Executable, options: EngineOptions) -> std::io::Result<Self> {
        Self::start_with(executable, options, None)
    }

    /// Starts the thread, with a place where what the prefix cache keeps outlives the process.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start_with(
        executable: Executable,
        options: EngineOptions,
        store: Option<Box<dyn PrefixStore>>,
    ) -> std::io::Result<Self> {
        let (context, vocabulary) = (executable.context(), executable.vocabulary());
        let queue = Arc::new(Queue::new(options.max_queue.max(1)));
        let worker = Worker::new(executable, Arc::clone(&queue), options.prefixes, store);
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || worker.run())?;
        Ok(Self { queue, thread: Mutex::new(Some(thread)), options, context, vocabulary })
    }

    /// Takes no more requests, lets those that run or wait finish, and says whether they did within the time.
    pub fn drain(&self, within: Duration) -> bool {
        self.queue.drain();
        self.queue.wait_closed(within)
    }

    /// Takes no more requests, cancels those that run or wait within one step, and waits for the thread.
    pub fn shutdown(&self) {
        self.queue.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last owner may be a sink, which runs on the engine's own thread: that ends by itself.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread panicked outside a step");
        }
    }

    /// Whether the engine still takes requests.
    pub fn is_open(&self) -> bool {
        self.queue.is_open()
    }

    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        let prompt = request.prompt.len();
        let invalid = |message: String| Err(SubmitError::Invalid(message));
        if prompt == 0 {
            return invalid("the prompt is empty: expected at least one token".to_owned());
        }
        if let Some(id) = request.prompt.iter().find(|id| **id as usize >= self.vocabulary) {
            return invalid(format!("prompt token {id} is outside the vocabulary of {}", self.vocabulary));
        }
        if let Some(most) = self.options.max_prompt_tokens.filter(|most| prompt > *most) {
            return invalid(format!("a prompt of {prompt} tokens is longer than the limit of {most} for prompts"));
        }
        if prompt + usize::from(request.max_new_tokens > 0) > self.context {
            return Err(SubmitError::ContextLength { prompt, context: self.context });
        }
        sampler::check(&request.sampling, self.vocabulary).map_err(SubmitError::Invalid)
    }
}

impl Generate for Engine {
    fn submit(&self, request: Request, sink: Sink) -> Result<Ticket, SubmitError> {
        self.check(&request)?;
        let (ticket, cancelled) = Ticket::new();
        self.queue.push(Task::new(request, sink, cancelled, self.context))?;
        Ok(ticket)
    }

    fn stats(&self) -> EngineStats {
        self.queue.stats()
    }

    fn prefixes(&self) -> PrefixReport {
        self.queue.prefixes()
    }

    fn context_length(&self) -> usize {
        self.context
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown();
    }
}
