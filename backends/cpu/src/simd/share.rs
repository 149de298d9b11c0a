//! What a span of positions gives to query heads, and how two spans' shares become one.

use super::attend::UNSEEN;
use super::isa::{Isa, LANES};
use super::math::exp;
use super::weights::store_some;

/// How far a sink counts above the largest score: beyond, nothing is left of the values, and powers of e stay finite.
const MOST_ABOVE: f32 = 80.0;

/// Of each row (a query head of a token): the largest score, Σ e^(score - largest), and that sum over values.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    /// Per row: largest, padding to 16; 16 lanes of the total; the sums, padded to a multiple of 16.
    base: *mut f32,
    dim: usize,
}

// SAFETY: an address of scratch; tasks use disjoint shares.
unsafe impl Send for Share {}

impl Share {
    /// Floats of a share.
    pub(crate) fn floats(rows: usize, dim: usize) -> usize {
        rows * (2 * LANES + dim.next_multiple_of(LANES))
    }

    /// The share at `base`.
    pub(crate) fn new(base: *mut f32, dim: usize) -> Self {
        Self { base, dim }
    }

    /// Rows from `row` on.
    pub(crate) fn rows(&self, row: usize) -> Self {
        Self { base: self.largest(row), dim: self.dim }
    }

    /// Place of a row's largest score.
    #[inline(always)]
    pub(crate) fn largest(&self, row: usize) -> *mut f32 {
        self.base.wrapping_add(row * Self::floats(1, self.dim))
    }

    /// Place of a row's total, in lanes.
    #[inline(always)]
    pub(crate) fn total(&self, row: usize) -> *mut f32 {
        self.largest(row).wrapping_add(LANES)
    }

    /// Place of a row's sums.
    #[inline(always)]
    pub(crate) fn sums(&self, row: usize) -> *mut f32 {
        self.largest(row).wrapping_add(2 * LANES)
    }

    /// Nothing seen yet.
    #[inline(always)]
    pub(crate) unsafe fn clear<I: Isa>(&self, row: usize) {
        *self.largest(row) = UNSEEN;
        for d in (0..LANES + self.dim).step_by(LANES) {
            I::store(self.total(row).add(d), I::splat(0.0));
        }
    }

    /// Adds some rows of a later share.
    #[inline(always)]
    pub(crate) unsafe fn merge<I: Isa>(&self, later: &Self, rows: usize) {
        for row in 0..rows {
            let (own, other) = (self.largest(row), later.largest(row));
            let largest = if *own > *other { *own } else { *other };
            let (a, b) = (exp::<I>(I::splat(*own - largest)), exp::<I>(I::splat(*other - largest)));
            *own = largest;
            for d in (0..LANES + self.dim).step_by(LANES) {
                let (to, from) = (self.total(row).add(d), later.total(row).add(d));
                I::store(to, I::fma(I::load(to), a, I::mul(I::load(from), b)));
            }
        }
    }

    /// Writes some rows' results, one after another. The sink of a row is a score more, which no value belongs to.
    #[inline(always)]
    pub(crate) unsafe fn finish<I: Isa>(&self, rows: usize, sinks: impl Fn(usize) -> Option<f32>, y: *mut f32) {
        for row in 0..rows {
            let mut total = I::splat(I::sum(I::load(self.total(row))));
            if let Some(sink) = sinks(row) {
                let above = (sink - *self.largest(row)).min(MOST_ABOVE);
                total = I::add(total, exp::<I>(I::splat(above)));
            }
            for d in (0..self.dim).step_by(LANES) {
                let value = I::div(I::load(self.sums(row).add(d)), total);
                store_some::<I>(y.add(row * self.dim + d), value, self.dim - d);
            }
        }
    }
}
