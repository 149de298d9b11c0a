//! Micro-kernels of `short_conv`, `delta` and `ssm` against recurrences in f64, in one step and in several.

mod common;

use common::{Random, Weight, bytes_of, bytes_of_ids, close, floats_of, launch_everywhere, sizes};
use proptest::prelude::*;
use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::quant::Format;
use swiftlm_ir::template::{Delta, Extra, ShortConv, Ssm, Template, View};

const UNITS: usize = 4;

/// A step of two sequences: tokens of the first, of the second, and of each before.
struct Step {
    counts: [usize; 2],
    before: [usize; 2],
    units: [u32; 2],
}

impl Step {
    fn tokens(&self) -> usize {
        self.counts[0] + self.counts[1]
    }

    fn inputs(&self) -> [Vec<u8>; 2] {
        let [a, b] = self.counts.map(|n| n as u32);
        let words = [0, a, self.before[0] as u32, a, a + b, self.before[1] as u32];
        let of = |s: usize| vec![self.units[s]; self.counts[s]];
        [bytes_of_ids(&words), bytes_of_ids(&[of(0), of(1)].concat())]
    }

    fn sizes(&self) -> StepSizes {
        StepSizes { segments: 2, ..sizes(self.tokens(), 1, 1) }
    }

    /// Sequence and position of a token.
    fn place(&self, t: usize) -> (usize, usize) {
        if t < self.counts[0] { (0, self.before[0] + t) } else { (1, self.before[1] + t - self.counts[0]) }
    }
}

/// Two units, and two steps of their sequences.
fn steps(random: &mut Random) -> [Step; 2] {
    let first = random.below(UNITS) as u32;
    let units = [first, (first + 1 + random.below(UNITS - 1) as u32) % UNITS as u32];
    let counts = [(); 2].map(|()| [1 + random.below(7), 1 + random.below(7)]);
    [Step { counts: counts[0], before: [0; 2], units }, Step { counts: counts[1], before: counts[0], units }]
}

/// The rows of both steps, one after another.
fn rows_of(all: &[Vec<f32>], stride: usize, step: &Step) -> Vec<u8> {
    let row = |t: usize| {
        let (s, p) = step.place(t);
        all[s][p * stride..(p + 1) * stride].to_vec()
    };
    bytes_of(&(0..step.tokens()).flat_map(row).collect::<Vec<f32>>())
}

