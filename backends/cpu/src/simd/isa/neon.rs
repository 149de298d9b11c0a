//! 64-bit ARM: four registers hold a vector.

use std::arch::aarch64::*;
use std::arch::asm;

use super::portable::bf16_of;
use super::{Isa, LANES, Task};

/// No dot products.
pub(super) const PLAIN: u8 = 0;
/// Those of signed bytes.
pub(super) const DOT: u8 = 1;
/// Those of bytes with signed bytes, too.
pub(super) const I8MM: u8 = 2;

/// 64-bit ARM's vectors with the dot products of a level. These have no intrinsics that are stable, so they are written out.
#[derive(Clone, Copy)]
pub(super) struct Neon<const LEVEL: u8>;

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
type Quad = [float32x4_t; 4];

#[target_feature(enable = "neon")]
unsafe fn enter<T: Task>(task: T) -> T::Out {
    task.run::<Neon<PLAIN>>()
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn enter_dot<T: Task>(task: T) -> T::Out {
    task.run::<Neon<DOT>>()
}

#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn enter_i8mm<T: Task>(task: T) -> T::Out {
    task.run::<Neon<I8MM>>()
}

macro_rules! dot {
    ($instruction:literal, $sums:expr, $codes:expr, $x:expr) => {
        asm!(
            concat!($instruction, " {sums:v}.4s, {codes:v}.16b, {x:v}.16b"),
            sums = inout(vreg) $sums,
            codes = in(vreg) $codes,
            x = in(vreg) $x,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
}

/// 16 bytes as numbers.
#[inline(always)]
unsafe fn widen(bytes: uint8x16_t) -> Quad {
    let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_u8(vget_high_u8(bytes)));
    [
        vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
        vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
        vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
        vcvtq_f32_u32(vmovl_u16(vget_high_u16(high))),
    ]
}

/// Floats of four binary16: scaling by 2¹¹² moves the exponent bias, subnormals included.
#[inline(always)]
unsafe fn halves(bits: uint32x4_t) -> float32x4_t {
    let magnitude = vreinterpretq_f32_u32(vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff))));
    let scaled = vreinterpretq_u32_f32(vmulq_f32(magnitude, vdupq_n_f32(f32::from_bits(0x7780_0000))));
    let exponent = vdupq_n_u32(0x7c00);
    let special = vandq_u32(vceqq_u32(vandq_u32(bits, exponent), exponent), vdupq_n_u32(0x7f80_0000));
    let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
    vreinterpretq_f32_u32(vorrq_u32(vorrq_u32(scaled, special), sign))
}

/// Floats of four bfloat16.
#[inline(always)]
unsafe fn upper_halves(bits: uint16x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(bits)))
}

macro_rules! each {
    ($f:ident, $a:expr, $b:expr) => {
        [$f($a[0], $b[0]), $f($a[1], $b[1]), $f($a[2], $b[2]), $f($a[3], $b[3])]
    };
}

impl<const LEVEL: u8> Isa for Neon<LEVEL> {
    type F = Quad;
    /// Scale and bias.
    type Four = [float32x4_t; 2];
    const TILE: (usize, usize) = (3, 2);

