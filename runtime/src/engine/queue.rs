//! What callers and the engine's thread share: waiting requests, counters, and whether more are taken.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::task::Task;
use crate::request::{EngineStats, SubmitError};
use crate::state::PrefixReport;

/// How far an engine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Takes requests.
    Open,
    /// Finishes those it has.
    Draining,
    /// Cancels those it has.
    Stopping,
    /// Its thread is done.
    Closed,
}

#[derive(Debug)]
struct Inner {
    waiting: VecDeque<Task>,
    phase: Phase,
    stats: EngineStats,
    prefixes: PrefixReport,
}

/// The bounded queue.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Something changed that the thread may wait for.
    wake: Condvar,
    /// The thread is done.
    closed: Condvar,
    limit: usize,
}

/// What the thread should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Run a step.
    Step,
    /// Cancel everything and end.
    Stop,
    /// Everything is finished: end.
    End,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        let inner = Inner {
            waiting: VecDeque::new(),
            phase: Phase::Open,
            stats: EngineStats::default(),
            prefixes: PrefixReport::default(),
        };
        Self { inner: Mutex::new(inner), wake: Condvar::new(), closed: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock, so its contents hold even after a panic elsewhere.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request.
    pub(super) fn push(&self, task: Task) -> Result<(), SubmitError> {
        let mut inner = self.lock();
        if inner.phase != Phase::Open {
            return Err(SubmitError::Closed);
        }
        if inner.waiting.len() >= self.limit {
            return Err(SubmitError::QueueFull(inner.waiting.len()));
        }
        inner.waiting.push_back(task);
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    /// Blocks until there is something to do.
    pub(super) fn next(&self, running: bool) -> Next {
        let mut inner = self.lock();
        loop {
            match inner.phase {
                Phase::Stopping | Phase::Closed => return Next::Stop,
                _ if running || !inner.waiting.is_empty() => return Next::Step,
                Phase::Draining => return Next::End,
                Phase::Open => inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// What is asked of the request at the front.
    pub(super) fn front<A>(&self, ask: impl FnOnce(&Task) -> A) -> Option<A> {
        self.lock().waiting.front().map(ask)
    }

    /// Takes the request at the front if `admit` accepts it.
    pub(super) fn pop_if<A>(&self, admit: impl FnOnce(&Task) -> Option<A>) -> Option<(Task, A)> {
        let mut inner = self.lock();
        let admitted = admit(inner.waiting.front()?)?;
        inner.waiting.pop_front().map(|task| (task, admitted))
    }

    /// Takes waiting requests that were called off.
    pub(super) fn take_cancelled(&self) -> Vec<Task> {
        let mut inner = self.lock();
        if !inner.waiting.iter().any(Task::is_cancelled) {
            return vec![];
        }
        let (cancelled, waiting) = inner.waiting.drain(..).partition::<Vec<Task>, _>(Task::is_cancelled);
        inner.waiting = waiting.into();
        cancelled
    }

    /// Takes all waiting requests.
    pub(super) fn take_all(&self) -> VecDeque<Task> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Publishes the thread's counters.
    pub(super) fn publish(&self, stats: EngineStats) {
        self.lock().stats = stats;
    }

    /// Publishes what the prefix cache holds.
    pub(super) fn publish_prefixes(&self, prefixes: PrefixReport) {
        self.lock().prefixes = prefixes;
    }

    /// What the prefix cache holds.
    pub(super) fn prefixes(&self) -> PrefixReport {
        self.lock().prefixes.clone()
    }

    /// Counters now.
    pub(super) fn stats(&self) -> EngineStats {
        let inner = self.lock();
        EngineStats { queued: inner.waiting.len(), ..inner.stats }
    }

    fn enter(&self, phase: Phase) {
        let mut inner = self.lock();
        inner.phase = inner.phase.max(phase);
        drop(inner);
        self.wake.notify_all();
        self.closed.notify_all();
    }

    /// Takes no more requests.
    pub(super) fn drain(&self) {
        self.enter(Phase::Draining);
    }

    /// Takes no more requests and has those that there are cancelled.
    pub(super) fn stop(&self) {
        self.enter(Phase::Stopping);
    }

    /// The thread is done; gives requests that slipped in.
    pub(super) fn close(&self) -> VecDeque<Task> {
        self.enter(Phase::Closed);
        self.take_all()
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().phase == Phase::Open
    }

    /// Waits for the thread to be done; false if it takes longer.
    pub(super) fn wait_closed(&self, within: Duration) -> bool {
        let started = Instant::now();
        let mut inner = self.lock();
        while inner.phase != Phase::Closed {
            let Some(left) = within.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else { return false };
            inner = self.closed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
