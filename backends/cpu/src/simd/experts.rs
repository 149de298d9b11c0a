//! The template `expert_linear`: rows are sorted by expert, then each expert multiplies its own rows at once.
//!
//! Experts that no row chose are not touched.

use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::{ABSENT, ExpertLinear};

use super::Micro;
use super::bias::Bias;
use super::context::{Context, Needs, Rows};
use super::epilogue::Program;
use super::integer::{WholeBlock, WholeProduct, blocks_of_task};
use super::isa::LANES;
use super::linear::{prologue, quantize, rounded_rows, whole_scratch};
use super::norm::Prologue;
use super::product::{Block, Order, Product, block_outputs, block_scratch};
use super::quantize::Quantize;

/// An expert launch with its epilogue checked.
pub(crate) struct ExpertMicro {
    template: ExpertLinear,
    epilogue: Program,
    outputs: usize,
}

/// The rows of each expert, in the launch's scratch.
struct Sorted<'a> {
    /// Where each expert's rows begin in `rows`; one more than there are experts.
    starts: &'a mut [u32],
    /// Rows of y by expert, in order.
    rows: &'a mut [u32],
    /// Experts that have rows.
    used: &'a mut [u32],
}

impl ExpertMicro {
    /// `None` where the epilogue is beyond the vector machine.
    pub(crate) fn new(template: &ExpertLinear) -> Option<Self> {
        let given = if template.pair { 2 } else { 1 };
        let epilogue = Program::new(&template.epilogue, &[], given)?;
        let expert_rows = template.weight.rows / template.experts.max(1);
        let outputs = if template.pair { expert_rows / 2 } else { expert_rows };
        Some(Self { template: template.clone(), epilogue, outputs })
    }

    fn copies(&self) -> bool {
        self.template.round.is_some() || !self.template.weight.cols.is_multiple_of(LANES)
    }

    fn x_rows(&self, tokens: usize) -> usize {
        if self.template.x_per_rank { tokens * self.template.top_k } else { tokens }
    }

    /// Words of scratch for sorting.
    fn sorting(&self, tokens: usize) -> usize {
        (2 * self.template.experts + 1 + tokens * self.template.top_k).next_multiple_of(LANES)
    }

    /// Rows by expert: counted, then dealt out in order.
    fn sort<'s>(&self, ctx: &Context<'_>, words: &'s mut [u32], ranked: usize) -> Result<Sorted<'s>, String> {
        let experts = self.template.experts;
        let ids = ctx.ids(1, "ids", ranked)?;
        let (starts, rest) = words.split_at_mut(experts + 1);
        let (used, rows) = rest.split_at_mut(experts);
        starts.fill(0);
        for row in 0..ranked {
            let expert = ids.get(row);
            if expert == ABSENT as usize {
                continue;
            }
            if expert >= experts {
                ctx.faults.report(1, expert);
                ctx.faults.result()?;
            }
            starts[expert] += 1;
        }
        let (mut sum, mut count) = (0, 0);
        for expert in 0..experts {
            if starts[expert] > 0 {
                used[count] = expert as u32;
                count += 1;
            }
            sum += starts[expert];
            starts[expert] = sum;
        }
        starts[experts] = sum;
        // Backwards: an expert's end moves to its start, and its rows keep their order.
        for row in (0..ranked).rev().filter(|row| ids.get(*row) != ABSENT as usize) {
            let start = &mut starts[ids.get(row)];
            *start -= 1;
            rows[*start as usize] = row as u32;
        }
        Ok(Sorted { starts, rows: &mut rows[..ranked], used: &mut used[..count] })
    }
}

