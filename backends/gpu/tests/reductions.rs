//! Reductions on the device against halving one by one on the host, bit for bit.

mod common;

use common::{LANES, SIZES, device, elements, every_device, floats, lane_by_lane, noise, run, words, zeros};
use swiftlm_ir::kernel::builder::Kb;
use swiftlm_ir::kernel::{Access, Immediate, KType, ReduceOp};

/// The declared order: every lane's value after halving over its run.
fn halve(mut values: Vec<f32>, width: usize, combine: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let mut distance = width / 2;
    while distance > 0 {
        values = (0..values.len()).map(|lane| combine(values[lane], values[lane ^ distance])).collect();
        distance /= 2;
    }
    values
}

#[test]
fn reductions_have_the_declared_order_at_every_width() {
    // Of very different sizes, so that another order gives other bits.
    let x: Vec<f32> = noise(256).iter().enumerate().map(|(i, x)| x * 3.0_f32.powi(i as i32 % 17) + 1e-3).collect();
    for mut device in every_device() {
        for width in (0..=8).map(|bit| 1_u32 << bit) {
            let sum = lane_by_lane(KType::F32, KType::F32, |k, _, x| k.reduce(ReduceOp::Sum, x, width));
            let expected = halve(x.clone(), width as usize, |a, b| a + b);
            let got = run(&mut device, &sum, &[&words(&x), &zeros(256)], 1);
            assert_eq!(got, words(&expected), "sums over {width}");
            let max = lane_by_lane(KType::F32, KType::F32, |k, _, x| k.reduce(ReduceOp::Max, x, width));
            let expected = halve(x.clone(), width as usize, f32::max);
            let got = run(&mut device, &max, &[&words(&x), &zeros(256)], 1);
            assert_eq!(got, words(&expected), "maxima over {width}");
        }
    }
    let backwards: f32 = x.iter().rev().sum();
    let forwards = halve(x, 256, |a, b| a + b)[0];
    assert_ne!(backwards.to_bits(), forwards.to_bits(), "the values do not tell orders apart");
}

#[test]
fn reductions_follow_one_another_in_loops() {
    let kernel = |width: u32| {
        let k = Kb::new("repeated", LANES, SIZES.words());
        let x = k.arg("x", Access::Read, KType::F32, elements(LANES as usize));
        let y = k.arg("y", Access::ReadWrite, KType::F32, elements(LANES as usize));
        let value = k.var(x.load(k.lane()));
        k.range(k.u32(0), k.immediate(Immediate::Tokens), 1, |i| {
            let max = k.reduce(ReduceOp::Max, value.get(), width);
            let sum = k.reduce(ReduceOp::Sum, max + k.lane().to_f32(), width) * k.f32(1.0 / 256.0);
            value.set(sum - k.lane().to_f32() * (i + k.u32(1)).to_f32());
        });
        y.store(k.lane(), value.get());
        k.finish()
    };
    for mut device in every_device() {
        for width in [4_u32, 32, 64, 256] {
            // Every product is exact, so fusing it into a sum changes nothing.
            let start: Vec<f32> = (0..256).map(|lane| (lane * 7 % 64) as f32 * 256.0).collect();
            let mut expected = start.clone();
            for i in 0..SIZES.tokens {
                let max = halve(expected, width as usize, f32::max);
                let shifted = max.iter().enumerate().map(|(lane, m)| m + lane as f32).collect();
                let sums = halve(shifted, width as usize, |a, b| a + b);
                expected = sums.iter().enumerate().map(|(lane, s)| s / 256.0 - lane as f32 * (i + 1) as f32).collect();
            }
            let got = run(&mut device, &kernel(width), &[&words(&start), &zeros(256)], 1);
            assert_eq!(floats(&got), expected, "width {width}");
        }
    }
}

#[test]
fn row_sums_of_many_groups() {
    for width in [1, 8, 64, 256] {
        let k = Kb::new("row_sum", 256, SIZES.words());
        let x = k.arg("x", Access::Read, KType::F32, elements(32 * 512));
        let y = k.arg("y", Access::ReadWrite, KType::F32, elements(32 * 256));
        let sum = k.fold_sum(k.lane().modulo(width), width as u32, 512, |i| x.load(k.group(0).times(512) + i));
        y.store(k.group(0).times(256) + k.lane(), sum);
        let x: Vec<f32> = (0..32 * 512).map(|i| (i % 97) as f32).collect();
        let got = floats(&run(&mut device(), &k.finish(), &[&words(&x), &zeros(32 * 256)], 32));
        for (row, values) in x.chunks(512).enumerate() {
            let expected: f32 = values.iter().sum();
            assert!(got[row * 256..][..256].iter().all(|sum| *sum == expected), "row {row}, width {width}");
        }
    }
}
