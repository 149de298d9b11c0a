//! Encoded matrices: where their parts lie, and how 16 neighbouring weights become floats.
//!
//! A weight always decodes to the same bits, whichever path reads it: that keeps results independent of the batch.

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::quant::{Float, Format, Scale, mxfp4};

use super::isa::{Isa, LANES};

/// A weight in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub(crate) ty: WeightType,
    base: *const u8,
    row_bytes: usize,
    scales: *const u8,
    biases: *const u8,
    /// Bytes of a row's scales.
    scale_bytes: usize,
}

// SAFETY: addresses of memory that is only read while a launch runs.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// The weight of type `ty` that begins at `base`.
    pub(crate) fn new(ty: WeightType, base: *const u8) -> Self {
        let layout = ty.format.layout(ty.rows, ty.cols);
        let part = |i: usize| layout.components.get(i).map_or(base, |c| base.wrapping_add(c.offset));
        let scale_bytes = layout.components.get(1).map_or(0, |c| c.row_bytes);
        let row_bytes = layout.components[0].row_bytes;
        Self { ty, base, row_bytes, scales: part(1), biases: part(2), scale_bytes }
    }

    /// Codes of a row.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, row: usize) -> *const u8 {
        self.base.add(row * self.row_bytes)
    }

    /// Asks for a row's scales and biases from group `first` on; the row need not exist.
    #[inline(always)]
    pub(crate) unsafe fn prefetch_scales<I: Isa>(&self, scale: Scale, row: usize, first: usize) {
        let at = row * self.scale_bytes + first * scale.bytes();
        I::prefetch(self.scales.wrapping_add(at));
        I::prefetch(self.biases.wrapping_add(at));
    }

    /// Bytes from one row's codes to the next.
    #[inline(always)]
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Up to 16 scales and biases of a row, from group `first` on; a format without biases has zeros.
    #[inline(always)]
    pub(crate) unsafe fn scales<I: Isa>(
        &self,
        scale: Scale,
        row: usize,
        first: usize,
        count: usize,
        scales: &mut [f32; LANES],
        biases: &mut [f32; LANES],
    ) {
        let at = row * self.scale_bytes + first * scale.bytes();
        let (scale, bias) = match scale {
            Scale::Affine(float) => {
                let [scales, biases] =
                    [self.scales, self.biases].map(|from| load_floats::<I>(float, from.add(at), count));
                (scales, biases)
            }
            Scale::Power => (load_units::<I>(self.scales.add(at), count), I::splat(0.0)),
        };
        I::store(scales.as_mut_ptr(), scale);
        I::store(biases.as_mut_ptr(), bias);
    }

    /// Decodes a row to floats, zeros up to the next multiple of 16.
    #[inline(always)]
    pub(crate) unsafe fn decode<I: Isa>(&self, row: usize, to: *mut f32) {
        let codes = self.row(row);
        let form = match self.ty.format {
            Format::Float(float) => {
                for k in (0..self.ty.cols).step_by(LANES) {
                    let chunk = load_floats::<I>(float, codes.add(k * float.bytes()), self.ty.cols - k);
                    I::store(to.add(k), chunk);
                }
                return;
            }
            Format::Affine(_) | Format::Mxfp4 => self.ty.format.codes().unwrap_unchecked(),
        };
        let (group, groups) = (form.group, self.ty.cols / form.group);
        let (mut scales, mut biases) = ([0.0; LANES], [0.0; LANES]);
        for block in (0..groups).step_by(LANES) {
            let count = LANES.min(groups - block);
            self.scales::<I>(form.scale, row, block, count, &mut scales, &mut biases);
            for i in 0..count {
                let (scale, bias) = (scales[i], biases[i]);
                let start = (block + i) * group;
                match form.bits {
                    4 if form.scale == Scale::Power => {
                        let (levels, unit) = (I::levels(&mxfp4::TWICE), I::splat(scale));
                        for k in (start..start + group).step_by(LANES) {
                            I::store(to.add(k), I::mul(I::load_levels(codes.add(k / 2), levels), unit));
                        }
                    }
                    2 => decode_group::<I, 2>(codes, start, group, scale, bias, to),
                    3 => decode_group::<I, 3>(codes, start, group, scale, bias, to),
                    4 => {
                        let four = I::four(scale, bias);
                        for k in (start..start + group).step_by(LANES) {
                            I::store(to.add(k), I::from_four_order(I::load_four(codes.add(k / 2), four)));
                        }
                    }
                    5 => decode_group::<I, 5>(codes, start, group, scale, bias, to),
                    6 => decode_group::<I, 6>(codes, start, group, scale, bias, to),
                    _ => {
                        let (scale, bias) = (I::splat(scale), I::splat(bias));
                        for k in (start..start + group).step_by(LANES) {
                            I::store(to.add(k), I::fma(I::load_u8(codes.add(k)), scale, bias));
                        }
                    }
                }
            }
        }
    }
}

