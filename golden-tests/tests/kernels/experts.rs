//! Kernels of expert layers: route, expert linear, combine.

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::ops::Routing;
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::template::{Combine, ExpertLinear, Extra, Route, Template, View};

use crate::harness::{Random, Rows, Weight, bytes, dot, map64, run, sizes, words};

#[test]
fn route_picks_the_best_experts() {
    let mut random = Random(21);
    for (experts, top_k) in [(4, 2), (1, 1), (8, 8), (60, 4), (128, 8)] {
        for (routing, normalize) in
            [Routing::Softmax, Routing::Sigmoid].into_iter().flat_map(|r| [(r, false), (r, true)])
        {
            let view = View { offset: 1, stride: experts + 2 };
            let mut scores = Rows::random(&mut random, view, 4, experts);
            scores.data.iter_mut().for_each(|x| *x *= 4.0);
            // A row of ties: the lowest ids win.
            scores.data[view.stride + 1..view.stride + 1 + experts].fill(0.25);
            let weights = Rows::untouched(View::dense(top_k), 4, top_k);
            let t = Route { experts, top_k, groups: 1, kept: 1, bias: None, routing, normalize, scores: view };
            let args = vec![scores.bytes(), bytes(&vec![99u32; 4 * top_k]), weights.bytes()];
            let after = run(&Template::Route(t), 4, args, sizes(3, 1, 1));

            let chosen = |token: usize| {
                let mut ids: Vec<usize> = (0..experts).collect();
                ids.sort_by(|a, b| scores.at(token, *b).total_cmp(&scores.at(token, *a)).then(a.cmp(b)));
                ids.truncate(top_k);
                ids
            };
            let mut want: Vec<u32> = (0..3).flat_map(chosen).map(|id| id as u32).collect();
            want.resize(4 * top_k, 99);
            assert_eq!(words(&after[1]), want, "{experts} experts");
            weights.after(&after[2]).expect(3, 1e-5, |token, rank| {
                let weight = |e: usize| match routing {
                    Routing::Softmax => {
                        scores.at(token, e).exp() / (0..experts).map(|e| scores.at(token, e).exp()).sum::<f64>()
                    }
                    Routing::Sigmoid => 1.0 / (1.0 + (-scores.at(token, e)).exp()),
                };
                let total: f64 = chosen(token).into_iter().map(weight).sum();
                weight(chosen(token)[rank]) / if normalize { total } else { 1.0 }
            });
        }
    }
}

/// Experts are chosen among the groups whose two best have the largest sums, by chance and bias, and weighted by chance.
#[test]
fn route_chooses_among_groups() {
    let mut random = Random(24);
    for (experts, groups, kept, top_k) in [(8, 4, 2, 3), (12, 2, 1, 6), (64, 8, 4, 8), (6, 1, 1, 2)] {
        for (format, normalize) in [(None, true), (Some(Format::F32), true), (Some(Format::BF16), false)] {
            let view = View { offset: 1, stride: experts + 2 };
            let mut scores = Rows::random(&mut random, view, 5, experts);
            scores.data.iter_mut().for_each(|x| *x *= 3.0);
            // A row of ties: the lowest groups and ids win, where no bias decides.
            scores.data[view.stride + 1..view.stride + 1 + experts].fill(0.25);
            let bias = format.map(|format| Weight::random(&mut random, format, 1, experts));
            let weights = Rows::untouched(View::dense(top_k), 5, top_k);
            let routing = Routing::Sigmoid;
            let t = Route { experts, top_k, groups, kept, bias: format, routing, normalize, scores: view };
            let mut args = vec![scores.bytes()];
            args.extend(bias.iter().map(|b| b.bytes.clone()));
            args.extend([bytes(&vec![99u32; 5 * top_k]), weights.bytes()]);
            let mut after = run(&Template::Route(t), 5, args, sizes(4, 1, 1));
            let (got, ids) = (after.pop().expect("weights"), after.pop().expect("ids"));

            let chance = |token: usize, e: usize| 1.0 / (1.0 + (-scores.at(token, e)).exp());
            let choice = |token: usize, e: usize| match &bias {
                Some(bias) => chance(token, e) + bias.at(0, e),
                None => scores.at(token, e),
            };
            let chosen = |token: usize| {
                let each = experts / groups;
                let sum = |g: &usize| {
                    let mut own: Vec<f64> = (g * each..(g + 1) * each).map(|e| choice(token, e)).collect();
                    own.sort_by(|a, b| b.total_cmp(a));
                    own[..2.min(each)].iter().sum::<f64>()
                };
                let mut best: Vec<usize> = (0..groups).collect();
                best.sort_by(|a, b| sum(b).total_cmp(&sum(a)).then(a.cmp(b)));
                let mut ids: Vec<usize> = (0..experts).filter(|e| best[..kept].contains(&(e / each))).collect();
                ids.sort_by(|a, b| choice(token, *b).total_cmp(&choice(token, *a)).then(a.cmp(b)));
                ids.truncate(top_k);
                ids
            };
            let mut want: Vec<u32> = (0..4).flat_map(chosen).map(|id| id as u32).collect();
            want.resize(5 * top_k, 99);
            assert_eq!(words(&ids), want, "{experts} experts in {groups} groups");
            weights.after(&got).expect(4, 1e-5, |token, rank| {
                let total: f64 = chosen(token).into_iter().map(|e| chance(token, e)).sum();
                chance(token, chosen(token)[rank]) / if normalize { total } else { 1.0 }
            });
        }
    }
}

