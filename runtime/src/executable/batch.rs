//! What one step computes and what it gives back, with the checks that let kernels trust ids, pages and positions.

use swiftlm_device::Slice;
use swiftlm_ir::ty::{PAGE_TOKENS, Window};

use super::{Executable, StepError};
use crate::state::Transfer;

/// Packed tokens of one step, from any mix of sequences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids; those of one sequence in order of position.
    pub ids: Vec<u32>,
    /// Absolute position of each token in its sequence.
    pub positions: Vec<u32>,
    /// Row of the page table of each token's sequence.
    pub sequences: Vec<u32>,
    /// Tokens whose logits are wanted.
    pub rows: Vec<Row>,
    /// Changes of the page tables, made before the step runs.
    pub table: Vec<TableUpdate>,
    /// Unit of the recurrent states of each token's sequence, whose tokens follow one another. May be empty: then each
    /// sequence's unit has the number of its row of the page table.
    pub units: Vec<u32>,
    /// Copies of units, made in this order before the step runs.
    pub transfers: Vec<Transfer>,
}

impl Batch {
    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.sequences.clear();
        self.rows.clear();
        self.table.clear();
        self.units.clear();
        self.transfers.clear();
    }
}

/// A token whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index of the token in the batch.
    pub token: u32,
    /// What is read back.
    pub want: Want,
}

/// What is read back of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The arg-max only.
    Greedy,
    /// All logits.
    Logits,
}

/// After this, row `row` of a page table holds its first `first` pages as before, then `pages`, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableUpdate {
    /// Window of the states that the table is for; 0 for those that keep every token.
    pub window: Window,
    /// Row of the table.
    pub row: u32,
    /// Pages that stay.
    pub first: usize,
    /// Pages after them.
    pub pages: Vec<u32>,
}

/// What a step gave, by row of [`Batch::rows`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    greedy: Vec<u32>,
    logits: Vec<f32>,
    /// Where each row's logits begin, if they were wanted.
    starts: Vec<Option<usize>>,
    vocabulary: usize,
}

impl StepOutput {
    /// The arg-max of a row, ties to the lowest id; for rows that want [`Want::Greedy`].
    pub fn greedy(&self, row: usize) -> Option<u32> {
        self.greedy.get(row).copied()
    }

    /// Logits of a row that wants [`Want::Logits`].
    pub fn logits(&self, row: usize) -> Option<&[f32]> {
        let start = (*self.starts.get(row)?)?;
        self.logits.get(start..start + self.vocabulary)
    }
}

impl Executable {
    /// Whether every id, page and position of the batch lies inside its buffer.
    pub(super) fn check(&self, batch: &Batch) -> Result<(), String> {
        let Batch { ids, positions, sequences, rows, table, .. } = batch;
        let (tokens, chunk) = (ids.len(), self.chunk);
        if tokens == 0 || tokens > chunk {
            return Err(format!("a step of {tokens} tokens: expected 1 to {chunk}"));
        }
        if positions.len() != tokens || sequences.len() != tokens {
            let (p, s) = (positions.len(), sequences.len());
            return Err(format!("{tokens} tokens with {p} positions and {s} sequences"));
        }
        if rows.len() > self.max_rows {
            return Err(format!("{} rows want logits: at most {} can", rows.len(), self.max_rows));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocabulary) {
            return Err(format!("token id {id} is outside the vocabulary of {}", self.vocabulary));
        }
        if let Some(row) = rows.iter().find(|r| r.token as usize >= tokens) {
            return Err(format!("token {} wants logits: the step has {tokens}", row.token));
        }
        let mut tables: Vec<Vec<usize>> = self.tables.iter().map(|table| table.held.clone()).collect();
        for update in table {
            let (row, end) = (update.row as usize, update.first.saturating_add(update.pages.len()));
            let unknown = || format!("a page table for a window of {}: no state has one", update.window);
            let at = self.tables.iter().position(|t| t.set.window == update.window).ok_or_else(unknown)?;
            let (held, there) = (&mut tables[at], self.tables[at].set.pages);
            let before = *held.get(row).ok_or_else(|| format!("page table row {row}: there are {}", held.len()))?;
            if update.first > before || end > self.table_stride {
                let (first, stride) = (update.first, self.table_stride);
                return Err(format!("pages {first}..{end} of a row that holds {before} and can hold {stride}"));
            }
            if let Some(page) = update.pages.iter().find(|p| **p as usize >= there) {
                return Err(format!("page {page}: the pool has {there}"));
            }
            held[row] = end;
        }
        for (position, sequence) in positions.iter().zip(sequences) {
            let held = tables.iter().map(|held| held.get(*sequence as usize).copied().unwrap_or(0));
            let pages = held.min().unwrap_or(0);
            if *position as usize >= pages * PAGE_TOKENS {
                return Err(format!("position {position} of table row {sequence}, which holds {pages} pages"));
            }
        }
        Ok(())
    }

    /// Reads back the arg-max of all rows if any wants it, and the logits of those that want them.
    pub(super) fn read_results(&mut self, batch: &Batch) -> Result<(), StepError> {
        let row_bytes = self.vocabulary * 4;
        let mut output = std::mem::take(&mut self.output);
        output.vocabulary = self.vocabulary;
        output.greedy.clear();
        output.starts.clear();
        let wanted = batch.rows.iter().filter(|r| r.want == Want::Logits).count();
        output.logits.resize(wanted * self.vocabulary, 0.0);
        if !batch.rows.is_empty() {
            let (logits, greedy) = self.head(batch).map(|h| (h.logits, h.greedy))?;
            if wanted < batch.rows.len() {
                output.greedy.resize(batch.rows.len(), 0);
                let slice = Slice { bytes: batch.rows.len() * 4, ..greedy };
                self.device.read(slice, bytemuck::cast_slice_mut(&mut output.greedy))?;
            }
            let mut filled = 0;
            for (first, count) in logits_runs(&batch.rows) {
                let slice = Slice { offset: logits.offset + first * row_bytes, bytes: count * row_bytes, ..logits };
                let into = &mut output.logits[filled * self.vocabulary..][..count * self.vocabulary];
                self.device.read(slice, bytemuck::cast_slice_mut(into))?;
                filled += count;
            }
        }
        let mut next = 0;
        output.starts.extend(batch.rows.iter().map(|row| {
            let start = (row.want == Want::Logits).then_some(next);
            next += start.map_or(0, |_| self.vocabulary);
            start
        }));
        self.output = output;
        Ok(())
    }
}

/// Neighbouring rows that want logits, as (first, count): one read each.
fn logits_runs(rows: &[Row]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = vec![];
    for (i, _) in rows.iter().enumerate().filter(|(_, r)| r.want == Want::Logits) {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == i => *count += 1,
            _ => runs.push((i, 1)),
        }
    }
    runs
}