fn random_rows(random: &mut Random, stride: usize) -> Vec<Vec<f32>> {
    (0..2).map(|_| random.floats(14 * stride)).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn short_conv_agrees(
        channels in 1usize..600, taps in 2usize..6, seed in any::<u64>(),
        format in proptest::sample::select(vec![Format::F32, Format::F16, Format::BF16]),
    ) {
        let random = &mut Random::new(seed);
        let weight = Weight::random(random, format, channels, taps);
        let view = View { offset: 2, stride: channels + 3 };
        // A factor on some channels, and a bias.
        let bias = Weight::random(random, Format::BF16, 1, channels);
        let (start, factor) = (random.below(channels), -0.75);
        let len = 1 + random.below(channels - start);
        let mut epilogue = Map::default();
        let [sum, of_part, added] = [0, 1, 2].map(|input| epilogue.push(MapStep::Input(input)));
        let sum = epilogue.push(MapStep::Mul(sum, of_part));
        let sum = epilogue.push(MapStep::Add(sum, added));
        epilogue.push(MapStep::Silu(sum));
        let extras = vec![Extra::Part { start, len, factor }, Extra::Column(Format::BF16)];
        let t = ShortConv { channels, taps, weight: format, epilogue, extras, x: view, y: View::dense(channels) };
        let template = Template::ShortConv(t);
        let x = random_rows(random, view.stride);
        // What a unit holds before its sequence begins must not matter.
        let mut states = vec![f32::NAN; UNITS * (taps - 1) * channels];
        for step in steps(random) {
            let [segments, units] = step.inputs();
            let args = vec![
                rows_of(&x, view.stride, &step), weight.bytes.clone(), segments, units, bytes_of(&states),
                bias.bytes.clone(), vec![0; 4 * step.tokens() * channels],
            ];
            launch_everywhere(&template, &args, step.sizes(), |isa, out| {
                states = floats_of(&out[4]);
                for (i, got) in floats_of(&out[6]).iter().enumerate() {
                    let ((s, p), c) = (step.place(i / channels), i % channels);
                    let terms = (0..taps).filter(|j| p + 1 + j >= taps).map(|j| {
                        let at = (p + 1 + j - taps) * view.stride + view.offset + c;
                        weight.row(c)[j] * f64::from(x[s][at])
                    });
                    let scaled = terms.sum::<f64>() * if (start..start + len).contains(&c) { factor.into() } else { 1.0 };
                    let expected = silu(scaled + bias.row(0)[c]);
                    close(*got, expected, 2e-6 * (1.0 + expected.abs()), &format!("{isa:?} {s} {p} {c}"));
                }
            });
        }
    }

    #[test]
    fn delta_agrees(
        key in 1usize..70, value in 1usize..20, shape in proptest::sample::select(vec![(1, 1), (4, 2), (3, 1), (2, 2)]),
        normalised in any::<bool>(), seed in any::<u64>(),
    ) {
        let random = &mut Random::new(seed);
        let (heads, key_heads) = shape;
        let (keys, values) = (key_heads * key, heads * value);
        let row = View { offset: 1, stride: 1 + 2 * keys + values };
        let at = |offset: usize| View { offset: row.offset + offset, ..row };
        let gates = View { offset: 0, stride: heads };
        let t = Delta {
            heads, key_heads, key, value,
            scale: 0.25,
            norm: normalised.then_some(1e-6),
            decay: [Format::BF16, Format::F32],
            q: at(0), k: at(keys), v: at(2 * keys), alpha: gates, beta: gates,
            y: View::dense(values),
        };
        let mut qkv = random_rows(random, row.stride);
        // A memory corrected by long keys would grow without bound.
        let shorter = if normalised { 1.0 } else { 1.0 / (key as f32).sqrt() };
        qkv.iter_mut().flatten().for_each(|x| *x *= shorter);
        let (alpha, beta) = (random_rows(random, heads), random_rows(random, heads));
        let weights = t.decay.map(|format| Weight::random(random, format, 1, heads));
        let mut states = vec![f32::NAN; UNITS * values * key];
        let mut memories = vec![vec![0.0f64; values * key]; 2];
        for step in steps(random) {
            let [segments, units] = step.inputs();
            let args = vec![
                rows_of(&qkv, row.stride, &step), rows_of(&alpha, heads, &step), rows_of(&beta, heads, &step),
                weights[0].bytes.clone(), weights[1].bytes.clone(), segments, units, bytes_of(&states),
                vec![0; 4 * step.tokens() * values],
            ];
            let mut expected = vec![0.0; step.tokens() * values];
            for token in 0..step.tokens() {
                let (s, p) = step.place(token);
                for h in 0..heads {
                    let part = |view: View, head: usize, dim: usize| -> Vec<f64> {
                        qkv[s][p * row.stride + view.offset + head * dim..][..dim].iter().map(|x| f64::from(*x)).collect()
                    };
                    let unit = |x: Vec<f64>| -> Vec<f64> {
                        let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                        if normalised { x.iter().map(|x| x / length).collect() } else { x }
                    };
                    let shared = h / (heads / key_heads);
                    let (q, k, v) = (unit(part(t.q, shared, key)), unit(part(t.k, shared, key)), part(t.v, h, value));
                    let gate = |of: &[Vec<f32>]| f64::from(of[s][p * heads + h]);
                    let time = (gate(&alpha) + weights[1].row(0)[h]).exp().ln_1p();
                    let (a, b) = ((-weights[0].row(0)[h].exp() * time).exp(), 1.0 / (1.0 + (-gate(&beta)).exp()));
                    for (j, v) in v.iter().enumerate() {
                        let memory = &mut memories[s][(h * value + j) * key..][..key];
                        let known: f64 = memory.iter().zip(&k).map(|(s, k)| a * s * k).sum();
                        memory.iter_mut().zip(&k).for_each(|(s, k)| *s = a * *s + b * (v - known) * k);
                        expected[(token * heads + h) * value + j] =
                            0.25 * memory.iter().zip(&q).map(|(s, q)| s * q).sum::<f64>();
                    }
                }
            }
            launch_everywhere(&Template::Delta(t.clone()), &args, step.sizes(), |isa, out| {
                states = floats_of(&out[7]);
                for (i, (got, expected)) in floats_of(&out[8]).iter().zip(&expected).enumerate() {
                    close(*got, *expected, 5e-6 * (1.0 + expected.abs()), &format!("{isa:?} {i}"));
                }
            });
        }
    }

    #[test]
    fn ssm_agrees(
        key in 1usize..70, value in 1usize..20, shape in proptest::sample::select(vec![(1, 1), (4, 2), (3, 1), (2, 2)]),
        bounds in proptest::sample::select(vec![[0.0, f32::MAX], [0.4, 0.9]]), seed in any::<u64>(),
    ) {
        let random = &mut Random::new(seed);
        let (heads, groups) = shape;
        let (keys, values) = (groups * key, heads * value);
        let row = View { offset: 1, stride: 1 + 2 * keys + values };
        let at = |offset: usize| View { offset: row.offset + offset, ..row };
        // The result is multiplied by a gate.
        let gates = View { offset: 2, stride: values + 2 };
        let mut epilogue = Map::default();
        let [answer, factor] = [0, 1].map(|input| epilogue.push(MapStep::Input(input)));
        epilogue.push(MapStep::Mul(answer, factor));
        let t = Ssm {
            heads, groups, key, value, bounds,
            weights: [Format::BF16, Format::F32, Format::F16],
            epilogue,
            extras: vec![Extra::Element(gates)],
            c: at(0), b: at(keys), x: at(2 * keys), dt: View::dense(heads),
            y: View::dense(values),
        };
        let (cbx, dt) = (random_rows(random, row.stride), random_rows(random, heads));
        let gate = random_rows(random, gates.stride);
        let weights = t.weights.map(|format| Weight::random(random, format, 1, heads));
        let mut states = vec![f32::NAN; UNITS * values * key];
        let mut memories = vec![vec![0.0f64; values * key]; 2];
        for step in steps(random) {
            let [segments, units] = step.inputs();
            let [a, b, d] = weights.each_ref().map(|w| w.bytes.clone());
            let args = vec![
                rows_of(&cbx, row.stride, &step), rows_of(&dt, heads, &step), a, b, d, segments, units,
                bytes_of(&states), rows_of(&gate, gates.stride, &step), vec![0; 4 * step.tokens() * values],
            ];
            let mut expected = vec![0.0; step.tokens() * values];
            for token in 0..step.tokens() {
                let (s, p) = step.place(token);
                for h in 0..heads {
                    let part = |view: View, head: usize, dim: usize| -> Vec<f64> {
                        cbx[s][p * row.stride + view.offset + head * dim..][..dim].iter().map(|x| f64::from(*x)).collect()
                    };
                    let shared = h / (heads / groups);
                    let (c, b, x) = (part(t.c, shared, key), part(t.b, shared, key), part(t.x, h, value));
                    let time = (f64::from(dt[s][p * heads + h]) + weights[1].row(0)[h]).exp().ln_1p();
                    let time = time.clamp(bounds[0].into(), bounds[1].into());
                    let decay = (-weights[0].row(0)[h].exp() * time).exp();
                    for (j, x) in x.iter().enumerate() {
                        let memory = &mut memories[s][(h * value + j) * key..][..key];
                        memory.iter_mut().zip(&b).for_each(|(s, b)| *s = decay * *s + time * x * b);
                        let answer = memory.iter().zip(&c).map(|(s, c)| s * c).sum::<f64>() + weights[2].row(0)[h] * x;
                        let open = gate[s][p * gates.stride + gates.offset + h * value + j];
                        expected[(token * heads + h) * value + j] = answer * f64::from(open);
                    }
                }
            }
            launch_everywhere(&Template::Ssm(t.clone()), &args, step.sizes(), |isa, out| {
                states = floats_of(&out[7]);
                for (i, (got, expected)) in floats_of(&out[9]).iter().zip(&expected).enumerate() {
                    close(*got, *expected, 5e-6 * (1.0 + expected.abs()), &format!("{isa:?} {i}"));
                }
            });
        }
    }
}

