//! Products of rounded rows with blocks of a weight on matrix units: tiles of 16 rows by 16 outputs, two by two.
//!
//! Whole numbers within a group are exact in any order, and from group to group a sum goes as in [`whole`](super::whole), so
//! both give the same bits. Sums of bfloat16 have an order of their own, so that one row goes this way, too.

use std::ops::Range;

use super::integer::WholeProduct;
use super::isa::{Isa, LANES};
use super::packed::UNIT;
use super::quantize::QuantizedRow;
use super::whole::{AHEAD, Rows16, SET_BYTES};

/// Rows of a tile.
const ROWS: usize = 16;
/// Rows of two tiles, which share what is read of a weight.
const STRIP: usize = 2 * ROWS;
/// Numbers of a tile.
const TILE: usize = ROWS * LANES;
/// Largest row of a tile, in bytes.
pub(super) const ROW_BYTES: usize = 64;

/// Floats of scratch for the rows of a strip: bytes, or bfloat16 of two bytes.
pub(super) fn scratch(cols: usize) -> usize {
    STRIP * cols / 2
}

/// Some parts of rows of a product and some blocks of its weight.
pub(super) struct Strips<'a> {
    pub(super) product: &'a WholeProduct<'a>,
    /// All parts of a row among them.
    pub(super) rows: Range<usize>,
    pub(super) blocks: &'a Range<usize>,
    pub(super) scratch: *mut f32,
}

/// Products of bfloat16, weights as they lie.
#[inline(always)]
pub(super) unsafe fn pairs<I: Isa>(strips: &Strips<'_>, rows16: impl Fn(usize, usize) -> Rows16) {
    let cols = strips.product.weight.ty.cols;
    strips.run::<I>(2 * cols, ROW_BYTES, rows16, |x, count, weights, sums| {
        I::matrix_clear();
        for unit in 0..cols / UNIT {
            let codes = weights.map(|w| w.codes.add(unit * UNIT / 2 * SET_BYTES));
            if count <= 2 {
                for line in 0..UNIT / 2 {
                    I::prefetch(codes[0].wrapping_add(AHEAD + line * SET_BYTES));
                    I::prefetch(codes[1].wrapping_add(AHEAD + line * SET_BYTES));
                }
            }
            I::matrix_add::<true>(x.at(unit * ROW_BYTES), x.stride, codes);
        }
        I::matrix_store(sums.cast());
    });
}

/// Products of whole numbers, weights unpacked to bytes.
#[inline(always)]
pub(super) unsafe fn whole<I: Isa>(strips: &Strips<'_>, rows16: impl Fn(usize, usize) -> Rows16) {
    let first = rows16(0, 0);
    let (groups, row) = (first.cols / first.group, first.group.min(ROW_BYTES));
    // One group's products are made while those of the one before are added.
    let mut products = [[0i32; 4 * TILE]; 2];
    strips.run::<I>(first.cols, row, rows16, |x, count, weights, sums| {
        for tile in 0..4 * TILE / LANES {
            I::store(sums.add(tile * LANES), I::splat(0.0));
        }
        let multiply = |g: usize, to: &mut [i32; 4 * TILE]| {
            I::matrix_clear();
            for at in (g * first.group..(g + 1) * first.group).step_by(row) {
                I::matrix_add::<false>(x.at(at), x.stride, weights.map(|w| w.codes.add(at * LANES)));
            }
            I::matrix_store(to.as_mut_ptr().cast());
        };
        multiply(0, &mut products[0]);
        for g in 0..groups {
            if g + 1 < groups {
                multiply(g + 1, &mut products[(g + 1) % 2]);
            }
            let products = products[g % 2].as_ptr();
            let scales = weights.map(|w| w.group_scales::<I>(g));
            for m in 0..count {
                let (scale, sum) = (I::splat(*x.parts[m].scales.add(g)), I::splat(*x.parts[m].sums.add(g)));
                for half in 0..2 {
                    let at = place(m, half);
                    let product = I::load_whole(products.add(at));
                    let so_far = I::fma(I::to_float(product), I::mul(scales[half].0, scale), I::load(sums.add(at)));
                    I::store(sums.add(at), I::fma(scales[half].1, sum, so_far));
                }
            }
        }
    });
}

