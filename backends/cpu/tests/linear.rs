//! Micro-kernels of `linear` and `rms_norm` against sums in f64, on every instruction set, alone and in batches.

mod common;

use common::{Random, Weight, bytes_of, close, floats_of, formats, launch, launch_everywhere, sizes};
use proptest::prelude::*;
use swiftlm_cpu::IsaKind;
use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::{Extra, Linear, Norm, RmsNorm, Template, View};

const INT8: Rounding = Rounding::Int { bits: 8, group: 64 };
const INT16: Rounding = Rounding::Int { bits: 16, group: 64 };
const BATCHES: [usize; 9] = [1, 2, 3, 5, 7, 8, 9, 64, 65];

#[derive(Clone, Debug)]
struct Shape {
    format: Format,
    rows: usize,
    cols: usize,
    outputs: usize,
    norm: bool,
    round: Option<Rounding>,
    pair: bool,
    extras: bool,
    offset: usize,
    gap: usize,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let base = (proptest::sample::select(formats()), proptest::sample::select(BATCHES.to_vec()));
    let rounding = proptest::sample::select(vec![None, Some(Rounding::F16), Some(INT8), Some(INT16)]);
    // Whole blocks of outputs can be rearranged; others cannot.
    let outputs = prop_oneof![1usize..90, (1usize..6).prop_map(|n| 16 * n)];
    let flags = (any::<bool>(), rounding, any::<bool>(), any::<bool>());
    (base, 1usize..300, outputs, flags, 0usize..9, 0usize..5, any::<u64>()).prop_map(
        |((format, rows), cols, outputs, (norm, round, pair, extras), offset, gap, seed)| {
            let cols = format.codes().map_or(cols, |codes| cols.div_ceil(codes.group).min(3) * codes.group);
            let round = match round {
                Some(Rounding::Int { bits, .. }) => Rounding::of_weight(format, bits),
                other => other,
            };
            // Of bfloat16, too, whole units can be rearranged.
            let units = matches!(round, Some(Rounding::Bf16 { .. })) && outputs.is_multiple_of(16);
            let cols = if units { cols.next_multiple_of(32) } else { cols };
            Shape { format, rows, cols, outputs, norm, round, pair, extras, offset, gap, seed }
        },
    )
}

fn norm() -> Norm {
    Norm { eps: 1e-5, offset: 1.0, weight: Format::BF16 }
}

/// `epilogue = silu(a) · b + element + column` as far as there are such inputs.
fn epilogue(shape: &Shape) -> Map {
    let mut map = Map::default();
    let mut last = map.push(MapStep::Input(0));
    if shape.pair {
        let (gate, up) = (map.push(MapStep::Silu(last)), map.push(MapStep::Input(1)));
        last = map.push(MapStep::Mul(gate, up));
    }
    if shape.extras {
        for i in 0..2 {
            let extra = map.push(MapStep::Input(if shape.pair { 2 } else { 1 } + i));
            last = map.push(MapStep::Add(last, extra));
        }
    }
    map
}

fn normalized(x: &[f64], weight: &[f64], norm: &Norm) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, w)| x / (mean + norm.eps).sqrt() * (w + norm.offset)).collect()
}

struct Case {
    template: Linear,
    args: Vec<Vec<u8>>,
    x: Vec<f32>,
    norm_weight: Weight,
    weight: Weight,
    element: Vec<f32>,
    column: Weight,
}