impl Micro for ExpertMicro {
    fn needs(&self, sizes: &StepSizes, _threads: usize) -> Needs {
        let (t, tokens) = (&self.template, sizes.tokens as usize);
        let copied = if self.copies() { self.x_rows(tokens) * t.weight.cols.next_multiple_of(LANES) } else { 0 };
        let worker = block_scratch(t.weight.cols, t.pair, 1).max(block_scratch(t.weight.cols, t.pair, usize::MAX));
        let whole = whole_scratch(t.round, t.weight.cols, t.pair, self.x_rows(tokens));
        Needs { launch: copied.max(whole.launch) + self.sorting(tokens), worker: worker.max(whole.worker) }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let (t, tokens) = (&self.template, ctx.sizes.tokens as usize);
        let (ranked, cols, outputs) = (tokens * t.top_k, t.weight.cols, self.outputs);
        let x_rows = self.x_rows(tokens);
        let mut x = ctx.rows(0, "x", t.x, x_rows, cols)?;
        let packed = ctx.packed(2, "weight", t.weight)?;
        let biases =
            t.bias.map(|float| Ok::<_, String>((float, ctx.matrix(3, "bias", t.bias_type(float))?))).transpose()?;
        let y = ctx.rows(if biases.is_some() { 4 } else { 3 }, "y", t.y, ranked, outputs)?;
        let epilogue = &self.epilogue.bind(ctx, 3, ranked, outputs)?;
        // SAFETY: `needs` asked for these words first, then for the copied rows; words have the size of floats.
        let words = unsafe { std::slice::from_raw_parts_mut(scratch.cast::<u32>(), self.sorting(tokens)) };
        let Sorted { starts, rows, used } = self.sort(ctx, words, ranked)?;
        let (starts, rows, used) = (&*starts, &*rows, &*used);
        let (pair, expert_rows) = (t.pair.then_some(outputs), t.weight.rows / t.experts.max(1));
        // SAFETY: there is such an expert.
        let bias = |expert: usize| {
            biases.map(|(float, of)| Bias { float, base: unsafe { of.row(expert * expert_rows) }, outputs })
        };
        let ranks = if t.x_per_rank { 1 } else { t.top_k };
        let rows_each = (starts[t.experts] as usize).div_ceil(used.len().max(1));
        if let Some(weight) = packed {
            let to = rounded_rows(t.round, scratch.wrapping_add(self.sorting(tokens)), cols)?;
            quantize(ctx, x_rows, cols, |first, last, scratch| Quantize { x, to, norm: None, first, last, scratch });
            let (blocks, pair) = (outputs / LANES, pair.map(|outputs| outputs / LANES));
            let per = blocks_of_task(&weight, t.pair, rows_each * to.parts, blocks, ctx.pool.threads());
            let parts = blocks.div_ceil(per);
            ctx.parallel(used.len() * parts, |task, scratch| {
                let (expert, part) = (used[task / parts] as usize, task % parts);
                let list = &rows[starts[expert] as usize..starts[expert + 1] as usize];
                let (first, order) = (expert * expert_rows / LANES, Order::Listed(list));
                let product =
                    WholeProduct { weight, first, pair, order, x: to, ranks, y, bias: bias(expert), epilogue };
                WholeBlock { product, rows: 0..list.len(), blocks: part * per..((part + 1) * per).min(blocks), scratch }
            });
            return Ok(());
        }
        let matrix = ctx.matrix(2, "weight", t.weight)?;
        if self.copies() {
            let to = Rows { base: scratch.wrapping_add(self.sorting(tokens)), stride: cols.next_multiple_of(LANES) };
            prologue(ctx, x_rows, Prologue { x, to, cols, norm: None, round: t.round, first: 0, last: 0 });
            x = to;
        }
        let per = block_outputs(cols, t.pair, rows_each);
        let blocks = outputs.div_ceil(per);
        ctx.parallel(used.len() * blocks, |task, scratch| {
            let (expert, block) = (used[task / blocks] as usize, task % blocks);
            let list = &rows[starts[expert] as usize..starts[expert + 1] as usize];
            let first = expert * expert_rows;
            let (order, bias) = (Order::Listed(list), bias(expert));
            let product = Product { matrix, first, pair, order, x, ranks, y, bias, epilogue };
            let outputs = block * per..((block + 1) * per).min(outputs);
            Block { product, rows: 0..list.len(), outputs, scratch }
        });
        Ok(())
    }
}
