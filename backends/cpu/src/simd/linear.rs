//! The template `linear`: prologue, product, epilogue.

use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::Linear;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::epilogue::{Epilogue, Program};
use super::integer::{WholeBlock, WholeProduct, blocks_of_task, task_scratch};
use super::isa::LANES;
use super::norm::{Normalizer, Prologue};
use super::packed::Packed;
use super::product::{Block, Order, Product, block_outputs, block_scratch};
use super::quantize::{Quantize, Quantized};

/// A linear launch with its epilogue checked.
pub(crate) struct LinearMicro {
    template: Linear,
    epilogue: Program,
}

impl LinearMicro {
    /// `None` where the epilogue is beyond the vector machine.
    pub(crate) fn new(template: &Linear) -> Option<Self> {
        let given = if template.pair { 2 } else { 1 };
        let epilogue = Program::new(&template.epilogue, &template.extras, given)?;
        Some(Self { template: template.clone(), epilogue })
    }

    /// Whether rows are copied before the product.
    fn copies(&self) -> bool {
        let t = &self.template;
        t.norm.is_some() || t.round.is_some() || !t.weight.cols.is_multiple_of(LANES)
    }

    /// The launch over a weight that was rearranged.
    fn run_whole(
        &self,
        ctx: &Context<'_>,
        scratch: *mut f32,
        weight: Packed,
        x: Rows,
        y: Rows,
        epilogue: &Epilogue<'_>,
    ) -> Result<(), String> {
        let t = &self.template;
        let (rows, cols, outputs) = (ctx.sizes.get(t.rows) as usize, t.weight.cols, t.outputs());
        let to = rounded_rows(t.round, scratch, cols)?;
        // SAFETY: `needs` asked for the rounded rows and the norm's weight behind them.
        let gain = unsafe { scratch.add(whole_scratch(t.round, cols, t.pair, rows).launch) };
        let norm = t.norm.as_ref().map(|n| Normalizer::new(ctx, 1, n, cols, gain)).transpose()?;
        quantize(ctx, rows, cols, |first, last, scratch| Quantize { x, to, norm, first, last, scratch });
        let (blocks, pair) = (outputs / LANES, t.pair.then_some(outputs / LANES));
        let product =
            WholeProduct { weight, first: 0, pair, order: Order::InPlace, x: to, ranks: 1, y, bias: None, epilogue };
        let per = blocks_of_task(&weight, t.pair, rows * to.parts, blocks, ctx.pool.threads());
        let parts = blocks.div_ceil(per);
        let strip = rows_per_block(rows, parts, ctx.pool.threads());
        let strips = rows.div_ceil(strip);
        ctx.parallel(parts * strips, |task, scratch| {
            let (part, strip_of) = (task / strips, task % strips);
            WholeBlock {
                product,
                rows: strip_of * strip..((strip_of + 1) * strip).min(rows),
                blocks: part * per..((part + 1) * per).min(blocks),
                scratch,
            }
        });
        Ok(())
    }
}

/// Rounds rows with a prologue that is given its rows and a worker's scratch; in parallel where there are many.
pub(crate) fn quantize(
    ctx: &Context<'_>,
    rows: usize,
    cols: usize,
    make: impl Fn(usize, usize, *mut f32) -> Quantize + Sync,
) {
    let per = (32_768 / cols.max(1)).max(1);
    ctx.parallel(rows.div_ceil(per), |task, scratch| make(task * per, ((task + 1) * per).min(rows), scratch));
}

/// Rounded rows in the scratch of a launch, for products with a weight that was rearranged.
pub(crate) fn rounded_rows(round: Option<Rounding>, scratch: *mut f32, cols: usize) -> Result<Quantized, String> {
    let rows = round.and_then(|to| Quantized::new(scratch, cols, to));
    rows.ok_or_else(|| "the weight was rearranged for products of rounded rows, this is none".into())
}

