//! Micro-kernels of `route`, `expert_linear` and `combine` against f64.

mod common;

use common::{
    Random, Weight, affine, bytes_of, bytes_of_ids, close, floats_of, ids_of, launch, launch_everywhere, sizes,
};
use proptest::prelude::*;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::ops::Routing;
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::{Combine, ExpertLinear, Extra, Route, Template, View};

fn few_formats() -> Vec<Format> {
    let f16 = Float::F16;
    vec![Format::F32, Format::BF16, affine(4, 32, f16), affine(3, 64, f16), affine(8, 32, Float::F32), Format::Mxfp4]
}

fn silu_times(pair: bool) -> Map {
    let mut map = Map::identity();
    if pair {
        let gate = map.push(MapStep::Silu(swiftlm_ir::map::Reg(0)));
        let up = map.push(MapStep::Input(1));
        map.push(MapStep::Mul(gate, up));
    }
    map
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn route_agrees(
        experts in 1usize..70, choice in 1usize..9, softmax in any::<bool>(), normalize in any::<bool>(),
        tokens in 1usize..40, ties in any::<bool>(), seed in any::<u64>(),
    ) {
        let random = &mut Random::new(seed);
        let top_k = choice.min(experts);
        let view = View { offset: 1, stride: experts + 2 };
        let scores: Vec<f32> = (0..tokens * view.stride + 1)
            .map(|_| if ties { random.below(4) as f32 - 2.0 } else { 4.0 * random.float() })
            .collect();
        let routing = if softmax { Routing::Softmax } else { Routing::Sigmoid };
        let template = Template::Route(Route { experts, top_k, groups: 1, kept: 1, bias: None, routing, normalize, scores: view });
        let args = vec![bytes_of(&scores), vec![0; 4 * tokens * top_k], vec![0; 4 * tokens * top_k]];
        launch_everywhere(&template, &args, sizes(tokens, 1, 1), |isa, out| {
            let (ids, weights) = (ids_of(&out[1]), floats_of(&out[2]));
            for t in 0..tokens {
                let row: Vec<f64> =
                    scores[t * view.stride + 1..][..experts].iter().map(|x| f64::from(*x)).collect();
                let mut order: Vec<usize> = (0..experts).collect();
                // A stable sort leaves ties at the lowest id.
                order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
                let total: f64 = row.iter().map(|x| x.exp()).sum();
                let chance = |e: usize| if softmax { row[e].exp() / total } else { 1.0 / (1.0 + (-row[e]).exp()) };
                let sum: f64 = if normalize { order[..top_k].iter().map(|e| chance(*e)).sum() } else { 1.0 };
                for (rank, e) in order[..top_k].iter().enumerate() {
                    assert_eq!(ids[t * top_k + rank] as usize, *e, "{isa:?} token {t} rank {rank}");
                    close(weights[t * top_k + rank], chance(*e) / sum, 1e-6, &format!("{isa:?} token {t}"));
                }
            }
        });
    }

    #[test]
    fn expert_linear_agrees(
        format in proptest::sample::select(few_formats()), experts in 1usize..7, choice in 1usize..4,
        outputs in 1usize..70, cols in 1usize..3, tokens in 1usize..30, per_rank in any::<bool>(), pair in any::<bool>(),
        rounding in 0usize..4, bias in proptest::option::of(proptest::sample::select(vec![Float::F32, Float::Bf16])),
        seed in any::<u64>(),
    ) {
        let random = &mut Random::new(seed);
        let cols = match format {
            Format::BF16 if rounding >= 2 => 32 * cols,
            Format::Float(_) => 37 * cols,
            Format::Affine(_) | Format::Mxfp4 => 64 * cols,
        };
        let round = [None, Some(Rounding::F16), Rounding::of_weight(format, 8), Rounding::of_weight(format, 16)][rounding];
        // Whole blocks of outputs can be rearranged; others cannot.
        let outputs = if rounding >= 2 { outputs.next_multiple_of(16) } else { outputs };
        let top_k = choice.min(experts);
        let expert_rows = if pair { 2 * outputs } else { outputs };
        let weight = Weight::random(random, format, experts * expert_rows, cols);
        let x_rows = if per_rank { tokens * top_k } else { tokens };
        let (x_view, y_view) = (View { offset: 3, stride: cols + 1 }, View { offset: 0, stride: outputs + 5 });
        let mut x = random.floats(x_rows * x_view.stride + 3);
        if let Some(round) = round {
            // Already rounded: the round must keep these, so the reference is exact.
            for row in x[3..].chunks_mut(x_view.stride).filter(|row| row.len() >= cols) {
                round.apply(&mut row[..cols]);
            }
        }
        // The last expert is never chosen where there is another.
        let ids: Vec<u32> = (0..tokens * top_k).map(|_| random.below(experts.max(2) - 1) as u32).collect();
        let template = Template::ExpertLinear(ExpertLinear {
            class: ShapeClass::of(tokens),
            weight: weight.ty,
            experts,
            top_k,
            x_per_rank: per_rank,
            round,
            bias,
            pair,
            epilogue: silu_times(pair),
            x: x_view,
            y: y_view,
        });
        let biases = bias.map(|float| Weight::random(random, Format::Float(float), experts * expert_rows, 1));
        let mut args = vec![bytes_of(&x), bytes_of_ids(&ids), weight.bytes.clone()];
        args.extend(biases.iter().map(|biases| biases.bytes.clone()));
        args.push(vec![0; 4 * tokens * top_k * y_view.stride]);
        let y_at = args.len() - 1;
        launch_everywhere(&template, &args, sizes(tokens, 1, 1), |isa, out| {
            let y = floats_of(&out[y_at]);
            for row in 0..tokens * top_k {
                let x_row = if per_rank { row } else { row / top_k };
                let x = &x[x_row * x_view.stride + 3..][..cols];
                let dot = |output: usize| -> f64 {
                    let weights = weight.row(ids[row] as usize * expert_rows + output);
                    let bias = biases.as_ref().map_or(0.0, |b| b.values[ids[row] as usize * expert_rows + output]);
                    bias + x.iter().zip(weights).map(|(x, w)| f64::from(*x) * w).sum::<f64>()
                };
                for n in 0..outputs {
                    let gate = dot(n);
                    let expected = if pair { gate / (1.0 + (-gate).exp()) * dot(n + outputs) } else { gate };
                    let bar = 1e-4 * (1.0 + expected.abs());
                    close(y[row * y_view.stride + n], expected, bar, &format!("{isa:?} row {row} output {n}"));
                }
            }
            // One token alone.
            let (t, at) = (tokens / 2, tokens / 2 * if per_rank { top_k } else { 1 });
            let rows = if per_rank { top_k } else { 1 };
            let mut alone = args.clone();
            alone[0] = bytes_of(&x[at * x_view.stride..][..rows * x_view.stride + 3]);
            alone[1] = bytes_of_ids(&ids[t * top_k..][..top_k]);
            alone[y_at] = vec![0; 4 * top_k * y_view.stride];
            let alone = launch(&template, &alone, sizes(1, 1, 1), isa, 1).unwrap();
            let batched = &out[y_at][4 * t * top_k * y_view.stride..][..4 * top_k * y_view.stride];
            assert!(alone[y_at] == batched, "{isa:?}: token {t} differs between alone and in its batch");
        });
    }

    #[test]
    fn combine_agrees(dim in 1usize..300, top_k in 1usize..9, tokens in 1usize..70, seed in any::<u64>()) {
        let random = &mut Random::new(seed);
        let (y, weights) = (random.floats(tokens * top_k * dim), random.floats(tokens * top_k));
        let view = View { offset: 2, stride: dim + 2 };
        let residual = random.floats(tokens * view.stride + 2);
        let mut epilogue = Map::identity();
        let extra = epilogue.push(MapStep::Input(1));
        epilogue.push(MapStep::Add(swiftlm_ir::map::Reg(0), extra));
        let extras = vec![Extra::Element(view)];
        let template = Template::Combine(Combine { dim, top_k, epilogue, extras, out: view });
        let out = vec![0; 4 * residual.len()];
        let args = vec![bytes_of(&y), bytes_of(&weights), bytes_of(&residual), out];
        launch_everywhere(&template, &args, sizes(tokens, 1, 1), |isa, out| {
            let got = floats_of(&out[3]);
            for t in 0..tokens {
                for d in 0..dim {
                    let term = |r: usize| {
                        f64::from(weights[t * top_k + r]) * f64::from(y[(t * top_k + r) * dim + d])
                    };
                    let at = t * view.stride + 2 + d;
                    let expected = (0..top_k).map(term).sum::<f64>() + f64::from(residual[at]);
                    close(got[at], expected, 2e-6, &format!("{isa:?} token {t} element {d}"));
                }
            }
        });
    }
}

#[test]
fn an_expert_that_does_not_exist_is_named() {
    let random = &mut Random::new(5);
    let weight = Weight::random(random, Format::F32, 4 * 16, 16);
    let template = Template::ExpertLinear(ExpertLinear {
        class: ShapeClass::One,
        weight: weight.ty,
        experts: 4,
        top_k: 1,
        x_per_rank: false,
        round: None,
        bias: None,
        pair: false,
        epilogue: Map::identity(),
        x: View::dense(16),
        y: View::dense(16),
    });
    let args = vec![bytes_of(&[1.0; 16]), bytes_of_ids(&[4]), weight.bytes, vec![0; 64]];
    let isa = swiftlm_cpu::IsaKind::available()[0];
    let error = launch(&template, &args, sizes(1, 1, 1), isa, 1).unwrap_err().to_string();
    assert!(error.contains("argument 1 holds 4"), "{error}");
}
