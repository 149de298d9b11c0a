//! The order of blocks as bytes, for whoever writes or reads weights in it without a device: a lossless permutation of
//! every component in its place, the same on every machine.

use swiftlm_device::Order;
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::template::Template;

use crate::simd::{self, suits, turn};

/// The order that a device of this crate keeps a weight of type `ty` in whose readers are these templates.
pub fn order_of(ty: &WeightType, readers: &[&Template]) -> Order {
    if suits(ty, readers) { Order::Blocks } else { Order::Rows }
}

/// Whether weights of a type have an order of blocks at all.
pub fn has_blocks(ty: &WeightType) -> bool {
    simd::has_blocks(ty)
}

/// Brings one component of a matrix, as [`Format::layout`] counts them, from the order of rows into that of blocks.
///
/// [`Format::layout`]: swiftlm_ir::quant::Format::layout
///
/// # Errors
/// A sentence: `bytes` is not the component, or its format or rows have no blocks.
pub fn arrange(ty: WeightType, component: usize, bytes: &mut [u8]) -> Result<(), String> {
    turn(ty, component, bytes, false)
}

/// Undoes [`arrange`].
///
/// # Errors
/// As [`arrange`].
pub fn restore(ty: WeightType, component: usize, bytes: &mut [u8]) -> Result<(), String> {
    turn(ty, component, bytes, true)
}

#[cfg(test)]
mod tests {
    use swiftlm_ir::quant::{Affine, Float, Format};

    use super::*;

    #[test]
    fn every_width_comes_back_and_none_stays() {
        let codes = |bits| Format::Affine(Affine::new(bits, 32, Float::Bf16).expect("a width of codes"));
        for bits in [2, 3, 4, 5, 6, 8, 16] {
            let format = if bits == 16 { Format::BF16 } else { codes(bits) };
            let ty = WeightType { format, rows: 48, cols: 96 };
            for (i, component) in format.layout(ty.rows, ty.cols).components.iter().enumerate() {
                let bytes: Vec<u8> = (0..component.bytes).map(|at| (at * 73 + 41 + at / 256) as u8).collect();
                let mut turned = bytes.clone();
                arrange(ty, i, &mut turned).expect("it has blocks");
                assert_ne!(turned, bytes, "{bits} bits, component {i}");
                let (mut a, mut b) = (turned.clone(), bytes.clone());
                restore(ty, i, &mut turned).expect("it has blocks");
                assert_eq!(turned, bytes, "{bits} bits, component {i}");
                if i > 0 || bits >= 8 {
                    a.sort_unstable();
                    b.sort_unstable();
                    assert_eq!(a, b, "whole bytes only change places");
                }
            }
        }
        let ty = WeightType { format: Format::Float(Float::F32), rows: 16, cols: 32 };
        assert!(arrange(ty, 0, &mut [0; 2048]).is_err(), "floats of 32 bits have no blocks");
        let format = Format::Affine(Affine::new(4, 32, Float::F16).expect("a width of codes"));
        for (rows, bytes) in [(24, 24 * 16), (16, 100)] {
            let ty = WeightType { format, rows, cols: 32 };
            assert!(arrange(ty, 0, &mut vec![0; bytes]).is_err(), "{rows} rows in {bytes} bytes");
        }
    }
}
