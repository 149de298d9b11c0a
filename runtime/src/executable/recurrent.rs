//! Recurrent states at work: which tokens of a step are one sequence's, whether they follow on what its unit holds, and
//! the copies of units that come before.

use std::fmt;

use swiftlm_device::{Device, DeviceError, Slice};
use swiftlm_ir::plan::Input;

use super::{Batch, Executable};
use crate::state::Transfer;

/// Tokens that a unit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// So many from a sequence's start on.
    Tokens(usize),
    /// A step failed on the way: no token follows on it.
    Undefined,
    /// Made-up numbers, on which any token may follow.
    Anything,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(n) => write!(f, "{n} tokens"),
            Self::Undefined => f.write_str("a step that failed"),
            Self::Anything => f.write_str("made-up tokens"),
        }
    }
}

impl Held {
    fn precedes(self, position: usize) -> bool {
        position == 0 || self == Self::Anything || self == Self::Tokens(position)
    }
}

/// The units of a program with recurrent states, and a step's runs of tokens.
#[derive(Debug)]
pub(super) struct Recurrences {
    /// Each part of each state with the bytes of one unit.
    pub(super) parts: Vec<(Slice, usize)>,
    pub(super) held: Vec<Held>,
    /// First token, end and tokens before, for every run; behind them zeros.
    words: Vec<u32>,
    /// Unit and length afterwards, for every run.
    runs: Vec<(usize, usize)>,
    /// What units will hold, while a batch is checked.
    next: Vec<Held>,
}

impl Recurrences {
    pub(super) fn new(parts: Vec<(Slice, usize)>, units: usize) -> Self {
        Self { parts, held: vec![Held::Tokens(0); units], words: vec![], runs: vec![], next: vec![] }
    }

    /// Runs of the step that was checked last.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Whether every run of tokens follows on what its unit holds; notes the runs.
    fn check(&mut self, batch: &Batch) -> Result<(), String> {
        let Self { held, words, runs, next, .. } = self;
        let units = if batch.units.is_empty() { &batch.sequences } else { &batch.units };
        let (tokens, count) = (batch.ids.len(), held.len());
        if units.len() != tokens {
            return Err(format!("{tokens} tokens with {} units", units.len()));
        }
        let transfers = batch.transfers.iter().flat_map(|t| [t.from, t.to]);
        if let Some(unit) = units.iter().copied().chain(transfers).find(|unit| *unit as usize >= count) {
            return Err(format!("unit {unit} of the recurrent states: there are {count}"));
        }
        next.clone_from(held);
        for Transfer { from, to } in &batch.transfers {
            next[*to as usize] = next[*from as usize];
        }
        words.clear();
        runs.clear();
        let mut first = 0;
        while first < tokens {
            let (unit, start) = (units[first] as usize, batch.positions[first] as usize);
            let same = |t: &usize| units[*t] as usize == unit;
            let end = (first..tokens).take_while(same).last().map_or(first, |last| last + 1);
            if runs.iter().any(|run| run.0 == unit) {
                return Err(format!(
                    "tokens of unit {unit} stand apart: those of one sequence must follow one another"
                ));
            }
            if (first..end).any(|t| batch.positions[t] as usize != start + (t - first)) {
                return Err(format!("positions of unit {unit} from {start} on do not follow one another"));
            }
            if !next[unit].precedes(start) {
                return Err(format!(
                    "position {start} behind a recurrent state of {}: rewind the sequence, and append what follows again",
                    next[unit]
                ));
            }
            words.extend([first as u32, end as u32, start as u32]);
            runs.push((unit, start + (end - first)));
            first = end;
        }
        words.resize(3 * tokens, 0);
        Ok(())
    }

    /// From here on the units of the step hold what is not yet known.
    fn begin(&mut self) {
        std::mem::swap(&mut self.held, &mut self.next);
        for (unit, _) in &self.runs {
            self.held[*unit] = Held::Undefined;
        }
    }

    /// Makes a unit like another in every part.
    pub(super) fn copy(&self, device: &mut dyn Device, transfer: Transfer) -> Result<(), DeviceError> {
        for (part, unit) in &self.parts {
            let of = |i: u32| Slice { offset: part.offset + i as usize * unit, bytes: *unit, ..*part };
            device.copy(of(transfer.from), of(transfer.to))?;
        }
        Ok(())
    }

    /// The step has run.
    pub(super) fn finish(&mut self) {
        for (unit, length) in self.runs.drain(..) {
            self.held[unit] = Held::Tokens(length);
        }
    }
}

impl Executable {
    /// Whether the batch says of recurrent states what can be, if the program has any.
    pub(super) fn check_recurrences(&mut self, batch: &Batch) -> Result<(), String> {
        match &mut self.recurrences {
            Some(recurrences) => recurrences.check(batch),
            None if batch.transfers.is_empty() => Ok(()),
            None => Err("copies of recurrent states: the model has none".to_owned()),
        }
    }

    /// Makes the copies of a checked batch and writes its runs.
    pub(super) fn write_recurrences(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        let Self { device, bindings, recurrences, .. } = self;
        let Some(recurrences) = recurrences else { return Ok(()) };
        recurrences.begin();
        for transfer in &batch.transfers {
            recurrences.copy(device.as_mut(), *transfer)?;
        }
        let units = if batch.units.is_empty() { &batch.sequences } else { &batch.units };
        for (input, words) in [(Input::Units, units), (Input::Segments, &recurrences.words)] {
            device.write(bindings.input(input), 0, bytemuck::cast_slice(words))?;
        }
        Ok(())
    }
}