fn case(shape: &Shape) -> Case {
    let random = &mut Random::new(shape.seed);
    let weight_rows = if shape.pair { 2 * shape.outputs } else { shape.outputs };
    let weight = Weight::random(random, shape.format, weight_rows, shape.cols);
    let norm_weight = Weight::random(random, norm().weight, 1, shape.cols);
    let column = Weight::random(random, Format::F16, 1, shape.outputs);
    let view = |width: usize| View { offset: shape.offset, stride: width + shape.gap };
    let (x_view, y_view) = (view(shape.cols), view(shape.outputs));
    let room = |v: View| shape.rows * v.stride + v.offset;
    let (x, element) = (random.floats(room(x_view)), random.floats(room(y_view)));
    let template = Linear {
        rows: Sym::Tokens,
        class: ShapeClass::of(shape.rows),
        weight: weight.ty,
        norm: shape.norm.then(norm),
        round: shape.round,
        pair: shape.pair,
        epilogue: epilogue(shape),
        extras: if shape.extras { vec![Extra::Element(y_view), Extra::Column(Format::F16)] } else { vec![] },
        x: x_view,
        y: y_view,
    };
    let mut args = vec![bytes_of(&x)];
    args.extend(shape.norm.then(|| norm_weight.bytes.clone()));
    args.push(weight.bytes.clone());
    if shape.extras {
        args.extend([bytes_of(&element), column.bytes.clone()]);
    }
    // What is not written must stay.
    args.push(bytes_of(&vec![7.25; room(y_view)]));
    Case { template, args, x, norm_weight, weight, element, column }
}

/// Inputs of row `m` as the product sees them, in f64, and how far off each may be: rounding is that of the value that f32
/// arithmetic gives, so an input in the middle between two rounded ones may go to the other.
fn inputs(shape: &Shape, case: &Case, m: usize) -> (Vec<f64>, Vec<f64>) {
    let view = case.template.x;
    let x: Vec<f64> = case.x[m * view.stride + view.offset..][..shape.cols].iter().map(|x| f64::from(*x)).collect();
    let x = if shape.norm { normalized(&x, &case.norm_weight.values, &norm()) } else { x };
    match shape.round {
        Some(Rounding::F16) => {
            let rounded: Vec<f64> = x.iter().map(|x| half::f16::from_f32(*x as f32).to_f64()).collect();
            let doubts = rounded.iter().map(|x| if shape.norm { 5e-4 * x.abs() } else { 0.0 }).collect();
            (rounded, doubts)
        }
        Some(Rounding::Bf16 { terms }) => {
            let nearest = |x: f64| half::bf16::from_f32(x as f32).to_f64();
            let of = |x: &f64| (1..terms).fold(nearest(*x), |sum, _| sum + nearest(x - sum));
            let doubt = |x: &f64| {
                let step = 2f64.powi(x.abs().max(1e-30).log2().floor() as i32 - 7);
                let middle = (x / step - (x / step).floor() - 0.5).abs() < 1e-3;
                if terms == 2 { step / 256.0 } else { f64::from(middle) * step }
            };
            (x.iter().map(of).collect(), x.iter().map(|x| if shape.norm { doubt(x) } else { 0.0 }).collect())
        }
        Some(Rounding::Int { bits, group }) => {
            let (mut rounded, mut doubts) = (vec![], vec![]);
            for part in x.chunks(group as usize) {
                let scale =
                    part.iter().fold(1e-30, |max: f64, x| max.max(x.abs())) / f64::from(Rounding::largest(bits));
                for x in part {
                    let q = x / scale;
                    // f32 arithmetic finds a step to some 2⁻²³ of the largest.
                    let middle = (q - q.floor() - 0.5).abs() < 1e-6 * f64::from(Rounding::largest(bits));
                    rounded.push(q.round_ties_even() * scale);
                    doubts.push(if middle { scale } else { 0.0 });
                }
            }
            (rounded, doubts)
        }
        None => {
            let doubts = vec![0.0; x.len()];
            (x, doubts)
        }
    }
}

