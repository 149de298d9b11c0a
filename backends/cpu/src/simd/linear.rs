//! The template `linear`: prologue, product, epilogue.

use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::Linear;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::epilogue::Program;
use super::isa::LANES;
use super::norm::{Normalizer, Prologue};
use super::product::{Block, Order, Product, block_outputs, block_scratch};

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
        Needs { launch: copied + norm, worker: block_scratch(cols, t.pair, rows) }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let t = &self.template;
        let (rows, cols, outputs) = (ctx.sizes.get(t.rows) as usize, t.weight.cols, t.outputs());
        let after_norm = if t.norm.is_some() { 2 } else { 1 };
        let mut x = ctx.rows(0, "x", t.x, rows, cols)?;
        let matrix = ctx.matrix(after_norm, "weight", t.weight)?;
        let epilogue = self.epilogue.bind(ctx, after_norm + 1, rows, outputs)?;
        let y = ctx.rows(after_norm + 1 + self.epilogue.extras(), "y", t.y, rows, outputs)?;
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
        let product = Product { matrix, first: 0, pair, order: Order::InPlace, x, ranks: 1, y, epilogue: &epilogue };
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
