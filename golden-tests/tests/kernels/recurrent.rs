//! Kernels of recurrent states: convolutions, the delta rule and state spaces over steps of several sequences, in one step or in many.

use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::quant::Format;
use swiftlm_ir::template::{Delta, Extra, ShortConv, Ssm, Template, View};

use crate::harness::{Random, Rows, Weight, bytes, dot, floats, run, sizes};

/// Units that a state has; two of them are used.
const UNITS: usize = 3;
/// The unit of each sequence.
const UNIT: [u32; 2] = [2, 0];

/// Tokens of two sequences: how many each step takes of either.
type Steps = Vec<(usize, usize)>;

/// The inputs that say whose tokens a step has: what lies behind is what another step left, but for segments.
fn segments(step: (usize, usize), before: (usize, usize), bound: usize) -> ([Vec<u8>; 2], StepSizes) {
    let (a, b) = (step.0 as u32, step.1 as u32);
    let mut runs = vec![];
    runs.extend((a > 0).then_some([0, a, before.0 as u32]));
    runs.extend((b > 0).then_some([a, a + b, before.1 as u32]));
    let mut words: Vec<u32> = runs.concat();
    words.resize(3 * bound, 0);
    let mut units = [vec![UNIT[0]; step.0], vec![UNIT[1]; step.1]].concat();
    units.resize(bound, u32::MAX);
    let sizes = StepSizes { segments: runs.len() as u32, ..sizes(step.0 + step.1, 1, 1) };
    ([bytes(&words), bytes(&units)], sizes)
}

/// A further input that is an argument, behind the state.
enum Extras<'a> {
    Column(&'a Weight),
    Element(&'a [Rows; 2]),
}

/// Runs a template over steps. `rows` are its activations by sequence and token, `fixed` the arguments behind them; gives
/// the results of each sequence and the state.
fn over_steps(
    template: &Template,
    rows: [&[Rows; 2]; 3],
    used: usize,
    fixed: &[Vec<u8>],
    (state, y): (usize, View),
    behind: &[Extras<'_>],
    steps: &Steps,
) -> ([Vec<f32>; 2], Vec<f32>) {
    let bound = steps.iter().map(|(a, b)| a + b).max().expect("there is a step");
    let width = y.stride - y.offset;
    let mut memory = vec![f32::NAN; UNITS * state];
    let (mut results, mut done) = ([vec![], vec![]], (0, 0));
    for step in steps {
        let part = |rows: &[Rows; 2]| {
            let stride = rows[0].view.stride;
            let of =
                |s: usize, from: usize, count: usize| rows[s].data[from * stride..(from + count) * stride].to_vec();
            let mut data = [of(0, done.0, step.0), of(1, done.1, step.1)].concat();
            data.resize(bound * stride, f32::NAN);
            data
        };
        let mut args: Vec<Vec<u8>> = rows[..used].iter().map(|rows| bytes(&part(rows))).collect();
        args.extend(fixed.iter().cloned());
        let (inputs, sizes) = segments(*step, done, bound);
        args.extend(inputs);
        args.push(bytes(&memory));
        args.extend(behind.iter().map(|extra| match extra {
            Extras::Column(weight) => weight.bytes.clone(),
            Extras::Element(rows) => bytes(&part(rows)),
        }));
        args.push(bytes(&vec![f32::NAN; bound * y.stride]));
        let after = run(template, bound, args, sizes);
        let n = after.len();
        memory = floats(&after[n - 2 - behind.len()]);
        let out = floats(&after[n - 1]);
        for t in 0..step.0 + step.1 {
            let row = &out[t * y.stride + y.offset..][..width];
            results[usize::from(t >= step.0)].extend_from_slice(row);
        }
        done = (done.0 + step.0, done.1 + step.1);
    }
    (results, memory)
}

fn close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*got) - want).abs() <= tolerance * (1.0 + want.abs()), "{what}, {i}: {got} and {want}");
    }
}