fn check(shape: &Shape, case: &Case, isa: IsaKind, y: &[f32]) {
    let view = case.template.y;
    let mut written = vec![false; y.len()];
    for m in 0..shape.rows {
        let (x, doubts) = inputs(shape, case, m);
        for n in 0..shape.outputs {
            let dot = |row: usize| {
                let terms = x.iter().zip(&doubts).zip(case.weight.row(row)).map(|((x, d), w)| (x * w, d * w.abs()));
                let (sum, size, doubt) =
                    terms.fold((0.0, 0.0, 0.0), |(sum, size, doubt), (t, d)| (sum + t, size + f64::abs(t), doubt + d));
                // Where scales and biases are summed up apart, their parts are larger than what they come to.
                (sum, size * if shape.round.is_some() { 1e-5 } else { 2e-6 } + doubt)
            };
            let (mut expected, mut bar) = dot(n);
            if shape.pair {
                let (up, up_bar) = dot(n + shape.outputs);
                let gate = expected / (1.0 + (-expected).exp());
                bar = 1.2 * bar * up.abs() + up_bar * gate.abs() + 1.2 * bar * up_bar + 1e-6 * (gate * up).abs();
                expected = gate * up;
            }
            let at = m * view.stride + view.offset + n;
            if shape.extras {
                expected += f64::from(case.element[at]) + case.column.values[n];
            }
            written[at] = true;
            let what = format!("{isa:?} {shape:?} row {m} output {n}");
            close(y[at], expected, bar + 1e-6 * (1.0 + expected.abs()), &what);
        }
    }
    let kept = y.iter().zip(written).filter(|(_, written)| !written).all(|(y, _)| *y == 7.25);
    assert!(kept, "{isa:?} {shape:?} writes beside its rows");
}

/// Row `m` computed in a batch of its own.
fn alone(shape: &Shape, case: &Case, isa: IsaKind, m: usize) -> Vec<f32> {
    let cut = |all: &[f32], view: View| bytes_of(&all[m * view.stride..][..view.offset + view.stride]);
    let pad = |all: &[f32]| [all, &[0.0; 16][..]].concat();
    let mut args = case.args.clone();
    args[0] = cut(&pad(&case.x), case.template.x);
    if shape.extras {
        let at = args.len() - 3;
        args[at] = cut(&pad(&case.element), case.template.y);
    }
    let out = launch(&Template::Linear(case.template.clone()), &args, sizes(1, 1, 1), isa, 1).unwrap();
    let view = case.template.y;
    floats_of(&out[out.len() - 1])[view.offset..][..shape.outputs].to_vec()
}

