//! Kernels of dense layers: embed, norm, linear, map, rows and the greedy choice.

use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::quant::Format;
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::{self, ArgMax, Elementwise, Embed, Extra, Linear, Norm, RmsNorm, Template, View};

use crate::harness::{Random, Rows, Weight, affine_formats, bytes, dot, float_formats, map64, run, sizes, words};

const Q4: &str = "affine4_g32_f16";

fn format(name: &str) -> Format {
    name.parse().expect("a format's name")
}

/// Rows that begin within a wider buffer, odd and aligned.
fn views(width: usize) -> [View; 3] {
    [View::dense(width), View { offset: 3, stride: width + 5 }, View { offset: 8, stride: width + 12 }]
}

/// `1 / sqrt(mean(x²) + eps)`.
fn inverse_rms(n: usize, eps: f64, x: impl Fn(usize) -> f64) -> f64 {
    1.0 / (dot(n, &x, &x) / n as f64 + eps).sqrt()
}

/// `y = gelu(a) + c` with all kinds of inputs: the accumulators, then a column and an element.
fn epilogue(pair: bool) -> Map {
    let mut map = Map::default();
    let a = map.push(MapStep::Input(0));
    let (mut value, mut next) = (map.push(MapStep::Silu(a)), 1);
    if pair {
        let b = map.push(MapStep::Input(1));
        (value, next) = (map.push(MapStep::Mul(value, b)), 2);
    }
    for i in next..next + 2 {
        let extra = map.push(MapStep::Input(i));
        value = map.push(MapStep::Add(value, extra));
    }
    map
}

#[test]
fn embed_picks_rows_of_its_segment() {
    let mut random = Random(2);
    for (format, cols) in [(Format::F16, 7), (Format::BF16, 300), (format(Q4), 64), (format("affine3_g32_bf16"), 96)] {
        for (first_row, y) in views(cols).into_iter().enumerate().map(|(i, y)| (10 * i, y)) {
            let weight = Weight::random(&mut random, format, 12, cols);
            let ids: Vec<u32> = [0, 3, 9, 10, 21, 22, 31, 4_000_000_000].to_vec();
            let out = Rows::untouched(y, 10, cols);
            let t = Embed { rows: Sym::Tokens, weight: weight.ty, first_row, scale: 1.5, y };
            let mut padded = ids.clone();
            padded.resize(10, 1);
            let args = vec![bytes(&padded), weight.bytes.clone(), out.bytes()];
            let after = out.after(&run(&Template::Embed(t), 10, args, sizes(8, 1, 1))[2]);
            after.expect(8, 1e-6, |row, col| match (ids[row] as usize).checked_sub(first_row) {
                Some(r) if r < 12 => 1.5 * weight.at(r, col),
                _ => f64::from(crate::harness::UNTOUCHED),
            });
        }
    }
}