/// 9 and 6 tokens: all at once, one by one, and in pieces of which some have one sequence only.
fn ways() -> [Steps; 3] {
    [vec![(9, 6)], vec![(1, 1); 6].into_iter().chain(vec![(1, 0); 3]).collect(), vec![(2, 0), (4, 5), (3, 1)]]
}

fn rows_of(random: &mut Random, view: View) -> [Rows; 2] {
    [9, 6].map(|n| {
        let mut rows = Rows::random(random, view, n, view.stride - view.offset);
        rows.data.resize(n * view.stride, 0.0);
        rows
    })
}

#[test]
fn convolutions_look_back_across_steps() {
    let mut random = Random(51);
    for (channels, taps, format) in [(70, 4, Format::BF16), (5, 2, Format::F32), (128, 3, Format::F16)] {
        let weight = Weight::random(&mut random, format, channels, taps);
        let view = View { offset: 3, stride: channels + 3 };
        let x = rows_of(&mut random, view);
        // A bias, and another factor on some channels.
        let bias = Weight::random(&mut random, Format::F16, 1, channels);
        let part = Extra::Part { start: 1, len: 3, factor: -1.5 };
        let mut epilogue = Map::default();
        let [sum, added, factor] = [0, 1, 2].map(|input| epilogue.push(MapStep::Input(input)));
        let sum = epilogue.push(MapStep::Add(sum, added));
        let sum = epilogue.push(MapStep::Mul(sum, factor));
        epilogue.push(MapStep::Silu(sum));
        let (extras, y) = (vec![Extra::Column(Format::F16), part], View::dense(channels));
        let t = ShortConv { channels, taps, weight: format, epilogue, extras, x: view, y };
        let t = Template::ShortConv(t);
        let want: Vec<Vec<f64>> = (0..2)
            .map(|s| {
                let of = |p: usize, c: usize| {
                    let seen = (0..taps).filter(|j| p + 1 + j >= taps);
                    let sum: f64 = seen.map(|j| weight.at(c, j) * x[s].at(p + 1 + j - taps, c)).sum();
                    let sum = (sum + bias.at(0, c)) * if (1..4).contains(&c) { -1.5 } else { 1.0 };
                    sum / (1.0 + (-sum).exp())
                };
                (0..[9, 6][s]).flat_map(|p| (0..channels).map(move |c| (p, c))).map(|(p, c)| of(p, c)).collect()
            })
            .collect();
        let unit = (taps - 1) * channels;
        let mut first = None;
        for steps in ways() {
            let out = over_steps(
                &t,
                [&x, &x, &x],
                1,
                std::slice::from_ref(&weight.bytes),
                (unit, View::dense(channels)),
                &[Extras::Column(&bias)],
                &steps,
            );
            for s in 0..2 {
                close(&out.0[s], &want[s], 1e-5, "a convolution");
                let held = &out.1[UNIT[s] as usize * unit..][..unit];
                let last = |i: usize| x[s].at([9, 6][s] + 1 - taps + i / channels, i % channels);
                close(held, &(0..unit).map(last).collect::<Vec<_>>(), 0.0, "the last inputs");
            }
            assert!(out.1[unit..2 * unit].iter().all(|x| x.is_nan()), "a unit of nobody is left alone");
            // NaN is equal to nothing, so the bits are compared.
            let bits: Vec<u32> = out.0.iter().flatten().chain(&out.1).map(|x| x.to_bits()).collect();
            assert!(*first.get_or_insert(bits.clone()) == bits, "steps {steps:?} change bits");
        }
    }
}

