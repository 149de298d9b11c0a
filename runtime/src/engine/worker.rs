//! The thread that owns the device: admit, pack, step, deliver, for as long as there are requests; else it sleeps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::queue::{Next, Queue};
use super::running::RunningSet;
use super::saved::PrefixStore;
use crate::executable::{Batch, Executable, StepError};
use crate::request::{EngineStats, FinishReason};

/// After so many failed steps in a row the device is taken for dead and the engine closes.
const FAILURES_BEFORE_CLOSING: u32 = 3;

/// The thread's own data.
#[derive(Debug)]
pub(super) struct Worker {
    executable: Executable,
    queue: Arc<Queue>,
    running: RunningSet,
    batch: Batch,
    steps: u64,
    mixed_steps: u64,
    failures: u32,
}

impl Worker {
    pub(super) fn new(
        executable: Executable,
        queue: Arc<Queue>,
        prefixes: usize,
        store: Option<Box<dyn PrefixStore>>,
    ) -> Self {
        let running = RunningSet::new(&executable, prefixes, store);
        let mut worker =
            Self { executable, queue, running, batch: Batch::default(), steps: 0, mixed_steps: 0, failures: 0 };
        worker.publish();
        worker
    }

    /// Serves until the queue is drained or stopped, or the engine fails.
    pub(super) fn run(mut self) {
        let failure = loop {
            match self.queue.next(self.running.len() > 0) {
                Next::End => break None,
                Next::Stop => {
                    self.running.cancel_all();
                    break None;
                }
                Next::Step => {}
            }
            match catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(()) if self.failures < FAILURES_BEFORE_CLOSING => {}
                Ok(()) => break Some(format!("the device failed {FAILURES_BEFORE_CLOSING} times in a row")),
                Err(panic) => break Some(format!("the engine stopped on an internal error: {}", message(&*panic))),
            }
        };
        match &failure {
            Some(failure) => {
                tracing::error!("{failure}");
                self.running.abandon(failure);
            }
            None => self.running.save(&mut self.executable),
        }
        for task in self.queue.close() {
            match &failure {
                Some(failure) => task.fail(failure),
                None => task.finish(FinishReason::Cancelled, 0),
            }
        }
        self.publish();
    }

    /// One step, if any request can take part in one.
    fn turn(&mut self) {
        for task in self.queue.take_cancelled() {
            task.finish(FinishReason::Cancelled, 0);
        }
        self.running.drop_cancelled();
        self.running.admit(&self.queue, &mut self.executable);
        if self.running.len() > 0 {
            match self.step() {
                Ok(()) => self.failures = 0,
                Err(error) => {
                    tracing::error!("a step failed: {error}");
                    // A disk that fails says nothing of the device.
                    self.failures += u32::from(!matches!(error, StepError::Weights(_)));
                    self.running.fail_all(&error.to_string());
                }
            }
        }
        if self.running.len() == 0 {
            self.running.save(&mut self.executable);
        }
        self.publish();
    }

    fn step(&mut self) -> Result<(), StepError> {
        let (packed, mixed) = self.running.pack(&mut self.batch).map_err(|e| StepError::Batch(e.to_string()))?;
        let (tokens, rows) = (self.batch.ids.len(), self.batch.rows.len());
        tracing::trace!(tokens, rows, sequences = packed.len(), mixed, "step");
        let output = self.executable.step(&self.batch)?;
        self.steps += 1;
        self.mixed_steps += u64::from(mixed);
        self.running.deliver(packed, output);
        Ok(())
    }

    fn publish(&mut self) {
        if let Some(report) = self.running.changed_prefixes() {
            self.queue.publish_prefixes(report);
        }
        self.queue.publish(EngineStats {
            active: self.running.len(),
            queued: 0,
            kv_tokens_used: self.running.tokens(),
            kv_tokens_total: self.executable.kv_pages() * swiftlm_ir::ty::PAGE_TOKENS,
            steps: self.steps,
            mixed_steps: self.mixed_steps,
            experts: self.executable.expert_stats(),
            layers: self.executable.layer_stats(),
        });
    }
}

/// The text of a panic, where it has one.
fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
