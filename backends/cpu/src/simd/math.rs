//! Functions of 16 floats at a time; a lane's result does not depend on its place.

use swiftlm_ir::ty::DType;

use super::isa::{Isa, LANES};

/// `e^x` to about one unit in the last place: `2ⁿ · e^r` with `|r| ≤ ln 2 / 2` and a Taylor polynomial of degree 7.
/// Arguments are clamped to ±87.3, so nothing overflows and the least result is about 1e-38.
#[inline(always)]
pub(crate) unsafe fn exp<I: Isa>(x: I::F) -> I::F {
    // Adding this leaves the nearest integer in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    // ln 2 in two parts, the first short enough that n · HIGH is exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    const TAYLOR: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let x = I::min(I::splat(87.3), I::max(I::splat(-87.3), x));
    let shifted = I::fma(x, I::splat(std::f32::consts::LOG2_E), I::splat(SHIFT));
    let n = I::sub(shifted, I::splat(SHIFT));
    let r = I::fma(n, I::splat(-HIGH), x);
    let r = I::fma(n, I::splat(-LOW), r);
    let mut sum = I::splat(1.0 / 5040.0);
    for coefficient in TAYLOR {
        sum = I::fma(sum, r, I::splat(coefficient));
    }
    I::scale_by_power(sum, shifted)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) unsafe fn sigmoid<I: Isa>(x: I::F) -> I::F {
    I::div(I::splat(1.0), one_plus_exp_of_minus::<I>(x))
}

/// `x · sigmoid(x)`.
#[inline(always)]
pub(crate) unsafe fn silu<I: Isa>(x: I::F) -> I::F {
    I::div(x, one_plus_exp_of_minus::<I>(x))
}

/// `tanh x = 1 - 2 / (1 + e^2x)`, to about 1e-7.
#[inline(always)]
pub(crate) unsafe fn tanh<I: Isa>(x: I::F) -> I::F {
    let fraction = I::div(I::splat(2.0), one_plus_exp_of_minus::<I>(I::mul(x, I::splat(-2.0))));
    I::sub(I::splat(1.0), fraction)
}

/// Tanh approximation of GELU, through `(1 + tanh u) / 2 = sigmoid(2u)`.
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<I: Isa>(x: I::F) -> I::F {
    let cube = I::mul(I::mul(x, x), I::mul(x, I::splat(0.044_715)));
    let twice = I::mul(I::splat(2.0 * (2.0 / std::f32::consts::PI).sqrt()), I::add(x, cube));
    I::div(x, one_plus_exp_of_minus::<I>(twice))
}

#[inline(always)]
unsafe fn one_plus_exp_of_minus<I: Isa>(x: I::F) -> I::F {
    I::add(I::splat(1.0), exp::<I>(I::sub(I::splat(0.0), x)))
}

/// Rounds to nearest even in `to` and back.
#[inline(always)]
pub(crate) unsafe fn round<I: Isa>(x: I::F, to: DType) -> I::F {
    match to {
        DType::F16 => {
            let mut halves = [0u16; LANES];
            I::store_f16(halves.as_mut_ptr(), x);
            I::load_f16(halves.as_ptr())
        }
        DType::F32 | DType::U32 => x,
    }
}
