//! The gated delta rule, a row of the memory at a time. Template `delta`.
//!
//! A row becomes `α S + e kᵀ` with `e = β (v − α S k)`, and answers `α S q + e (k · q)`.

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::Delta;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::isa::{Isa, LANES, Task, sums};
use super::recurrence::{Prepare, softplus, take};
use super::segments::{Segment, Segments};
use super::weights::{load_some, store_some};

/// Rows that are worked on side by side.
const ROWS: usize = 4;

/// What all heads have in common.
#[derive(Clone, Copy)]
struct Rule<'a> {
    template: &'a Delta,
    q: Rows,
    k: Rows,
    v: Rows,
    alpha: Rows,
    beta: Rows,
    y: Rows,
    /// The decay's weights of every head.
    a: *const f32,
    b: *const f32,
}

// SAFETY: addresses; the weights are written before tasks start, and rows are disjoint.
unsafe impl Send for Rule<'_> {}
// SAFETY: as above.
unsafe impl Sync for Rule<'_> {}

/// One head over one segment. The scratch holds a query and a key.
struct Head<'a> {
    rule: Rule<'a>,
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
        (q, k): (*const f32, *const f32),
        v: *const f32,
        (alpha, beta, overlap): (f32, f32, f32),
        y: *mut f32,
    ) {
        let (key, scale) = (self.rule.template.key, self.rule.template.scale);
        let (mut known, mut asked) = ([I::splat(0.0); N], [I::splat(0.0); N]);
        for i in (0..key).step_by(LANES) {
            let (q, k) = (I::load(q.add(i)), I::load(k.add(i)));
            for n in 0..N {
                let s = load_some::<I>(memory.add(n * key + i), key - i);
                known[n] = I::fma(s, k, known[n]);
                asked[n] = I::fma(s, q, asked[n]);
            }
        }
        let (known, asked) = (sums::<I, N>(&known), sums::<I, N>(&asked));
        let mut errors = [0f32; N];
        for n in 0..N {
            errors[n] = beta * (*v.add(n) - alpha * known[n]);
            *y.add(n) = scale * (alpha * asked[n] + errors[n] * overlap);
        }
        let alpha = I::splat(alpha);
        for i in (0..key).step_by(LANES) {
            let k = I::load(k.add(i));
            for n in 0..N {
                let at = memory.add(n * key + i);
                let s = I::mul(alpha, load_some::<I>(at, key - i));
                store_some::<I>(at, I::fma(I::splat(errors[n]), k, s), key - i);
            }
        }
    }
}

impl Task for Head<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Rule { template: t, q, k, v, alpha, beta, y, a, b } = self.rule;
        let (head, first) = (self.head, self.head / (t.heads / t.key_heads) * t.key);
        let memory = self.segment.state.add(head * t.value * t.key);
        if self.segment.begins {
            std::slice::from_raw_parts_mut(memory, t.value * t.key).fill(0.0);
        }
        let (query, keys) = (self.scratch, self.scratch.add(t.key.next_multiple_of(LANES)));
        let rate = -(*a.add(head)).exp();
        for token in self.segment.first..self.segment.end {
            take::<I>(q.row(token).add(first), t.key, t.norm, query);
            take::<I>(k.row(token).add(first), t.key, t.norm, keys);
            let mut overlap = I::splat(0.0);
            for i in (0..t.key).step_by(LANES) {
                overlap = I::fma(I::load(query.add(i)), I::load(keys.add(i)), overlap);
            }
            let decay = (rate * softplus(*alpha.row(token).add(head) + *b.add(head))).exp();
            let write = 1.0 / (1.0 + (-*beta.row(token).add(head)).exp());
            let factors = (decay, write, I::sum(overlap));
            let (v, y) = (v.row(token).add(head * t.value), y.row(token).add(head * t.value));
            let vectors = (query.cast_const(), keys.cast_const());
            let mut row = 0;
            while row + ROWS <= t.value {
                self.rows::<I, ROWS>(memory.add(row * t.key), vectors, v.add(row), factors, y.add(row));
                row += ROWS;
            }
            while row < t.value {
                self.rows::<I, 1>(memory.add(row * t.key), vectors, v.add(row), factors, y.add(row));
                row += 1;
            }
        }
    }
}

impl Micro for Delta {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        let rows = self.key.next_multiple_of(LANES);
        Needs { launch: 2 * self.heads.next_multiple_of(LANES), worker: 2 * rows }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let (tokens, keys, values) = (ctx.sizes.tokens as usize, self.key_heads * self.key, self.heads * self.value);
        let rows = |arg, what, view, width| ctx.rows(arg, what, view, tokens, width);
        let weight = |arg: usize, i: usize| {
            ctx.matrix(arg, "decay weight", WeightType { format: self.decay[i], rows: 1, cols: self.heads })
        };
        let to = [scratch, scratch.wrapping_add(self.heads.next_multiple_of(LANES))];
        let prepare = Prepare { weights: [weight(3, 0)?, weight(4, 1)?], to };
        // SAFETY: the scratch has the floats that `needs` asked for.
        unsafe { ctx.isa.run(prepare) };
        let rule = Rule {
            template: self,
            q: rows(0, "queries", self.q, keys)?,
            k: rows(0, "keys", self.k, keys)?,
            v: rows(0, "values", self.v, values)?,
            alpha: rows(1, "decay inputs", self.alpha, self.heads)?,
            beta: rows(2, "beta inputs", self.beta, self.heads)?,
            y: rows(8, "y", self.y, values)?,
            a: to[0],
            b: to[1],
        };
        let segments = Segments::new(ctx, 5, values * self.key)?;
        let all: Vec<Segment> = (0..segments.count()).filter_map(|i| segments.get(ctx, i)).collect();
        ctx.parallel(all.len() * self.heads, |task, scratch| Head {
            rule,
            segment: all[task / self.heads],
            head: task % self.heads,
            scratch,
        });
        Ok(())
    }
}
