//! MLX affine quantisation: `x ≈ scale · code + bias` per group of a row.
//!
//! Codes of a row are one little-endian bit stream: code `i` occupies bits `i·bits .. (i+1)·bits`. For 2, 4 and 8 bits
//! this is a plain sequence of nibbles or bytes; for 3, 5 and 6 bits a code may straddle two 32-bit words.

use super::{Float, Layout};

/// Parameters of an affine format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Affine {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub bits: u8,
    /// Codes that share a scale: 32, 64 or 128.
    pub group: u16,
    /// How scales and biases are stored.
    pub scale: Float,
}

impl Affine {
    /// Checked constructor.
    ///
    /// # Errors
    /// A sentence naming what is not supported.
    pub fn new(bits: u8, group: u16, scale: Float) -> Result<Self, String> {
        if !matches!(bits, 2 | 3 | 4 | 5 | 6 | 8) {
            return Err(format!("affine quantisation of {bits} bits is not supported: expected 2, 3, 4, 5, 6 or 8"));
        }
        if !matches!(group, 32 | 64 | 128) {
            return Err(format!("affine quantisation in groups of {group} is not supported: expected 32, 64 or 128"));
        }
        Ok(Self { bits, group, scale })
    }

    /// Code `i` of a row's bit stream.
    pub fn code(&self, row: &[u8], i: usize) -> u32 {
        let bits = self.bits as usize;
        let (start, end) = (i * bits, (i + 1) * bits);
        let mut word = 0u32;
        for (n, byte) in row[start / 8..end.div_ceil(8)].iter().enumerate() {
            word |= u32::from(*byte) << (8 * n);
        }
        (word >> (start % 8)) & ((1 << bits) - 1)
    }

    pub(super) fn decode_host(&self, layout: &Layout, bytes: &[u8], cols: usize, row: usize, col: usize) -> f32 {
        let codes = &layout.components[0];
        let code = self.code(&bytes[codes.offset + row * codes.row_bytes..][..codes.row_bytes], col);
        let group = row * (cols / self.group as usize) + col / self.group as usize;
        let scale = self.scale.get(&bytes[layout.components[1].offset..], group);
        let bias = self.scale.get(&bytes[layout.components[2].offset..], group);
        scale * code as f32 + bias
    }
}
