//! Rounding of activations to int8 by groups of columns: as signed bytes with scales, for products of whole numbers, and
//! as the floats that these stand for, for all others.

use swiftlm_ir::rounding::LEAST_MAGNITUDE;

use super::context::Rows;
use super::isa::{Isa, LANES, Task};
use super::norm::Normalizer;

/// Adding and subtracting this rounds to a whole number, halves to even.
const SHIFT: f32 = 12_582_912.0;

/// Rows of signed bytes, each followed by the scales of its groups, and by the sums of the numbers of its groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantized {
    base: *mut f32,
    cols: usize,
    group: usize,
}

/// One of these rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuantizedRow {
    pub(crate) codes: *mut i8,
    /// Of each group.
    pub(crate) scales: *mut f32,
    /// `scale · Σ codes` of each group.
    pub(crate) sums: *mut f32,
}

// SAFETY: an address; the accesses are made by tasks that write disjoint rows.
unsafe impl Send for Quantized {}
// SAFETY: as above.
unsafe impl Sync for Quantized {}

impl Quantized {
    /// Rows of `cols` columns at `base`.
    pub(crate) fn new(base: *mut f32, cols: usize, group: usize) -> Self {
        Self { base, cols, group }
    }

    /// Floats that a row takes.
    pub(crate) fn stride(cols: usize, group: usize) -> usize {
        (cols / 4 + 2 * cols / group).next_multiple_of(LANES)
    }

    /// Row `i`.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, i: usize) -> QuantizedRow {
        let codes = self.base.add(i * Self::stride(self.cols, self.group));
        let scales = codes.add(self.cols / 4);
        QuantizedRow { codes: codes.cast(), scales, sums: scales.add(self.cols / self.group) }
    }
}

/// Scale of a group of columns and its inverse.
#[inline(always)]
unsafe fn scale_of<I: Isa>(x: *const f32, group: usize) -> (f32, f32) {
    let mut largest = I::splat(0.0);
    for k in (0..group).step_by(LANES) {
        let x = I::load(x.add(k));
        largest = I::max(I::max(x, I::sub(I::splat(0.0), x)), largest);
    }
    let largest = I::largest(largest).max(LEAST_MAGNITUDE);
    (largest / 127.0, 127.0 / largest)
}

/// 16 numbers times `inverse`, rounded to whole ones.
#[inline(always)]
unsafe fn whole<I: Isa>(x: *const f32, inverse: f32) -> I::F {
    let scaled = I::mul(I::load(x), I::splat(inverse));
    I::sub(I::add(scaled, I::splat(SHIFT)), I::splat(SHIFT))
}

/// Rounds a row to floats, in place.
#[inline(always)]
pub(crate) unsafe fn round_groups<I: Isa>(row: *mut f32, cols: usize, group: usize) {
    for start in (0..cols).step_by(group) {
        let (scale, inverse) = scale_of::<I>(row.add(start), group);
        for k in (start..start + group).step_by(LANES) {
            I::store(row.add(k), I::mul(whole::<I>(row.add(k), inverse), I::splat(scale)));
        }
    }
}

/// Prologue of a product of whole numbers: rows normalised where the template says so, and rounded. The scratch holds a row.
#[derive(Clone, Copy)]
pub(crate) struct Quantize {
    pub(crate) x: Rows,
    pub(crate) to: Quantized,
    pub(crate) norm: Option<Normalizer>,
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) scratch: *mut f32,
}

impl Task for Quantize {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Quantized { cols, group, .. } = self.to;
        for i in self.first..self.last {
            let (mut from, to) = (self.x.row(i).cast_const(), self.to.row(i));
            if let Some(norm) = self.norm {
                norm.apply::<I>(from, self.scratch);
                from = self.scratch;
            }
            for (g, start) in (0..cols).step_by(group).enumerate() {
                let (scale, inverse) = scale_of::<I>(from.add(start), group);
                let mut sum = I::splat(0.0);
                for k in (start..start + group).step_by(LANES) {
                    let codes = whole::<I>(from.add(k), inverse);
                    sum = I::add(sum, codes);
                    I::store_i8(to.codes.add(k), codes);
                }
                to.scales.add(g).write(scale);
                to.sums.add(g).write(scale * I::sum(sum));
            }
        }
    }
}
