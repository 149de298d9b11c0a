//! RMS normalisation: the one arithmetic of it, and the launch that does nothing else.

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::{Norm, RmsNorm};
use swiftlm_ir::ty::DType;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::epilogue::{Epilogue, Program};
use super::isa::{Isa, LANES, Task};
use super::math;
use super::quantize;
use super::weights::{Matrix, load_some, store_some};

/// A normalisation with its weight as floats, the offset added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normalizer {
    weight: *const f32,
    dim: usize,
    eps: f32,
    /// Elements from the weight of one head to that of the next: 0 where all have one.
    step: usize,
}

// SAFETY: the weight is written before tasks start, and only read by them.
unsafe impl Send for Normalizer {}
// SAFETY: as above.
unsafe impl Sync for Normalizer {}

/// Decodes a norm's weight vector.
struct Prepare {
    matrix: Matrix,
    offset: f32,
    to: *mut f32,
}

impl Task for Prepare {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        self.matrix.decode::<I>(0, self.to);
        if self.offset != 0.0 {
            for k in (0..self.matrix.ty.cols).step_by(LANES) {
                let to = self.to.add(k);
                I::store(to, I::add(I::load(to), I::splat(self.offset)));
            }
        }
    }
}

impl Normalizer {
    /// Floats of scratch.
    pub(crate) fn needs(dim: usize) -> usize {
        dim.next_multiple_of(LANES)
    }

    /// Decodes the weight of argument `arg` to `scratch`.
    pub(crate) fn new(
        ctx: &Context<'_>,
        arg: usize,
        norm: &Norm,
        dim: usize,
        scratch: *mut f32,
    ) -> Result<Self, String> {
        let matrix = ctx.matrix(arg, "norm weight", WeightType { format: norm.weight, rows: 1, cols: dim })?;
        let task = Prepare { matrix, offset: norm.offset as f32, to: scratch };
        // SAFETY: the scratch has the floats that `needs` asked for.
        unsafe { ctx.isa.run(task) };
        Ok(Self { weight: scratch, dim, eps: norm.eps as f32, step: 0 })
    }

    /// The normalisation of each of `heads` heads by a weight of its own, which lie one behind the other.
    fn grouped(
        ctx: &Context<'_>,
        arg: usize,
        norm: &Norm,
        (heads, dim): (usize, usize),
        scratch: *mut f32,
    ) -> Result<Self, String> {
        Ok(Self { dim, step: dim, ..Self::new(ctx, arg, norm, heads * dim, scratch)? })
    }

    /// The normalisation of head `head`.
    #[inline(always)]
    fn of_head(&self, head: usize) -> Self {
        Self { weight: self.weight.wrapping_add(head * self.step), ..*self }
    }

    /// Normalises `x` to `y`, which may be the same. Squares are added in four interleaved vectors, then these in order.
    #[inline(always)]
    pub(crate) unsafe fn apply<I: Isa>(&self, x: *const f32, y: *mut f32) {
        let mut sums = [I::splat(0.0); 4];
        let mut k = 0;
        while k + 4 * LANES <= self.dim {
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = I::load(x.add(k + i * LANES));
                *sum = I::fma(x, x, *sum);
            }
            k += 4 * LANES;
        }
        while k < self.dim {
            let x = load_some::<I>(x.add(k), self.dim - k);
            sums[0] = I::fma(x, x, sums[0]);
            k += LANES;
        }
        let sum = I::sum(I::add(I::add(sums[0], sums[1]), I::add(sums[2], sums[3])));
        let factor = I::splat(1.0 / (sum / self.dim as f32 + self.eps).sqrt());
        for k in (0..self.dim).step_by(LANES) {
            let left = self.dim - k;
            let scaled = I::mul(I::mul(load_some::<I>(x.add(k), left), factor), I::load(self.weight.add(k)));
            store_some::<I>(y.add(k), scaled, left);
        }
    }
}

