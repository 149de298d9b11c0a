//! Rounding of activations, to whole numbers by groups of columns or to sums of bfloat16: as what products of such numbers
//! read, and as the floats that these stand for, for all others.
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

/// Rows that were rounded, each in parts that are rows of their own: of signed bytes, followed by the scales of their groups
/// and by the sums of the numbers of their groups; or of bfloat16, as [`Isa::store_term`] writes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantized {
    base: *mut f32,
    cols: usize,
    to: Rounding,
    /// Rows of a row, whose products are added: 1 or 2.
    pub(crate) parts: usize,
}

/// One part of a row.
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
    /// Rows of `cols` columns at `base`; `None` where no products are made of such numbers.
    pub(crate) fn new(base: *mut f32, cols: usize, to: Rounding) -> Option<Self> {
        parts(to).map(|parts| Self { base, cols, to, parts })
    }

    /// Floats that a row takes, if products are made of such numbers.
    pub(crate) fn stride(cols: usize, to: Rounding) -> Option<usize> {
        parts(to).map(|parts| parts * part_stride(cols, to))
    }

    /// Part `part` of row `i`, the one that counts for most first.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, i: usize, part: usize) -> QuantizedRow {
        let (codes, groups) =
            (self.base.add((i * self.parts + part) * part_stride(self.cols, self.to)), self.to.group());
        let scales = codes.wrapping_add(self.cols / 4);
        QuantizedRow { codes: codes.cast(), scales, sums: scales.wrapping_add(self.cols / groups) }
    }
}

fn parts(to: Rounding) -> Option<usize> {
    match to {
        Rounding::F16 => None,
        Rounding::Bf16 { terms } => Some(terms.into()),
        Rounding::Int { bits, .. } => Some(usize::from(bits / 8)),
    }
}

/// Floats of a part of a row.
fn part_stride(cols: usize, to: Rounding) -> usize {
    match to {
        Rounding::Int { group, .. } => (cols / 4 + 2 * cols / group as usize).next_multiple_of(LANES),
        _ => cols,
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

/// Rounds a row to floats that are sums of bfloat16, in place; readable and writable up to the next multiple of 16.
#[inline(always)]
pub(crate) unsafe fn round_terms<I: Isa>(row: *mut f32, cols: usize, terms: u8) {
    for k in (0..cols).step_by(LANES) {
        let x = I::load(row.add(k));
        let mut sum = nearest_bf16::<I>(x);
        for _ in 1..terms {
            sum = I::add(sum, nearest_bf16::<I>(I::sub(x, sum)));
        }
        I::store(row.add(k), sum);
    }
}

#[inline(always)]
unsafe fn nearest_bf16<I: Isa>(x: I::F) -> I::F {
    let mut nearest = [0u16; LANES];
    I::store_bf16(nearest.as_mut_ptr(), x);
    I::load_bf16(nearest.as_ptr())
}

/// Prologue of a product: rows normalised where the template says so, and rounded. The scratch holds a row.
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
    const ROUNDED: bool = true;
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        for i in self.first..self.last {
            let mut from = self.x.row(i).cast_const();
            if let Some(norm) = self.norm {
                norm.apply::<I>(from, self.scratch);
                from = self.scratch;
            }
            match self.to.to {
                Rounding::Int { group, .. } => self.to.set_codes::<I>(i, from, group as usize),
                _ => self.to.set_terms::<I>(i, from),
            }
        }
    }
}

impl Quantized {
    /// Row `i` as sums of bfloat16.
    #[inline(always)]
    unsafe fn set_terms<I: Isa>(&self, i: usize, from: *const f32) {
        for k in (0..self.cols).step_by(LANES) {
            let mut left = I::load(from.add(k));
            for part in 0..self.parts {
                let nearest = nearest_bf16::<I>(left);
                I::store_term(self.part(i, part).codes.cast::<u8>().add(k * I::TERM_BYTES), nearest);
                left = I::sub(left, nearest);
            }
        }
    }

    /// Row `i` as whole numbers by groups of columns.
    #[inline(always)]
    unsafe fn set_codes<I: Isa>(&self, i: usize, from: *const f32, group: usize) {
        // The only part is the low one.
        let (high, low) = (self.part(i, 0), self.part(i, self.parts - 1));
        for (g, start) in (0..self.cols).step_by(group).enumerate() {
            let (scale, inverse) = scale_of::<I>(from.add(start), 8 * self.parts as u8, group);
            let (mut sum, mut high_sum) = (I::splat(0.0), I::splat(0.0));
            for k in (start..start + group).step_by(LANES) {
                let mut codes = whole::<I>(I::load(from.add(k)), inverse);
                if self.parts == 2 {
                    // No whole number lies in the middle between multiples of an odd one.
                    let upper = whole::<I>(codes, 1.0 / HIGH);
                    codes = I::fma(upper, I::splat(-HIGH), codes);
                    high_sum = I::add(high_sum, upper);
                    I::store_i8(high.codes.add(k), upper);
                }
                sum = I::add(sum, codes);
                I::store_i8(low.codes.add(k), codes);
            }
            if self.parts == 2 {
                high.scales.add(g).write(HIGH * scale);
                high.sums.add(g).write(HIGH * scale * I::sum(high_sum));
            }
            low.scales.add(g).write(scale);
            low.sums.add(g).write(scale * I::sum(sum));
        }
    }
}
