//! How heads lie in KV pages: words of codes, then for affine formats a word per group.
//!
//! A page holds, for each head, [`PAGE_TOKENS`] slots. Keys lie `[word][slot]`: one word of all slots side by side, so
//! that lanes can be slots and a score needs no sum over lanes. Values lie `[slot][word]`: lanes are elements. Behind
//! the words of either come the groups' words, `[group][slot]`: scale in the low half, bias in the high half, binary16.

use half::f16;

use super::{Affine, Float, Format};
use crate::ty::PAGE_TOKENS;

/// Largest magnitude that is encoded: scale and bias stay finite.
pub(super) const LARGEST: f32 = 65_000.0;
/// A little more than the largest rounding error of a binary16: relative, and below the normal numbers.
pub(super) const RELATIVE: f32 = 1.01 / 2048.0;
pub(super) const ABSOLUTE: f32 = 1.0 / (1 << 25) as f32;

/// The row of one head of one token in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRow {
    /// How elements are stored.
    pub format: Format,
    /// Elements.
    pub dim: usize,
}

impl HeadRow {
    /// A checked row.
    ///
    /// # Errors
    /// A sentence naming what pages cannot hold.
    pub fn new(format: Format, dim: usize) -> Result<Self, String> {
        if format == Format::Mxfp4 {
            return Err(format!(
                "{format} is no format of KV pages: expected f32, f16, bf16, or 4 or 8 bits with f16 scales"
            ));
        }
        if let Format::Affine(Affine { bits, scale, .. }) = format {
            if !matches!(bits, 4 | 8) || scale != Float::F16 {
                return Err(format!("{format} is no format of KV pages: expected 4 or 8 bits with f16 scales"));
            }
            if !(dim * bits as usize).is_multiple_of(32) {
                return Err(format!("heads of {dim} elements do not fill whole words of {bits}-bit codes"));
            }
        }
        Ok(Self { format, dim })
    }

    /// Whether the first `latent` elements can be read on their own.
    ///
    /// # Errors
    /// A sentence saying what they are not.
    pub fn part(&self, latent: usize) -> Result<(), String> {
        let dim = self.dim;
        if !(1..dim).contains(&latent) || !(latent * self.bits()).is_multiple_of(32) {
            return Err(format!(
                "a latent of {latent} of {dim} elements: expected fewer, in whole words of {}",
                self.format
            ));
        }
        Ok(())
    }

    /// Bits of an element.
    pub fn bits(&self) -> usize {
        match self.format {
            Format::Float(float) => 8 * float.bytes(),
            Format::Affine(_) | Format::Mxfp4 => self.format.codes().map_or(4, |codes| codes.bits),
        }
    }

    /// Words of elements.
    pub fn words(&self) -> usize {
        self.dim * self.bits() / 32
    }

    /// Elements of a word.
    pub fn per_word(&self) -> usize {
        32 / self.bits()
    }

    /// Elements that share a scale. A head that does not divide into the format's groups is one group.
    pub fn group(&self) -> usize {
        match self.format {
            Format::Affine(a) if self.dim.is_multiple_of(a.group as usize) => a.group as usize,
            _ => self.dim,
        }
    }

    /// Groups, which plain floats do not have.
    pub fn groups(&self) -> usize {
        match self.format {
            Format::Float(_) => 0,
            Format::Affine(_) | Format::Mxfp4 => self.dim / self.group().max(1),
        }
    }

    /// Bytes of one head of a page.
    pub fn page_bytes(&self) -> usize {
        PAGE_TOKENS * (self.dim * self.bits() / 8 + 4 * self.groups())
    }

    /// Elements as they read back from a page.
    pub fn rounded(&self, x: &[f32]) -> Vec<f32> {
        match self.format {
            Format::Float(float) => x.iter().map(|x| float.rounded(*x)).collect(),
            Format::Mxfp4 => unreachable!("`new` refuses what pages do not hold"),
            Format::Affine(a) => (x.chunks(self.group().max(1)))
                .flat_map(|x| {
                    let group = Group::of(x, a.bits);
                    x.iter().map(move |x| group.decode(group.code(*x)))
                })
                .collect(),
        }
    }
}

/// Scale and bias of a group of a head, and what codes mean by them.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    scale: f16,
    bias: f16,
    levels: f32,
}

impl Group {
    /// The group of some numbers. The bias is rounded down and the scale up, so that the codes reach every number: what
    /// is read back is within half a step.
    pub fn of(x: &[f32], bits: u8) -> Self {
        let levels = ((1u32 << bits) - 1) as f32;
        let (mut low, mut high) = (LARGEST, -LARGEST);
        for x in x {
            low = if *x < low { *x } else { low };
            high = if *x > high { *x } else { high };
        }
        let (low, high) = (low.max(-LARGEST), high.min(LARGEST));
        let bias = f16::from_f32(low - low.abs() * RELATIVE - ABSOLUTE);
        let scale = (high - bias.to_f32()) / levels;
        Self { scale: f16::from_f32(scale + scale * RELATIVE + ABSOLUTE), bias, levels }
    }

    /// The word of a page that says so.
    pub fn word(&self) -> u32 {
        u32::from(self.scale.to_bits()) | u32::from(self.bias.to_bits()) << 16
    }

    /// The step from code to code.
    pub fn scale(&self) -> f32 {
        self.scale.to_f32()
    }

    /// The nearest code.
    pub fn code(&self, x: f32) -> u32 {
        let steps = (x - self.bias.to_f32()) / self.scale.to_f32();
        (steps + 0.5).clamp(0.0, self.levels) as u32
    }

    /// What a code means.
    pub fn decode(&self, code: u32) -> f32 {
        self.scale.to_f32() * code as f32 + self.bias.to_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_reach_every_number_of_a_group() {
        let mut seed = 7u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        for bits in [4, 8] {
            for (scale, offset) in [(1.0, 0.0), (30.0, 200.0), (1e-3, -5.0), (1e-6, 0.0), (0.0, 3.3), (9e4, 0.0)] {
                let x: Vec<f32> = (0..64).map(|_| random() * scale + offset).collect();
                let group = Group::of(&x, bits);
                for x in x {
                    let off = (group.decode(group.code(x)) - x).abs();
                    let bar = 0.5 * group.scale() + 1e-6 * x.abs();
                    assert!(off <= bar, "{bits} bits, {x}: off by {off}, half a step is {bar}");
                }
            }
        }
    }

    #[test]
    fn a_head_that_does_not_divide_is_one_group() {
        let format: Format = "affine8_g64_f16".parse().expect("a format");
        let of = |dim| HeadRow::new(format, dim).expect("a row");
        assert_eq!([of(64).groups(), of(128).groups(), of(16).groups(), of(96).groups()], [1, 2, 1, 1]);
        assert_eq!(of(128).page_bytes(), PAGE_TOKENS * (128 + 8));
        assert!(HeadRow::new(format, 6).is_err());
        assert!(HeadRow::new("affine6_g64_f16".parse().expect("a format"), 64).is_err());
    }
}
