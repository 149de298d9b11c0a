//! Micro-kernels of `head_linear` and `latent_append`, and of `route` among groups, against f64.

mod common;

use common::{
    Random, Weight, affine, bytes_of, bytes_of_ids, close, floats_of, ids_of, launch_everywhere, shuffled, sizes,
};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::ops::{RopeLayout, Routing};
use swiftlm_ir::quant::{Float, Format, HeadRow};
use swiftlm_ir::template::{HeadLinear, LatentAppend, Norm, Route, Template, View};
use swiftlm_ir::ty::PAGE_TOKENS;

#[test]
fn each_head_is_multiplied_by_its_own_matrix() {
    let random = &mut Random::new(1);
    let formats = [Format::F32, Format::BF16, affine(4, 32, Float::F16), affine(3, 64, Float::F16)];
    for (i, format) in formats.into_iter().enumerate() {
        for (tokens, transposed) in [1, 2, 13, 40].into_iter().flat_map(|t| [(t, false), (t, true)]) {
            let (heads, own, first, len) = ([3, 1][i % 2], 40, [0, 5][i % 2], 35);
            let cols = if matches!(format, Format::Affine(_)) { 64 } else { [37, 48][i % 2] };
            let rest = [0, 6][(i + usize::from(transposed)) % 2];
            let (inputs, outputs) = if transposed { (len, cols) } else { (cols, len) };
            let (dim, width) = (inputs + rest, outputs + rest);
            let weight = Weight::random(random, format, heads * own, cols);
            let (x_view, y_view) =
                (View { offset: 3, stride: heads * dim + 4 }, View { offset: 2, stride: heads * width + 5 });
            let x = random.floats(tokens * x_view.stride + 3);
            let class = ShapeClass::of(tokens);
            let template = Template::HeadLinear(HeadLinear {
                class,
                weight: weight.ty,
                heads,
                dim,
                first,
                len,
                transposed,
                x: x_view,
                y: y_view,
            });
            let untouched = vec![7.5f32; tokens * y_view.stride + 2];
            let args = vec![bytes_of(&x), weight.bytes.clone(), bytes_of(&untouched)];
            launch_everywhere(&template, &args, sizes(tokens, 1, 1), |isa, out| {
                let mut y = floats_of(&out[2]);
                for (t, head, d) in (0..tokens)
                    .flat_map(|t| (0..heads).map(move |h| (t, h)))
                    .flat_map(|(t, h)| (0..width).map(move |d| (t, h, d)))
                {
                    let x = &x[t * x_view.stride + 3 + head * dim..][..dim];
                    let row = |i: usize| weight.row(head * own + first + i);
                    let expected: f64 = match d.checked_sub(outputs) {
                        Some(behind) => f64::from(x[inputs + behind]),
                        None if transposed => (0..len).map(|i| f64::from(x[i]) * row(i)[d]).sum(),
                        None => row(d).iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum(),
                    };
                    let at = t * y_view.stride + 2 + head * width + d;
                    close(y[at], expected, 2e-5, &format!("{isa:?} {format} token {t} head {head} element {d}"));
                    y[at] = 7.5;
                }
                assert!(y == untouched, "{isa:?}: nothing else is written");
            });
        }
    }
}