#[test]
fn norm_divides_by_the_root_mean_square() {
    let mut random = Random(3);
    let plain = [(1, 64), (1, 37), (1, 600), (3, 8), (8, 20), (5, 64)].map(|(heads, dim)| (heads, dim, false));
    for (heads, dim, grouped) in plain.into_iter().chain([(2, 64, true), (3, 7, true)]) {
        for (x_view, y_view) in views(heads * dim).into_iter().zip(views(heads * dim).into_iter().rev()) {
            let norm = Norm { eps: 1e-3, offset: 1.0, weight: Format::BF16 };
            let weights = if grouped { heads * dim } else { dim };
            let weight = Weight::random(&mut random, norm.weight, 1, weights);
            let x = Rows::random(&mut random, x_view, 4, heads * dim);
            let y = Rows::untouched(y_view, 4, heads * dim);
            // The norm, plus a residual row, times a bias of each column.
            let width = heads * dim;
            let (residual, bias) =
                (Rows::random(&mut random, x_view, 4, width), Weight::random(&mut random, Format::F16, 1, width));
            let mut epilogue = Map::default();
            let [normalised, added, factor] = [0, 1, 2].map(|input| epilogue.push(MapStep::Input(input)));
            let sum = epilogue.push(MapStep::Add(normalised, added));
            epilogue.push(MapStep::Mul(sum, factor));
            let extras = vec![Extra::Element(x_view), Extra::Column(Format::F16)];
            let t = RmsNorm { rows: Sym::Rows, heads, dim, norm, grouped, epilogue, extras, x: x_view, y: y_view };
            let args = vec![x.bytes(), weight.bytes.clone(), residual.bytes(), bias.bytes.clone(), y.bytes()];
            let after = y.after(&run(&Template::RmsNorm(t), 4, args, sizes(4, 3, 1))[4]);
            after.expect(3, 1e-5, |row, col| {
                let head = col / dim * dim;
                let scale = inverse_rms(dim, 1e-3, |i| x.at(row, head + i));
                let normalised = x.at(row, col) * scale * (weight.at(0, col % weights) + 1.0);
                (normalised + residual.at(row, col)) * bias.at(0, col)
            });
        }
    }
}

#[test]
fn linear_multiplies_by_the_transposed_matrix() {
    let mut random = Random(4);
    let mut formats = float_formats();
    formats.extend(affine_formats().into_iter().step_by(2).chain([Format::Mxfp4]));
    for (i, format) in formats.into_iter().enumerate() {
        for class in ShapeClass::ALL {
            let cols = format.codes().map_or([40, 37, 12, 128][i % 4], |codes| codes.group * [1, 2, 3][i % 3]);
            let (rows, tokens) = ([6, 33, 70][i % 3], class.max_rows(70).min(67));
            let (x_view, y_view) = (views(cols)[i % 3], views(rows)[(i + 1) % 3]);
            let weight = Weight::random(&mut random, format, rows, cols);
            let x = Rows::random(&mut random, x_view, class.max_rows(70), cols);
            let y = Rows::untouched(y_view, class.max_rows(70), rows);
            let t = Linear {
                rows: Sym::Tokens,
                class,
                weight: weight.ty,
                norm: None,
                round: None,
                pair: false,
                epilogue: Map::identity(),
                extras: vec![],
                x: x_view,
                y: y_view,
            };
            let args = vec![x.bytes(), weight.bytes.clone(), y.bytes()];
            let after = y.after(&run(&Template::Linear(t), 70, args, sizes(tokens, 1, 1))[2]);
            after.expect(tokens, 2e-6 * cols as f64, |row, col| dot(cols, |k| x.at(row, k), |k| weight.at(col, k)));
        }
    }
}