fn run(shape: &Shape) {
    let case = case(shape);
    let template = Template::Linear(case.template.clone());
    launch_everywhere(&template, &case.args, sizes(shape.rows, 1, 1), |isa, out| {
        let y = floats_of(&out[out.len() - 1]);
        check(shape, &case, isa, &y);
        for m in [0, shape.rows / 2, shape.rows - 1] {
            let view = case.template.y;
            let batched = &y[m * view.stride + view.offset..][..shape.outputs];
            let same = alone(shape, &case, isa, m).iter().zip(batched).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{isa:?} {shape:?}: row {m} differs between alone and in its batch");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_agrees(shape in shapes()) {
        run(&shape);
    }

    #[test]
    fn rms_norm_agrees(
        rows in 1usize..40, heads in 1usize..5, dim in 1usize..200, offset in 0usize..9, seed in any::<u64>(),
        grouped in any::<bool>(),
        float in proptest::sample::select(vec![Float::F32, Float::F16, Float::Bf16]),
    ) {
        let random = &mut Random::new(seed);
        let weight = Weight::random(random, Format::Float(float), 1, if grouped { heads * dim } else { dim });
        let norm = Norm { eps: 1e-6, offset: 0.5, weight: Format::Float(float) };
        let x_view = View { offset, stride: heads * dim + 3 };
        let x = random.floats(rows * x_view.stride + offset);
        let y = View::dense(heads * dim);
        // The residual is added, and lies where the result goes.
        let residual = random.floats(rows * heads * dim);
        let (extras, mut epilogue) = (vec![Extra::Element(y)], Map::default());
        let [normalised, added] = [0, 1].map(|input| epilogue.push(MapStep::Input(input)));
        epilogue.push(MapStep::Add(normalised, added));
        let norm_and_add = RmsNorm { rows: Sym::Rows, heads, dim, norm, grouped, epilogue, extras, x: x_view, y };
        let template = Template::RmsNorm(norm_and_add);
        let zeros = bytes_of(&vec![0.0; rows * heads * dim]);
        let args = vec![bytes_of(&x), weight.bytes.clone(), bytes_of(&residual), zeros];
        launch_everywhere(&template, &args, sizes(1, rows, 1), |isa, out| {
            for (at, got) in floats_of(&out[3]).chunks_exact(dim).enumerate() {
                let residual = &residual[at * dim..];
                let start = at / heads * x_view.stride + offset + at % heads * dim;
                let x: Vec<f64> = x[start..start + dim].iter().map(|x| f64::from(*x)).collect();
                let own = if grouped { at % heads * dim } else { 0 };
                let sums = normalized(&x, &weight.values[own..own + dim], &norm).into_iter().zip(residual);
                for (got, expected) in got.iter().zip(sums.map(|(normal, residual)| normal + f64::from(*residual))) {
                    close(*got, expected, 1e-6 * (1.0 + expected.abs()), &format!("{isa:?} group {at}"));
                }
            }
        });
    }
}

#[test]
fn every_format_agrees_in_every_batch() {
    for (i, format) in formats().into_iter().enumerate() {
        for rows in [1, 2, 4, 9, 65] {
            let shape = Shape {
                format,
                rows,
                cols: if i % 2 == 0 { 256 } else { 128 },
                outputs: 37,
                norm: false,
                round: None,
                pair: false,
                extras: false,
                offset: 0,
                gap: 0,
                seed: i as u64,
            };
            run(&shape);
            for bits in [8, 16] {
                run(&Shape { outputs: 48, round: Rounding::of_weight(format, bits), pair: rows == 9, ..shape.clone() });
            }
        }
    }
}

/// The largest codes meet the largest activations of one sign: sums of 16 bits must not overflow.
#[test]
fn extreme_codes_and_activations_agree() {
    for format in formats().into_iter().filter(|f| matches!(f, Format::Affine(_))) {
        for (rows, bits) in [1, 8, 30].into_iter().flat_map(|rows| [(rows, 8), (rows, 16)]) {
            let shape = Shape {
                format,
                rows,
                cols: 256,
                outputs: 16,
                norm: false,
                round: Rounding::of_weight(format, bits),
                pair: false,
                extras: false,
                offset: 0,
                gap: 0,
                seed: 9,
            };
            let mut case = case(&shape);
            case.x.iter_mut().enumerate().for_each(|(i, x)| *x = if i < 300 { -1.0 } else { 1.0 });
            case.args[0] = bytes_of(&case.x);
            let codes = format.layout(16, 256).components[0].bytes;
            case.weight.fill_codes(codes);
            case.args[1] = case.weight.bytes.clone();
            launch_everywhere(&Template::Linear(case.template.clone()), &case.args, sizes(rows, 1, 1), |isa, out| {
                check(&shape, &case, isa, &floats_of(&out[out.len() - 1]));
            });
        }
    }
}

#[test]
fn a_wrong_weight_is_noticed() {
    // The bar of `check` must fail for a change of one code's lowest bit.
    let shape = Shape {
        format: common::affine(4, 64, Float::F16),
        rows: 1,
        cols: 128,
        outputs: 16,
        norm: false,
        round: None,
        pair: false,
        extras: false,
        offset: 0,
        gap: 0,
        seed: 3,
    };
    let mut case = case(&shape);
    case.args[1][5] ^= 1;
    let template = Template::Linear(case.template.clone());
    let isa = IsaKind::available()[0];
    let out = launch(&template, &case.args, sizes(1, 1, 1), isa, 1).unwrap();
    let y = floats_of(&out[2]);
    assert!(std::panic::catch_unwind(|| check(&shape, &case, isa, &y)).is_err());
}

#[test]
fn arguments_that_are_too_small_are_refused() {
    let shape = Shape {
        format: Format::F32,
        rows: 4,
        cols: 32,
        outputs: 8,
        norm: false,
        round: None,
        pair: false,
        extras: false,
        offset: 0,
        gap: 0,
        seed: 3,
    };
    let mut case = case(&shape);
    case.args[1].truncate(4 * 32 * 8 - 4);
    let template = Template::Linear(case.template.clone());
    let error = launch(&template, &case.args, sizes(4, 1, 1), IsaKind::available()[0], 1).unwrap_err().to_string();
    assert!(error.contains("argument 1 (weight) has 1020 bytes, this step reaches 1024"), "{error}");
}
