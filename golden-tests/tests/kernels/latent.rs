//! Kernels of latent attention: matrices of heads, latents to pages, attention whose values are part of its keys.

use swiftlm_compiler::kernels::build;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::verify::verify;
use swiftlm_ir::quant::Format;
use swiftlm_ir::template::{Attend, HeadLinear, LatentAppend, Template, View};
use swiftlm_ir::ty::PAGE_TOKENS;
use swiftlm_shader::{LowerOptions, lower, validate};

use crate::attention::{
    LAYOUTS, NORM, PAGES, STRIDE, Step, attended, empty_pages, expect_appended, normed, poison, rope_table, rotated,
    unit,
};
use crate::harness::{Random, Rows, Weight, dot, float_formats, run, sizes, to_pages};

fn format(name: &str) -> Format {
    name.parse().expect("a format's name")
}

#[test]
fn each_head_is_multiplied_by_its_own_matrix() {
    let mut random = Random(41);
    let coded = ["affine4_g32_f16", "affine8_g64_bf16"].map(format);
    for (i, format) in float_formats().into_iter().chain(coded).enumerate() {
        for (class, transposed) in ShapeClass::ALL.into_iter().flat_map(|c| [(c, false), (c, true)]) {
            let (heads, own, first, len) = ([3, 1, 5][i % 3], 23, [0, 4][i % 2], 19);
            let cols = if let Format::Affine(a) = format { 2 * a.group as usize } else { [12, 40, 7][i % 3] };
            let rest = [0, 5, 70][(i + usize::from(transposed)) % 3];
            let (inputs, outputs) = if transposed { (len, cols) } else { (cols, len) };
            let (dim, bound) = (inputs + rest, class.max_rows(20).min(20));
            let tokens = bound.min(13);
            let weight = Weight::random(&mut random, format, heads * own, cols);
            let x = Rows::random(&mut random, View { offset: 3, stride: heads * dim + 4 }, bound, heads * dim);
            let width = outputs + rest;
            let y = Rows::untouched(View { offset: i, stride: heads * width + 6 }, bound, heads * width);
            let (x_view, y_view) = (x.view, y.view);
            let t = HeadLinear { class, weight: weight.ty, heads, dim, first, len, transposed, x: x_view, y: y_view };
            let args = vec![x.bytes(), weight.bytes.clone(), y.bytes()];
            let after = y.after(&run(&Template::HeadLinear(t), 20, args, sizes(tokens, 1, 1))[2]);
            after.expect(tokens, 2e-5, |token, col| {
                let (head, d) = (col / width, col % width);
                let x = |i: usize| x.at(token, head * dim + i);
                match d.checked_sub(outputs) {
                    Some(behind) => x(inputs + behind),
                    None if transposed => dot(len, x, |i| weight.at(head * own + first + i, d)),
                    None => dot(cols, x, |i| weight.at(head * own + first + d, i)),
                }
            });
        }
    }
}

#[test]
fn latents_and_rotated_keys_share_a_row_of_pages() {
    let mut random = Random(42);
    let step = Step::new(&[(0, 0), (2, 31), (2, 32), (1, 159), (0, 77)], 6);
    let formats = float_formats().into_iter().chain(["affine8_g32_f16", "affine4_g64_f16"].map(format));
    for (i, format) in formats.enumerate() {
        for (latent, rest) in if matches!(format, Format::Affine(_)) { [(64, 64), (96, 32)] } else { [(8, 4), (20, 6)] }
        {
            let (with_norm, layout) = (i % 2 == 0, if i == 1 { None } else { Some(LAYOUTS[i % 2]) });
            let view = View { offset: 2, stride: latent + rest + 3 };
            let x = Rows::random(&mut random, view, 6, latent);
            let r = Rows::random(&mut random, View { offset: 1, stride: rest + 1 }, 6, rest);
            let table = rope_table(&mut random, 6, rest);
            let weight = with_norm.then(|| Weight::random(&mut random, Format::F16, 1, latent));
            let pages = empty_pages(format, 1, latent + rest);
            let norm = weight.as_ref().map(|_| NORM);
            let t = LatentAppend { latent, rest, format, norm, rotation: layout, x: x.view, r: r.view };
            let mut args = vec![x.bytes()];
            args.extend(weight.iter().map(|w| w.bytes.clone()));
            args.push(r.bytes());
            args.extend(layout.map(|_| table.bytes()));
            args.extend(step.args());
            args.push(to_pages(&pages, true));
            let after = run(&Template::LatentAppend(t), 6, args, sizes(5, 1, STRIDE));
            let shape = (5, 1, 1.01 * unit(format) + 1e-5);
            expect_appended((&pages, true), &after[after.len() - 1], &step, shape, |token, _, d| {
                let behind = |d: usize| r.at(token, d);
                match (d.checked_sub(latent), layout) {
                    (Some(d), Some(layout)) => rotated(layout, rest, &table, token, d, &behind),
                    (Some(d), None) => behind(d),
                    (None, _) => normed(weight.as_ref(), latent, d, &|d| x.at(token, d)),
                }
            });
        }
    }
}

