//! A block of a product: some outputs for some rows, from activations to stored results.

use std::ops::Range;

use super::bias::Bias;
use super::context::Rows;
use super::direct;
use super::epilogue::Epilogue;
use super::isa::{Isa, LANES, Task};
use super::panel::{self, Panel};
use super::weights::Matrix;

/// Most outputs of a block; a multiple of 16.
pub(crate) const BLOCK: usize = 64;
/// Rows that share one pass over a block's weights.
const STRIP: usize = 12;
/// Up to so many rows, weights are used as they are decoded; beyond, they are decoded to a panel first.
const DIRECT_ROWS: usize = 8;
/// Floats of a panel, if a few rows fit: it stays in a core's second-level cache.
const PANEL_FLOATS: usize = 64 << 10;

/// Where a product's rows come from and go to.
#[derive(Clone, Copy)]
pub(crate) enum Order<'a> {
    /// Rows `0, 1, …`.
    InPlace,
    /// Row `i` of the product is row `list[i]` of y.
    Listed(&'a [u32]),
}

/// A product of rows with the transposed rows of a weight.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) matrix: Matrix,
    /// Weight row of output 0.
    pub(crate) first: usize,
    /// Output `j` combines weight rows `j` and `j + distance`.
    pub(crate) pair: Option<usize>,
    pub(crate) order: Order<'a>,
    /// Activations, readable up to the next multiple of 16 columns.
    pub(crate) x: Rows,
    /// Row `i` of y belongs to row `i / ranks` of x.
    pub(crate) ranks: usize,
    pub(crate) y: Rows,
    /// Added to the sums.
    pub(crate) bias: Option<Bias>,
    pub(crate) epilogue: &'a Epilogue<'a>,
}

/// Some rows and outputs of a product, with a worker's scratch.
pub(crate) struct Block<'a> {
    pub(crate) product: Product<'a>,
    pub(crate) rows: Range<usize>,
    pub(crate) outputs: Range<usize>,
    pub(crate) scratch: *mut f32,
}

/// Outputs of a block for a weight of `cols` columns and `rows` rows of activations.
pub(crate) fn block_outputs(cols: usize, pair: bool, rows: usize) -> usize {
    if rows <= DIRECT_ROWS {
        return if pair { LANES } else { 2 * LANES };
    }
    let weights = PANEL_FLOATS / cols.next_multiple_of(LANES) / if pair { 2 } else { 1 };
    (weights / LANES * LANES).clamp(LANES, BLOCK)
}

/// Floats of scratch that a block needs.
pub(crate) fn block_scratch(cols: usize, pair: bool, rows: usize) -> usize {
    block_outputs(cols, pair, rows) * if pair { 2 } else { 1 } * cols.next_multiple_of(LANES)
}

impl Task for Block<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { product, rows, outputs, scratch } = self;
        let halves = if product.pair.is_some() { 2 } else { 1 };
        let mut sums = [0f32; STRIP * 2 * BLOCK];
        let small = rows.len() <= DIRECT_ROWS && direct::supports(product.matrix.ty.format);
        let panel = if small { None } else { Some(product.decode::<I>(&outputs, scratch)) };
        let mut at = rows.start;
        while at < rows.end {
            let count = if small { small_strip(rows.end - at) } else { STRIP.min(rows.end - at) };
            let mut x = [std::ptr::null::<f32>(); STRIP];
            let mut out = [std::ptr::null_mut::<f32>(); STRIP];
            for m in 0..count {
                x[m] = product.x.row(product.y_row(at + m) / product.ranks);
                out[m] = sums.as_mut_ptr().add(m * 2 * BLOCK);
            }
            for half in 0..halves {
                let first = product.first + outputs.start + half * product.pair.unwrap_or(0);
                for row in &mut out[..count] {
                    *row = row.add(half * BLOCK);
                }
                match (panel, count) {
                    (Some(panels), _) => panel::dots::<I>(panels[half], &x[..count], &out[..count]),
                    (None, 4) => direct::dots::<I, 4>(
                        &product.matrix,
                        first,
                        outputs.len(),
                        [x[0], x[1], x[2], x[3]],
                        [out[0], out[1], out[2], out[3]],
                    ),
                    (None, 2) => {
                        let (x, out) = ([x[0], x[1]], [out[0], out[1]]);
                        direct::dots::<I, 2>(&product.matrix, first, outputs.len(), x, out);
                    }
                    _ => direct::dots::<I, 1>(&product.matrix, first, outputs.len(), [x[0]], [out[0]]),
                }
            }
            for m in 0..count {
                let row = product.y_row(at + m);
                let inputs = sums.as_mut_ptr().add(m * 2 * BLOCK);
                if let Some(bias) = product.bias {
                    for half in 0..halves {
                        bias.add::<I>(half, outputs.start, outputs.len(), inputs.add(half * BLOCK));
                    }
                }
                let inputs = inputs.cast_const();
                let y = product.y.row(row).add(outputs.start);
                let inputs = [inputs, inputs.add(BLOCK)];
                product.epilogue.store::<I>(row, outputs.start, outputs.len(), inputs, y);
            }
            at += count;
        }
    }
}

/// Rows that go together where there are few: 4, 2 or 1.
#[inline(always)]
fn small_strip(left: usize) -> usize {
    match left {
        0..=1 => 1,
        2..=3 => 2,
        _ => 4,
    }
}

impl Product<'_> {
    #[inline(always)]
    fn y_row(&self, i: usize) -> usize {
        match self.order {
            Order::InPlace => i,
            Order::Listed(list) => list[i] as usize,
        }
    }

    /// The weight rows of some outputs as floats: of each half of a pair.
    #[inline(always)]
    unsafe fn decode<I: Isa>(&self, outputs: &Range<usize>, scratch: *mut f32) -> [Panel; 2] {
        let padded = self.matrix.ty.cols.next_multiple_of(LANES);
        let mut panels = [Panel { base: scratch, padded, rows: outputs.len() }; 2];
        for (half, panel) in panels.iter_mut().enumerate().take(if self.pair.is_some() { 2 } else { 1 }) {
            let base = scratch.add(half * outputs.len() * padded);
            let first = self.first + outputs.start + half * self.pair.unwrap_or(0);
            for n in 0..outputs.len() {
                self.matrix.decode::<I>(first + n, base.add(n * padded));
            }
            panel.base = base;
        }
        panels
    }
}