/// A head's memory by the equation, with whole matrices: `S ← S (α (I − β k kᵀ)) + β v kᵀ`.
fn delta_by_matrices(t: &Delta, qkv: &Rows, alpha: &Rows, beta: &Rows, weights: &[Weight; 2], n: usize) -> Vec<f64> {
    let mut y = vec![0.0; n * t.heads * t.value];
    for h in 0..t.heads {
        let mut s = vec![vec![0.0f64; t.key]; t.value];
        for p in 0..n {
            let part = |view: View, head: usize, dim: usize| -> Vec<f64> {
                let at = view.offset - qkv.view.offset + head * dim;
                (0..dim).map(|i| qkv.at(p, at + i)).collect()
            };
            let normalised = |x: Vec<f64>| -> Vec<f64> {
                let Some(eps) = t.norm else { return x };
                let length = (dot(x.len(), |i| x[i], |i| x[i]) + eps).sqrt();
                x.iter().map(|x| x / length).collect()
            };
            let shared = h / (t.heads / t.key_heads);
            let (q, k) = (normalised(part(t.q, shared, t.key)), normalised(part(t.k, shared, t.key)));
            let v = part(t.v, h, t.value);
            let step = (alpha.at(p, h) + weights[1].at(0, h)).exp().ln_1p();
            let (a, b) = ((-weights[0].at(0, h).exp() * step).exp(), 1.0 / (1.0 + (-beta.at(p, h)).exp()));
            let old = s.clone();
            for (row, new) in s.iter_mut().enumerate() {
                for (j, new) in new.iter_mut().enumerate() {
                    let turned = |i: usize| a * (f64::from(u8::from(i == j)) - b * k[i] * k[j]);
                    *new = (0..t.key).map(|i| old[row][i] * turned(i)).sum::<f64>() + b * v[row] * k[j];
                }
                y[(p * t.heads + h) * t.value + row] = f64::from(t.scale) * dot(t.key, |i| new[i], |i| q[i]);
            }
        }
    }
    y
}

#[test]
fn the_delta_rule_is_its_equation_across_steps() {
    let mut random = Random(52);
    let norm = Some(1e-6);
    for (heads, key_heads, key, value, norm) in
        [(4, 2, 16, 16, norm), (2, 2, 8, 11, None), (3, 1, 12, 3, norm), (1, 1, 3, 8, norm)]
    {
        let (keys, values) = (key_heads * key, heads * value);
        let row = View { offset: 2, stride: 2 + 2 * keys + values };
        let at = |offset: usize| View { offset: row.offset + offset, ..row };
        let gates = View { offset: 1, stride: heads + 1 };
        let t = Delta {
            heads,
            key_heads,
            key,
            value,
            scale: 0.3,
            norm,
            decay: [Format::F32, Format::BF16],
            q: at(0),
            k: at(keys),
            v: at(2 * keys),
            alpha: gates,
            beta: gates,
            y: View::dense(values),
        };
        let (qkv, alpha, beta) = (rows_of(&mut random, row), rows_of(&mut random, gates), rows_of(&mut random, gates));
        let weights = t.decay.map(|format| Weight::random(&mut random, format, 1, heads));
        let fixed = weights.each_ref().map(|w| w.bytes.clone());
        let mut first = None;
        for steps in ways() {
            let template = Template::Delta(t.clone());
            let unit = values * key;
            let out = over_steps(&template, [&qkv, &alpha, &beta], 3, &fixed, (unit, View::dense(values)), &[], &steps);
            for (s, n) in [9, 6].into_iter().enumerate() {
                let want = delta_by_matrices(&t, &qkv[s], &alpha[s], &beta[s], &weights, n);
                close(&out.0[s], &want, 2e-6, "the delta rule");
                // The bar notices a factor that is off by a thousandth.
                let other = Delta { scale: 0.3003, ..t.clone() };
                let off = delta_by_matrices(&other, &qkv[s], &alpha[s], &beta[s], &weights, n);
                let apart = want.iter().zip(&off).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(apart > 1e-5, "another scale moves results by {apart:e} only");
            }
            let bits: Vec<u32> = out.0.iter().flatten().chain(&out.1).map(|x| x.to_bits()).collect();
            assert!(*first.get_or_insert(bits.clone()) == bits, "steps {steps:?} change bits");
        }
    }
}