#[test]
fn values_are_the_first_elements_of_keys() {
    let mut random = Random(43);
    let tokens = [(0, 0), (0, 31), (1, 32), (2, 159), (1, 100), (2, 63)];
    let coded = ["affine8_g32_f16", "affine4_g32_f16"].map(format);
    for (i, (heads, dim, latent)) in [(4, 40, 32), (6, 14, 8), (16, 96, 64), (3, 96, 32)].into_iter().enumerate() {
        for (class, window) in
            [(ShapeClass::Some, 0), (ShapeClass::One, 0), (ShapeClass::Few, 40), (ShapeClass::Many, 1)]
        {
            let (count, bound) = (class.max_rows(8).min(6), class.max_rows(8).min(8));
            let step = Step::new(&tokens[6 - count..], bound);
            let formats = if dim == 96 { coded.to_vec() } else { float_formats() };
            for format in formats {
                let q = Rows::random(&mut random, View { offset: 4, stride: heads * dim + 4 }, bound, heads * dim);
                let y = Rows::untouched(View { offset: i, stride: heads * latent + 9 }, bound, heads * latent);
                let mut k = Weight::random(&mut random, format, PAGES * PAGE_TOKENS, dim);
                poison(&mut k, &step, count, 1);
                let t = Attend {
                    class,
                    heads,
                    kv_heads: 1,
                    dim,
                    scale: 3.0 / (dim as f32).sqrt(),
                    window,
                    cap: 0.0,
                    k_format: format,
                    v_format: format,
                    latent: Some(latent),
                    archive: None,
                    rotate_back: false,
                    sinks: None,
                    q: q.view,
                    y: y.view,
                };
                let [positions, sequences, table] = step.args();
                let args = vec![q.bytes(), positions, sequences, table, to_pages(&k, true), y.bytes()];
                let after = run(&Template::Attend(t.clone()), 8, args, sizes(count, 1, STRIDE));
                y.after(&after[5])
                    .expect(count, 1e-5, |token, col| attended(&t, &step, &q, (&k, &k), None, (token, col)));
            }
        }
    }
}

/// Attention as large as DeepSeek-V3's, and twice as wide, is proven and fits the shared memory of usual devices.
#[test]
fn large_latents_fit_shared_memory() {
    for (dim, latent, format) in [(576, 512, Format::F16), (1152, 1024, Format::F32)] {
        for class in ShapeClass::ALL {
            let t = Attend {
                class,
                heads: 128,
                kv_heads: 1,
                dim,
                scale: 0.1,
                window: 0,
                cap: 0.0,
                k_format: format,
                v_format: format,
                latent: Some(latent),
                archive: None,
                rotate_back: false,
                sinks: None,
                q: View::dense(128 * dim),
                y: View::dense(128 * latent),
            };
            for built in build(&Template::Attend(t), 512, 64) {
                assert_eq!(verify(&built.kernel), Ok(()), "{class:?}");
                let options = LowerOptions { shared_bytes: 32 << 10, ..LowerOptions::default() };
                let valid = lower(&built.kernel, &options).and_then(|module| validate(&module));
                assert!(valid.is_ok(), "{class:?}: {:?}", valid.err());
            }
        }
    }
}