#[test]
fn latents_and_rotated_keys_share_a_row_of_pages() {
    let random = &mut Random::new(2);
    let positions = [0usize, 31, 32, 33, 90];
    let (tokens, stride) = (positions.len(), 4);
    for (i, format) in [Format::F32, Format::F16, Format::BF16, affine(8, 32, Float::F16)].into_iter().enumerate() {
        let (latent, rest) = (64, 32);
        let row = HeadRow::new(format, latent + rest).unwrap();
        let (with_norm, rotation) = (i != 1, [Some(RopeLayout::Interleaved), None, Some(RopeLayout::Half)][i % 3]);
        let view = View { offset: 1, stride: latent + rest + 2 };
        let both = random.floats(tokens * view.stride + 1);
        let weight = Weight::random(random, Format::F16, 1, latent);
        let angles = random.floats(tokens * rest / 2);
        let of =
            |f: fn(f32) -> f32, t: usize| angles[t * rest / 2..][..rest / 2].iter().map(|a| f(*a)).collect::<Vec<_>>();
        let table: Vec<f32> = (0..tokens).flat_map(|t| [of(f32::cos, t), of(f32::sin, t)].concat()).collect();
        let pages = shuffled(random, 1, stride);
        let (x, r) = (view, View { offset: 1 + latent, ..view });
        let norm = with_norm.then_some(Norm { eps: 1e-3, offset: 0.5, weight: Format::F16 });
        let template = Template::LatentAppend(LatentAppend { latent, rest, format, norm, rotation, x, r });
        let mut args = vec![bytes_of(&both)];
        args.extend(with_norm.then(|| weight.bytes.clone()));
        args.push(bytes_of(&both));
        args.extend(rotation.map(|_| bytes_of(&table)));
        args.extend([
            bytes_of_ids(&positions.map(|p| p as u32)),
            bytes_of_ids(&[0; 5]),
            bytes_of_ids(&pages),
            vec![0; stride * row.page_bytes()],
        ]);
        let last = args.len() - 1;
        launch_everywhere(&template, &args, sizes(tokens, 1, stride), |isa, out| {
            for (t, position) in positions.into_iter().enumerate() {
                let own: Vec<f64> =
                    both[t * view.stride + 1..][..latent + rest].iter().map(|x| f64::from(*x)).collect();
                let square = own[..latent].iter().map(|x| x * x).sum::<f64>() / latent as f64;
                let mut expected = own.clone();
                if with_norm {
                    for d in 0..latent {
                        expected[d] = own[d] / (square + 1e-3).sqrt() * (weight.row(0)[d] + 0.5);
                    }
                }
                for i in 0..if rotation.is_some() { rest / 2 } else { 0 } {
                    let (a, b) = match rotation {
                        Some(RopeLayout::Half) => (latent + i, latent + rest / 2 + i),
                        _ => (latent + 2 * i, latent + 2 * i + 1),
                    };
                    let (cos, sin) = (f64::from(table[t * rest + i]), f64::from(table[t * rest + rest / 2 + i]));
                    (expected[a], expected[b]) = (own[a] * cos - own[b] * sin, own[b] * cos + own[a] * sin);
                }
                let page = &out[last][pages[position / PAGE_TOKENS] as usize * row.page_bytes()..][..row.page_bytes()];
                let word = |w: usize| &page[4 * (w * PAGE_TOKENS + position % PAGE_TOKENS)..][..4];
                for (d, expected) in expected.iter().enumerate() {
                    let (bytes, i) = (word(d / row.per_word()), d % row.per_word());
                    let (got, bar) = match format {
                        Format::Float(float) => {
                            let unit = [2e-6, 1e-3, 8e-3]
                                [i32::from(format == Format::F16) as usize + 2 * usize::from(format == Format::BF16)];
                            (float.get(bytes, i), unit * (1.0 + expected.abs()))
                        }
                        Format::Affine(_) => {
                            let group = word(row.words() + d / row.group());
                            let [scale, bias] = [0, 1].map(|i| Float::F16.get(group, i));
                            (scale * f32::from(bytes[i]) + bias, 0.51 * f64::from(scale) + 1e-5)
                        }
                        Format::Mxfp4 => unreachable!("no page is of that format"),
                    };
                    close(got, *expected, bar, &format!("{isa:?} {format} token {t} element {d}"));
                }
            }
        });
    }
}

#[test]
fn experts_are_chosen_among_groups() {
    let random = &mut Random::new(3);
    for (experts, groups, kept, top_k) in [(8, 4, 2, 3), (12, 2, 1, 6), (64, 8, 4, 8), (70, 7, 3, 5)] {
        for (format, normalize) in [(None, true), (Some(Format::F32), true), (Some(Format::BF16), false)] {
            let tokens = 9;
            let scores: Vec<f32> = random.floats(tokens * experts).iter().map(|x| 3.0 * x).collect();
            let bias = format.map(|format| Weight::random(random, format, 1, experts));
            let routing = Routing::Sigmoid;
            let template = Template::Route(Route {
                experts,
                top_k,
                groups,
                kept,
                bias: format,
                routing,
                normalize,
                scores: View::dense(experts),
            });
            let mut args = vec![bytes_of(&scores)];
            args.extend(bias.iter().map(|b| b.bytes.clone()));
            args.extend([vec![0; 4 * tokens * top_k], vec![0; 4 * tokens * top_k]]);
            let at = args.len() - 2;
            launch_everywhere(&template, &args, sizes(tokens, 1, 1), |isa, out| {
                let (ids, weights) = (ids_of(&out[at]), floats_of(&out[at + 1]));
                for t in 0..tokens {
                    let score = |e: usize| f64::from(scores[t * experts + e]);
                    let chance = |e: usize| 1.0 / (1.0 + (-score(e)).exp());
                    let choice = |e: usize| bias.as_ref().map_or(score(e), |bias| chance(e) + bias.row(0)[e]);
                    let each = experts / groups;
                    let sum = |g: usize| {
                        let mut own: Vec<f64> = (g * each..(g + 1) * each).map(choice).collect();
                        own.sort_by(|a, b| b.total_cmp(a));
                        own[0] + own[1]
                    };
                    let mut best: Vec<usize> = (0..groups).collect();
                    best.sort_by(|a, b| sum(*b).total_cmp(&sum(*a)));
                    let mut order: Vec<usize> = (0..experts).filter(|e| best[..kept].contains(&(e / each))).collect();
                    order.sort_by(|a, b| choice(*b).total_cmp(&choice(*a)));
                    let total: f64 = if normalize { order[..top_k].iter().map(|e| chance(*e)).sum() } else { 1.0 };
                    for (rank, e) in order[..top_k].iter().enumerate() {
                        assert_eq!(ids[t * top_k + rank] as usize, *e, "{isa:?} {experts} experts, token {t}");
                        close(weights[t * top_k + rank], chance(*e) / total, 1e-6, &format!("{isa:?} token {t}"));
                    }
                }
            });
        }
    }
}