#[test]
fn route_names_experts_whatever_the_scores_are() {
    let rows = [[f32::NAN; 5], [f32::INFINITY; 5], [1.0, f32::NAN, 2.0, f32::NEG_INFINITY, f32::NAN]];
    let t = Route {
        experts: 5,
        top_k: 4,
        groups: 1,
        kept: 1,
        bias: None,
        routing: Routing::Softmax,
        normalize: true,
        scores: View::dense(5),
    };
    let args = vec![bytes(&rows.concat()), bytes(&[99u32; 12]), bytes(&[0f32; 12])];
    let ids = words(&run(&Template::Route(t), 3, args, sizes(3, 1, 1))[1]);
    assert_eq!(ids, [0, 1, 2, 3, 0, 1, 2, 3, 2, 0, 3, 1]);
}

#[test]
fn expert_linear_uses_the_rows_of_its_expert() {
    let mut random = Random(22);
    let formats =
        ["affine4_g32_f16", "f16", "affine5_g64_bf16", "bf16", "mxfp4"].map(|f| f.parse::<Format>().expect("a format"));
    for (format, cols) in formats.into_iter().zip([64, 24, 64, 7, 96]) {
        for (class, x_per_rank, pair) in [
            (ShapeClass::One, false, true),
            (ShapeClass::Few, true, false),
            (ShapeClass::Some, false, true),
            (ShapeClass::Many, true, true),
        ] {
            let (experts, top_k, n, bound) = (5, 3, 22, class.max_rows(10).min(10));
            let (tokens, outputs) = (bound.min(7), if pair { n / 2 } else { n });
            let weight = Weight::random(&mut random, format, experts * n, cols);
            // Of every format some have them; the vectors of an odd number of rows end within a word.
            let biased = class == ShapeClass::Few || class == ShapeClass::Many;
            let biases = biased.then(|| Weight::random(&mut random, Format::BF16, experts * n, 1));
            let x_rows = if x_per_rank { bound * top_k } else { bound };
            let x = Rows::random(&mut random, View { offset: 4, stride: cols + 8 }, x_rows, cols);
            let ids: Vec<u32> = (0..bound * top_k).map(|_| random.below(experts) as u32).collect();
            let y = Rows::untouched(View { offset: 1, stride: outputs + 1 }, bound * top_k, outputs);
            let mut epilogue = Map::default();
            let a = epilogue.push(MapStep::Input(0));
            let gate = epilogue.push(MapStep::Silu(a));
            if pair {
                let up = epilogue.push(MapStep::Input(1));
                epilogue.push(MapStep::Mul(gate, up));
            }
            let t = ExpertLinear {
                class,
                weight: weight.ty,
                experts,
                top_k,
                x_per_rank,
                round: None,
                bias: biases.as_ref().map(|_| Float::Bf16),
                pair,
                epilogue,
                x: x.view,
                y: y.view,
            };
            let mut args = vec![x.bytes(), bytes(&ids), weight.bytes.clone()];
            args.extend(biases.iter().map(|b| b.bytes.clone()));
            args.push(y.bytes());
            let after = run(&Template::ExpertLinear(t.clone()), 10, args, sizes(tokens, 1, 1));
            y.after(after.last().expect("a result")).expect(tokens * top_k, 1e-5, |row, col| {
                let x_row = if x_per_rank { row } else { row / top_k };
                let product = |j: usize| {
                    let at = ids[row] as usize * n + j;
                    let bias = biases.as_ref().map_or(0.0, |b| b.at(at, 0));
                    bias + dot(cols, |k| x.at(x_row, k), |k| weight.at(at, k))
                };
                let inputs: Vec<f64> = (0..n / outputs).map(|part| product(col + part * outputs)).collect();
                map64(&t.epilogue, &inputs)
            });
        }
    }
}

#[test]
fn combine_sums_ranks() {
    let mut random = Random(23);
    for (dim, top_k) in [(5, 1), (300, 3), (64, 8)] {
        let y = Rows::random(&mut random, View::dense(dim), 4 * top_k, dim);
        let weights = Rows::random(&mut random, View::dense(top_k), 4, top_k);
        let residual = Rows::random(&mut random, View::dense(dim), 4, dim);
        let out = Rows::untouched(View { offset: 2, stride: dim + 2 }, 4, dim);
        let mut epilogue = Map::default();
        let (sum, other) = (epilogue.push(MapStep::Input(0)), epilogue.push(MapStep::Input(1)));
        epilogue.push(MapStep::Add(sum, other));
        let extras = vec![Extra::Element(residual.view)];
        let t = Combine { dim, top_k, epilogue, extras, out: out.view };
        let args = vec![y.bytes(), weights.bytes(), residual.bytes(), out.bytes()];
        let after = out.after(&run(&Template::Combine(t), 4, args, sizes(3, 1, 1))[3]);
        after.expect(3, 1e-5, |token, col| {
            dot(top_k, |r| weights.at(token, r), |r| y.at(token * top_k + r, col)) + residual.at(token, col)
        });
    }
}
