//! A block of a product with a weight that was rearranged: some outputs for some rows, from rounded activations to stored results.

use std::ops::Range;

use swiftlm_ir::quant::Scale;

use super::bias::Bias;
use super::context::Rows;
use super::epilogue::Epilogue;
use super::isa::{Isa, LANES, Task};
use super::matrix::{self, Strips};
use super::packed::{Packed, SETS, UNIT};
use super::pairs::Pairs;
use super::product::Order;
use super::quantize::{Quantized, QuantizedRow};
use super::whole::{Codes, Grouped, Levels, Planes, Products, Rows16, Whole, unpack};

/// Most rows of bytes of a tile.
const MOST_ROWS: usize = 8;
/// Floats of a row of a tile: the accumulators of 16 outputs, and of their second halves.
const STRIDE: usize = 2 * LANES;
/// Weight bytes that a task reads about, where there are few rows: large enough to stream, small enough to share.
const TASK_BYTES: usize = 128 << 10;
/// Bytes of codes that a task unpacks, where there are many rows: they stay in a core's second-level cache.
const PANEL_BYTES: usize = 192 << 10;
/// Up to so many rows of bytes, codes are unpacked in registers for each tile.
const FEW_ROWS: usize = 12;

/// A product of rounded rows with the transposed rows of a weight.
#[derive(Clone, Copy)]
pub(crate) struct WholeProduct<'a> {
    pub(crate) weight: Packed,
    /// Block of output 0.
    pub(crate) first: usize,
    /// Output `j` combines weight rows `j` and `j + 16 · distance`.
    pub(crate) pair: Option<usize>,
    pub(crate) order: Order<'a>,
    pub(crate) x: Quantized,
    /// Row `i` of y belongs to row `i / ranks` of x.
    pub(crate) ranks: usize,
    pub(crate) y: Rows,
    /// Added to the sums.
    pub(crate) bias: Option<Bias>,
    pub(crate) epilogue: &'a Epilogue<'a>,
}

/// Some rows and blocks of outputs of a product, with a worker's scratch.
pub(crate) struct WholeBlock<'a> {
    pub(crate) product: WholeProduct<'a>,
    pub(crate) rows: Range<usize>,
    pub(crate) blocks: Range<usize>,
    pub(crate) scratch: *mut f32,
}

/// Blocks of outputs of a task; `rows` are rows of bytes.
pub(crate) fn blocks_of_task(weight: &Packed, pair: bool, rows: usize, blocks: usize, threads: usize) -> usize {
    let halves = if pair { 2 } else { 1 };
    let wanted = if rows <= FEW_ROWS {
        (TASK_BYTES / (halves * weight.block_bytes())).min(blocks / (4 * threads))
    } else {
        PANEL_BYTES / (halves * LANES * weight.ty.cols)
    };
    wanted.clamp(1, blocks.max(1))
}

/// Floats of a task's panel of codes.
fn panel_floats(cols: usize, pair: bool) -> usize {
    let halves = if pair { 2 } else { 1 };
    PANEL_BYTES.max(halves * LANES * cols).next_multiple_of(64) / 4
}

/// Floats of scratch that a task needs: a panel, and rows that matrix units read one after another.
pub(crate) fn task_scratch(cols: usize, pair: bool) -> usize {
    panel_floats(cols, pair) + matrix::scratch(cols)
}

