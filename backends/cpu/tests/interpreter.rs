//! The interpreter against plain Rust: masks, loops, reductions, shared memory, halves, and every kind of refusal.

use swiftlm_cpu::interp;
use swiftlm_device::DeviceError;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::kernel::{Access, DataBound, Immediate, KType, Kernel, Length, ReduceOp};
use swiftlm_ir::plan::StepSizes;

const LANES: u32 = 16;

fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn floats(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + 11) % 97) as f32 / 7.0 - 6.5).collect()
}

fn sizes() -> StepSizes {
    StepSizes { tokens: 5, rows: 3, table_stride: 7, last_position: 100, segments: 0 }
}

/// `y[i] = f(x[i])` for `n` elements over as many workgroups as it takes, lanes beyond the end masked off.
fn elementwise(n: usize, x: &[u32], f: impl for<'k> Fn(&'k Kb, E<'k>) -> E<'k>) -> Vec<u32> {
    let k = Kb::new("elementwise", LANES, [8, 8, 8]);
    let (input, y) = (
        k.arg("x", Access::Read, KType::U32, Length::Elements(n as u64)),
        k.arg("y", Access::ReadWrite, KType::U32, Length::Elements(n as u64)),
    );
    let i = k.group(0).times(LANES as usize) + k.lane();
    k.when(i.lt(k.dim(n)), || y.store(i, f(&k, input.load(i))));
    let mut out = vec![0; 4 * n];
    let groups = n.div_ceil(LANES as usize) as u32;
    interp::run(&k.finish(), &mut [&mut bytes(x.iter().copied()), &mut out], [groups, 1, 1], sizes()).unwrap();
    words(&out)
}

#[test]
fn arithmetic_is_ieee_and_wraps() {
    let x = floats(37);
    let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
    let float = |f: for<'k> fn(&'k Kb, E<'k>) -> E<'k>, g: fn(f32) -> f32| {
        let got = elementwise(37, &bits, |k, e| f(k, e.bitcast()).bitcast());
        assert_eq!(got, x.iter().map(|x| g(*x).to_bits()).collect::<Vec<_>>());
    };
    float(|k, e| e.fma(e, k.f32(0.1)), |x| x.mul_add(x, 0.1));
    float(|k, e| (e * k.f32(3.0) - e) / k.f32(0.7), |x| (x * 3.0 - x) / 0.7);
    float(|_, e| e.exp(), f32::exp);
    float(|_, e| -e.abs().tanh(), |x| -x.abs().tanh());
    float(|_, e| e.square().rsqrt(), |x| 1.0 / (x * x).sqrt());
    float(
        |k, e| e.lt(k.f32(0.0)).select(e.min(k.f32(-1.0)), e.max(k.f32(1.0))),
        |x| {
            if x < 0.0 { x.min(-1.0) } else { x.max(1.0) }
        },
    );
    float(|_, e| e.pack_half(-e).half_high(), |x| half::f16::from_f32(-x).to_f32());
    let got = elementwise(37, &bits, |k, e| ((e * k.u32(0x9e37_79b9) + e) >> k.u32(3)) ^ (e % k.u32(1000)));
    let expected = bits.iter().map(|b| (b.wrapping_mul(0x9e37_79b9).wrapping_add(*b) >> 3) ^ (b % 1000));
    assert_eq!(got, expected.collect::<Vec<_>>());
}

#[test]
fn every_half_widens_exactly() {
    let all: Vec<u32> = (0..=u32::from(u16::MAX)).collect();
    let got = elementwise(all.len(), &all, |_, e| e.half_low().bitcast());
    for (half, got) in (0..=u16::MAX).zip(got) {
        let (expected, got) = (half::f16::from_bits(half).to_f32(), f32::from_bits(got));
        assert!(expected.to_bits() == got.to_bits() || expected.is_nan() && got.is_nan(), "{half:#06x}: {got}");
    }
}

#[test]
fn divergent_loops_run_each_lane_its_own_count() {
    // y[l] = Σ_{i = l, l+3, … < 2·x[l]} i, with a branch inside.
    let k = Kb::new("loops", LANES, [8, 8, 8]);
    let x = k.arg("x", Access::Read, KType::U32, Length::Elements(16));
    let y = k.arg("y", Access::ReadWrite, KType::U32, Length::Elements(16));
    let sum = k.var(k.u32(0));
    k.range(k.lane(), x.load(k.lane()).times(2), 3, |i| {
        k.when_else(i.modulo(2).equals(k.u32(0)), || sum.set(sum.get() + i), || sum.set(sum.get() + i.times(100)));
    });
    y.store(k.lane(), sum.get());
    let counts: Vec<u32> = (0..16).map(|i| (i * 7) % 11).collect();
    let mut out = vec![0; 64];
    interp::run(&k.finish(), &mut [&mut bytes(counts.clone()), &mut out], [1; 3], sizes()).unwrap();
    let expected: Vec<u32> = (0..16u32)
        .map(|l| (l..2 * counts[l as usize]).step_by(3).map(|i| if i % 2 == 0 { i } else { 100 * i }).sum())
        .collect();
    assert_eq!(words(&out), expected);
}

