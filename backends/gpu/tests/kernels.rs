//! Each construct of kernel IR on the device against plain arithmetic on the host.

mod common;

use common::{LANES, SIZES, device, elements, floats, lane_by_lane, noise, run, words, zeros};
use half::f16;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::kernel::{Access, Immediate, KType, Scalar};

#[test]
fn saxpy_adds_in_place() {
    let k = Kb::new("saxpy", 64, SIZES.words());
    let x = k.arg("x", Access::Read, KType::F32, elements(1000));
    let y = k.arg("y", Access::ReadWrite, KType::F32, elements(1000));
    let i = k.group(0).times(64) + k.lane();
    k.when(i.lt(k.u32(1000)), || y.store(i, k.f32(2.0) * x.load(i) + y.load(i)));
    let (x, y) = (noise(1000), noise(2000).split_off(1000));
    let got = run(&mut device(), &k.finish(), &[&words(&x), &words(&y)], 16);
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 2.0 * x + y).collect();
    // Multiples of 2^-15 below 4: exact whether or not the device fuses.
    assert_eq!(floats(&got), expected);
}

#[test]
fn shared_memory_transposes() {
    let k = Kb::new("transpose", LANES, SIZES.words());
    let x = k.arg("x", Access::Read, KType::F32, elements(4 * 256));
    let y = k.arg("y", Access::ReadWrite, KType::F32, elements(4 * 256));
    let tile = k.shared(KType::F32, 256);
    let at = k.group(0).times(256) + k.lane();
    tile.set(k.lane().modulo(16).times(16) + k.lane().over(16), x.load(at));
    k.barrier();
    y.store(at, tile.get(k.lane()));
    let x = noise(1024);
    let got = run(&mut device(), &k.finish(), &[&words(&x), &zeros(1024)], 4);
    let expected: Vec<f32> = (0..1024).map(|i| x[i / 256 * 256 + i % 16 * 16 + i / 16 % 16]).collect();
    assert_eq!(floats(&got), expected);
}

#[test]
fn barriers_make_written_arguments_visible() {
    let k = Kb::new("rotate", LANES, SIZES.words());
    let y = k.arg("y", Access::ReadWrite, KType::U32, elements(512));
    let lane = k.lane();
    y.store(lane, lane * lane);
    k.barrier();
    y.store(lane.plus(256), y.load((lane + k.u32(77)) & k.u32(255)));
    let got = run(&mut device(), &k.finish(), &[&zeros(512)], 1);
    let expected: Vec<u32> = (0..256).map(|lane| ((lane + 77) & 255) * ((lane + 77) & 255)).collect();
    assert_eq!(got[256..], expected);
}

#[test]
fn nested_loops_and_branches() {
    let k = Kb::new("collatz", LANES, SIZES.words());
    let y = k.arg("y", Access::ReadWrite, KType::U32, elements(256));
    let (value, steps) = (k.var(k.lane() + k.u32(1)), k.var(k.u32(0)));
    k.range(k.u32(0), k.u32(40), 3, |i| {
        k.range(i, i + k.u32(3), 1, |_| {
            let now = value.get();
            k.when(k.u32(1).lt(now), || {
                k.when_else(
                    (now & k.u32(1)).equals(k.u32(0)),
                    || value.set(now >> k.u32(1)),
                    || value.set(now * k.u32(3) + k.u32(1)),
                );
                steps.set(steps.get() + k.u32(1));
            });
        });
    });
    y.store(k.lane(), steps.get());
    let got = run(&mut device(), &k.finish(), &[&zeros(256)], 1);
    let next = |n: &u32| (*n > 1).then(|| if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 });
    let steps = |start: u32| std::iter::successors(Some(start), next).skip(1).take(42).count() as u32;
    let expected: Vec<u32> = (1..=256).map(steps).collect();
    assert_eq!(got, expected);
}

#[test]
fn loops_whose_range_is_empty_do_not_run() {
    let kernel = lane_by_lane(KType::U32, KType::U32, |k, lane, x| {
        let count = k.var(k.u32(0));
        k.range(lane, x, 5, |_| count.set(count.get() + k.u32(1)));
        count.get()
    });
    let x: Vec<u32> = (0..256).map(|i| i * 11 % 256).collect();
    let expected: Vec<u32> = x.iter().zip(0..).map(|(to, from)| (from..*to).step_by(5).count() as u32).collect();
    assert_eq!(run(&mut device(), &kernel, &[&x, &zeros(256)], 1), expected);
}

#[test]
fn immediates_and_select() {
    let kernel = lane_by_lane(KType::U32, KType::U32, |k, lane, x| {
        let sizes = [Immediate::Tokens, Immediate::Rows, Immediate::TableStride].map(|i| k.immediate(i));
        let value = sizes[0] + sizes[1] * k.u32(100) + sizes[2] * k.u32(10_000);
        let odd = (x & k.u32(1)).equals(k.u32(1));
        (odd & !lane.lt(k.u32(10)) | lane.equals(k.u32(0))).select(value, x)
    });
    let x: Vec<u32> = (0..256).collect();
    let value = SIZES.tokens + 100 * SIZES.rows + 10_000 * SIZES.table_stride;
    let expected: Vec<u32> = x.iter().map(|i| if i % 2 == 1 && *i >= 10 || *i == 0 { value } else { *i }).collect();
    assert_eq!(run(&mut device(), &kernel, &[&x, &zeros(256)], 1), expected);
}

