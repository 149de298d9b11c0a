//! Templates `route` and `arg_max`: places of largest numbers, ties to the lowest index.

use std::ops::Range;

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::ops::Routing;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::{ArgMax, Route, View};

use super::Micro;
use super::context::{Context, Ids, Needs, Rows};
use super::isa::{Isa, LANES, Task};
use super::math::{exp, sigmoid};
use super::weights::{Matrix, load_some, store_some};

/// A number that orders floats: equal for equal values, 0 for NaN.
#[inline(always)]
fn order_key(x: f32) -> u32 {
    const SIGN: u32 = 0x8000_0000;
    let bits = x.to_bits();
    match () {
        () if x.is_nan() => 0,
        () if x == 0.0 => SIGN,
        () if bits < SIGN => bits + SIGN,
        () => !bits,
    }
}

/// Decodes the numbers that are added to chances.
struct Decode {
    matrix: Matrix,
    to: *mut f32,
}

impl Task for Decode {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        self.matrix.decode::<I>(0, self.to);
    }
}

/// Chooses experts for some tokens. The scratch holds a row of chances, one of what experts are chosen by, one of keys.
struct Choose<'a> {
    route: &'a Route,
    scores: Rows,
    bias: Option<Bias>,
    ids: Ids,
    weights: Rows,
    tokens: Range<usize>,
    scratch: *mut f32,
}

/// What is added to chances.
#[derive(Clone, Copy)]
struct Bias(*const f32);
// SAFETY: an address of scratch that is written before tasks start.
unsafe impl Send for Bias {}
// SAFETY: as above.
unsafe impl Sync for Bias {}

impl Choose<'_> {
    /// The keys of experts whose groups are not kept become those of experts that were chosen.
    #[inline(always)]
    unsafe fn keep_groups(&self, choices: *const f32, keys: *mut u32) {
        let Route { experts, groups, kept, .. } = *self.route;
        let each = experts / groups;
        let sum = |group: usize| {
            let (mut first, mut second) = (f32::MIN, f32::MIN);
            for e in group * each..(group + 1) * each {
                let x = *choices.add(e);
                (first, second) = if x > first {
                    (x, first)
                } else if x > second {
                    (first, x)
                } else {
                    (first, second)
                };
            }
            order_key(first + second)
        };
        for group in 0..groups {
            let own = sum(group);
            let before = (0..groups).filter(|g| {
                let other = sum(*g);
                other > own || other == own && *g < group
            });
            if before.count() >= kept {
                for e in group * each..(group + 1) * each {
                    keys.add(e).write(u32::MAX);
                }
            }
        }
    }
}

impl Task for Choose<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Route { experts, top_k, routing, normalize, groups, .. } = *self.route;
        let chances = self.scratch;
        let choices = chances.add(experts.next_multiple_of(LANES));
        let keys = choices.add(experts.next_multiple_of(LANES)).cast::<u32>();
        for token in self.tokens.clone() {
            let scores = self.scores.row(token).cast_const();
            let weights = self.weights.row(token);
            let mut largest = f32::NEG_INFINITY;
            for e in 0..experts {
                largest = if *scores.add(e) > largest { *scores.add(e) } else { largest };
            }
            let mut total = 1.0;
            match routing {
                Routing::Softmax => {
                    let mut sum = I::splat(0.0);
                    for e in (0..experts).step_by(LANES) {
                        let left = experts - e;
                        let chance = exp::<I>(I::sub(load_some::<I>(scores.add(e), left), I::splat(largest)));
                        store_some::<I>(chances.add(e), chance, left);
                        sum = I::add(sum, load_some::<I>(chances.add(e), left));
                    }
                    total = I::sum(sum);
                }
                Routing::Sigmoid => {
                    for e in (0..experts).step_by(LANES) {
                        let chance = sigmoid::<I>(load_some::<I>(scores.add(e), experts - e));
                        store_some::<I>(chances.add(e), chance, experts - e);
                    }
                }
            }
            for e in 0..experts {
                let choice = match self.bias {
                    Some(Bias(bias)) => *chances.add(e) / total + *bias.add(e),
                    None => *scores.add(e),
                };
                *choices.add(e) = choice;
                keys.add(e).write(order_key(choice));
            }
            if groups > 1 {
                self.keep_groups(choices, keys);
            }
            let mut sum = 0.0;
            for rank in 0..top_k {
                let mut best = usize::MAX;
                let mut best_key = 0;
                for e in 0..experts {
                    let key = keys.add(e).read();
                    // Keys of chosen experts are the largest: no float's key is.
                    if key != u32::MAX && (best == usize::MAX || key > best_key) {
                        (best, best_key) = (e, key);
                    }
                }
                keys.add(best).write(u32::MAX);
                self.ids.set(token * top_k + rank, best);
                let weight = *chances.add(best) / total;
                *weights.add(rank) = weight;
                sum += weight;
            }
            if normalize {
                for rank in 0..top_k {
                    *weights.add(rank) /= sum;
                }
            }
        }
    }
}

