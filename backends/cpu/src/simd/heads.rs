//! Template `head_linear`: each head times a matrix of its own.

use std::ops::Range;

use swiftlm_ir::map::Map;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::HeadLinear;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::epilogue::Program;
use super::isa::{Isa, LANES, Task};
use super::linear::{prologue, rows_per_block};
use super::norm::Prologue;
use super::product::{Block, Order, Product, block_outputs, block_scratch};
use super::weights::{Matrix, store_some};

/// Tokens that share one pass over a head's rows where these are inputs.
const TOKENS: usize = 8;

/// A launch, with the program that stores sums as they are.
pub(crate) struct HeadMicro {
    template: HeadLinear,
    identity: Program,
}

/// One head of some tokens where rows are inputs: a chain over them for each column.
struct Columns<'a> {
    t: &'a HeadLinear,
    matrix: Matrix,
    x: Rows,
    y: Rows,
    head: usize,
    tokens: Range<usize>,
    /// A decoded row, then the sums of the tokens.
    scratch: *mut f32,
}

/// What lies behind the elements that are multiplied, of all heads of some tokens.
struct Rest<'a> {
    t: &'a HeadLinear,
    x: Rows,
    y: Rows,
    tokens: Range<usize>,
}

impl HeadMicro {
    /// The launch of a template.
    pub(crate) fn new(template: &HeadLinear) -> Option<Self> {
        Some(Self { template: template.clone(), identity: Program::new(&Map::identity(), &[], 1)? })
    }

    /// Whether heads are copied before the product.
    fn copies(&self) -> bool {
        !self.template.weight.cols.is_multiple_of(LANES)
    }
}

/// Rows of one head.
fn head_rows(rows: Rows, head: usize, dim: usize) -> Rows {
    Rows { base: rows.base.wrapping_add(head * dim), ..rows }
}

impl Task for Columns<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { t, matrix, x, y, head, tokens, scratch } = self;
        let (cols, padded) = (t.weight.cols, t.weight.cols.next_multiple_of(LANES));
        let sums = scratch.add(padded);
        for i in (0..tokens.len() * padded).step_by(LANES) {
            I::store(sums.add(i), I::splat(0.0));
        }
        for i in 0..t.len {
            matrix.decode::<I>(t.first_row(head) + i, scratch);
            for (m, token) in tokens.clone().enumerate() {
                let (input, sums) = (I::splat(*x.row(token).add(head * t.dim + i)), sums.add(m * padded));
                for k in (0..padded).step_by(LANES) {
                    I::store(sums.add(k), I::fma(I::load(scratch.add(k)), input, I::load(sums.add(k))));
                }
            }
        }
        for (m, token) in tokens.enumerate() {
            let to = y.row(token).add(head * (cols + t.rest()));
            for k in (0..cols).step_by(LANES) {
                store_some::<I>(to.add(k), I::load(sums.add(m * padded + k)), cols - k);
            }
            let rest = x.row(token).add(head * t.dim + t.inputs());
            std::ptr::copy_nonoverlapping(rest, to.add(cols), t.rest());
        }
    }
}

impl Task for Rest<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { t, x, y, tokens } = self;
        for (token, head) in tokens.flat_map(|token| (0..t.heads).map(move |head| (token, head))) {
            let from = x.row(token).add(head * t.dim + t.inputs());
            let to = y.row(token).add(head * (t.outputs() + t.rest()) + t.outputs());
            std::ptr::copy_nonoverlapping(from, to, t.rest());
        }
    }
}

impl Micro for HeadMicro {
    fn needs(&self, sizes: &StepSizes, _threads: usize) -> Needs {
        let (t, tokens) = (&self.template, sizes.tokens as usize);
        let padded = t.weight.cols.next_multiple_of(LANES);
        if t.transposed {
            return Needs { launch: 0, worker: (1 + TOKENS) * padded };
        }
        let launch = if self.copies() { tokens * t.heads * padded } else { 0 };
        Needs { launch, worker: block_scratch(t.weight.cols, false, tokens) }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let (t, tokens, cols) = (&self.template, ctx.sizes.tokens as usize, self.template.weight.cols);
        let (outputs, rest) = (t.outputs(), t.rest());
        let x = ctx.rows(0, "x", t.x, tokens, t.heads * t.dim)?;
        let matrix = ctx.matrix(1, "weight", t.weight)?;
        let y = ctx.rows(2, "y", t.y, tokens, t.heads * (outputs + rest))?;
        if t.transposed {
            let parts = tokens.div_ceil(TOKENS);
            ctx.parallel(t.heads * parts, |task, scratch| {
                let (head, part) = (task / parts, task % parts);
                let tokens = part * TOKENS..((part + 1) * TOKENS).min(tokens);
                Columns { t, matrix, x, y, head, tokens, scratch }
            });
            return Ok(());
        }
        let padded = cols.next_multiple_of(LANES);
        let copied = |head: usize| Rows { base: scratch.wrapping_add(head * tokens * padded), stride: padded };
        if self.copies() {
            for head in 0..t.heads {
                let (x, to) = (head_rows(x, head, t.dim), copied(head));
                prologue(ctx, tokens, Prologue { x, to, cols, norm: None, round: None, first: 0, last: 0 });
            }
        }
        let epilogue = &self.identity.bind(ctx, 3, tokens, outputs)?;
        let per = block_outputs(cols, false, tokens);
        let blocks = outputs.div_ceil(per);
        let strip = rows_per_block(tokens, blocks * t.heads, ctx.pool.threads());
        let strips = tokens.div_ceil(strip);
        let copies = self.copies();
        // Addresses that tasks share; each task writes rows and outputs of its own.
        let (x, y, copied) = (x, y, (0..t.heads).map(copied).collect::<Vec<_>>());
        ctx.parallel(t.heads * blocks * strips, |task, scratch| {
            let (head, block, part) = (task / strips / blocks, task / strips % blocks, task % strips);
            let product = Product {
                matrix,
                first: t.first_row(head),
                pair: None,
                order: Order::InPlace,
                x: if copies { copied[head] } else { head_rows(x, head, t.dim) },
                ranks: 1,
                y: head_rows(y, head, outputs + rest),
                bias: None,
                epilogue,
            };
            let outputs = block * per..((block + 1) * per).min(outputs);
            Block { product, rows: part * strip..((part + 1) * strip).min(tokens), outputs, scratch }
        });
        if rest > 0 {
            let per = (8_192 / (t.heads * rest)).max(1);
            ctx.parallel(tokens.div_ceil(per), |task, _| {
                let tokens = task * per..((task + 1) * per).min(tokens);
                Rest { t, x, y, tokens }
            });
        }
        Ok(())
    }
}
