//! A row's result is the same, bit for bit, in every class and whatever rows are around it.

use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::{Attend, Extra, Linear, Norm, RmsNorm, Template, View};
use swiftlm_ir::ty::PAGE_TOKENS;

use crate::harness::{Random, Rows, Weight, bytes, dot, floats, run, sizes, to_pages};

const CHUNK: usize = 70;

fn gated() -> Map {
    let mut map = Map::default();
    let (a, b, c) = (map.push(MapStep::Input(0)), map.push(MapStep::Input(1)), map.push(MapStep::Input(2)));
    let gate = map.push(MapStep::Silu(a));
    let product = map.push(MapStep::Mul(gate, b));
    map.push(MapStep::Add(product, c));
    map
}

/// Rows `first .. first + count` of a linear layer with everything on but the norm, which is as asked, in the class that
/// holds them.
fn linear(
    weight: &Weight,
    gain: Option<&Weight>,
    x: &Rows,
    round: Option<Rounding>,
    first: usize,
    count: usize,
) -> Vec<f32> {
    let class = ShapeClass::of(count);
    let (bound, cols, outputs) = (class.max_rows(CHUNK).min(CHUNK), weight.ty.cols, weight.ty.rows / 2);
    let t = Linear {
        rows: Sym::Tokens,
        class,
        weight: weight.ty,
        norm: gain.map(|gain| Norm { eps: 1e-5, offset: 0.0, weight: gain.ty.format }),
        round,
        pair: true,
        epilogue: gated(),
        extras: vec![Extra::Element(View::dense(outputs))],
        x: View::dense(cols),
        y: View::dense(outputs),
    };
    let rows = |from: &Rows| {
        let mut part = from.data[first * from.width..(first + count) * from.width].to_vec();
        // Behind the step's rows is what other steps left.
        part.resize(bound * from.width, f32::NAN);
        bytes(&part)
    };
    let residual = Rows { view: View::dense(outputs), width: outputs, data: x.data[..CHUNK * outputs].to_vec() };
    let mut args = vec![rows(x)];
    args.extend(gain.map(|gain| gain.bytes.clone()));
    args.extend([weight.bytes.clone(), rows(&residual), bytes(&vec![0f32; bound * outputs])]);
    let y = floats(run(&Template::Linear(t), CHUNK, args, sizes(count, 1, 1)).last().expect("there is an output"));
    y[..count * outputs].to_vec()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn linear_rows_do_not_depend_on_the_class() {
    let mut random = Random(31);
    let formats = [
        "f32",
        "f16",
        "bf16",
        "affine2_g128_f16",
        "affine3_g32_f32",
        "affine4_g64_bf16",
        "affine5_g32_f16",
        "affine6_g64_f32",
        "affine8_g32_f16",
        "mxfp4",
    ];
    for (i, name) in formats.into_iter().enumerate() {
        let format: Format = name.parse().expect("a format");
        let cols = if i < 3 { [100, 42, 27][i] } else { 384 - 128 * (i % 3) };
        let weight = Weight::random(&mut random, format, 2 * 11, cols);
        let gain = Weight::random(&mut random, Format::F16, 1, cols);
        let x = Rows::random(&mut random, View::dense(cols), CHUNK, cols);
        let roundings = [None, Some(Rounding::F16), Rounding::of_weight(format, 8), Rounding::of_weight(format, 16)];
        for (round, gain) in roundings.into_iter().flat_map(|round| [(round, None), (round, Some(&gain))]) {
            let all = linear(&weight, gain, &x, round, 0, CHUNK);
            assert!(all.iter().all(|y| y.is_finite()), "rows behind the last one leak into results");
            for (first, count) in [(0, 1), (69, 1), (3, 2), (10, 5), (61, 8), (0, 9), (5, 64), (4, 65)] {
                let part = linear(&weight, gain, &x, round, first, count);
                assert_eq!(
                    bits(&part),
                    bits(&all[first * 11..(first + count) * 11]),
                    "{name}: {count} rows from {first}"
                );
            }
        }
    }
}

#[test]
fn a_fused_norm_is_the_norm_and_then_the_product() {
    let mut random = Random(32);
    for cols in [64, 100, 27] {
        let weight = Weight::random(&mut random, Format::F32, 9, cols);
        let gain = Weight::random(&mut random, Format::F16, 1, cols);
        let x = Rows::random(&mut random, View::dense(cols), 1, cols);
        let norm = Norm { eps: 1e-5, offset: 1.0, weight: Format::F16 };
        let linear = |norm: Option<Norm>, x: &[u8]| {
            let t = Linear {
                rows: Sym::Tokens,
                class: ShapeClass::One,
                weight: weight.ty,
                norm,
                round: None,
                pair: false,
                epilogue: Map::identity(),
                extras: vec![],
                x: View::dense(cols),
                y: View::dense(9),
            };
            let gain = norm.map(|_| gain.bytes.clone());
            let args = [x.to_vec()].into_iter().chain(gain).chain([weight.bytes.clone(), vec![0; 36]]);
            run(&Template::Linear(t), 1, args.collect(), sizes(1, 1, 1)).pop()
        };
        let (epilogue, extras, dense) = (Map::identity(), vec![], View::dense(cols));
        let (rows, grouped) = (Sym::Tokens, false);
        let t = RmsNorm { rows, heads: 1, dim: cols, norm, grouped, epilogue, extras, x: dense, y: dense };
        let args = vec![x.bytes(), gain.bytes.clone(), vec![0; 4 * cols]];
        let normed = run(&Template::RmsNorm(t), 1, args, sizes(1, 1, 1)).pop().expect("y is the last argument");
        assert_eq!(linear(Some(norm), &x.bytes()), linear(None, &normed), "{cols} columns");
    }
}

/// Heads, pages of a sequence, and positions that a query sees.
struct Shape {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    stride: usize,
    window: usize,
}

#[test]
fn attention_of_a_token_does_not_depend_on_the_step() {
    attention(&Shape { heads: 4, kv_heads: 2, dim: 16, stride: 4, window: 50 });
}

/// Histories of more spans than there are chains, and windows of several.
#[test]
fn long_histories_do_not_depend_on_the_step() {
    attention(&Shape { heads: 32, kv_heads: 32, dim: 4, stride: 160, window: 0 });
    attention(&Shape { heads: 2, kv_heads: 1, dim: 8, stride: 40, window: 1000 });
}

fn attention(shape: &Shape) {
    let mut random = Random(33);
    let Shape { heads, kv_heads, dim, stride, window } = *shape;
    let pages = 2 * stride;
    let q = Rows::random(&mut random, View::dense(heads * dim), CHUNK, heads * dim);
    let [k, v] =
        [Format::F16, Format::F32].map(|f| Weight::random(&mut random, f, pages * kv_heads * PAGE_TOKENS, dim));
    let table: Vec<u32> = (0..pages).map(|i| ((i * 11 + 3) % pages) as u32).collect();
    let positions: Vec<u32> = (0..CHUNK).map(|_| random.below(stride * PAGE_TOKENS) as u32).collect();
    let sequences: Vec<u32> = (0..CHUNK).map(|_| random.below(2) as u32).collect();
    let sinks = Weight::random(&mut random, Format::F32, 1, heads);
    let attend = |first: usize, count: usize| {
        let class = ShapeClass::of(count);
        let bound = class.max_rows(CHUNK).min(CHUNK);
        let view = View::dense(heads * dim);
        let (scale, (k_format, v_format)) = (0.7, (Format::F16, Format::F32));
        let (archive, rotate_back) = (None, false);
        let t = Attend {
            class,
            heads,
            kv_heads,
            dim,
            scale,
            window,
            cap: 0.0,
            k_format,
            v_format,
            latent: None,
            archive,
            rotate_back,
            sinks: Some(Float::F32),
            q: view,
            y: view,
        };
        let ids = |all: &[u32]| {
            let mut part = all[first..first + count].to_vec();
            part.resize(bound, 0);
            bytes(&part)
        };
        let mut rows = q.data[first * q.width..(first + count) * q.width].to_vec();
        rows.resize(bound * q.width, f32::NAN);
        let y = vec![0u8; 4 * rows.len()];
        let args = vec![
            bytes(&rows),
            ids(&positions),
            ids(&sequences),
            bytes(&table),
            to_pages(&k, true),
            to_pages(&v, false),
            sinks.bytes.clone(),
            y,
        ];
        floats(&run(&Template::Attend(t), CHUNK, args, sizes(count, 1, stride))[7])[..count * q.width].to_vec()
    };
    let all = attend(0, CHUNK);
    for (first, count) in [(0, 1), (69, 1), (7, 3), (20, 33)] {
        assert_eq!(
            bits(&attend(first, count)),
            bits(&all[first * q.width..(first + count) * q.width]),
            "{count} tokens from {first}"
        );
    }
    // And it is attention.
    for (token, got) in all.chunks_exact(q.width).enumerate().take(3) {
        let last = positions[token] as usize;
        let seen = if window == 0 { 0 } else { (last + 1).saturating_sub(window) }..last + 1;
        for (col, got) in got.iter().enumerate() {
            let (head, kv_head) = (col / dim, col / dim / (heads / kv_heads));
            let row = |p: usize| {
                let page = table[sequences[token] as usize * stride + p / PAGE_TOKENS] as usize;
                (page * kv_heads + kv_head) * PAGE_TOKENS + p % PAGE_TOKENS
            };
            let weight = |p: usize| (0.7 * dot(dim, |d| q.at(token, head * dim + d), |d| k.at(row(p), d))).exp();
            let total = seen.clone().map(weight).sum::<f64>() + sinks.at(0, head).exp();
            let want = seen.clone().map(|p| weight(p) * v.at(row(p), col % dim)).sum::<f64>() / total;
            assert!((f64::from(*got) - want).abs() <= 1e-5, "token {token}, {col}: got {got}, want {want}");
        }
    }
}
