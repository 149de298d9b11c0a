//! Micro-kernels of `embed`, `rows`, `arg_max` and `map` against exact results.

mod common;

use common::{Random, Weight, bytes_of, bytes_of_ids, close, floats_of, formats, ids_of, launch_everywhere, sizes};
use proptest::prelude::*;
use swiftlm_ir::dim::Sym;
use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::quant::Format;
use swiftlm_ir::template::{self, ArgMax, Elementwise, Embed, Extra, Template, View};
use swiftlm_ir::ty::DType;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn embed_agrees(
        format in proptest::sample::select(formats()), cols in 1usize..4, tokens in 1usize..20, first_row in 0usize..5,
        seed in any::<u64>(),
    ) {
        let random = &mut Random::new(seed);
        let cols = match format {
            Format::Float(_) => 29 * cols,
            Format::Affine(_) | Format::Mxfp4 => 128 * cols,
        };
        let weight = Weight::random(random, format, 9, cols);
        let y = View { offset: 1, stride: cols + 3 };
        let template = Template::Embed(Embed { rows: Sym::Tokens, weight: weight.ty, first_row, scale: 1.5, y });
        // Some ids lie before the segment, some behind.
        let ids: Vec<u32> = (0..tokens).map(|_| random.below(20) as u32).collect();
        let kept = vec![7.25; tokens * y.stride + 1];
        let args = vec![bytes_of_ids(&ids), weight.bytes.clone(), bytes_of(&kept)];
        launch_everywhere(&template, &args, sizes(tokens, 1, 1), |isa, out| {
            let got = floats_of(&out[2]);
            for (t, id) in ids.iter().enumerate() {
                let row = (*id as usize).checked_sub(first_row).filter(|row| *row < 9);
                for c in 0..cols {
                    let expected = row.map_or(7.25, |row| 1.5 * weight.row(row)[c]);
                    let bar = 1e-6 * (1.0 + expected.abs());
                    close(got[t * y.stride + 1 + c], expected, bar, &format!("{isa:?} {format} {t} {c}"));
                }
            }
        });
    }

    #[test]
    fn rows_are_copied(dim in 1usize..50, rows in 1usize..9, seed in any::<u64>()) {
        let random = &mut Random::new(seed);
        let (tokens, view) = (12, View { offset: 2, stride: dim + 2 });
        let x = random.floats(tokens * view.stride);
        let ids: Vec<u32> = (0..rows).map(|_| random.below(tokens) as u32).collect();
        let template = Template::Rows(template::Rows { dim, x: view, y: View::dense(dim) });
        let args = vec![bytes_of(&x), bytes_of_ids(&ids), vec![0; 4 * rows * dim]];
        launch_everywhere(&template, &args, sizes(tokens, rows, 1), |isa, out| {
            let got = floats_of(&out[2]);
            for (r, id) in ids.iter().enumerate() {
                assert_eq!(got[r * dim..][..dim], x[*id as usize * view.stride + 2..][..dim], "{isa:?}");
            }
        });
    }

    #[test]
    fn arg_max_agrees(
        dim in 1usize..500, rows in 1usize..5, levels in 1usize..40, nan in any::<bool>(), seed in any::<u64>(),
    ) {
        let random = &mut Random::new(seed);
        let view = View { offset: 0, stride: dim + 1 };
        let number = |random: &mut Random| match random.below(levels + 1) {
            0 if nan => f32::NAN,
            level => level as f32 - levels as f32 - 1.0,
        };
        let x: Vec<f32> = (0..rows * view.stride).map(|_| number(random)).collect();
        let template = Template::ArgMax(ArgMax { rows: Sym::Rows, dim, x: view });
        let args = vec![bytes_of(&x), vec![0xff; 4 * rows]];
        launch_everywhere(&template, &args, sizes(1, rows, 1), |isa, out| {
            for (r, got) in ids_of(&out[1]).iter().enumerate() {
                let row = &x[r * view.stride..][..dim];
                let mut best = 0;
                for (i, x) in row.iter().enumerate() {
                    if *x > row[best] || row[best].is_nan() && !x.is_nan() {
                        best = i;
                    }
                }
                assert_eq!(*got as usize, best, "{isa:?} row {r}");
            }
        });
    }

    #[test]
    fn map_agrees(dim in 1usize..600, rows in 1usize..40, seed in any::<u64>()) {
        let random = &mut Random::new(seed);
        let column = Weight::random(random, Format::BF16, 1, dim);
        let view = View { offset: 3, stride: dim + 4 };
        // Wide, so that the functions saturate on both sides.
        let x: Vec<f32> = random.floats(rows * view.stride + 3).iter().map(|x| 120.0 * x * x * x).collect();
        let mut map = Map::default();
        let a = map.push(MapStep::Input(0));
        let b = map.push(MapStep::Input(1));
        let half = map.push(MapStep::Const(0.5));
        let silu = map.push(MapStep::Silu(a));
        let gelu = map.push(MapStep::GeluTanh(a));
        let sigmoid = map.push(MapStep::Sigmoid(a));
        let rounded = map.push(MapStep::Round(b, DType::F16));
        let mixed = map.push(MapStep::Mul(sigmoid, rounded));
        let sum = map.push(MapStep::Add(silu, gelu));
        let scaled = map.push(MapStep::Mul(sum, half));
        map.push(MapStep::Add(scaled, mixed));
        let template = Template::Map(Elementwise {
            rows: Sym::Tokens,
            dim,
            map,
            extras: vec![Extra::Element(view), Extra::Column(Format::BF16)],
            y: View::dense(dim),
        });
        let args = vec![bytes_of(&x), column.bytes.clone(), vec![0; 4 * rows * dim]];
        launch_everywhere(&template, &args, sizes(rows, 1, 1), |isa, out| {
            for (i, got) in floats_of(&out[2]).iter().enumerate() {
                let (row, col) = (i / dim, i % dim);
                let x = f64::from(x[row * view.stride + 3 + col]);
                let sigmoid = 1.0 / (1.0 + (-x).exp());
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                let gelu = 0.5 * x * (1.0 + inner.tanh());
                let rounded = half::f16::from_f64(column.values[col]).to_f64();
                let expected = 0.5 * (x * sigmoid + gelu) + sigmoid * rounded;
                close(*got, expected, 1e-6 * (1.0 + expected.abs()), &format!("{isa:?} {row} {col} x {x}"));
            }
        });
    }
}