/// The template `rms_norm` with its epilogue checked.
pub(crate) struct NormMicro {
    template: RmsNorm,
    epilogue: Program,
}

impl NormMicro {
    /// `None` where the epilogue is beyond the vector machine.
    pub(crate) fn new(template: &RmsNorm) -> Option<Self> {
        let epilogue = Program::new(&template.epilogue, &template.extras, 1)?;
        Some(Self { template: template.clone(), epilogue })
    }
}

impl Micro for NormMicro {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        // A head's weight is read to a multiple of 16 from its first element on.
        let weights = Normalizer::needs(self.template.weights()) + LANES;
        Needs { launch: weights, worker: Normalizer::needs(self.template.dim) }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let t = &self.template;
        let (rows, width) = (ctx.sizes.get(t.rows) as usize, t.heads * t.dim);
        let x = ctx.rows(0, "x", t.x, rows, width)?;
        let epilogue = &self.epilogue.bind(ctx, 2, rows, width)?;
        let y = ctx.rows(2 + self.epilogue.extras(), "y", t.y, rows, width)?;
        let norm = match t.grouped {
            true => Normalizer::grouped(ctx, 1, &t.norm, (t.heads, t.dim), scratch)?,
            false => Normalizer::new(ctx, 1, &t.norm, t.dim, scratch)?,
        };
        let per = (16_384 / width.max(1)).max(1);
        ctx.parallel(rows.div_ceil(per), |task, scratch| Heads {
            x,
            y,
            norm,
            epilogue,
            heads: t.heads,
            first: task * per,
            last: ((task + 1) * per).min(rows),
            scratch,
        });
        Ok(())
    }
}

struct Heads<'a> {
    x: Rows,
    y: Rows,
    norm: Normalizer,
    epilogue: &'a Epilogue<'a>,
    heads: usize,
    first: usize,
    last: usize,
    /// A normalised head: what the epilogue reads may lie where it writes.
    scratch: *mut f32,
}

impl Task for Heads<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        for row in self.first..self.last {
            for head in 0..self.heads {
                let at = head * self.norm.dim;
                self.norm.of_head(head).apply::<I>(self.x.row(row).add(at), self.scratch);
                let inputs = [self.scratch.cast_const(); 2];
                self.epilogue.store::<I>(row, at, self.norm.dim, inputs, self.y.row(row).add(at));
            }
        }
    }
}

/// Prologue of a product: rows copied to scratch, normalised and rounded as the template says, zeros behind.
#[derive(Clone, Copy)]
pub(crate) struct Prologue {
    pub(crate) x: Rows,
    pub(crate) to: Rows,
    pub(crate) cols: usize,
    pub(crate) norm: Option<Normalizer>,
    pub(crate) round: Option<Rounding>,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Task for Prologue {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        for row in self.first..self.last {
            let (mut from, to) = (self.x.row(row).cast_const(), self.to.row(row));
            let tail = self.cols % LANES;
            if tail != 0 {
                I::store(to.add(self.cols - tail), I::splat(0.0));
            }
            if let Some(norm) = self.norm {
                norm.apply::<I>(from, to);
                if self.round.is_none() {
                    continue;
                }
                from = to;
            }
            for k in (0..self.cols).step_by(LANES) {
                let left = self.cols - k;
                let x = load_some::<I>(from.add(k), left);
                let x = match self.round {
                    Some(Rounding::F16) => math::round::<I>(x, DType::F16),
                    Some(_) | None => x,
                };
                store_some::<I>(to.add(k), x, left);
            }
            match self.round {
                Some(Rounding::Int { bits, group }) => {
                    quantize::round_groups::<I>(to, self.cols, bits, group as usize);
                }
                Some(Rounding::Bf16 { terms }) => quantize::round_terms::<I>(to, self.cols, terms),
                Some(Rounding::F16) | None => {}
            }
        }
    }
}