#[test]
fn u32_arithmetic_wraps_and_shifts() {
    let x: Vec<u32> = (0..256_u32).map(|i| i.wrapping_mul(0x9e37_79b9) ^ i).collect();
    let kernel = lane_by_lane(KType::U32, KType::U32, |k, lane, x| {
        let by = lane & k.u32(31);
        let mixed = (x << by) ^ (x >> by) | (x * x) & (k.u32(5) - x);
        (mixed + x / (lane + k.u32(1))).min(x % (lane + k.u32(3)) + (mixed - k.u32(9))).max(by)
    });
    let reference = |(lane, x): (u32, &u32)| {
        let by = lane & 31;
        let mixed = (x << by) ^ (x >> by) | x.wrapping_mul(*x) & 5_u32.wrapping_sub(*x);
        let right = (x % (lane + 3)).wrapping_add(mixed.wrapping_sub(9));
        mixed.wrapping_add(x / (lane + 1)).min(right).max(by)
    };
    let expected: Vec<u32> = (0..).zip(&x).map(reference).collect();
    assert_eq!(run(&mut device(), &kernel, &[&x, &zeros(256)], 1), expected);
}

#[test]
fn vectors_of_four() {
    let k = Kb::new("vectors", 64, SIZES.words());
    let x = k.arg("x", Access::Read, KType::F32X4, elements(64));
    let w = k.arg("w", Access::Read, KType::U32X2, elements(64));
    let y = k.arg("y", Access::ReadWrite, KType::F32X4, elements(64));
    let (lane, loaded) = (k.lane(), x.load(k.lane()));
    let packed = w.load(lane);
    let parts = [packed.extract(0), packed.extract(1)].map(|word| [word.half_low(), word.half_high()]);
    let weights = E::compose4([parts[0][0], parts[0][1], parts[1][0], parts[1][1]]);
    let dot = loaded.dot(weights);
    let sum = loaded.fma(weights, dot.splat(4)) + packed.half_high().extract(1).splat(4);
    y.store(lane, lane.lt(k.u32(32)).select(sum, loaded.max(weights)));
    // Small multiples of 1/8 are exact in every format here.
    let x: Vec<f32> = (0..256).map(|i| (i * 5 % 31) as f32 / 8.0 - 2.0).collect();
    let w: Vec<f32> = (0..256).map(|i| (i * 3 % 17) as f32 / 4.0 - 2.0).collect();
    let halves: Vec<u16> = w.iter().map(|w| f16::from_f32(*w).to_bits()).collect();
    let packed: Vec<u32> = halves.chunks(2).map(|p| u32::from(p[0]) | u32::from(p[1]) << 16).collect();
    let got = floats(&run(&mut device(), &k.finish(), &[&words(&x), &packed, &zeros(256)], 1));
    for (lane, (x, w)) in x.chunks(4).zip(w.chunks(4)).enumerate() {
        let dot: f32 = x.iter().zip(w).map(|(x, w)| x * w).sum();
        let sum = |(x, y): (&f32, &f32)| x * y + dot + w[3];
        let pairs = x.iter().zip(w);
        let expected: Vec<f32> =
            if lane < 32 { pairs.map(sum).collect() } else { pairs.map(|(x, w)| x.max(*w)).collect() };
        assert_eq!(got[4 * lane..][..4], expected, "lane {lane}");
    }
}

#[test]
fn transcendental_functions_are_close() {
    let kernel = lane_by_lane(KType::F32, KType { scalar: Scalar::F32, width: 4 }, |_, _, x| {
        E::compose4([x.exp(), x.abs().rsqrt(), x.tanh(), x.gelu_tanh()])
    });
    let x: Vec<f32> = (0..256).map(|i| (i as f32 - 127.3) / 9.0).collect();
    let got = floats(&run(&mut device(), &kernel, &[&words(&x), &zeros(1024)], 1));
    for (x, got) in x.iter().zip(got.chunks(4)) {
        let x = f64::from(*x);
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
        let expected = [x.exp(), 1.0 / x.abs().sqrt(), x.tanh(), 0.5 * x * (1.0 + inner.tanh())];
        for (got, expected) in got.iter().zip(expected) {
            let error = (f64::from(*got) - expected).abs();
            assert!(error <= 4e-6 * expected.abs().max(1.0), "at {x}: {got}, not {expected}");
        }
    }
}

#[test]
fn f32_to_u32_and_back() {
    let kernel = lane_by_lane(KType::F32, KType::F32, |k, lane, x| x.to_u32().to_f32() + lane.to_f32() / k.f32(4.0));
    let x: Vec<f32> = (0..256).map(|i| i as f32 * 1.75).collect();
    let expected: Vec<f32> = x.iter().enumerate().map(|(i, x)| x.trunc() + i as f32 / 4.0).collect();
    assert_eq!(floats(&run(&mut device(), &kernel, &[&words(&x), &zeros(256)], 1)), expected);
}
