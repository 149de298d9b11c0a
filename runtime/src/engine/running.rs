//! The requests that take part in steps: each a task with its pages and its row of the page table.

use std::time::Instant;

use super::queue::Queue;
use super::task::Task;
use crate::executable::{Batch, Executable, Row, StepOutput};
use crate::request::FinishReason;
use crate::sampler::Candidates;
use crate::scheduler::{Demand, Piece, Scheduler};
use crate::state::{Sequence, StateError, StatePool, TableRow, TableRows};

/// One request that takes part in steps.
#[derive(Debug)]
struct Running {
    task: Task,
    sequence: Sequence,
    row: TableRow,
}

/// All of them in order of arrival, and what they share.
#[derive(Debug)]
pub(super) struct RunningSet {
    running: Vec<Running>,
    pool: StatePool,
    rows: TableRows,
    scheduler: Scheduler,
    candidates: Candidates,
}

/// A piece with where its rows are in the batch.
#[derive(Debug)]
pub(super) struct Packed {
    index: usize,
    from: usize,
    to: usize,
    /// Index of a token, and its row in the batch.
    rows: Vec<(usize, usize)>,
}

impl RunningSet {
    pub(super) fn new(executable: &Executable) -> Self {
        Self {
            running: vec![],
            pool: executable.state_pool(),
            rows: TableRows::new(executable.max_sequences()),
            scheduler: Scheduler::new(executable.chunk(), executable.max_rows()),
            candidates: Candidates::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    /// Tokens whose state is held.
    pub(super) fn tokens(&self) -> usize {
        self.running.iter().map(|r| r.sequence.length()).sum()
    }

    /// Admits waiting requests in order while rows and pages last.
    pub(super) fn admit(&mut self, queue: &Queue) {
        while !self.rows.is_empty() {
            let Some((task, sequence)) = queue.pop_if(|task| Sequence::open(&mut self.pool, task.most_tokens())) else {
                return;
            };
            let row = self.rows.take().expect("a row is free");
            self.running.push(Running { task, sequence, row });
        }
    }

    /// Packs the next step; says what it holds and whether decode and prefill rows meet in it.
    pub(super) fn pack(&mut self, batch: &mut Batch) -> Result<(Vec<Packed>, bool), StateError> {
        let demand = |r: &Running| Demand {
            pending: r.task.tokens().len() - r.sequence.length(),
            decoding: r.task.is_decoding(),
            rows: r.task.row_demand(),
        };
        let demands: Vec<Demand> = self.running.iter().map(demand).collect();
        let pieces = self.scheduler.pack(&demands);
        let decoding = pieces.iter().filter(|p| demands[p.index].decoding).count();
        let now = Instant::now();
        batch.clear();
        batch.transfers = self.pool.take_transfers();
        let packed = pieces.iter().map(|piece| self.add(*piece, now, batch)).collect::<Result<_, _>>()?;
        Ok((packed, decoding > 0 && decoding < pieces.len()))
    }

    fn add(&mut self, piece: Piece, now: Instant, batch: &mut Batch) -> Result<Packed, StateError> {
        let Running { task, sequence, row } = &mut self.running[piece.index];
        task.start(now);
        let from = sequence.length();
        let to = from + piece.count;
        sequence.append(&mut self.pool, piece.count)?;
        batch.table.extend(row.update(sequence));
        let mut rows = vec![];
        for (index, id) in task.tokens().iter().enumerate().take(to).skip(from) {
            if let Some(want) = task.want(index) {
                rows.push((index, batch.rows.len()));
                batch.rows.push(Row { token: batch.ids.len() as u32, want });
            }
            batch.ids.push(*id);
            batch.positions.push(index as u32);
            batch.sequences.push(row.row());
            batch.units.extend(sequence.unit());
        }
        Ok(Packed { index: piece.index, from, to, rows })
    }

    /// Hands a step's output to its requests and ends those that it finished.
    pub(super) fn deliver(&mut self, mut packed: Vec<Packed>, output: &StepOutput) {
        // From the back, so that removing one leaves the indices of the others.
        packed.sort_unstable_by_key(|p| std::cmp::Reverse(p.index));
        for Packed { index, from, to, rows } in packed {
            let task = &mut self.running[index].task;
            match task.advance(from, to, &rows, output, &mut self.candidates) {
                Ok(None) => {}
                Ok(Some(reason)) => self.finish(index, reason),
                Err(message) => self.remove(index).fail(&message),
            }
        }
    }

    /// Ends requests that were called off.
    pub(super) fn drop_cancelled(&mut self) {
        for index in (0..self.running.len()).rev() {
            if self.running[index].task.is_cancelled() {
                self.finish(index, FinishReason::Cancelled);
            }
        }
    }

    /// Ends all requests.
    pub(super) fn cancel_all(&mut self) {
        while !self.running.is_empty() {
            self.finish(0, FinishReason::Cancelled);
        }
    }

    /// Fails all requests: after a failed step nothing on the device can be trusted.
    pub(super) fn fail_all(&mut self, message: &str) {
        while !self.running.is_empty() {
            self.remove(0).fail(message);
        }
    }

    /// Fails all requests of an engine that ends; leaves the pool alone, which a panic may have left inconsistent.
    pub(super) fn abandon(&mut self, message: &str) {
        for running in self.running.drain(..) {
            running.task.fail(message);
        }
    }

    fn finish(&mut self, index: usize, reason: FinishReason) {
        let computed = self.running[index].sequence.length();
        self.remove(index).finish(reason, computed);
    }

    fn remove(&mut self, index: usize) -> Task {
        let Running { task, sequence, row } = self.running.remove(index);
        sequence.close(&mut self.pool);
        self.rows.give_back(row);
        task
    }
}