#[test]
fn linear_with_prologue_and_epilogue() {
    let mut random = Random(5);
    for (i, format) in [format(Q4), Format::F16, format("affine8_g64_f32"), Format::F32].into_iter().enumerate() {
        for class in ShapeClass::ALL {
            for (pair, round) in [(false, None), (true, None), (true, Some(Rounding::F16))] {
                let (rows, cols, bound) = (22, [64, 36, 64, 9][i], class.max_rows(9).min(9));
                let (outputs, tokens) = (if pair { rows / 2 } else { rows }, bound.min(6));
                let norm = Norm { eps: 1e-2, offset: 0.0, weight: Format::F32 };
                let (x_view, y_view) = (views(cols)[i % 3], views(outputs)[(i + 1) % 3]);
                let weight = Weight::random(&mut random, format, rows, cols);
                let gain = Weight::random(&mut random, norm.weight, 1, cols);
                let bias = Weight::random(&mut random, Format::BF16, 1, outputs);
                let x = Rows::random(&mut random, x_view, bound, cols);
                let residual = Rows::random(&mut random, y_view, bound, outputs);
                let y = Rows::untouched(y_view, bound, outputs);
                let t = Linear {
                    rows: Sym::Rows,
                    class,
                    weight: weight.ty,
                    norm: Some(norm),
                    round,
                    pair,
                    epilogue: epilogue(pair),
                    extras: vec![Extra::Column(Format::BF16), Extra::Element(y_view)],
                    x: x_view,
                    y: y_view,
                };
                let extras = [bias.bytes.clone(), residual.bytes()];
                let args = [x.bytes(), gain.bytes.clone(), weight.bytes.clone()].into_iter().chain(extras);
                let args = args.chain([y.bytes()]).collect();
                let after = y.after(&run(&Template::Linear(t.clone()), 9, args, sizes(9, tokens, 1))[5]);
                // Rounding to 11 bits moves each of the products by at most 2^-11 of it.
                after.expect(tokens, if round.is_some() { 1e-2 } else { 2e-5 }, |row, col| {
                    let scale = inverse_rms(cols, 1e-2, |k| x.at(row, k));
                    let product = |n: usize| dot(cols, |k| x.at(row, k) * scale * gain.at(0, k), |k| weight.at(n, k));
                    let mut inputs = vec![product(col)];
                    if pair {
                        inputs.push(product(col + outputs));
                    }
                    inputs.extend([bias.at(0, col), residual.at(row, col)]);
                    map64(&t.epilogue, &inputs)
                });
            }
        }
    }
}

#[test]
fn rounding_comes_before_the_product() {
    // 1 + 2^-12 is 1 in binary16.
    let x = Rows { view: View::dense(8), width: 8, data: vec![1.0 + 2f32.powi(-12); 8] };
    let weight = Weight {
        ty: swiftlm_ir::graph::WeightType { format: Format::F32, rows: 1, cols: 8 },
        bytes: bytes(&[1.0f32; 8]),
    };
    for (round, want) in [(None, 8.0 + 8.0 * 2f64.powi(-12)), (Some(Rounding::F16), 8.0)] {
        let t = Linear {
            rows: Sym::Tokens,
            class: ShapeClass::One,
            weight: weight.ty,
            norm: None,
            round,
            pair: false,
            epilogue: Map::identity(),
            extras: vec![],
            x: x.view,
            y: View::dense(1),
        };
        let y = Rows::untouched(View::dense(1), 1, 1);
        let args = vec![x.bytes(), weight.bytes.clone(), y.bytes()];
        let after = y.after(&run(&Template::Linear(t), 1, args, sizes(1, 1, 1))[2]);
        after.expect(1, 0.0, |_, _| want);
    }
}

#[test]
fn rounding_to_whole_numbers_is_that_of_the_reference() {
    let mut random = Random(15);
    for (i, name) in ["affine4_g32_f16", "affine8_g64_f32", "affine3_g128_bf16"].into_iter().enumerate() {
        for (class, bits) in ShapeClass::ALL.into_iter().flat_map(|c| [(c, 8), (c, 16)]) {
            let format = format(name);
            let Some(round) = Rounding::of_weight(format, bits) else { panic!("{name} has groups") };
            let (rows, cols, bound) = (6, 128 * (i + 1), class.max_rows(9).min(9));
            let weight = Weight::random(&mut random, format, rows, cols);
            let x = Rows::random(&mut random, views(cols)[i], bound, cols);
            let y = Rows::untouched(View::dense(rows), bound, rows);
            let t = Linear {
                rows: Sym::Tokens,
                class,
                weight: weight.ty,
                norm: None,
                round: Some(round),
                pair: false,
                epilogue: Map::identity(),
                extras: vec![],
                x: x.view,
                y: y.view,
            };
            let args = vec![x.bytes(), weight.bytes.clone(), y.bytes()];
            let after = y.after(&run(&Template::Linear(t), 9, args, sizes(bound, 1, 1))[2]);
            let rounded = |row: usize| {
                let mut x: Vec<f32> = (0..cols).map(|k| x.at(row, k) as f32).collect();
                round.apply(&mut x);
                x
            };
            let inputs: Vec<Vec<f32>> = (0..bound).map(rounded).collect();
            // One input in the middle between two steps may go to either: a step is 1/127 at most here.
            after.expect(bound, 1e-4, |row, col| dot(cols, |k| f64::from(inputs[row][k]), |k| weight.at(col, k)));
        }
    }
}