/// Codes of `BITS` bits that are neither nibbles nor bytes: 8 of them fill `BITS` bytes.
#[inline(always)]
unsafe fn decode_group<I: Isa, const BITS: usize>(
    codes: *const u8,
    start: usize,
    group: usize,
    scale: f32,
    bias: f32,
    to: *mut f32,
) {
    let (scale, bias) = (I::splat(scale), I::splat(bias));
    let last = start + group - LANES;
    for k in (start..last).step_by(LANES) {
        // 16 codes follow; a word of 2-bit codes reaches 2 bytes behind them, where a scale lies at least.
        let from = codes.add(k / 8 * BITS);
        let words = [from.cast::<u64>().read_unaligned(), from.add(BITS).cast::<u64>().read_unaligned()];
        I::store(to.add(k), I::fma(I::unpack::<BITS>(words), scale, bias));
    }
    let mut words = [0u64; 2];
    for (half, word) in words.iter_mut().enumerate() {
        let from = codes.add((last / 8 + half) * BITS);
        std::ptr::copy_nonoverlapping(from, std::ptr::from_mut(word).cast(), BITS);
    }
    I::store(to.add(last), I::fma(I::unpack::<BITS>(words), scale, bias));
}

/// The first `count` (16 if more) of 16 stored floats, zeros behind; nothing behind them is read.
#[inline(always)]
pub(crate) unsafe fn load_floats<I: Isa>(float: Float, from: *const u8, count: usize) -> I::F {
    if count >= LANES {
        return load_full::<I>(float, from);
    }
    let mut padded = [0u8; 4 * LANES];
    std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count * float.bytes());
    load_full::<I>(float, padded.as_ptr())
}

/// The first `count` (16 if more) of 16 scales of [`mxfp4`] as what a unit of its numbers counts for; nothing behind them
/// is read.
#[inline(always)]
pub(crate) unsafe fn load_units<I: Isa>(from: *const u8, count: usize) -> I::F {
    let mut bytes = [0u8; LANES];
    std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count.min(LANES));
    I::load(bytes.map(mxfp4::unit).as_ptr())
}

/// 16 stored floats.
#[inline(always)]
pub(crate) unsafe fn load_full<I: Isa>(float: Float, from: *const u8) -> I::F {
    match float {
        Float::F32 => I::load(from.cast()),
        Float::F16 => I::load_f16(from.cast()),
        Float::Bf16 => I::load_bf16(from.cast()),
    }
}

/// The first `count` (16 if more) of 16 floats, zeros behind; nothing behind them is read.
#[inline(always)]
pub(crate) unsafe fn load_some<I: Isa>(from: *const f32, count: usize) -> I::F {
    load_floats::<I>(Float::F32, from.cast(), count)
}

/// Writes the first `count` (16 if more) of 16 floats; nothing behind them is written.
#[inline(always)]
pub(crate) unsafe fn store_some<I: Isa>(to: *mut f32, x: I::F, count: usize) {
    if count >= LANES {
        return I::store(to, x);
    }
    let mut lanes = [0f32; LANES];
    I::store(lanes.as_mut_ptr(), x);
    std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
}