impl Task for WholeBlock<'_> {
    type Out = ();
    const ROUNDED: bool = true;
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Some(form) = self.product.weight.form else { return self.pairs::<I>() };
        let at_once = match (form.scale, form.bits) {
            (Scale::Power, _) => self.few_or_unpack::<I, Levels>(),
            (_, 2) => self.few_or_unpack::<I, Planes<2>>(),
            (_, 3) => self.few_or_unpack::<I, Planes<3>>(),
            (_, 4) => self.few_or_unpack::<I, Planes<4>>(),
            (_, 5) => self.few_or_unpack::<I, Planes<5>>(),
            (_, 6) => self.few_or_unpack::<I, Planes<6>>(),
            _ => self.few_or_unpack::<I, Planes<8>>(),
        };
        match at_once {
            None => {}
            Some(SETS) => self.many::<I, SETS>(),
            // Nothing else comes where sums have 32 bits.
            Some(_) if I::DOTS_LIMIT == i32::MAX as u32 => {}
            Some(4) => self.many::<I, 4>(),
            Some(2) => self.many::<I, 2>(),
            Some(_) => self.many::<I, 0>(),
        }
    }
}

impl WholeBlock<'_> {
    /// Of bfloat16.
    #[inline(always)]
    unsafe fn pairs<I: Isa>(self) {
        let (product, rows, blocks) = (&self.product, self.parts(), &self.blocks);
        if I::MATRIX {
            // Few rows and many alike, since its sums are its own.
            let rows16 = |i: usize, half: usize| product.rows16(blocks.start + i, half);
            return matrix::pairs::<I>(&Strips { product, rows, blocks, scratch: self.scratch }, rows16);
        }
        let mut at = rows.start;
        while at < rows.end {
            let count = strip(rows.end - at, I::WHOLE_ROWS);
            for block in blocks.clone() {
                product.strip::<I, Pairs>(at, count, block, |half| product.rows16(block, half));
            }
            at += count;
        }
    }

    fn parts(&self) -> Range<usize> {
        let parts = self.product.x.parts;
        self.rows.start * parts..self.rows.end * parts
    }

    /// Where the codes of a block, or of half of it, are unpacked to.
    fn panel(&self, block: usize, half: usize) -> *mut u8 {
        let bytes = LANES * self.product.weight.ty.cols;
        self.scratch.cast::<u8>().wrapping_add((block * self.product.halves() + half) * bytes)
    }

    /// Few rows: all of it, from codes as they lie. Many: unpacks codes, and gives how many sets add up at once.
    #[inline(always)]
    unsafe fn few_or_unpack<I: Isa, C: Codes<I>>(&self) -> Option<usize> {
        let (product, rows) = (&self.product, self.parts());
        if rows.len() > FEW_ROWS {
            for (i, block) in self.blocks.clone().enumerate() {
                for half in 0..product.halves() {
                    unpack::<I, C>(product.rows16(block, half).codes, product.weight.ty.cols, self.panel(i, half));
                }
            }
            return Some(C::AT_ONCE);
        }
        let most = rows_at_once::<I>(C::AT_ONCE).min(4);
        for block in self.blocks.clone() {
            let mut at = rows.start;
            while at < rows.end {
                let count = strip(rows.end - at, most);
                product.strip::<I, Grouped<C>>(at, count, block, |half| product.rows16(block, half));
                at += count;
            }
        }
        None
    }

    /// Of codes that were unpacked.
    #[inline(always)]
    unsafe fn many<I: Isa, const AT_ONCE: usize>(&self) {
        let (product, rows, blocks) = (&self.product, self.parts(), &self.blocks);
        let rows16 =
            |i: usize, half: usize| Rows16 { codes: self.panel(i, half), ..product.rows16(blocks.start + i, half) };
        if I::MATRIX {
            let scratch = self.scratch.wrapping_add(panel_floats(product.weight.ty.cols, product.pair.is_some()));
            return matrix::whole::<I>(&Strips { product, rows, blocks, scratch }, rows16);
        }
        let most = rows_at_once::<I>(AT_ONCE);
        let mut at = rows.start;
        while at < rows.end {
            let count = strip(rows.end - at, most);
            for i in 0..blocks.len() {
                product.strip::<I, Grouped<Whole<AT_ONCE>>>(at, count, blocks.start + i, |half| rows16(i, half));
            }
            at += count;
        }
    }
}