#[test]
fn map_rows_and_the_greedy_choice() {
    let mut random = Random(6);
    for (dim, x_view) in [5, 64, 600].into_iter().flat_map(|dim| views(dim).map(|v| (dim, v))) {
        let x = Rows::random(&mut random, x_view, 7, dim);
        let bias = Weight::random(&mut random, Format::F16, 1, dim);
        let mut map = Map::default();
        let (a, b) = (map.push(MapStep::Input(0)), map.push(MapStep::Input(1)));
        let gelu = map.push(MapStep::GeluTanh(a));
        map.push(MapStep::Mul(gelu, b));
        let y = Rows::untouched(x_view, 7, dim);
        let extras = vec![Extra::Element(x_view), Extra::Column(Format::F16)];
        let t = Elementwise { rows: Sym::Tokens, dim, map: map.clone(), extras, y: x_view };
        let args = vec![x.bytes(), bias.bytes.clone(), y.bytes()];
        let after = y.after(&run(&Template::Map(t), 7, args, sizes(5, 1, 1))[2]);
        after.expect(5, 1e-5, |row, col| map64(&map, &[x.at(row, col), bias.at(0, col)]));

        let indices = [6u32, 0, 3, 3, 0, 0, 0];
        let y = Rows::untouched(View::dense(dim), 7, dim);
        let t = template::Rows { dim, x: x_view, y: View::dense(dim) };
        let args = vec![x.bytes(), bytes(&indices), y.bytes()];
        let after = y.after(&run(&Template::Rows(t), 7, args, sizes(7, 4, 1))[2]);
        after.expect(4, 0.0, |row, col| x.at(indices[row] as usize, col));

        let t = ArgMax { rows: Sym::Rows, dim, x: x_view };
        let args = vec![x.bytes(), bytes(&[9u32; 7])];
        let got = words(&run(&Template::ArgMax(t), 7, args, sizes(7, 6, 1))[1]);
        let best = |row: usize| (0..dim).rev().max_by(|a, b| x.at(row, *a).total_cmp(&x.at(row, *b))).unwrap_or(0);
        let want: Vec<u32> = (0..6).map(|row| best(row) as u32).chain([9]).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn greedy_choice_of_ties_and_of_what_is_not_a_number() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let cases: [(&[f32], u32); 8] = [
        (&[1.0, 2.0, 2.0, 0.0], 1),
        (&[-0.0, 0.0, -1.0, 0.0], 0),
        (&[nan, -3.0, -2.0, nan], 2),
        (&[nan, -inf, -inf, nan], 1),
        (&[-inf, -inf, -inf, -inf], 0),
        (&[nan, nan, nan, nan], 0),
        (&[-nan, 1.0, inf, inf], 2),
        (&[-5.0, -4.0, -4.5, -4.0], 1),
    ];
    for ((row, want), apart) in cases.iter().flat_map(|case| [(case, 67), (case, 1400)]) {
        // Far apart, so that other lanes have each of them, and then other workgroups.
        let mut data = vec![f32::NAN; 4 * apart];
        row.iter().enumerate().for_each(|(i, x)| data[i * apart] = *x);
        let t = ArgMax { rows: Sym::Rows, dim: data.len(), x: View::dense(data.len()) };
        let got = words(&run(&Template::ArgMax(t), 1, vec![bytes(&data), bytes(&[9u32])], sizes(1, 1, 1))[1]);
        assert_eq!(got, [want * apart as u32], "{row:?}");
    }
}