/// What is left of each token, added up: `y[t] = Σ_s e^(−e^a Σ_(s<r≤t) Δ[r]) Δ[s] (B[s] · C[t]) x[s] + d x[t]`, times a gate.
fn space_by_sums(t: &Ssm, cbx: &Rows, dt: &Rows, gate: &Rows, weights: &[Weight; 3], n: usize) -> Vec<f64> {
    let [least, most] = t.bounds.map(f64::from);
    let step = |p: usize, h: usize| (dt.at(p, h) + weights[1].at(0, h)).exp().ln_1p().clamp(least, most);
    let at = |view: View, p: usize, i: usize| cbx.at(p, view.offset - cbx.view.offset + i);
    let mut y = vec![];
    for p in 0..n {
        for (h, row) in (0..t.heads).flat_map(|h| (0..t.value).map(move |row| (h, row))) {
            let shared = h / (t.heads / t.groups) * t.key;
            let kept = |s: usize| {
                let passed: f64 = (s + 1..=p).map(|r| step(r, h)).sum();
                (-weights[0].at(0, h).exp() * passed).exp() * step(s, h) * at(t.x, s, h * t.value + row)
            };
            let overlap = |s: usize| dot(t.key, |i| at(t.b, s, shared + i), |i| at(t.c, p, shared + i));
            let sum: f64 = (0..=p).map(|s| kept(s) * overlap(s)).sum();
            let through = weights[2].at(0, h) * at(t.x, p, h * t.value + row);
            y.push((sum + through) * gate.at(p, h * t.value + row));
        }
    }
    y
}

#[test]
fn a_state_space_is_a_sum_over_its_tokens_across_steps() {
    let mut random = Random(53);
    let free = [0.0, f32::MAX];
    for (heads, groups, key, value, bounds) in
        [(4, 2, 16, 16, free), (2, 2, 8, 11, [0.3, 1.1]), (3, 1, 12, 3, free), (1, 1, 3, 8, [0.5, f32::MAX])]
    {
        let (keys, values) = (groups * key, heads * value);
        let row = View { offset: 2, stride: 2 + 2 * keys + values };
        let at = |offset: usize| View { offset: row.offset + offset, ..row };
        let (steps_view, gates) = (View { offset: 1, stride: heads + 1 }, View { offset: 3, stride: values + 3 });
        let mut epilogue = Map::default();
        let [answer, gate] = [0, 1].map(|input| epilogue.push(MapStep::Input(input)));
        epilogue.push(MapStep::Mul(answer, gate));
        let t = Ssm {
            heads,
            groups,
            key,
            value,
            bounds,
            weights: [Format::F32, Format::BF16, Format::F16],
            epilogue,
            extras: vec![Extra::Element(gates)],
            c: at(0),
            b: at(keys),
            x: at(2 * keys),
            dt: steps_view,
            y: View::dense(values),
        };
        let [cbx, dt, gate] = [row, steps_view, gates].map(|view| rows_of(&mut random, view));
        let weights = t.weights.map(|format| Weight::random(&mut random, format, 1, heads));
        let fixed = weights.each_ref().map(|w| w.bytes.clone());
        let mut first = None;
        for steps in ways() {
            let (unit, y, behind) = (values * key, View::dense(values), [Extras::Element(&gate)]);
            let template = Template::Ssm(t.clone());
            let out = over_steps(&template, [&cbx, &dt, &dt], 2, &fixed, (unit, y), &behind, &steps);
            for (s, n) in [9, 6].into_iter().enumerate() {
                let want = space_by_sums(&t, &cbx[s], &dt[s], &gate[s], &weights, n);
                close(&out.0[s], &want, 3e-6, "a state space");
                // The bar notices other bounds of time steps.
                let other = Ssm { bounds: [0.0, 0.5], ..t.clone() };
                let off = space_by_sums(&other, &cbx[s], &dt[s], &gate[s], &weights, n);
                let apart = want.iter().zip(&off).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(apart > 1e-3, "other bounds move results by {apart:e} only");
            }
            let bits: Vec<u32> = out.0.iter().flatten().chain(&out.1).map(|x| x.to_bits()).collect();
            assert!(*first.get_or_insert(bits.clone()) == bits, "steps {steps:?} change bits");
        }
    }
}
