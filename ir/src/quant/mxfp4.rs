//! MXFP4 of the OCP Microscaling Formats specification 1.0 (Open Compute Project 2023, §5.3.3 and §6.3): numbers of 4 bits
//! (E2M1), 32 of which share a power of two of 8 bits (E8M0).
//!
//! A row's codes are nibbles, the low one of a byte first; a code is a sign above two bits of exponent and one of mantissa.

use super::Layout;

/// Numbers that share a scale.
pub const BLOCK: usize = 32;

/// Twice the number that each code stands for: a whole number.
pub const TWICE: [f32; 16] = [0., 1., 2., 3., 4., 6., 8., 12., -0., -1., -2., -3., -4., -6., -8., -12.];

/// What a unit of [`TWICE`] counts for in a block of this scale: `2^(scale − 127) / 2`. The scale 255 is no number.
pub fn unit(scale: u8) -> f32 {
    match u32::from(scale) {
        255 => f32::NAN,
        // Below the normal numbers.
        n @ 0..=1 => f32::from_bits(1 << (21 + n)),
        n => f32::from_bits((n - 1) << 23),
    }
}

/// Code `i` of a row.
pub fn code(row: &[u8], i: usize) -> usize {
    usize::from(row[i / 2] >> (4 * (i % 2)) & 15)
}

pub(super) fn decode_host(layout: &Layout, bytes: &[u8], cols: usize, row: usize, col: usize) -> f32 {
    let [codes, scales] = [0, 1].map(|i| &layout.components[i]);
    let code = code(&bytes[codes.offset + row * codes.row_bytes..][..codes.row_bytes], col);
    let scale = bytes[scales.offset + row * (cols / BLOCK) + col / BLOCK];
    TWICE[code] * unit(scale)
}
