//! What recurrences have in common: numbers of heads, time steps, vectors of a token with zeros behind.

use super::isa::{Isa, LANES, Task};
use super::weights::{Matrix, load_some};

/// Decodes vectors that have a number for each head.
pub(super) struct Prepare<const N: usize> {
    /// The vectors.
    pub(super) weights: [Matrix; N],
    /// Where each goes.
    pub(super) to: [*mut f32; N],
}

impl<const N: usize> Task for Prepare<N> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        for (weight, to) in self.weights.iter().zip(self.to) {
            weight.decode::<I>(0, to);
        }
    }
}

/// `ln(1 + e^x)`.
pub(super) fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Copies a vector to where zeros follow up to a multiple of 16, normalised if it is to be.
#[inline(always)]
pub(super) unsafe fn take<I: Isa>(from: *const f32, len: usize, norm: Option<f64>, to: *mut f32) {
    let mut sum = I::splat(0.0);
    for i in (0..len).step_by(LANES) {
        let x = load_some::<I>(from.add(i), len - i);
        sum = I::fma(x, x, sum);
        I::store(to.add(i), x);
    }
    if let Some(eps) = norm {
        let factor = I::splat(1.0 / (I::sum(sum) + eps as f32).sqrt());
        for i in (0..len).step_by(LANES) {
            I::store(to.add(i), I::mul(I::load(to.add(i)), factor));
        }
    }
}