#[test]
fn reductions_halve_in_the_declared_order() {
    for run in [2u32, 4, 16] {
        let k = Kb::new("reduce", LANES, [8, 8, 8]);
        let x = k.arg("x", Access::Read, KType::F32, Length::Elements(16));
        let y = k.arg("y", Access::ReadWrite, KType::F32X4, Length::Elements(16));
        let value = x.load(k.lane());
        let (sum, max) = (k.reduce(ReduceOp::Sum, value, run), k.reduce(ReduceOp::Max, value, run));
        y.store(k.lane(), E::compose4([sum, max, value, value.splat(4).dot(value.splat(4))]));
        // Magnitudes far apart: another order rounds differently.
        let values: Vec<f32> = floats(16).iter().zip(0..).map(|(x, i)| x * 10f32.powi(i % 9 - 4)).collect();
        let mut out = vec![0; 256];
        let mut input = bytes(values.iter().map(|x| x.to_bits()));
        interp::run(&k.finish(), &mut [&mut input, &mut out], [1; 3], sizes()).unwrap();
        let mut lanes = values.clone();
        let mut distance = run as usize / 2;
        while distance > 0 {
            lanes = (0..16).map(|i| lanes[i] + lanes[i ^ distance]).collect();
            distance /= 2;
        }
        for (i, got) in words(&out).chunks_exact(4).enumerate() {
            let start = i - i % run as usize;
            let max = values[start..start + run as usize].iter().copied().fold(f32::MIN, f32::max);
            let square = values[i] * values[i];
            let dot = square + square + square + square;
            assert_eq!(got, [lanes[i], max, values[i], dot].map(f32::to_bits), "run {run}, lane {i}");
        }
    }
}

#[test]
fn shared_memory_carries_values_between_lanes() {
    let k = Kb::new("reverse", LANES, [8, 8, 8]);
    let y = k.arg("y", Access::ReadWrite, KType::U32, Length::Elements(96));
    let shared = k.shared(KType::U32X2, LANES);
    let pair = (k.lane() + k.immediate(Immediate::Tokens)).splat(2);
    shared.set(k.lane(), pair);
    k.barrier();
    let other = shared.get(k.u32(LANES - 1) - k.lane()).extract(1);
    let at = (k.group(2) + k.group(1).times(2)).times(LANES as usize) + k.lane();
    y.store(at, other + k.group(1).times(1000) + k.immediate(Immediate::TableStride).times(10_000));
    let mut out = vec![0; 4 * 96];
    interp::run(&k.finish(), &mut [&mut out], [1, 3, 2], sizes()).unwrap();
    let expected: Vec<u32> = (0..96).map(|i| 15 - i % 16 + 5 + 1000 * (i / 32) + 70_000).collect();
    assert_eq!(words(&out), expected);
}

fn reason(kernel: Kernel, mut args: Vec<Vec<u8>>) -> String {
    let mut views: Vec<&mut [u8]> = args.iter_mut().map(Vec::as_mut_slice).collect();
    match interp::run(&kernel, &mut views, [1; 3], sizes()) {
        Err(DeviceError::Kernel { kernel, reason }) => format!("{kernel}: {reason}"),
        other => panic!("expected a kernel error, got {other:?}"),
    }
}

#[test]
fn mistakes_are_named() {
    let build = |f: &dyn Fn(&Kb)| {
        let k = Kb::new("wrong", LANES, [8, 8, 8]);
        f(&k);
        k.finish()
    };
    let arg = |k: &Kb| k.arg("victim", Access::ReadWrite, KType::U32, Length::Units(4)).index;
    let past = build(&|k| {
        let a = k.arg("victim", Access::ReadWrite, KType::U32, Length::Elements(8));
        a.store(k.lane(), k.lane());
    });
    let text = reason(past, vec![vec![0; 32]]);
    assert!(text.contains("wrong (") && text.contains("`victim`") && text.contains("index 8"), "{text}");
    let shared = build(&|k| {
        let s = k.shared(KType::U32, 4);
        s.get(k.lane());
    });
    assert!(reason(shared, vec![]).contains("shared array 0: index 4"));
    let parted = build(&|k| k.when(k.lane().lt(k.u32(3)), || k.barrier()));
    assert!(reason(parted, vec![]).contains("not all lanes reach a barrier"));
    let broken = build(&|k| {
        let index = arg(k);
        k.lane().trust(DataBound::BelowUnits(index));
    });
    assert!(reason(broken, vec![vec![0; 32]]).contains("trusted value 2 is not below 2"));
    let readonly = build(&|k| {
        let a = k.arg("constant", Access::Read, KType::U32, Length::Elements(8));
        a.store(k.u32(0), k.lane());
    });
    assert!(reason(readonly, vec![vec![0; 32]]).contains("`constant`, which it declares as read only"));
}
