//! The requests that take part in steps: each a task with its pages and its row of the page table.

use std::time::Instant;

use super::queue::Queue;
use super::saved::{PrefixStore, Saved};
use super::task::Task;
use crate::executable::{Batch, Executable, Row, StepOutput};
use crate::request::FinishReason;
use crate::sampler::Candidates;
use crate::scheduler::{Demand, Piece, RowDemand, Scheduler};
use crate::state::{Lookup, PrefixCache, PrefixReport, Sequence, StateError, StatePool, TableRow, TableRows};

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
    prefixes: PrefixCache,
    saved: Option<Saved>,
    /// Whether the prefix cache has something new to say.
    changed: bool,
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
    pub(super) fn new(executable: &Executable, prefixes: usize, store: Option<Box<dyn PrefixStore>>) -> Self {
        Self {
            running: vec![],
            // Rows bound those that are alive; what they leave is for kept ones.
            pool: executable.state_pool(0),
            prefixes: PrefixCache::new(prefixes),
            saved: store.filter(|_| prefixes > 0).map(|store| Saved::open(store, prefixes)),
            changed: true,
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

    /// What the prefix cache holds and how it did, if that has changed since it was last asked for.
    pub(super) fn changed_prefixes(&mut self) -> Option<PrefixReport> {
        let saved = self.saved.as_ref().map(Saved::len);
        std::mem::take(&mut self.changed).then(|| PrefixReport { saved, ..self.prefixes.report() })
    }

    /// Admits waiting requests in order while rows and pages last. One whose prompt begins with another that is being computed
    /// waits for that.
    pub(super) fn admit(&mut self, queue: &Queue, executable: &mut Executable) {
        while !self.rows.is_empty() {
            self.bring(queue, executable);
            let Some((mut task, sequence)) = queue.pop_if(|task| self.open(&task.lookup())) else { return };
            task.take_prefix(sequence.length());
            let row = self.rows.take().expect("a row is free");
            self.running.push(Running { task, sequence, row });
            self.changed = true;
        }
    }

    /// Brings back what the request at the front of the queue could begin with.
    fn bring(&mut self, queue: &Queue, executable: &mut Executable) {
        let Self { running, pool, prefixes, saved, .. } = self;
        let Some(saved) = saved else { return };
        // Not under the queue's lock, for others shall not wait for a disk.
        let asked = queue.front(|task| {
            let Lookup { prompt, most, tokens } = task.lookup();
            (prompt.to_vec(), most, tokens)
        });
        let Some((prompt, most, tokens)) = asked else { return };
        let lookup = Lookup { prompt: &prompt, most, tokens };
        saved.bring(executable, pool, prefixes, &lookup, running.iter().map(|r| &r.sequence));
    }

    /// Writes out what is kept, where it can outlive the process.
    pub(super) fn save(&mut self, executable: &mut Executable) {
        if let Some(saved) = &mut self.saved {
            let before = saved.len();
            saved.write(executable, &mut self.pool, &mut self.prefixes);
            self.changed |= saved.len() != before;
        }
    }

    fn open(&mut self, lookup: &Lookup<'_>) -> Option<Sequence> {
        let Self { running, pool, prefixes, .. } = self;
        let served = prefixes.serves(lookup);
        let computing = |r: &Running| {
            let kept = r.task.kept();
            let more = kept > served.max(r.sequence.length()) && kept <= lookup.most;
            prefixes.is_on() && more && lookup.prompt[..kept] == r.task.tokens()[..kept]
        };
        if running.iter().any(computing) {
            return None;
        }
        prefixes.open(pool, *lookup, running.iter().map(|r| &r.sequence))
    }

    /// Packs the next step; says what it holds and whether decode and prefill rows meet in it.
    pub(super) fn pack(&mut self, batch: &mut Batch) -> Result<(Vec<Packed>, bool), StateError> {
        let recurrent = self.prefixes.is_on() && self.pool.has_recurrences();
        let demand = |r: &Running| {
            let length = r.sequence.length();
            let Demand { pending, decoding, rows } = r.task.demand(length);
            // Recurrent states are kept as they are behind the last token of a step.
            match r.task.kept().checked_sub(length).filter(|left| recurrent && *left > 0) {
                Some(left) => Demand { pending: left, decoding, rows: RowDemand::None },
                None => Demand { pending, decoding, rows },
            }
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
            let Running { task, sequence, .. } = &mut self.running[index];
            let kept = task.kept();
            if (from + 1..=to).contains(&kept) {
                self.prefixes.keep_copy(&mut self.pool, task.tokens(), sequence, kept);
                self.changed = true;
            }
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
        self.prefixes.clear(&mut self.pool);
        self.changed = true;
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
        let Running { task, sequence, row } = self.running.remove(index);
        let computed = sequence.length();
        if task.is_cached() {
            self.prefixes.keep(&mut self.pool, &task.tokens()[..computed], sequence);
            self.changed = true;
        } else {
            sequence.close(&mut self.pool);
        }
        self.rows.give_back(row);
        task.finish(reason, computed);
    }

    fn remove(&mut self, index: usize) -> Task {
        let Running { task, sequence, row } = self.running.remove(index);
        sequence.close(&mut self.pool);
        self.rows.give_back(row);
        task
    }
}
