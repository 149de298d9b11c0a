//! Decoding of formats on the kernel builder: the twin of [`Format::decode_host`] that GPUs and the interpreter run.
//!
//! A matrix is bound as `array<u32>`. Kernels ask for an element or for a pack of consecutive columns and get f32; how
//! they are stored is known here only. Nothing here knows what a matrix is used for.

use super::{Affine, Float, Format, mxfp4};
use crate::graph::WeightType;
use crate::kernel::builder::{A, E, Kb};
use crate::kernel::{Access, KType, Length};

/// An encoded matrix as an argument of a kernel under construction.
#[derive(Clone, Debug)]
pub struct Encoded<'k> {
    kb: &'k Kb,
    arg: A<'k>,
    ty: WeightType,
    /// First word of each component.
    words: Vec<usize>,
    /// Of codes: the shifts of four neighbours and their mask.
    quad: Option<(E<'k>, E<'k>)>,
}

/// Scale and bias of the group that a pack lies in, where its format has them.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'k>(Option<(E<'k>, Option<E<'k>>)>);

impl<'k> Encoded<'k> {
    /// Declares the next argument of `kb` as a matrix of type `ty`. To be called where the kernel begins: parts of the
    /// decoding that do not depend on the place are evaluated here.
    pub fn declare(kb: &'k Kb, name: &str, ty: WeightType) -> Self {
        let layout = ty.format.layout(ty.rows, ty.cols);
        let arg = kb.arg(name, Access::Read, KType::U32, Length::Elements(layout.bytes as u64 / 4));
        let words = layout.components.iter().map(|c| c.offset / 4).collect();
        let quad = ty.format.codes().map(|codes| {
            let bits = codes.bits as u32;
            let shifts = E::compose4([0, 1, 2, 3].map(|i| kb.u32(i * bits)));
            (shifts, kb.u32((1 << bits) - 1).splat(4))
        });
        Self { kb, arg, ty, words, quad }
    }

    /// The matrix.
    pub fn ty(&self) -> WeightType {
        self.ty
    }

    /// Columns of a pack: 8, 4 or 1, the widest that divides a row. A pack never leaves its group.
    pub fn pack_width(&self) -> usize {
        pack_width(self.ty.cols)
    }

    /// Packs of a row.
    pub fn packs(&self) -> usize {
        self.ty.cols / self.pack_width()
    }

    /// Consecutive packs, counted from the row's start, that share their scales.
    pub fn packs_per_scale(&self) -> usize {
        self.ty.format.codes().map_or_else(|| self.packs(), |codes| codes.group / self.pack_width())
    }