/// Where the sums of a row with the first or second block lie.
#[inline(always)]
fn place(row: usize, half: usize) -> usize {
    (row / ROWS * 2 + half) * TILE + row % ROWS * LANES
}

/// The rows of a strip.
struct X {
    parts: [QuantizedRow; STRIP],
    base: *const u8,
    /// Bytes from row to row.
    stride: usize,
    /// Bytes to the rows of the second tile; 0 if there are none.
    second: usize,
}

impl X {
    /// Where two tiles begin, from byte `at` of their rows on.
    #[inline(always)]
    unsafe fn at(&self, at: usize) -> [*const u8; 2] {
        [self.base.wrapping_add(at), self.base.wrapping_add(self.second + at)]
    }
}

impl Strips<'_> {
    /// Strip by strip and two blocks, or two halves of a block, at a time: sums by `tiles`, then results. `bytes` are those of
    /// a row, `row` those of a tile's.
    #[inline(always)]
    unsafe fn run<I: Isa>(
        &self,
        bytes: usize,
        row: usize,
        rows16: impl Fn(usize, usize) -> Rows16,
        mut tiles: impl FnMut(&X, usize, [Rows16; 2], *mut f32),
    ) {
        let (product, halves) = (self.product, self.product.halves());
        let mut sums = [0f32; 4 * TILE];
        let mut at = self.rows.start;
        while at < self.rows.end {
            let count = STRIP.min(self.rows.end - at);
            let x = self.gather(at, count, bytes);
            I::matrix_begin([count.min(ROWS), count.saturating_sub(ROWS)], row);
            let mut block = 0;
            while block < self.blocks.len() {
                // The last block of an odd number is taken twice, and stored once.
                let blocks = if halves == 2 { [block; 2] } else { [block, (block + 1).min(self.blocks.len() - 1)] };
                let weights = [rows16(blocks[0], 0), rows16(blocks[1], halves - 1)];
                tiles(&x, count, weights, sums.as_mut_ptr());
                let base = sums.as_mut_ptr();
                let of = |m: usize, half: usize| base.wrapping_add(place(m, half));
                product.finish::<I>(at, count, self.blocks.start + blocks[0], of);
                if halves == 1 && blocks[1] != blocks[0] {
                    product.finish::<I>(at, count, self.blocks.start + blocks[1], |m, _| of(m, 1));
                }
                block += 3 - halves;
            }
            at += count;
        }
        I::matrix_end();
    }

    /// The rows of a strip at one distance from each other: where they lie, if they do, or copied.
    #[inline(always)]
    unsafe fn gather(&self, at: usize, count: usize, bytes: usize) -> X {
        let mut parts = [self.product.part(at); STRIP];
        for m in 1..count {
            parts[m] = self.product.part(at + m);
        }
        let row = |m: usize| parts[m].codes.cast_const().cast::<u8>();
        let stride = if count > 1 { (row(1) as usize).wrapping_sub(row(0) as usize) } else { bytes };
        let even = |m: usize| row(m) as usize == (row(0) as usize).wrapping_add(m * stride);
        let of = |base: *const u8, stride: usize| {
            let second = if count > ROWS { ROWS * stride } else { 0 };
            X { parts, base, stride, second }
        };
        if (0..count).all(even) {
            return of(row(0), stride);
        }
        let base = self.scratch.cast::<u8>();
        for m in 0..count {
            std::ptr::copy_nonoverlapping(row(m), base.add(m * bytes), bytes);
        }
        of(base, bytes)
    }
}