    #[inline(always)]
    unsafe fn enter<T: Task>(task: T) -> T::Out {
        match LEVEL {
            PLAIN => enter(task),
            DOT => enter_dot(task),
            _ => enter_i8mm(task),
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Quad {
        [vdupq_n_f32(x); 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Quad {
        [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Quad) {
        vst1q_f32(to, x[0]);
        vst1q_f32(to.add(4), x[1]);
        vst1q_f32(to.add(8), x[2]);
        vst1q_f32(to.add(12), x[3]);
    }
    #[inline(always)]
    unsafe fn add(a: Quad, b: Quad) -> Quad {
        each!(vaddq_f32, a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: Quad, b: Quad) -> Quad {
        each!(vsubq_f32, a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: Quad, b: Quad) -> Quad {
        each!(vmulq_f32, a, b)
    }
    #[inline(always)]
    unsafe fn div(a: Quad, b: Quad) -> Quad {
        each!(vdivq_f32, a, b)
    }
    #[inline(always)]
    unsafe fn min(a: Quad, b: Quad) -> Quad {
        let less = each!(vcltq_f32, a, b);
        [
            vbslq_f32(less[0], a[0], b[0]),
            vbslq_f32(less[1], a[1], b[1]),
            vbslq_f32(less[2], a[2], b[2]),
            vbslq_f32(less[3], a[3], b[3]),
        ]
    }
    #[inline(always)]
    unsafe fn max(a: Quad, b: Quad) -> Quad {
        let more = each!(vcgtq_f32, a, b);
        [
            vbslq_f32(more[0], a[0], b[0]),
            vbslq_f32(more[1], a[1], b[1]),
            vbslq_f32(more[2], a[2], b[2]),
            vbslq_f32(more[3], a[3], b[3]),
        ]
    }
    #[inline(always)]
    unsafe fn fma(a: Quad, b: Quad, c: Quad) -> Quad {
        [
            vfmaq_f32(c[0], a[0], b[0]),
            vfmaq_f32(c[1], a[1], b[1]),
            vfmaq_f32(c[2], a[2], b[2]),
            vfmaq_f32(c[3], a[3], b[3]),
        ]
    }
    #[inline(always)]
    unsafe fn scale_by_power(x: Quad, shifted: Quad) -> Quad {
        let mut out = x;
        for i in 0..4 {
            let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(shifted[i]));
            out[i] = vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(x[i]), exponent));
        }
        out
    }
    #[inline(always)]
    unsafe fn sum(x: Quad) -> f32 {
        let four = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
        let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
    }
    #[inline(always)]
    unsafe fn largest(x: Quad) -> f32 {
        vmaxvq_f32(vmaxq_f32(vmaxq_f32(x[0], x[2]), vmaxq_f32(x[1], x[3])))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Quad {
        let (low, high) = (vld1q_u16(from), vld1q_u16(from.add(8)));
        [
            halves(vmovl_u16(vget_low_u16(low))),
            halves(vmovl_u16(vget_high_u16(low))),
            halves(vmovl_u16(vget_low_u16(high))),
            halves(vmovl_u16(vget_high_u16(high))),
        ]
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Quad {
        let (low, high) = (vld1q_u16(from), vld1q_u16(from.add(8)));
        [
            upper_halves(vget_low_u16(low)),
            upper_halves(vget_high_u16(low)),
            upper_halves(vget_low_u16(high)),
            upper_halves(vget_high_u16(high)),
        ]
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: Quad) {
        let mut lanes = [0f32; LANES];
        Self::store(lanes.as_mut_ptr(), x);
        to.cast::<[u16; LANES]>().write_unaligned(lanes.map(|x| half::f16::from_f32(x).to_bits()));
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, x: Quad) {
        let mut lanes = [0f32; LANES];
        Self::store(lanes.as_mut_ptr(), x);
        to.cast::<[u16; LANES]>().write_unaligned(lanes.map(bf16_of));
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Quad {
        widen(vld1q_u8(from))
    }
    #[inline(always)]
    unsafe fn four(scale: f32, bias: f32) -> [float32x4_t; 2] {
        [vdupq_n_f32(scale), vdupq_n_f32(bias)]
    }
    #[inline(always)]
    unsafe fn load_four(from: *const u8, [scale, bias]: [float32x4_t; 2]) -> Quad {
        let bytes = vld1_u8(from);
        let (even, odd) = (vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8::<4>(bytes));
        let codes = widen(vcombine_u8(vzip1_u8(even, odd), vzip2_u8(even, odd)));
        Self::fma(codes, [scale; 4], [bias; 4])
    }
    #[inline(always)]
    unsafe fn to_four_order(x: Quad) -> Quad {
        x
    }
    #[inline(always)]
    unsafe fn from_four_order(x: Quad) -> Quad {
        x
    }
    type Levels = [f32; LANES];
    #[inline(always)]
    unsafe fn levels(numbers: &[f32; LANES]) -> [f32; LANES] {
        *numbers
    }
    #[inline(always)]
    unsafe fn load_levels(from: *const u8, levels: [f32; LANES]) -> Quad {
        let bytes = from.cast::<[u8; LANES / 2]>().read_unaligned();
        let mut numbers = [0f32; LANES];
        for i in 0..LANES {
            numbers[i] = levels[usize::from((bytes[i / 2] >> (4 * (i % 2))) & 15)];
        }
        Self::load(numbers.as_ptr())
    }
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}

    type Bytes = [uint8x16_t; 4];
    type Dots = [int32x4_t; 4];
    type Whole = [int32x4_t; 4];
    /// Where codes are multiplied as signed bytes they must stay below 128.
    const DOTS_LIMIT: u32 = if LEVEL >= I8MM { i32::MAX as u32 } else { i16::MAX as u32 };
    const WHOLE_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes {
        [vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48))]
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: Self::Bytes) {
        for i in 0..4 {
            vst1q_u8(to.add(16 * i), x[i]);
        }
    }
    #[inline(always)]
    unsafe fn bits(x: Self::Bytes, right: u32, mask: u8) -> Self::Bytes {
        let (count, mask) = (vdupq_n_s8(-(right as i8)), vdupq_n_u8(mask));
        x.map(|x| vandq_u8(vshlq_u8(x, count), mask))
    }
    #[inline(always)]
    unsafe fn join(high: Self::Bytes, left: u32, mut low: Self::Bytes) -> Self::Bytes {
        let count = vdupq_n_s8(left as i8);
        for i in 0..4 {
            low[i] = vorrq_u8(vshlq_u8(high[i], count), low[i]);
        }
        low
    }
    #[inline(always)]
    unsafe fn look_up(x: Self::Bytes, table: &[u8; 16]) -> Self::Bytes {
        let table = vld1q_u8(table.as_ptr());
        x.map(|x| vqtbl1q_u8(table, x))
    }
    #[inline(always)]
    unsafe fn no_dots() -> Self::Dots {
        [vdupq_n_s32(0); 4]
    }
    #[inline(always)]
    unsafe fn dot(mut dots: Self::Dots, codes: Self::Bytes, x: *const i8) -> Self::Dots {
        let x = vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()));
        for i in 0..4 {
            match LEVEL {
                PLAIN => {}
                DOT => {
                    dot!("sdot", dots[i], codes[i], x);
                    continue;
                }
                _ => {
                    dot!("usdot", dots[i], codes[i], x);
                    continue;
                }
            }
            let codes = vreinterpretq_s8_u8(codes[i]);
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(codes), vget_low_s8(x)));
            let high = vpaddlq_s16(vmull_s8(vget_high_s8(codes), vget_high_s8(x)));
            dots[i] = vaddq_s32(dots[i], vpaddq_s32(low, high));
        }
        dots
    }
    #[inline(always)]
    unsafe fn zeros() -> Self::Whole {
        [vdupq_n_s32(0); 4]
    }
    #[inline(always)]
    unsafe fn add_dots(mut sums: Self::Whole, dots: Self::Dots, factor: i16) -> Self::Whole {
        for i in 0..4 {
            sums[i] = vmlaq_n_s32(sums[i], dots[i], i32::from(factor));
        }
        sums
    }
    #[inline(always)]
    unsafe fn to_float(x: Self::Whole) -> Quad {
        x.map(|x| vcvtq_f32_s32(x))
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, x: Quad) {
        let words = x.map(|x| vqmovn_s32(vcvtnq_s32_f32(x)));
        let low = vqmovn_s16(vcombine_s16(words[0], words[1]));
        let high = vqmovn_s16(vcombine_s16(words[2], words[3]));
        vst1q_s8(to, vcombine_s8(low, high));
    }

    #[inline(always)]
    unsafe fn halves_bf16(x: Self::Bytes) -> [Quad; 2] {
        let words = x.map(|x| vreinterpretq_u32_u8(x));
        let high = vdupq_n_u32(0xffff_0000);
        [
            words.map(|x| vreinterpretq_f32_u32(vshlq_n_u32::<16>(x))),
            words.map(|x| vreinterpretq_f32_u32(vandq_u32(x, high))),
        ]
    }
}