    /// Element (`row`, `col`).
    pub fn load(&self, row: E<'k>, col: E<'k>) -> E<'k> {
        let cols = self.ty.cols;
        match self.ty.format {
            Format::Float(f) => self.float(f, 0, row.times(cols) + col),
            Format::Affine(a) => {
                let bits = u32::from(a.bits);
                let start = col.times(a.bits as usize);
                let word = row.times(cols * a.bits as usize / 32) + start.over(32);
                let (low, _) = self.window(word, start.modulo(32), a.bits as usize, 32 % bits != 0);
                let code = low & self.kb.u32((1 << bits) - 1);
                let (scale, bias) = self.group(a, row, col.over(a.group as usize));
                scale * code.to_f32() + bias
            }
            Format::Mxfp4 => {
                let word = self.arg.load(row.times(cols / 8) + col.over(8));
                let code = (word >> col.modulo(8).times(4)) & self.kb.u32(15);
                self.unit(row, col.over(mxfp4::BLOCK)) * self.twice(code)
            }
        }
    }

    /// Scales of pack `pack` of a row.
    pub fn scales(&self, row: E<'k>, pack: E<'k>) -> Scales<'k> {
        match self.ty.format {
            Format::Float(_) => Scales(None),
            Format::Affine(a) => {
                let width = if self.pack_width() == 1 { 1 } else { 4 };
                let (scale, bias) = self.group(a, row, pack.over(self.packs_per_scale()));
                Scales(Some((scale.splat(width), Some(bias.splat(width)))))
            }
            Format::Mxfp4 => Scales(Some((self.unit(row, pack.over(self.packs_per_scale())).splat(4), None))),
        }
    }

    /// Pack `pack` of a row: vectors of 4, or one scalar where the pack is a single column.
    pub fn pack(&self, row: E<'k>, pack: E<'k>) -> Vec<E<'k>> {
        self.pack_scaled(row, pack, self.scales(row, pack))
    }

    /// As [`Self::pack`], with scales loaded before.
    pub fn pack_scaled(&self, row: E<'k>, pack: E<'k>, scales: Scales<'k>) -> Vec<E<'k>> {
        let (cols, width) = (self.ty.cols, self.pack_width());
        match (self.ty.format, scales.0) {
            (Format::Affine(a), Some((scale, Some(bias)))) => {
                let bits = a.bits as usize;
                let codes = self.codes(row.times(cols * bits / 32), pack, bits);
                codes.into_iter().map(|codes| scale * codes.to_f32() + bias).collect()
            }
            (Format::Mxfp4, Some((unit, _))) => {
                let codes = self.codes(row.times(cols / 8), pack, 4);
                codes.into_iter().map(|codes| unit * self.twice(codes)).collect()
            }
            (Format::Float(f), _) if width > 1 => {
                let word = row.times(cols * f.bytes() / 4) + pack.times(width * f.bytes() / 4);
                floats(self.kb, self.arg, f, word, width)
            }
            _ => vec![self.load(row, pack)],
        }
    }

    /// 64 bits of the codes that start `shift` bits into word `word`, of which `used` matter. `shift` is a multiple of 8
    /// in packs. The word behind is read only where the used bits can reach into it; behind the codes lie the scales.
    fn window(&self, word: E<'k>, shift: E<'k>, used: usize, straddles: bool) -> (E<'k>, E<'k>) {
        let first = self.arg.load(word);
        if !straddles && used <= 32 {
            let low = first >> shift;
            return (low, low);
        }
        let second = self.arg.load(word.plus(1));
        if !straddles {
            return (first, second);
        }
        // A shift by 32 is not defined, hence in two parts.
        let low = (first >> shift) | ((second << self.kb.u32(1)) << (self.kb.u32(31) - shift));
        (low, second >> shift)
    }

    /// The 8 codes of a pack as two vectors; `row` is the row's first word.
    fn codes(&self, row: E<'k>, pack: E<'k>, bits: usize) -> Vec<E<'k>> {
        let Some((shifts, mask)) = self.quad else { return vec![] };
        let (low, high) = if bits == 4 {
            let word = self.arg.load(row + pack);
            (word, word)
        } else {
            let shift = pack.times(bits).modulo(4).times(8);
            self.window(row + pack.times(bits).over(4), shift, 8 * bits, 32 % bits != 0)
        };
        let second = match 4 * bits {
            32 => high,
            n if 2 * n <= 32 => low >> self.kb.dim(n),
            n => (low >> self.kb.dim(n)) | (high << self.kb.dim(32 - n)),
        };
        [low, second].map(|quad| (quad.splat(4) >> shifts) & mask).into()
    }

    fn group(&self, a: Affine, row: E<'k>, group: E<'k>) -> (E<'k>, E<'k>) {
        let i = row.times(self.ty.cols / a.group as usize) + group;
        (self.float(a.scale, self.words[1], i), self.float(a.scale, self.words[2], i))
    }

    /// What a unit of [`mxfp4::TWICE`] counts for in a block of a row.
    fn unit(&self, row: E<'k>, block: E<'k>) -> E<'k> {
        let i = row.times(self.ty.cols / mxfp4::BLOCK) + block;
        let scale = (self.arg.load(i.over(4).plus(self.words[1])) >> i.modulo(4).times(8)) & self.kb.u32(255);
        // The exponent of an f32 is the same; that of the scale 0 is below the normal numbers.
        let power: E<'k> = (scale << self.kb.u32(23)).max(self.kb.u32(1 << 22)).bitcast();
        power * self.kb.f32(0.5)
    }

    /// [`mxfp4::TWICE`] of a code or of four.
    fn twice(&self, code: E<'k>) -> E<'k> {
        let width = code.ty().width;
        let like = |n: u32| if width == 1 { self.kb.u32(n) } else { self.kb.u32(n).splat(width) };
        // Magnitudes are nibbles of one word.
        let magnitudes = mxfp4::TWICE[..8].iter().enumerate().fold(0, |word, (i, n)| word | (*n as u32) << (4 * i));
        let magnitude = (like(magnitudes) >> ((code & like(7)) << like(2))) & like(15);
        (magnitude.to_f32().bitcast() | ((code & like(8)) << like(28))).bitcast()
    }

    /// Element `i` of floats that begin at word `first`.
    fn float(&self, f: Float, first: usize, i: E<'k>) -> E<'k> {
        if f == Float::F32 {
            return self.arg.load(i.plus(first)).bitcast();
        }
        let half = self.arg.load(i.over(2).plus(first)) >> i.modulo(2).times(16);
        match f {
            Float::F16 => half.half_low(),
            Float::Bf16 | Float::F32 => (half << self.kb.u32(16)).bitcast(),
        }
    }
}

/// Columns of a pack of a row of `cols`: 8, 4 or 1.
pub fn pack_width(cols: usize) -> usize {
    [8, 4].into_iter().find(|n| cols.is_multiple_of(*n)).unwrap_or(1)
}

/// `n` (4 or 8) consecutive floats from word `word` of a u32 argument on, as vectors of 4.
pub fn floats<'k>(kb: &'k Kb, arg: A<'k>, float: Float, word: E<'k>, n: usize) -> Vec<E<'k>> {
    let values: Vec<E<'k>> =
        (0..n * float.bytes() / 4).flat_map(|i| word_values(kb, float, arg.load(word.plus(i)))).collect();
    values.chunks_exact(4).map(|q| E::compose4([q[0], q[1], q[2], q[3]])).collect()
}

/// The one or two floats of a word.
pub fn word_values<'k>(kb: &'k Kb, float: Float, word: E<'k>) -> Vec<E<'k>> {
    match float {
        Float::F32 => vec![word.bitcast()],
        Float::F16 => vec![word.half_low(), word.half_high()],
        Float::Bf16 => vec![(word << kb.u32(16)).bitcast(), (word & kb.u32(0xffff_0000)).bitcast()],
    }
}

/// A word that holds one or two floats, rounded to nearest even: the inverse of [`word_values`].
pub fn word_of<'k>(kb: &'k Kb, float: Float, values: &[E<'k>]) -> E<'k> {
    let bf16 = |x: E<'k>| {
        let bits = x.bitcast();
        let rounded = (bits + kb.u32(0x7fff) + ((bits >> kb.u32(16)) & kb.u32(1))) >> kb.u32(16);
        // Rounding could carry a NaN's mantissa into infinity.
        let nan = kb.u32(0x7f80_0000).lt(bits & kb.u32(0x7fff_ffff));
        nan.select(kb.u32(0x7fc0), rounded)
    };
    match float {
        Float::F32 => values[0].bitcast(),
        Float::F16 => values[0].pack_half(values[1]),
        Float::Bf16 => bf16(values[0]) | (bf16(values[1]) << kb.u32(16)),
    }
}
