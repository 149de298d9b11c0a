//! Plain Rust over arrays, for machines without a form of their own; compilers vectorise it as they can.

use half::{bf16, f16};

use super::{Isa, LANES, Task};

/// No instruction set in particular.
#[derive(Clone, Copy)]
pub(super) struct Portable;

type Array = [f32; LANES];

/// Nearest even bfloat16.
#[inline(always)]
pub(super) fn bf16_of(x: f32) -> u16 {
    bf16::from_f32(x).to_bits()
}

#[inline(always)]
fn zip(a: Array, b: Array, f: impl Fn(f32, f32) -> f32) -> Array {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

#[inline(always)]
fn halve(mut x: Array, combine: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            x[i] = combine(x[i], x[i + width]);
        }
    }
    x[0]
}

impl Isa for Portable {
    type F = Array;
    /// Scale and bias.
    type Four = (f32, f32);
    const TILE: (usize, usize) = (3, 2);

    #[inline(always)]
    unsafe fn enter<T: Task>(task: T) -> T::Out {
        task.run::<Self>()
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Array {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Array {
        from.cast::<Array>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Array) {
        to.cast::<Array>().write_unaligned(x);
    }
    #[inline(always)]
    unsafe fn add(a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn min(a: Array, b: Array) -> Array {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(a: Array, b: Array) -> Array {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    /// Two roundings: without the instruction, one rounding would be a slow library call.
    #[inline(always)]
    unsafe fn fma(a: Array, b: Array, c: Array) -> Array {
        Self::add(Self::mul(a, b), c)
    }
    #[inline(always)]
    unsafe fn scale_by_power(x: Array, shifted: Array) -> Array {
        zip(x, shifted, |x, n| f32::from_bits(x.to_bits().wrapping_add(n.to_bits() << 23)))
    }
    #[inline(always)]
    unsafe fn sum(x: Array) -> f32 {
        halve(x, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn largest(x: Array) -> f32 {
        halve(x, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Array {
        let halves = from.cast::<[u16; LANES]>().read_unaligned();
        halves.map(|h| {
            let h = u32::from(h);
            // Scaling by 2¹¹² moves the exponent bias, subnormals included.
            let scaled = f32::from_bits((h & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
            let special = if h & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
            f32::from_bits(scaled.to_bits() | special | (h & 0x8000) << 16)
        })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Array {
        from.cast::<[u16; LANES]>().read_unaligned().map(|h| f32::from_bits(u32::from(h) << 16))
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: Array) {
        to.cast::<[u16; LANES]>().write_unaligned(x.map(|x| f16::from_f32(x).to_bits()));
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, x: Array) {
        to.cast::<[u16; LANES]>().write_unaligned(x.map(bf16_of));
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Array {
        from.cast::<[u8; LANES]>().read_unaligned().map(f32::from)
    }
    #[inline(always)]
    unsafe fn four(scale: f32, bias: f32) -> (f32, f32) {
        (scale, bias)
    }
    #[inline(always)]
    unsafe fn load_four(from: *const u8, (scale, bias): (f32, f32)) -> Array {
        let bytes = from.cast::<[u8; LANES / 2]>().read_unaligned();
        let mut out = [0.0; LANES];
        for i in 0..LANES {
            out[i] = f32::from((bytes[i / 2] >> (4 * (i % 2))) & 15) * scale + bias;
        }
        out
    }
    #[inline(always)]
    unsafe fn to_four_order(x: Array) -> Array {
        x
    }
    #[inline(always)]
    unsafe fn from_four_order(x: Array) -> Array {
        x
    }
    type Levels = [f32; LANES];
    #[inline(always)]
    unsafe fn levels(numbers: &[f32; LANES]) -> [f32; LANES] {
        *numbers
    }
    #[inline(always)]
    unsafe fn load_levels(from: *const u8, levels: [f32; LANES]) -> Array {
        let bytes = from.cast::<[u8; LANES / 2]>().read_unaligned();
        let mut numbers = [0f32; LANES];
        for i in 0..LANES {
            numbers[i] = levels[usize::from((bytes[i / 2] >> (4 * (i % 2))) & 15)];
        }
        Self::load(numbers.as_ptr())
    }
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}

    type Bytes = [u8; 4 * LANES];
    type Dots = [i32; LANES];
    type Whole = [i32; LANES];
    const DOTS_LIMIT: u32 = i32::MAX as u32;
    const WHOLE_ROWS: usize = 2;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes {
        from.cast::<Self::Bytes>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: Self::Bytes) {
        to.cast::<Self::Bytes>().write_unaligned(x);
    }
    #[inline(always)]
    unsafe fn bits(x: Self::Bytes, right: u32, mask: u8) -> Self::Bytes {
        x.map(|x| x >> right & mask)
    }
    #[inline(always)]
    unsafe fn join(high: Self::Bytes, left: u32, mut low: Self::Bytes) -> Self::Bytes {
        for i in 0..low.len() {
            low[i] |= high[i] << left;
        }
        low
    }
    #[inline(always)]
    unsafe fn no_dots() -> Self::Dots {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn dot(mut dots: Self::Dots, codes: Self::Bytes, x: *const i8) -> Self::Dots {
        let x = x.cast::<[i8; 4]>().read_unaligned().map(i32::from);
        for i in 0..LANES {
            for j in 0..4 {
                dots[i] += i32::from(codes[4 * i + j]) * x[j];
            }
        }
        dots
    }
    #[inline(always)]
    unsafe fn zeros() -> Self::Whole {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn add_dots(mut sums: Self::Whole, dots: Self::Dots, factor: i16) -> Self::Whole {
        for i in 0..LANES {
            sums[i] += i32::from(factor) * dots[i];
        }
        sums
    }
    #[inline(always)]
    unsafe fn to_float(x: Self::Whole) -> Array {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, x: Array) {
        to.cast::<[i8; LANES]>().write_unaligned(x.map(|x| x as i8));
    }
}
