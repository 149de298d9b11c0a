//! Conversions to and from binary16 on the device against the `half` crate's.

mod common;

use common::{LANES, SIZES, elements, every_device, run, zeros};
use half::f16;
use swiftlm_ir::kernel::builder::Kb;
use swiftlm_ir::kernel::{Access, KType};

#[test]
fn every_binary16_is_widened() {
    let k = Kb::new("widen", LANES, SIZES.words());
    let x = k.arg("x", Access::Read, KType::U32, elements(1 << 15));
    let y = k.arg("y", Access::ReadWrite, KType::U32, elements(1 << 16));
    let i = k.group(0).times(256) + k.lane();
    let packed = x.load(i);
    y.store(i.times(2), packed.half_low().bitcast());
    y.store(i.times(2).plus(1), packed.half_high().bitcast());
    let packed: Vec<u32> = (0..1 << 15).map(|i: u32| (2 * i) | ((2 * i + 1) << 16)).collect();
    let kernel = k.finish();
    let got: Vec<_> = every_device().iter_mut().map(|d| run(d, &kernel, &[&packed, &zeros(1 << 16)], 128)).collect();
    for (bits, got) in got.into_iter().flat_map(|got| (0..=u16::MAX).zip(got)) {
        let expected = f16::from_bits(bits).to_f32();
        let same = got == expected.to_bits() || expected.is_nan() && f32::from_bits(got).is_nan();
        assert!(same, "{bits:#06x} gives {got:#010x}, not {:#010x}", expected.to_bits());
    }
}

#[test]
fn rounding_to_binary16_is_to_nearest_even() {
    // Each binary16 of either sign, the halfway point above it, and the f32 next to that on both sides.
    let halfway = |bits: u16| {
        let (low, high) = (f16::from_bits(bits).to_f64(), f16::from_bits(bits + 1).to_f64());
        let high = if high.is_infinite() { 65536.0 } else { high };
        ((low + high) / 2.0) as f32
    };
    let mut x: Vec<u32> = vec![];
    for bits in (0..0x7c00_u16).step_by(3).chain(0x7bf8..0x7c00).chain(0..64) {
        let tie = halfway(bits).to_bits();
        let exact = f16::from_bits(bits).to_f32().to_bits();
        x.extend([tie - 1, tie, tie + 1, exact].iter().flat_map(|b| [*b, *b | 1 << 31]));
    }
    x.extend([f32::MAX, f32::MIN, f32::MIN_POSITIVE, 65519.996, 65520.0].map(f32::to_bits));
    x.resize(x.len().next_multiple_of(256), 0);
    let k = Kb::new("round", LANES, SIZES.words());
    let input = k.arg("x", Access::Read, KType::U32, elements(x.len()));
    let output = k.arg("y", Access::ReadWrite, KType::U32, elements(x.len()));
    let i = k.group(0).times(256) + k.lane();
    let value = input.load(i).bitcast();
    output.store(i, value.pack_half(-value));
    let kernel = k.finish();
    let got =
        every_device().iter_mut().map(|d| run(d, &kernel, &[&x, &zeros(x.len())], x.len() / 256)).collect::<Vec<_>>();
    for (x, got) in got.into_iter().flat_map(|got| x.iter().zip(got)) {
        let value = f32::from_bits(*x);
        let expected = u32::from(f16::from_f32(value).to_bits()) | u32::from(f16::from_f32(-value).to_bits()) << 16;
        assert_eq!(got, expected, "{value:e} gives {got:#010x}, not {expected:#010x}");
    }
}
