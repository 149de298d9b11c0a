//! Arithmetic over all lanes as slice loops, compiled once per instruction set so that `mul_add` is one instruction.
//!
//! Every operation is exact IEEE 754 or a call of the standard library, so the instruction set cannot change a result.

use std::array;

use half::f16;
use swiftlm_ir::kernel::{Binary, Unary};

use super::program::{Arithmetic, Register};

/// Evaluates one instruction: `out` is `words` long, operands lie before it.
pub(crate) type Evaluate = fn(what: &Arithmetic, lanes: usize, registers: &mut [u32], out: Register, words: usize);

/// The fastest form that this machine runs.
#[allow(unsafe_code, reason = "a function compiled for an instruction set is called after the set was detected")]
pub(crate) fn best() -> Evaluate {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
        // SAFETY: the features were detected.
        return |what, lanes, registers, out, words| unsafe { with_avx2(what, lanes, registers, out, words) };
    }
    evaluate
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2(what: &Arithmetic, lanes: usize, registers: &mut [u32], out: Register, words: usize) {
    evaluate(what, lanes, registers, out, words);
}

#[inline(always)]
fn evaluate(what: &Arithmetic, lanes: usize, registers: &mut [u32], out: Register, words: usize) {
    let (before, after) = registers.split_at_mut(out);
    let to = &mut after[..words];
    match *what {
        Arithmetic::Unary { op, a } => unary(op, to, &before[a..a + words]),
        Arithmetic::Binary { op, float, a, b } => {
            let (a, b) = (&before[a..a + words], &before[b..b + words]);
            if float { binary_f32(op, to, a, b) } else { binary_u32(op, to, a, b) }
        }
        Arithmetic::Fma { a, b, c } => {
            let (a, b, c) = (&before[a..a + words], &before[b..b + words], &before[c..c + words]);
            for (((to, a), b), c) in to.iter_mut().zip(a).zip(b).zip(c) {
                *to = float(*a).mul_add(float(*b), float(*c)).to_bits();
            }
        }
        Arithmetic::Select { cond, yes, no } => {
            let cond = &before[cond..cond + lanes];
            let sources = before[yes..yes + words].chunks_exact(lanes).zip(before[no..no + words].chunks_exact(lanes));
            for (to, (yes, no)) in to.chunks_exact_mut(lanes).zip(sources) {
                for (((to, yes), no), cond) in to.iter_mut().zip(yes).zip(no).zip(cond) {
                    *to = if *cond != 0 { *yes } else { *no };
                }
            }
        }
        Arithmetic::Gather { parts } => {
            for (to, part) in to.chunks_exact_mut(lanes).zip(parts) {
                to.copy_from_slice(&before[part..part + lanes]);
            }
        }
        Arithmetic::Copy { a } => to.copy_from_slice(&before[a..a + words]),
        Arithmetic::Dot { a, b, width } => {
            let element = |r: Register, e: usize| &before[r + e * lanes..][..lanes];
            for ((to, a), b) in to.iter_mut().zip(element(a, 0)).zip(element(b, 0)) {
                *to = (float(*a) * float(*b)).to_bits();
            }
            for e in 1..width {
                for ((to, a), b) in to.iter_mut().zip(element(a, e)).zip(element(b, e)) {
                    *to = (float(*to) + float(*a) * float(*b)).to_bits();
                }
            }
        }
    }
}

#[inline(always)]
fn float(word: u32) -> f32 {
    f32::from_bits(word)
}

#[inline(always)]
fn each(to: &mut [u32], a: &[u32], f: impl Fn(u32) -> u32) {
    for (to, a) in to.iter_mut().zip(a) {
        *to = f(*a);
    }
}

#[inline(always)]
fn each2(to: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(u32, u32) -> u32) {
    for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
        *to = f(*a, *b);
    }
}

