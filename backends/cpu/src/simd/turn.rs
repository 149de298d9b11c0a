//! The rotation that goes before quantisation ([`rotation`](swiftlm_ir::quant::rotation)). Template `rotate`.

use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::quant::rotation::{ROUNDS, flips, hartley, parts};
use swiftlm_ir::template::Rotate;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::isa::{Isa, LANES, Task};

/// Signs and factors of the rotation of heads of one size.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    /// For each round the factors of the elements, then the Hartley matrix.
    table: *const f32,
    dim: usize,
    odd: usize,
    power: usize,
}

// SAFETY: the table is only read.
unsafe impl Send for Turn {}
// SAFETY: as above.
unsafe impl Sync for Turn {}

impl Turn {
    /// Floats of scratch for the table.
    pub(crate) fn needs(dim: usize) -> usize {
        let odd = parts(dim).map_or(1, |(odd, _)| odd);
        (ROUNDS as usize * dim.next_multiple_of(LANES) + odd * odd).next_multiple_of(LANES)
    }

    /// The rotation of heads of `dim` elements, with its table in `scratch`.
    pub(crate) fn new(dim: usize, scratch: *mut f32) -> Result<Self, String> {
        let (odd, power) = parts(dim)?;
        let factor = 1.0 / (power as f32).sqrt();
        let matrix = scratch.wrapping_add(ROUNDS as usize * dim.next_multiple_of(LANES));
        for round in 0..ROUNDS {
            for i in 0..dim {
                let at = scratch.wrapping_add(round as usize * dim.next_multiple_of(LANES) + i);
                // SAFETY: the launch's scratch holds `needs(dim)` floats.
                unsafe { *at = if flips(round, i) { -factor } else { factor } };
            }
        }
        for i in 0..odd * odd {
            // SAFETY: as above.
            unsafe { *matrix.wrapping_add(i) = hartley(odd, i / odd, i % odd) };
        }
        Ok(Self { table: scratch, dim, odd, power })
    }

    /// Rotates a head in place, or back.
    #[inline(always)]
    pub(crate) unsafe fn apply<I: Isa>(&self, x: *mut f32, inverse: bool) {
        for i in 0..ROUNDS as usize {
            if inverse {
                self.transform::<I>(x);
                self.flip::<I>(x, ROUNDS as usize - 1 - i);
            } else {
                self.flip::<I>(x, i);
                self.transform::<I>(x);
            }
        }
    }

    #[inline(always)]
    unsafe fn flip<I: Isa>(&self, x: *mut f32, round: usize) {
        let factors = self.table.add(round * self.dim.next_multiple_of(LANES));
        if self.dim.is_multiple_of(LANES) {
            for i in (0..self.dim).step_by(LANES) {
                I::store(x.add(i), I::mul(I::load(x.add(i)), I::load(factors.add(i))));
            }
        } else {
            for i in 0..self.dim {
                *x.add(i) *= *factors.add(i);
            }
        }
    }

    #[inline(always)]
    unsafe fn transform<I: Isa>(&self, x: *mut f32) {
        let mut half = 1;
        if self.power >= LANES {
            for i in (0..self.dim).step_by(LANES) {
                let mut lanes = x.add(i).cast::<[f32; LANES]>().read_unaligned();
                butterflies::<1>(&mut lanes);
                butterflies::<2>(&mut lanes);
                butterflies::<4>(&mut lanes);
                butterflies::<8>(&mut lanes);
                x.add(i).cast::<[f32; LANES]>().write_unaligned(lanes);
            }
            half = LANES;
        }
        while half < self.power {
            for start in (0..self.dim).step_by(2 * half) {
                let step = half.min(LANES);
                for i in (start..start + half).step_by(step) {
                    let (low, high) = (x.add(i), x.add(i + half));
                    if step == LANES {
                        let (a, b) = (I::load(low), I::load(high));
                        I::store(low, I::add(a, b));
                        I::store(high, I::sub(a, b));
                    } else {
                        for lane in 0..step {
                            let (a, b) = (*low.add(lane), *high.add(lane));
                            (*low.add(lane), *high.add(lane)) = (a + b, a - b);
                        }
                    }
                }
            }
            half *= 2;
        }
        if self.odd > 1 {
            let matrix = self.table.add(ROUNDS as usize * self.dim.next_multiple_of(LANES));
            let mut column = [0f32; swiftlm_ir::quant::rotation::LARGEST_ODD];
            for b in 0..self.power {
                for a in 0..self.odd {
                    column[a] = *x.add(a * self.power + b);
                }
                for a in 0..self.odd {
                    let mut sum = 0.0;
                    for c in 0..self.odd {
                        sum += *matrix.add(a * self.odd + c) * column[c];
                    }
                    *x.add(a * self.power + b) = sum;
                }
            }
        }
    }
}

/// Sums and differences of the elements that lie `HALF` apart.
#[inline(always)]
fn butterflies<const HALF: usize>(x: &mut [f32; LANES]) {
    let mut out = [0f32; LANES];
    for i in 0..LANES {
        let (a, b) = (x[i & !HALF], x[i | HALF]);
        out[i] = if i & HALF == 0 { a + b } else { a - b };
    }
    *x = out;
}

/// Some rows of a launch.
struct Part {
    turn: Turn,
    x: Rows,
    y: Rows,
    heads: usize,
    inverse: bool,
    row: usize,
}

impl Task for Part {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let (from, to) = (self.x.row(self.row), self.y.row(self.row));
        std::ptr::copy(from, to, self.heads * self.turn.dim);
        for head in 0..self.heads {
            self.turn.apply::<I>(to.add(head * self.turn.dim), self.inverse);
        }
    }
}

/// The template `rotate`.
impl Micro for Rotate {
    fn needs(&self, _sizes: &StepSizes, _threads: usize) -> Needs {
        Needs { launch: Turn::needs(self.dim), worker: 0 }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let (tokens, width) = (ctx.sizes.tokens as usize, self.heads * self.dim);
        let turn = Turn::new(self.dim, scratch)?;
        let (x, y) = (ctx.rows(0, "x", self.x, tokens, width)?, ctx.rows(1, "y", self.y, tokens, width)?);
        let (heads, inverse) = (self.heads, self.inverse);
        ctx.parallel(tokens, |row, _| Part { turn, x, y, heads, inverse, row });
        Ok(())
    }
}