/// Floats that rounded rows take in the scratch of a launch, and its tasks in a worker's.
pub(crate) fn whole_scratch(round: Option<Rounding>, cols: usize, pair: bool, rows: usize) -> Needs {
    let Some(stride) = round.and_then(|to| Quantized::stride(cols, to)) else { return Needs::default() };
    let worker = task_scratch(cols, pair).max(cols.next_multiple_of(LANES));
    Needs { launch: rows * stride, worker }
}

/// Copies rows with a prologue; in parallel where there are many.
pub(crate) fn prologue(ctx: &Context<'_>, rows: usize, all: Prologue) {
    let per = (32_768 / all.cols.max(1)).max(1);
    ctx.parallel(rows.div_ceil(per), |task, _| Prologue {
        first: task * per,
        last: ((task + 1) * per).min(rows),
        ..all
    });
}

/// Rows per block, so that every thread gets several blocks.
pub(crate) fn rows_per_block(rows: usize, blocks: usize, threads: usize) -> usize {
    let parts = (4 * threads).div_ceil(blocks.max(1)).min(rows.div_ceil(48)).max(1);
    rows.div_ceil(parts).max(1)
}

impl Micro for LinearMicro {
    fn needs(&self, sizes: &StepSizes, _threads: usize) -> Needs {
        let t = &self.template;
        let (rows, cols) = (sizes.get(t.rows) as usize, t.weight.cols);
        let copied = if self.copies() { rows * cols.next_multiple_of(LANES) } else { 0 };
        let norm = t.norm.map_or(0, |_| Normalizer::needs(cols));
        let whole = whole_scratch(t.round, cols, t.pair, rows);
        let worker = block_scratch(cols, t.pair, rows).max(whole.worker);
        Needs { launch: copied.max(whole.launch) + norm, worker }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let t = &self.template;
        let (rows, cols, outputs) = (ctx.sizes.get(t.rows) as usize, t.weight.cols, t.outputs());
        let after_norm = if t.norm.is_some() { 2 } else { 1 };
        let mut x = ctx.rows(0, "x", t.x, rows, cols)?;
        let epilogue = self.epilogue.bind(ctx, after_norm + 1, rows, outputs)?;
        let y = ctx.rows(after_norm + 1 + self.epilogue.extras(), "y", t.y, rows, outputs)?;
        if let Some(weight) = ctx.packed(after_norm, "weight", t.weight)? {
            return self.run_whole(ctx, scratch, weight, x, y, &epilogue);
        }
        let matrix = ctx.matrix(after_norm, "weight", t.weight)?;
        if self.copies() {
            let padded = cols.next_multiple_of(LANES);
            let to = Rows { base: scratch, stride: padded };
            // SAFETY: `needs` asked for the copied rows and the norm's weight behind them.
            let weight = unsafe { scratch.add(rows * padded) };
            let norm = t.norm.as_ref().map(|n| Normalizer::new(ctx, 1, n, cols, weight)).transpose()?;
            prologue(ctx, rows, Prologue { x, to, cols, norm, round: t.round, first: 0, last: 0 });
            x = to;
        }
        let pair = t.pair.then_some(outputs);
        let order = Order::InPlace;
        let product = Product { matrix, first: 0, pair, order, x, ranks: 1, y, bias: None, epilogue: &epilogue };
        let per = block_outputs(cols, t.pair, rows);
        let blocks = outputs.div_ceil(per);
        let strip = rows_per_block(rows, blocks, ctx.pool.threads());
        ctx.parallel(blocks * rows.div_ceil(strip), |task, scratch| {
            // Neighbouring tasks share weights, not rows: a weight is read once while it is in cache.
            let (part, block) = (task % rows.div_ceil(strip), task / rows.div_ceil(strip));
            Block {
                product,
                rows: part * strip..((part + 1) * strip).min(rows),
                outputs: block * per..((block + 1) * per).min(outputs),
                scratch,
            }
        });
        Ok(())
    }
}
