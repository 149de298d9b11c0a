//! What is known of a u32 value: an interval, and its place among numbers that only a step or a loaded model knows.

use crate::kernel::{Binary, Immediate};

/// All values from `min` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Range {
    pub(super) const ANY: Self = Self { min: 0, max: u32::MAX };

    pub(super) fn new(min: u32, max: u32) -> Self {
        Self { min, max }
    }

    pub(super) fn exactly(n: u32) -> Self {
        Self { min: n, max: n }
    }

    pub(super) fn constant(self) -> Option<u32> {
        (self.min == self.max).then_some(self.min)
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// At most `max`; a range that this would empty cannot occur, and stays as it is.
    pub(super) fn at_most(self, max: u32) -> Self {
        if max < self.min { self } else { Self { max: self.max.min(max), ..self } }
    }

    /// At least `min`, as [`Self::at_most`].
    pub(super) fn at_least(self, min: u32) -> Self {
        if min > self.max { self } else { Self { min: self.min.max(min), ..self } }
    }

    /// Values of `a op b`, also where u32 wraps. A zero divisor and a shift by 32 are errors reported elsewhere.
    pub(super) fn binary(op: Binary, a: Self, b: Self) -> Self {
        let checked = |min: Option<u32>, max: Option<u32>| match (min, max) {
            (Some(min), Some(max)) => Self { min, max },
            _ => Self::ANY,
        };
        // All numbers with as many bits.
        let mask = |n: u32| u32::MAX.checked_shr(n.leading_zeros()).unwrap_or(0);
        match op {
            Binary::Add => checked(a.min.checked_add(b.min), a.max.checked_add(b.max)),
            Binary::Sub => checked(a.min.checked_sub(b.max), a.max.checked_sub(b.min)),
            Binary::Mul => checked(a.min.checked_mul(b.min), a.max.checked_mul(b.max)),
            Binary::Div => checked(a.min.checked_div(b.max), a.max.checked_div(b.min)),
            Binary::Rem if b.min == 0 => Self::ANY,
            Binary::Rem if a.max < b.min => a,
            Binary::Rem => Self::new(0, a.max.min(b.max - 1)),
            Binary::Min => Self::new(a.min.min(b.min), a.max.min(b.max)),
            Binary::Max => Self::new(a.min.max(b.min), a.max.max(b.max)),
            Binary::And => Self::new(0, a.max.min(b.max)),
            Binary::Or => Self::new(a.min.max(b.min), mask(a.max | b.max)),
            Binary::Xor => Self::new(0, mask(a.max | b.max)),
            Binary::Shl if b.max < 32 && a.max.leading_zeros() >= b.max => Self::new(a.min << b.min, a.max << b.max),
            Binary::Shr if b.max < 32 => Self::new(a.min >> b.max, a.max >> b.min),
            _ => Self::ANY,
        }
    }
}

/// A value's place among the units of an argument, whose number only a loaded model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `unit · scale + rest`, with `unit` below the number of units of the argument.
    Unit { arg: u32, scale: u32, rest: Range },
    /// First entry of a row of the page table.
    TableRow { arg: u32 },
    /// An entry of the page table.
    TableEntry { arg: u32 },
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    /// Every element of a u32 lies in it.
    pub(super) range: Range,
    /// The same in all lanes of a workgroup.
    pub(super) uniform: bool,
    /// Less than the immediate.
    pub(super) below: Option<Immediate>,
    /// At most the immediate.
    pub(super) at_most: Option<Immediate>,
    /// Place among units.
    pub(super) place: Option<Place>,
}

impl Fact {
    pub(super) fn new(range: Range, uniform: bool) -> Self {
        Self { range, uniform, below: None, at_most: None, place: None }
    }

    /// What is known of `a op b` beyond its interval: an immediate that it is less than, one that it is at most, and its
    /// place. No sum or product here wraps: a place that is found to lie within its argument is less than the argument's
    /// length, and so is every step on the way to it.
    pub(super) fn relate(op: Binary, a: &Self, b: &Self) -> (Option<Immediate>, Option<Immediate>, Option<Place>) {
        let below = if op == Binary::Min { a.below.or(b.below) } else { None };
        let at_most = match (op, b.range.constant()) {
            (Binary::Add, Some(0 | 1)) => a.below,
            _ => None,
        };
        let place = match op {
            Binary::Mul => times(a, b).or_else(|| times(b, a)),
            Binary::Add => plus(a, b).or_else(|| plus(b, a)),
            _ => None,
        };
        (below, at_most, place)
    }
}

fn times(a: &Fact, b: &Fact) -> Option<Place> {
    match (a.place?, b.range.constant()) {
        (Place::Unit { arg, scale, rest }, Some(n)) if b.place.is_none() => Some(Place::Unit {
            arg,
            scale: scale.checked_mul(n)?,
            rest: Range::new(rest.min.checked_mul(n)?, rest.max.checked_mul(n)?),
        }),
        _ => None,
    }
}

fn plus(a: &Fact, b: &Fact) -> Option<Place> {
    match a.place? {
        Place::Unit { arg, scale, rest } if b.place.is_none() => {
            let rest = Range::new(rest.min.checked_add(b.range.min)?, rest.max.checked_add(b.range.max)?);
            Some(Place::Unit { arg, scale, rest })
        }
        Place::TableRow { arg } if b.below == Some(Immediate::TableStride) => Some(Place::TableEntry { arg }),
        _ => None,
    }
}
