//! Rounding of activations to whole numbers by groups of columns: as signed bytes with scales, for products of whole
//! numbers, and as the floats that these stand for, for all others.
//!
//! A number of 16 bits is `255 h + l` with two signed bytes, and so is a product with it: its row is two rows of bytes,
//! of which the first has 255 times the scale of the second.

use swiftlm_ir::rounding::{LEAST_MAGNITUDE, Rounding};

use super::context::Rows;
use super::isa::{Isa, LANES, Task};
use super::norm::Normalizer;

/// Adding and subtracting this rounds to a whole number, halves to even.
const SHIFT: f32 = 12_582_912.0;

/// What a high byte counts for.
pub(crate) const HIGH: f32 = 255.0;

/// Rows of signed bytes, each followed by the scales of its groups, and by the sums of the numbers of its groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantized {
    base: *mut f32,
    cols: usize,
    group: usize,
    /// Rows of bytes of a row: 1 or 2.
    pub(crate) parts: usize,
}

/// One row of bytes.
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
    /// Rows of `cols` columns at `base`, rounded to `bits` bits.
    pub(crate) fn new(base: *mut f32, cols: usize, bits: u8, group: usize) -> Self {
        Self { base, cols, group, parts: bits as usize / 8 }
    }

    fn part_stride(cols: usize, group: usize) -> usize {
        (cols / 4 + 2 * cols / group).next_multiple_of(LANES)
    }

    /// Floats that a row takes.
    pub(crate) fn stride(cols: usize, bits: u8, group: usize) -> usize {
        bits as usize / 8 * Self::part_stride(cols, group)
    }

    /// Bytes `part` of row `i`, the high ones first.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, i: usize, part: usize) -> QuantizedRow {
        let codes = self.base.add((i * self.parts + part) * Self::part_stride(self.cols, self.group));
        let scales = codes.add(self.cols / 4);
        QuantizedRow { codes: codes.cast(), scales, sums: scales.add(self.cols / self.group) }
    }
}

/// Scale of a group of columns and its inverse.
#[inline(always)]
unsafe fn scale_of<I: Isa>(x: *const f32, bits: u8, group: usize) -> (f32, f32) {
    let mut largest = I::splat(0.0);
    for k in (0..group).step_by(LANES) {
        let x = I::load(x.add(k));
        largest = I::max(I::max(x, I::sub(I::splat(0.0), x)), largest);
    }
    let largest = I::largest(largest).max(LEAST_MAGNITUDE);
    let steps = Rounding::largest(bits);
    (largest / steps, steps / largest)
}

/// 16 numbers times `inverse`, rounded to whole ones.
#[inline(always)]
pub(crate) unsafe fn whole<I: Isa>(x: I::F, inverse: f32) -> I::F {
    I::sub(I::add(I::mul(x, I::splat(inverse)), I::splat(SHIFT)), I::splat(SHIFT))
}

/// Rounds a row to floats, in place.
#[inline(always)]
pub(crate) unsafe fn round_groups<I: Isa>(row: *mut f32, cols: usize, bits: u8, group: usize) {
    for start in (0..cols).step_by(group) {
        let (scale, inverse) = scale_of::<I>(row.add(start), bits, group);
        for k in (start..start + group).step_by(LANES) {
            I::store(row.add(k), I::mul(whole::<I>(I::load(row.add(k)), inverse), I::splat(scale)));
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
        let Quantized { cols, group, parts, .. } = self.to;
        for i in self.first..self.last {
            let mut from = self.x.row(i).cast_const();
            // The only part is the low one.
            let (high, low) = (self.to.part(i, 0), self.to.part(i, parts - 1));
            if let Some(norm) = self.norm {
                norm.apply::<I>(from, self.scratch);
                from = self.scratch;
            }
            for (g, start) in (0..cols).step_by(group).enumerate() {
                let (scale, inverse) = scale_of::<I>(from.add(start), 8 * parts as u8, group);
                let (mut sum, mut high_sum) = (I::splat(0.0), I::splat(0.0));
                for k in (start..start + group).step_by(LANES) {
                    let mut codes = whole::<I>(I::load(from.add(k)), inverse);
                    if parts == 2 {
                        // No whole number lies in the middle between multiples of an odd one.
                        let upper = whole::<I>(codes, 1.0 / HIGH);
                        codes = I::fma(upper, I::splat(-HIGH), codes);
                        high_sum = I::add(high_sum, upper);
                        I::store_i8(high.codes.add(k), upper);
                    }
                    sum = I::add(sum, codes);
                    I::store_i8(low.codes.add(k), codes);
                }
                if parts == 2 {
                    high.scales.add(g).write(HIGH * scale);
                    high.sums.add(g).write(HIGH * scale * I::sum(high_sum));
                }
                low.scales.add(g).write(scale);
                low.sums.add(g).write(scale * I::sum(sum));
            }
        }
    }
}