impl Micro for Route {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        let row = self.experts.next_multiple_of(LANES);
        Needs { launch: if self.bias.is_some() { row } else { 0 }, worker: 3 * row }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let tokens = ctx.sizes.tokens as usize;
        let (left, even) = (self.experts / self.groups * self.kept, self.experts.is_multiple_of(self.groups));
        if self.top_k > left || self.kept > self.groups || !even {
            return Err(format!("chooses {} of {left} experts", self.top_k));
        }
        let scores = ctx.rows(0, "scores", self.scores, tokens, self.experts)?;
        let bias = match self.bias {
            Some(format) => {
                let matrix = ctx.matrix(1, "bias", WeightType { format, rows: 1, cols: self.experts })?;
                // SAFETY: the scratch has the floats that `needs` asked for.
                unsafe { ctx.isa.run(Decode { matrix, to: scratch }) };
                Some(Bias(scratch.cast_const()))
            }
            None => None,
        };
        let at = if bias.is_some() { 2 } else { 1 };
        let ids = ctx.ids(at, "ids", tokens * self.top_k)?;
        let weights = ctx.rows(at + 1, "weights", View::dense(self.top_k), tokens, self.top_k)?;
        let per = (4_096 / (self.experts * (1 + self.top_k))).max(1);
        ctx.parallel(tokens.div_ceil(per), |task, scratch| {
            let tokens = task * per..((task + 1) * per).min(tokens);
            Choose { route: self, scores, bias, ids, weights, tokens, scratch }
        });
        Ok(())
    }
}

/// Index of the largest number of one row.
struct Largest {
    x: Rows,
    row: usize,
    dim: usize,
    y: Ids,
}

impl Task for Largest {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let x = self.x.row(self.row).cast_const();
        let mut largest = [I::splat(f32::NEG_INFINITY); 4];
        let mut k = 0;
        // A number that is none comes first, so that it never replaces what was found.
        while k + 4 * LANES <= self.dim {
            for (i, largest) in largest.iter_mut().enumerate() {
                *largest = I::max(I::load(x.add(k + i * LANES)), *largest);
            }
            k += 4 * LANES;
        }
        let largest = I::max(I::max(largest[0], largest[1]), I::max(largest[2], largest[3]));
        let mut largest = I::largest(largest);
        for k in k..self.dim {
            largest = if *x.add(k) > largest { *x.add(k) } else { largest };
        }
        // Only a row without any number has none equal; its index is 0.
        let at = (0..self.dim).find(|k| *x.add(*k) == largest);
        self.y.set(self.row, at.unwrap_or(0));
    }
}

impl Micro for ArgMax {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        Needs::default()
    }

    fn run(&self, ctx: &Context<'_>, _scratch: *mut f32) -> Result<(), String> {
        let rows = ctx.sizes.get(self.rows) as usize;
        let x = ctx.rows(0, "x", self.x, rows, self.dim)?;
        let y = ctx.ids(1, "y", rows)?;
        ctx.parallel(rows, |row, _| Largest { x, row, dim: self.dim, y });
        Ok(())
    }
}