/// What points outside of its target is an error that names it, never an access.
#[test]
fn units_and_segments_out_of_range_are_found() {
    let (channels, taps) = (8, 3);
    let dense = View::dense(channels);
    let (epilogue, extras) = (Map::identity(), vec![]);
    let t = ShortConv { channels, taps, weight: Format::F32, epilogue, extras, x: dense, y: dense };
    let t = Template::ShortConv(t);
    let rows = || vec![0; 4 * 2 * channels];
    let args = |segment: [u32; 3], unit: u32| {
        let state = vec![0; 4 * UNITS * (taps - 1) * channels];
        vec![rows(), vec![0; 4 * taps * channels], bytes_of_ids(&segment), bytes_of_ids(&[unit; 2]), state, rows()]
    };
    let step = StepSizes { segments: 1, ..sizes(2, 1, 1) };
    let run = |segment, unit| common::launch(&t, &args(segment, unit), step, swiftlm_cpu::IsaKind::Portable, 1);
    assert!(run([0, 2, 0], 3).is_ok());
    for (segment, unit, what) in [([0, 3, 0], 0, "argument 2 holds 3"), ([0, 2, 0], 4, "argument 3 holds 4")] {
        let error = run(segment, unit).expect_err("the step names what is not there").to_string();
        assert!(error.contains(what), "{error}");
    }
}
