//! Recurrences: what is left of a sequence in states that do not grow. Going back needs a snapshot, taken before; what
//! came behind the snapshot is appended again.
//!
//! A *unit* holds the recurrent states of one sequence in all layers: of a living sequence, or a snapshot of one. Units
//! are copied on the device; here stands only which, and in what order.

use super::pool::Holders;

/// Snapshots there is room for, for each sequence that can be alive.
pub const SNAPSHOTS_PER_SEQUENCE: usize = 1;

/// Units for so many sequences and their snapshots.
pub fn recurrent_units(max_sequences: usize) -> usize {
    max_sequences.saturating_mul(1 + SNAPSHOTS_PER_SEQUENCE)
}

/// A copy of one unit over another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The unit that is copied.
    pub from: u32,
    /// The unit that becomes like it.
    pub to: u32,
}

/// The units of all sequences, and the copies that are to be made before the next step.
#[derive(Clone, Debug)]
pub(super) struct Units {
    held: Holders,
    /// Units that snapshots may take.
    snapshots: usize,
    transfers: Vec<Transfer>,
}

impl Units {
    /// Units for `sequences` living sequences and `snapshots` snapshots.
    pub(super) fn new(sequences: usize, snapshots: usize) -> Self {
        Self { held: Holders::new(sequences.saturating_add(snapshots)), snapshots, transfers: vec![] }
    }

    /// The copies to be made, in their order; they are the caller's to make from now on.
    pub(super) fn take_transfers(&mut self) -> Vec<Transfer> {
        std::mem::take(&mut self.transfers)
    }

    /// Snapshots that could be taken without giving any up.
    pub(super) fn snapshots(&self) -> usize {
        self.snapshots
    }

    fn copy(&mut self, from: u32, to: u32) {
        self.transfers.push(Transfer { from, to });
    }
}

/// What a sequence was at some length.
#[derive(Clone, Copy, Debug)]
struct Snapshot {
    length: usize,
    unit: u32,
}

/// One sequence's unit and its snapshots, shortest first.
#[derive(Debug)]
pub(super) struct Recurrence {
    unit: u32,
    snapshots: Vec<Snapshot>,
}

impl Recurrence {
    /// A sequence without tokens, if a unit is free beside those that snapshots may take.
    pub(super) fn open(units: &mut Units) -> Option<Self> {
        (units.held.available() > units.snapshots).then(|| Self { unit: units.held.take(), snapshots: vec![] })
    }

    /// Its unit.
    pub(super) fn unit(&self) -> u32 {
        self.unit
    }

    /// Lengths that there are snapshots of, longest first.
    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.snapshots.iter().rev().map(|s| s.length)
    }

    /// Takes a snapshot of what the sequence is now, at a length beyond those of its other ones. Where none is free the
    /// shortest of its own that nobody shares makes room; false if there is none.
    pub(super) fn snapshot(&mut self, units: &mut Units, length: usize) -> bool {
        if units.snapshots == 0 {
            let own = self.snapshots.iter().position(|s| !units.held.is_shared(s.unit));
            let Some(own) = own else { return false };
            self.forget(units, own);
        }
        units.snapshots -= 1;
        let unit = units.held.take();
        units.copy(self.unit, unit);
        self.snapshots.push(Snapshot { length, unit });
        true
    }

    /// Becomes what it was at `length`: nothing at 0, else what the snapshot of that length says. Longer ones are forgotten.
    pub(super) fn restore(&mut self, units: &mut Units, length: usize) {
        while self.snapshots.last().is_some_and(|s| s.length > length) {
            self.forget(units, self.snapshots.len() - 1);
        }
        if let Some(last) = self.snapshots.last().filter(|_| length > 0) {
            assert_eq!(last.length, length, "a sequence goes back to a snapshot");
            units.copy(last.unit, self.unit);
        }
    }

    /// Becomes what another is at `length`, which is its length now or that of a snapshot, and shares its snapshots up to
    /// there.
    pub(super) fn follow(&mut self, units: &mut Units, other: &Self, length: usize) {
        self.snapshots = other.snapshots.iter().copied().filter(|s| s.length <= length).collect();
        for snapshot in &self.snapshots {
            units.held.share(snapshot.unit);
        }
        match self.snapshots.last() {
            Some(last) if last.length == length => units.copy(last.unit, self.unit),
            _ if length > 0 => units.copy(other.unit, self.unit),
            _ => {}
        }
    }

    /// Gives all units back.
    pub(super) fn close(mut self, units: &mut Units) {
        while !self.snapshots.is_empty() {
            self.forget(units, self.snapshots.len() - 1);
        }
        units.held.release(self.unit);
    }

    fn forget(&mut self, units: &mut Units, at: usize) {
        let unit = self.snapshots.remove(at).unit;
        units.snapshots += usize::from(!units.held.is_shared(unit));
        units.held.release(unit);
    }
}
