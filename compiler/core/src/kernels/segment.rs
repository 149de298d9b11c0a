//! Segments: the tokens of one sequence in a step, and what a recurrent state keeps for it.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{A, E, Kb};
use swiftlm_ir::kernel::{Access, DataBound, Immediate, KType, Length};
use swiftlm_ir::plan::{Groups, Reach};

use super::operand::{ids, per_token};
use super::{Bounds, when_row};

/// Numbers that say what a segment is.
const WORDS: usize = 3;

/// The inputs that say which tokens are whose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segments<'k> {
    kb: &'k Kb,
    segments: A<'k>,
    units: A<'k>,
}

/// A segment with at least one token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'k> {
    /// First token.
    pub(super) first: E<'k>,
    /// The token behind the last.
    pub(super) end: E<'k>,
    /// Whether the sequence begins here.
    begins: E<'k>,
}

/// A part of a recurrent state, `unit` elements for each sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct State<'k> {
    arg: A<'k>,
    unit: usize,
}

impl<'k> Segments<'k> {
    /// Declares the next two arguments.
    pub(super) fn declare(kb: &'k Kb, bounds: Bounds) -> Self {
        let segments = ids(kb, "segments", Access::Read, bounds.of(Sym::Tokens) * WORDS);
        Self { kb, segments, units: per_token(kb, "units", bounds) }
    }

    /// Groups along an axis of which each has one segment.
    pub(super) fn groups() -> Groups {
        Groups::per_rows(1, Sym::Tokens, 1).reaching(Reach::Segments)
    }

    /// Runs `body` for segment `index`, if there is such a one. What the host wrote is not relied on.
    pub(super) fn when(&self, index: E<'k>, body: impl FnOnce(Segment<'k>)) {
        let kb = self.kb;
        when_row(kb, Sym::Tokens, index, || {
            let word = |i: usize| self.segments.load(index.times(WORDS).plus(i));
            let (first, end) = (word(0), word(1).min(kb.immediate(Immediate::Tokens)));
            let begins = word(2).equals(kb.u32(0));
            kb.when(first.lt(end), || body(Segment { first, end, begins }));
        });
    }

    /// First element of what `state` keeps for the sequence of a segment.
    pub(super) fn place(&self, segment: &Segment<'k>, state: State<'k>) -> E<'k> {
        self.units.load(segment.first).trust(DataBound::BelowUnits(state.arg.index)).times(state.unit)
    }
}

impl<'k> State<'k> {
    /// Declares the next argument.
    pub(super) fn declare(kb: &'k Kb, name: &str, unit: usize) -> Self {
        Self { arg: kb.arg(name, Access::ReadWrite, KType::F32, Length::Units(unit as u64)), unit }
    }

    /// What an element holds at a segment's start: 0 where its sequence begins.
    pub(super) fn load(&self, kb: &'k Kb, segment: &Segment<'k>, at: E<'k>) -> E<'k> {
        segment.begins.select(kb.f32(0.0), self.arg.load(at))
    }

    /// Writes an element.
    pub(super) fn store(&self, at: E<'k>, value: E<'k>) {
        self.arg.store(at, value);
    }
}
