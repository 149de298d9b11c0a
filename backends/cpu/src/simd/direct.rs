//! Dot products of a few rows with weights as they are stored: nothing is decoded to memory. For small batches.
//!
//! Order of a sum, here and in [`panel`](super::panel): lane `l` adds columns `l, l + 16, …` in turn, then lanes halve.

use swiftlm_ir::quant::{Float, Format, mxfp4};

use super::isa::{self, Isa, LANES};
use super::weights::{Matrix, load_floats, load_some};

/// Bytes that memory is asked for before they are used, at least.
const AHEAD: usize = 4 << 10;

/// A way of storing weights that has a direct path.
trait Packed<I: Isa> {
    /// How plain floats are stored; `None` for codes in groups.
    const FLOAT: Option<Float>;
    /// What decodes a group.
    type Scale: Copy;
    unsafe fn scale(scale: f32, bias: f32) -> Self::Scale;
    /// 16 weights from column `k` on.
    unsafe fn chunk(row: *const u8, k: usize, scale: Self::Scale) -> I::F;
    /// Activations into the lane order of [`Self::chunk`].
    unsafe fn order(x: I::F) -> I::F;
    /// Sums back from it.
    unsafe fn restore(x: I::F) -> I::F;
}

struct F32;
struct F16;
struct Bf16;
struct Four;
struct Eight;
struct Levels;

macro_rules! float {
    ($name:ident, $float:ident, $load:ident, $element:ty) => {
        impl<I: Isa> Packed<I> for $name {
            const FLOAT: Option<Float> = Some(Float::$float);
            type Scale = ();
            #[inline(always)]
            unsafe fn scale(_scale: f32, _bias: f32) {}
            #[inline(always)]
            unsafe fn chunk(row: *const u8, k: usize, _scale: ()) -> I::F {
                I::$load(row.cast::<$element>().add(k))
            }
            #[inline(always)]
            unsafe fn order(x: I::F) -> I::F {
                x
            }
            #[inline(always)]
            unsafe fn restore(x: I::F) -> I::F {
                x
            }
        }
    };
}
float!(F32, F32, load, f32);
float!(F16, F16, load_f16, u16);
float!(Bf16, Bf16, load_bf16, u16);

impl<I: Isa> Packed<I> for Four {
    const FLOAT: Option<Float> = None;
    type Scale = I::Four;
    #[inline(always)]
    unsafe fn scale(scale: f32, bias: f32) -> I::Four {
        I::four(scale, bias)
    }
    #[inline(always)]
    unsafe fn chunk(row: *const u8, k: usize, four: I::Four) -> I::F {
        I::load_four(row.add(k / 2), four)
    }
    #[inline(always)]
    unsafe fn order(x: I::F) -> I::F {
        I::to_four_order(x)
    }
    #[inline(always)]
    unsafe fn restore(x: I::F) -> I::F {
        I::from_four_order(x)
    }
}

impl<I: Isa> Packed<I> for Eight {
    const FLOAT: Option<Float> = None;
    type Scale = (I::F, I::F);
    #[inline(always)]
    unsafe fn scale(scale: f32, bias: f32) -> (I::F, I::F) {
        (I::splat(scale), I::splat(bias))
    }
    #[inline(always)]
    unsafe fn chunk(row: *const u8, k: usize, (scale, bias): (I::F, I::F)) -> I::F {
        I::fma(I::load_u8(row.add(k)), scale, bias)
    }
    #[inline(always)]
    unsafe fn order(x: I::F) -> I::F {
        x
    }
    #[inline(always)]
    unsafe fn restore(x: I::F) -> I::F {
        x
    }
}

impl<I: Isa> Packed<I> for Levels {
    const FLOAT: Option<Float> = None;
    type Scale = (I::Levels, I::F);
    #[inline(always)]
    unsafe fn scale(scale: f32, _bias: f32) -> (I::Levels, I::F) {
        (I::levels(&mxfp4::TWICE), I::splat(scale))
    }
    #[inline(always)]
    unsafe fn chunk(row: *const u8, k: usize, (levels, unit): (I::Levels, I::F)) -> I::F {
        I::mul(I::load_levels(row.add(k / 2), levels), unit)
    }
    #[inline(always)]
    unsafe fn order(x: I::F) -> I::F {
        x
    }
    #[inline(always)]
    unsafe fn restore(x: I::F) -> I::F {
        x
    }
}

/// Whether a format has a direct path.
pub(crate) fn supports(format: Format) -> bool {
    match format {
        Format::Float(_) | Format::Mxfp4 => true,
        Format::Affine(a) => matches!(a.bits, 4 | 8),
    }
}

