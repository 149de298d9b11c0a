//! A loaded program that reads one sequence at a time, from the start.

use std::ops::Range;

use swiftlm_runtime::executable::{Batch, Executable, Row, StepOutput, Want};

use super::QualityError;
use crate::load::LoadError;
use crate::prepare::Prepared;
use crate::progress::Progress;

/// Reads tokens and gives logits.
#[derive(Debug)]
pub struct Reader {
    executable: Executable,
}

impl Reader {
    /// Loads a prepared program.
    ///
    /// # Errors
    /// As [`Prepared::into_executable`].
    pub fn new(prepared: Prepared, progress: &Progress) -> Result<Self, LoadError> {
        Ok(Self { executable: prepared.into_executable(progress)? })
    }

    /// Most tokens whose logits one step gives.
    pub fn scored_tokens(&self) -> usize {
        self.executable.chunk().min(self.executable.max_rows())
    }

    /// Bytes that keys and values take on the device for each token of the context.
    pub fn held_bytes_per_token(&self) -> f64 {
        self.executable.state_bytes() as f64 / self.executable.context() as f64
    }

    /// Reads `ids[range]`, which follow on what was read before, and gives nothing.
    ///
    /// # Errors
    /// A step failed.
    pub fn skip(&mut self, ids: &[u32], range: Range<usize>) -> Result<(), QualityError> {
        for start in range.clone().step_by(self.executable.chunk()) {
            let end = range.end.min(start + self.executable.chunk());
            let batch = self.batch(ids, start..end, None);
            self.executable.step(&batch)?;
        }
        Ok(())
    }

    /// Reads `ids[range]`, at most [`Self::scored_tokens`] of them, and gives the logits at each.
    ///
    /// # Errors
    /// The step failed.
    pub fn logits(&mut self, ids: &[u32], range: Range<usize>) -> Result<&StepOutput, QualityError> {
        let batch = self.batch(ids, range, Some(Want::Logits));
        Ok(self.executable.step(&batch)?)
    }

    /// Reads a prompt and continues it greedily, until one of `stop` or `most` tokens.
    ///
    /// # Errors
    /// A step failed.
    pub fn answer(&mut self, prompt: &[u32], stop: &[u32], most: usize) -> Result<Vec<u32>, QualityError> {
        let mut ids = prompt.to_vec();
        self.skip(&ids, 0..prompt.len().saturating_sub(1))?;
        while ids.len() < prompt.len() + most {
            let batch = self.batch(&ids, ids.len() - 1..ids.len(), Some(Want::Greedy));
            match self.executable.step(&batch)?.greedy(0) {
                Some(id) if !stop.contains(&id) => ids.push(id),
                _ => break,
            }
        }
        Ok(ids.split_off(prompt.len()))
    }

    /// The tokens of a step of the one sequence; `want` of each of them.
    fn batch(&self, ids: &[u32], range: Range<usize>, want: Option<Want>) -> Batch {
        let rows = (0..range.len() as u32).filter_map(|token| want.map(|want| Row { token, want }));
        Batch {
            rows: rows.collect(),
            positions: range.clone().map(|position| position as u32).collect(),
            sequences: vec![0; range.len()],
            ids: ids[range].to_vec(),
            table: self.executable.alone(self.executable.context()),
            ..Batch::default()
        }
    }
}
