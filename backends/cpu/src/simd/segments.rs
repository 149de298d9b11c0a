//! The tokens of one sequence in a step, and what a recurrent state keeps for it.

use super::context::{Context, Ids};

/// Numbers that say what a segment is.
const WORDS: usize = 3;

/// The segments of a step with the units of a part of a recurrent state.
#[derive(Clone, Copy)]
pub(super) struct Segments {
    segments: Ids,
    units: Ids,
    count: usize,
    tokens: usize,
    state: *mut f32,
    /// Floats of a unit.
    unit: usize,
    /// Units that there are.
    available: usize,
    /// Index of the segments' argument; units and state follow.
    arg: usize,
}

// SAFETY: addresses; tasks write disjoint parts of a unit, and no two segments of a step have one unit.
unsafe impl Send for Segments {}
// SAFETY: as above.
unsafe impl Sync for Segments {}

/// A segment with at least one token.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// First token.
    pub(super) first: usize,
    /// The token behind the last.
    pub(super) end: usize,
    /// Whether the sequence begins here, whatever its unit holds.
    pub(super) begins: bool,
    /// The sequence's unit.
    pub(super) state: *mut f32,
}

// SAFETY: as for `Segments`.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segments {
    /// The segments that argument `arg` lists; behind it come the tokens' units and the state, `unit` floats for each.
    pub(super) fn new(ctx: &Context<'_>, arg: usize, unit: usize) -> Result<Self, String> {
        let (tokens, count) = (ctx.sizes.tokens as usize, ctx.sizes.segments as usize);
        let state = ctx.span(arg + 2)?;
        Ok(Self {
            segments: ctx.ids(arg, "segments", count * WORDS)?,
            units: ctx.ids(arg + 1, "units", tokens)?,
            count,
            tokens,
            state: state.base.cast(),
            unit,
            available: state.bytes / (4 * unit).max(1),
            arg,
        })
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Segment `index`, if it has tokens; what is out of range is reported.
    pub(super) fn get(&self, ctx: &Context<'_>, index: usize) -> Option<Segment> {
        let word = |i: usize| self.segments.get(index * WORDS + i);
        let (first, end) = (word(0), word(1));
        if first >= end {
            return None;
        }
        if end > self.tokens {
            ctx.faults.report(self.arg, end);
            return None;
        }
        let unit = self.units.get(first);
        if unit >= self.available {
            ctx.faults.report(self.arg + 1, unit);
            return None;
        }
        let state = self.state.wrapping_add(unit * self.unit);
        Some(Segment { first, end, begins: word(2) == 0, state })
    }
}