/// Most rows of a tile: two sums for the two halves of each code take twice the registers.
const fn rows_at_once<I: Isa>(at_once: usize) -> usize {
    if at_once == 0 { I::WHOLE_ROWS / 2 } else { I::WHOLE_ROWS }
}

/// Rows that go together.
#[inline(always)]
fn strip(left: usize, most: usize) -> usize {
    match left.min(most) {
        8.. => 8,
        4..8 => 4,
        2..4 => 2,
        _ => 1,
    }
}

impl WholeProduct<'_> {
    pub(crate) fn halves(&self) -> usize {
        if self.pair.is_some() { 2 } else { 1 }
    }

    #[inline(always)]
    fn y_row(&self, i: usize) -> usize {
        match self.order {
            Order::InPlace => i,
            Order::Listed(list) => list[i] as usize,
        }
    }

    /// Part `i` of all parts of rows.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, i: usize) -> QuantizedRow {
        self.x.part(self.y_row(i / self.x.parts) / self.ranks, i % self.x.parts)
    }

    /// The weights of a block of outputs.
    #[inline(always)]
    fn rows16(&self, block: usize, half: usize) -> Rows16 {
        let (w, at) = (&self.weight, self.first + block + half * self.pair.unwrap_or(0));
        Rows16 {
            codes: w.codes(at),
            scales: w.scales(at),
            biases: w.biases(at),
            scale: w.form.map_or(Scale::Power, |form| form.scale),
            cols: w.ty.cols,
            group: w.form.map_or(UNIT, |form| form.group),
        }
    }

    /// Rows `at .. at + count` of bytes, all parts of a row among them, by a block of outputs.
    #[inline(always)]
    unsafe fn strip<I: Isa, P: Products<I>>(
        &self,
        at: usize,
        count: usize,
        block: usize,
        weights: impl Fn(usize) -> Rows16,
    ) {
        let nowhere =
            QuantizedRow { codes: std::ptr::null_mut(), scales: std::ptr::null_mut(), sums: std::ptr::null_mut() };
        let mut x = [nowhere; MOST_ROWS];
        for m in 0..count {
            x[m] = self.part(at + m);
        }
        let mut sums = [0f32; MOST_ROWS * STRIDE];
        for half in 0..self.halves() {
            let (w, out) = (weights(half), sums.as_mut_ptr().add(half * LANES));
            if I::WHOLE_ROWS >= 8 && P::EIGHT && count == 8 {
                P::tile::<8>(&w, &x, out, STRIDE);
            } else if I::WHOLE_ROWS >= 4 && count == 4 {
                P::tile::<4>(&w, &x, out, STRIDE);
            } else if count == 2 {
                P::tile::<2>(&w, &x, out, STRIDE);
            } else {
                P::tile::<1>(&w, &x, out, STRIDE);
            }
        }
        let base = sums.as_mut_ptr();
        self.finish::<I>(at, count, block, |m, half| base.wrapping_add(m * STRIDE + half * LANES));
    }

    /// From the sums of parts `at .. at + count` of rows with a block, by part and half, to stored results.
    #[inline(always)]
    pub(crate) unsafe fn finish<I: Isa>(
        &self,
        at: usize,
        count: usize,
        block: usize,
        sums: impl Fn(usize, usize) -> *mut f32,
    ) {
        let col = block * LANES;
        for m in (0..count).step_by(self.x.parts) {
            let row = self.y_row((at + m) / self.x.parts);
            for half in 0..self.halves() {
                let of = sums(m, half);
                if self.x.parts == 2 {
                    I::store(of, I::add(I::load(of), I::load(sums(m + 1, half))));
                }
                if let Some(bias) = self.bias {
                    bias.add::<I>(half, col, LANES, of);
                }
            }
            let inputs = [sums(m, 0).cast_const(), sums(m, 1).cast_const()];
            self.epilogue.store::<I>(row, col, LANES, inputs, self.y.row(row).add(col));
        }
    }
}