/// Dot products of rows `x` with weight rows `first .. first + count`, to `out[m][n]`.
///
/// # Safety
/// `x` are readable for the columns rounded up to 16, `out[m]` writable for `count`, the format has a direct path.
#[inline(always)]
pub(crate) unsafe fn dots<I: Isa, const M: usize>(
    matrix: &Matrix,
    first: usize,
    count: usize,
    x: [*const f32; M],
    out: [*mut f32; M],
) {
    match matrix.ty.format {
        Format::Float(Float::F32) => strips::<I, F32, M>(matrix, first, count, x, out),
        Format::Float(Float::F16) => strips::<I, F16, M>(matrix, first, count, x, out),
        Format::Float(Float::Bf16) => strips::<I, Bf16, M>(matrix, first, count, x, out),
        Format::Affine(a) if a.bits == 4 => strips::<I, Four, M>(matrix, first, count, x, out),
        Format::Affine(_) => strips::<I, Eight, M>(matrix, first, count, x, out),
        Format::Mxfp4 => strips::<I, Levels, M>(matrix, first, count, x, out),
    }
}

#[inline(always)]
unsafe fn strips<I: Isa, P: Packed<I>, const M: usize>(
    matrix: &Matrix,
    first: usize,
    count: usize,
    x: [*const f32; M],
    out: [*mut f32; M],
) {
    let mut n = 0;
    while n + 4 <= count {
        tile::<I, P, M, 4>(matrix, first + n, x, out, n);
        n += 4;
    }
    while n < count {
        tile::<I, P, M, 1>(matrix, first + n, x, out, n);
        n += 1;
    }
}

/// `R` weight rows at once: an activation is loaded once for all of them.
#[inline(always)]
unsafe fn tile<I: Isa, P: Packed<I>, const M: usize, const R: usize>(
    matrix: &Matrix,
    first: usize,
    x: [*const f32; M],
    out: [*mut f32; M],
    n: usize,
) {
    let mut sums = [[I::splat(0.0); R]; M];
    let mut rows = [std::ptr::null(); R];
    for r in 0..R {
        rows[r] = matrix.row(first + r);
    }
    let cols = matrix.ty.cols;
    if let Some(form) = matrix.ty.format.codes() {
        let (group, groups) = (form.group, cols / form.group);
        // Rows follow one another, so what comes next lies in one piece behind: asked for line by line, it streams.
        let bytes = R * group * form.bits / 8;
        let next = rows[0].wrapping_add((R * matrix.row_bytes()).max(AHEAD));
        let (mut scales, mut biases) = ([[0f32; LANES]; R], [[0f32; LANES]; R]);
        let mut block = 0;
        while block < groups {
            let count = LANES.min(groups - block);
            for r in 0..R {
                matrix.prefetch_scales::<I>(form.scale, first + 2 * R + r, block);
                matrix.scales::<I>(form.scale, first + r, block, count, &mut scales[r], &mut biases[r]);
            }
            for i in 0..count {
                let start = (block + i) * group;
                let mut scale = [P::scale(0.0, 0.0); R];
                for r in 0..R {
                    scale[r] = P::scale(scales[r][i], biases[r][i]);
                }
                let mut line = 0;
                while line < bytes {
                    I::prefetch(next.wrapping_add((block + i) * bytes + line));
                    line += 64;
                }
                let mut k = start;
                while k < start + group {
                    step::<I, P, M, R>(&mut sums, &rows, x, k, scale);
                    k += LANES;
                }
            }
            block += LANES;
        }
    } else {
        let mut k = 0;
        while k + LANES <= cols {
            step::<I, P, M, R>(&mut sums, &rows, x, k, [P::scale(0.0, 0.0); R]);
            k += LANES;
        }
        if k < cols
            && let Some(float) = P::FLOAT
        {
            for r in 0..R {
                let weights = load_floats::<I>(float, rows[r].add(k * float.bytes()), cols - k);
                for m in 0..M {
                    sums[m][r] = I::fma(load_some::<I>(x[m].add(k), cols - k), weights, sums[m][r]);
                }
            }
        }
    }
    for m in 0..M {
        for r in 0..R {
            sums[m][r] = P::restore(sums[m][r]);
        }
        out[m].add(n).cast::<[f32; R]>().write_unaligned(isa::sums::<I, R>(&sums[m]));
    }
}

#[inline(always)]
unsafe fn step<I: Isa, P: Packed<I>, const M: usize, const R: usize>(
    sums: &mut [[I::F; R]; M],
    rows: &[*const u8; R],
    x: [*const f32; M],
    k: usize,
    scale: [P::Scale; R],
) {
    let mut inputs = [I::splat(0.0); M];
    for m in 0..M {
        inputs[m] = P::order(I::load(x[m].add(k)));
    }
    for r in 0..R {
        let weights = P::chunk(rows[r], k, scale[r]);
        for m in 0..M {
            sums[m][r] = I::fma(inputs[m], weights, sums[m][r]);
        }
    }
}