#[inline(always)]
fn unary(op: Unary, to: &mut [u32], a: &[u32]) {
    match op {
        Unary::Neg => each(to, a, |a| a ^ 0x8000_0000),
        Unary::Exp => each(to, a, |a| float(a).exp().to_bits()),
        Unary::InverseSqrt => each(to, a, |a| (1.0 / float(a).sqrt()).to_bits()),
        Unary::Sqrt => each(to, a, |a| float(a).sqrt().to_bits()),
        Unary::Tanh => each(to, a, |a| float(a).tanh().to_bits()),
        Unary::Abs => each(to, a, |a| a & 0x7fff_ffff),
        Unary::Not => each(to, a, |a| a ^ 1),
        Unary::ToF32 => each(to, a, |a| (a as f32).to_bits()),
        Unary::ToU32 => each(to, a, |a| float(a) as u32),
        Unary::Bitcast => to.copy_from_slice(a),
        Unary::HalfLow => each(to, a, |a| widen(a & 0xffff)),
        Unary::HalfHigh => each(to, a, |a| widen(a >> 16)),
    }
}

/// Bits of the f32 of a binary16: scaling by 2¹¹² moves the exponent bias, subnormals included.
#[inline(always)]
fn widen(half: u32) -> u32 {
    let scaled = (f32::from_bits((half & 0x7fff) << 13) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if half & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    scaled | special | (half & 0x8000) << 16
}

#[inline(always)]
fn binary_f32(op: Binary, to: &mut [u32], a: &[u32], b: &[u32]) {
    match op {
        Binary::Add => each2(to, a, b, |a, b| (float(a) + float(b)).to_bits()),
        Binary::Sub => each2(to, a, b, |a, b| (float(a) - float(b)).to_bits()),
        Binary::Mul => each2(to, a, b, |a, b| (float(a) * float(b)).to_bits()),
        Binary::Div => each2(to, a, b, |a, b| (float(a) / float(b)).to_bits()),
        Binary::Rem => each2(to, a, b, |a, b| (float(a) % float(b)).to_bits()),
        Binary::Min => each2(to, a, b, |a, b| float(a).min(float(b)).to_bits()),
        Binary::Max => each2(to, a, b, |a, b| float(a).max(float(b)).to_bits()),
        Binary::Less => each2(to, a, b, |a, b| u32::from(float(a) < float(b))),
        Binary::LessEqual => each2(to, a, b, |a, b| u32::from(float(a) <= float(b))),
        Binary::Equal => each2(to, a, b, |a, b| u32::from(float(a) == float(b))),
        Binary::PackHalf => each2(to, a, b, |a, b| {
            let [low, high] = array::from_fn(|i| u32::from(f16::from_f32(float([a, b][i])).to_bits()));
            low | high << 16
        }),
        Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => binary_u32(op, to, a, b),
    }
}

/// Lanes that are masked off may divide by 0 or shift too far: they get some value, and nobody reads it.
#[inline(always)]
fn binary_u32(op: Binary, to: &mut [u32], a: &[u32], b: &[u32]) {
    match op {
        Binary::Add => each2(to, a, b, u32::wrapping_add),
        Binary::Sub => each2(to, a, b, u32::wrapping_sub),
        Binary::Mul => each2(to, a, b, u32::wrapping_mul),
        Binary::Div => each2(to, a, b, |a, b| a.checked_div(b).unwrap_or(0)),
        Binary::Rem => each2(to, a, b, |a, b| a.checked_rem(b).unwrap_or(0)),
        Binary::Min => each2(to, a, b, u32::min),
        Binary::Max => each2(to, a, b, u32::max),
        Binary::And => each2(to, a, b, |a, b| a & b),
        Binary::Or => each2(to, a, b, |a, b| a | b),
        Binary::Xor => each2(to, a, b, |a, b| a ^ b),
        Binary::Shl => each2(to, a, b, u32::wrapping_shl),
        Binary::Shr => each2(to, a, b, u32::wrapping_shr),
        Binary::Less => each2(to, a, b, |a, b| u32::from(a < b)),
        Binary::LessEqual => each2(to, a, b, |a, b| u32::from(a <= b)),
        Binary::Equal => each2(to, a, b, |a, b| u32::from(a == b)),
        Binary::PackHalf => binary_f32(op, to, a, b),
    }
}
