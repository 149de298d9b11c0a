//! A selective state space, a row of the memory at a time. Template `ssm`.
//!
//! A row becomes `e^(−e^a · Δ) S + Δ x Bᵀ`, and then answers `S C + d x`.

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::Ssm;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::epilogue::{Epilogue, Program};
use super::isa::{Isa, LANES, Task, sums};
use super::recurrence::{Prepare, softplus, take};
use super::segments::{Segment, Segments};
use super::weights::{load_some, store_some};

/// Rows that are worked on side by side.
const ROWS: usize = 4;

/// The template with its epilogue checked.
pub(crate) struct SsmMicro {
    template: Ssm,
    epilogue: Program,
}

impl SsmMicro {
    /// `None` where the epilogue is beyond the vector machine.
    pub(crate) fn new(template: &Ssm) -> Option<Self> {
        let epilogue = Program::new(&template.epilogue, &template.extras, 1)?;
        Some(Self { template: template.clone(), epilogue })
    }
}

/// What all heads have in common.
#[derive(Clone, Copy)]
struct Space<'a> {
    template: &'a Ssm,
    epilogue: &'a Epilogue<'a>,
    c: Rows,
    b: Rows,
    x: Rows,
    dt: Rows,
    y: Rows,
    /// The weights a, b and d of every head.
    weights: [*const f32; 3],
}

// SAFETY: addresses; the weights are written before tasks start, and rows are disjoint.
unsafe impl Send for Space<'_> {}
// SAFETY: as above.
unsafe impl Sync for Space<'_> {}

/// One head over one segment. The scratch holds B and C of a token, and what the head's rows answer.
struct Head<'a> {
    space: Space<'a>,
    segment: Segment,
    head: usize,
    scratch: *mut f32,
}

impl Head<'_> {
    /// Rows `row .. row + N` take one token in and answer to `y`.
    #[inline(always)]
    unsafe fn rows<I: Isa, const N: usize>(
        &self,
        memory: *mut f32,
        (b, c): (*const f32, *const f32),
        x: *const f32,
        (decay, step, through): (f32, f32, f32),
        y: *mut f32,
    ) {
        let key = self.space.template.key;
        let mut answers = [I::splat(0.0); N];
        let decay = I::splat(decay);
        let mut taken = [I::splat(0.0); N];
        for n in 0..N {
            taken[n] = I::splat(step * *x.add(n));
        }
        for i in (0..key).step_by(LANES) {
            let (b, c) = (I::load(b.add(i)), I::load(c.add(i)));
            for n in 0..N {
                let at = memory.add(n * key + i);
                let s = I::fma(taken[n], b, I::mul(decay, load_some::<I>(at, key - i)));
                store_some::<I>(at, s, key - i);
                answers[n] = I::fma(s, c, answers[n]);
            }
        }
        let answers = sums::<I, N>(&answers);
        for n in 0..N {
            *y.add(n) = answers[n] + through * *x.add(n);
        }
    }
}

impl Task for Head<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Space { template: t, epilogue, c, b, x, dt, y, weights: [a, shift, d] } = self.space;
        let (head, first) = (self.head, self.head / (t.heads / t.groups) * t.key);
        let memory = self.segment.state.add(head * t.value * t.key);
        if self.segment.begins {
            std::slice::from_raw_parts_mut(memory, t.value * t.key).fill(0.0);
        }
        let padded = t.key.next_multiple_of(LANES);
        let (inputs, queries, answers) = (self.scratch, self.scratch.add(padded), self.scratch.add(2 * padded));
        let rate = -(*a.add(head)).exp();
        for token in self.segment.first..self.segment.end {
            take::<I>(b.row(token).add(first), t.key, None, inputs);
            take::<I>(c.row(token).add(first), t.key, None, queries);
            let step = softplus(*dt.row(token).add(head) + *shift.add(head)).max(t.bounds[0]).min(t.bounds[1]);
            let factors = ((rate * step).exp(), step, *d.add(head));
            let vectors = (inputs.cast_const(), queries.cast_const());
            let x = x.row(token).add(head * t.value).cast_const();
            let mut row = 0;
            while row + ROWS <= t.value {
                self.rows::<I, ROWS>(memory.add(row * t.key), vectors, x.add(row), factors, answers.add(row));
                row += ROWS;
            }
            while row < t.value {
                self.rows::<I, 1>(memory.add(row * t.key), vectors, x.add(row), factors, answers.add(row));
                row += 1;
            }
            let at = head * t.value;
            epilogue.store::<I>(token, at, t.value, [answers.cast_const(); 2], y.row(token).add(at));
        }
    }
}

impl Micro for SsmMicro {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        let t = &self.template;
        let worker = 2 * t.key.next_multiple_of(LANES) + t.value.next_multiple_of(LANES);
        Needs { launch: 3 * t.heads.next_multiple_of(LANES), worker }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let t = &self.template;
        let (tokens, keys, values) = (ctx.sizes.tokens as usize, t.groups * t.key, t.heads * t.value);
        let rows = |arg, what, view, width| ctx.rows(arg, what, view, tokens, width);
        let weight = |i: usize| {
            let ty = WeightType { format: t.weights[i], rows: 1, cols: t.heads };
            ctx.matrix(2 + i, "weight of heads", ty)
        };
        let to = [0, 1, 2].map(|i| scratch.wrapping_add(i * t.heads.next_multiple_of(LANES)));
        let prepare = Prepare { weights: [weight(0)?, weight(1)?, weight(2)?], to };
        // SAFETY: the scratch has the floats that `needs` asked for.
        unsafe { ctx.isa.run(prepare) };
        let space = Space {
            template: t,
            epilogue: &self.epilogue.bind(ctx, 8, tokens, values)?,
            c: rows(0, "C", t.c, keys)?,
            b: rows(0, "B", t.b, keys)?,
            x: rows(0, "x", t.x, values)?,
            dt: rows(1, "time steps", t.dt, t.heads)?,
            y: rows(8 + self.epilogue.extras(), "y", t.y, values)?,
            weights: to.map(|to| to.cast_const()),
        };
        let segments = Segments::new(ctx, 5, values * t.key)?;
        let all: Vec<Segment> = (0..segments.count()).filter_map(|i| segments.get(ctx, i)).collect();
        ctx.parallel(all.len() * t.heads, |task, scratch| Head {
            space,
            segment: all[task / t.heads],
            head: task % t.heads,
            scratch,
        });
        Ok(())
    }
}
