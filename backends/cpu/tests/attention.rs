//! Micro-kernels of `attend`, `append`, `rope` and `rope_append` against f64, over shuffled pages full of traps.

mod common;

use common::history::History;
use common::{
    Random, Weight, affine, bytes_of, bytes_of_ids, close, floats_of, launch, launch_everywhere, shuffled, sizes,
};
use proptest::prelude::*;
use swiftlm_cpu::IsaKind;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::ops::RopeLayout;
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::template::{Append, Attend, Norm, Rope, RopeAppend, Template, View};
use swiftlm_ir::ty::PAGE_TOKENS;

/// Every format of pages that heads of 8, 24 and more elements can have.
fn formats() -> Vec<Format> {
    let affine = [(8, 64), (4, 64), (8, 32), (4, 128)].map(|(bits, group)| affine(bits, group, Float::F16));
    [Format::F32, Format::F16, Format::BF16].into_iter().chain(affine).collect()
}

#[derive(Clone, Debug)]
struct Shape {
    kv_heads: usize,
    group: usize,
    dim: usize,
    window: usize,
    cap: f32,
    formats: (Format, Format),
    /// Elements of a key that are the value.
    latent: Option<usize>,
    /// Whether heads have sinks.
    sinks: bool,
    /// Of each token: sequence and position.
    tokens: Vec<(usize, usize)>,
    seed: u64,
}

fn attend(shape: &Shape) {
    let random = &mut Random::new(shape.seed);
    let sequences = 3;
    let stride = shape.tokens.iter().map(|(_, p)| p / PAGE_TOKENS + 1).max().unwrap() + 1;
    let table = shuffled(random, sequences, stride);
    let last = |s| shape.tokens.iter().filter(|(q, _)| *q == s).map(|(_, p)| p + 1).max().unwrap_or(0);
    let lengths: Vec<usize> = (0..sequences).map(last).collect();
    let heads = shape.kv_heads * shape.group;
    // Codes and biases are summed up apart, and their parts are larger than what they come to.
    let coded = matches!(shape.formats, (Format::Affine(_), _) | (_, Format::Affine(_)));
    let bar = if coded { 2e-5 } else { 5e-6 };
    let keys = History::new(random, true, shape.formats.0, (shape.kv_heads, shape.dim), &lengths, &table);
    let values = History::new(random, false, shape.formats.1, (shape.kv_heads, shape.dim), &lengths, &table);
    let view = View { offset: 5, stride: heads * shape.dim + 7 };
    let q: Vec<f32> = random.floats(shape.tokens.len() * view.stride + 5).iter().map(|x| 3.0 * x).collect();
    let value_dim = shape.latent.unwrap_or(shape.dim);
    let y = View::dense(heads * value_dim);
    let scale = 0.37;
    let sinks = shape.sinks.then(|| Weight::random(random, Format::BF16, 1, heads));
    let template = |tokens: usize| {
        Template::Attend(Attend {
            class: ShapeClass::of(tokens),
            heads,
            kv_heads: shape.kv_heads,
            dim: shape.dim,
            scale,
            window: shape.window,
            cap: shape.cap,
            k_format: shape.formats.0,
            v_format: shape.formats.1,
            latent: shape.latent,
            archive: None,
            rotate_back: false,
            sinks: sinks.as_ref().map(|_| Float::Bf16),
            q: view,
            y,
        })
    };
    let args = |tokens: std::ops::Range<usize>| {
        let of = |f: fn(&(usize, usize)) -> usize| {
            bytes_of_ids(&shape.tokens[tokens.clone()].iter().map(|t| f(t) as u32).collect::<Vec<_>>())
        };
        let mut args = vec![
            bytes_of(&q[tokens.start * view.stride..tokens.end * view.stride + 5]),
            of(|t| t.1),
            of(|t| t.0),
            bytes_of_ids(&table),
            keys.bytes.clone(),
        ];
        args.extend(shape.latent.is_none().then(|| values.bytes.clone()));
        args.extend(sinks.iter().map(|sinks| sinks.bytes.clone()));
        args.push(vec![0; 4 * tokens.len() * y.stride]);
        args
    };
    let count = shape.tokens.len();
    launch_everywhere(&template(count), &args(0..count), sizes(count, 1, stride), |isa, out| {
        let last = out.len() - 1;
        let got = floats_of(&out[last]);
        let values = if shape.latent.is_some() { &keys } else { &values };
        for (t, (sequence, position)) in shape.tokens.iter().enumerate() {
            let first = if shape.window == 0 { 0 } else { (position + 1).saturating_sub(shape.window) };
            for head in 0..heads {
                let kv_head = head / shape.group;
                let q = &q[t * view.stride + view.offset + head * shape.dim..][..shape.dim];
                let score = |p: usize| {
                    let terms = q.iter().enumerate().map(|(d, q)| f64::from(*q) * keys.get(*sequence, p, kv_head, d));
                    let (score, cap) = (terms.sum::<f64>() * f64::from(scale), f64::from(shape.cap));
                    if cap > 0.0 { cap * (score / cap).tanh() } else { score }
                };
                let weights: Vec<f64> = (first..=*position).map(|p| score(p).exp()).collect();
                let sink = sinks.as_ref().map_or(0.0, |sinks| sinks.values[head].exp());
                let total = weights.iter().sum::<f64>() + sink;
                for d in 0..value_dim {
                    let terms = weights.iter().zip(first..).map(|(w, p)| w * values.get(*sequence, p, kv_head, d));
                    let expected = terms.sum::<f64>() / total;
                    let what = format!("{isa:?} {shape:?} token {t} head {head} element {d}");
                    close(got[t * y.stride + head * value_dim + d], expected, bar, &what);
                }
            }
            if t % 5 == 0 || t + 1 == count {
                let alone = launch(&template(1), &args(t..t + 1), sizes(1, 1, stride), isa, 2).unwrap();
                let same = alone[last] == out[last][4 * t * y.stride..4 * (t + 1) * y.stride];
                assert!(same, "{isa:?} {shape:?}: token {t} differs between alone and in its batch");
            }
        }
    });
}

fn attend_shapes() -> impl Strategy<Value = Shape> {
    let format = || proptest::sample::select(formats());
    let dims = proptest::sample::select(vec![8usize, 24, 64, 80]);
    let windows = proptest::sample::select(vec![0usize, 1, 31, 33, 100, 400]);
    let windows = (windows, proptest::sample::select(vec![0.0f32, 2.0, 30.0]));
    let tokens = proptest::collection::vec((0usize..3, 0usize..700), 1..10);
    (1usize..4, 1usize..7, dims, windows, (format(), format()), tokens, any::<u64>()).prop_map(
        |(kv_heads, group, dim, (window, cap), formats, tokens, seed)| Shape {
            kv_heads,
            group,
            dim,
            window,
            cap,
            formats,
            latent: None,
            sinks: seed % 2 == 0,
            tokens,
            seed,
        },
    )
}

fn normalized(x: &[f64], weight: &[f64], norm: &Norm) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, w)| x / (mean + norm.eps).sqrt() * (w + norm.offset)).collect()
}

fn rotated(x: &[f64], table: &[f32], layout: RopeLayout) -> Vec<f64> {
    let half = table.len() / 2;
    let mut y = x.to_vec();
    for i in 0..half {
        let (c, s) = (f64::from(table[i]), f64::from(table[half + i]));
        let (a, b) = match layout {
            RopeLayout::Half => (i, i + half),
            RopeLayout::Interleaved => (2 * i, 2 * i + 1),
        };
        (y[a], y[b]) = (x[a] * c - x[b] * s, x[b] * c + x[a] * s);
    }
    y
}

/// What `rope_append` and `append` must leave, computed head by head.
struct Heads<'a> {
    norm: Option<(&'a Weight, Norm)>,
    rotation: Option<(&'a [f32], usize, RopeLayout)>,
}

impl Heads<'_> {
    fn expected(&self, x: &[f32], token: usize) -> Vec<f64> {
        let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        if let Some((weight, norm)) = &self.norm {
            x = normalized(&x, &weight.values, norm);
        }
        if let Some((table, width, layout)) = self.rotation {
            x = rotated(&x, &table[token * width..][..width], layout);
        }
        x
    }
}

/// Checks that the tokens' slots hold numbers within half a step of what is wanted, and that nothing else changed.
fn check_pages(isa: IsaKind, before: &History, after: &[u8], wanted: &[(usize, usize, usize, Vec<f64>)]) {
    let mut expected = before.bytes.clone();
    for (sequence, position, head, values) in wanted {
        for (d, value) in values.iter().enumerate() {
            let got = before.read(after, *sequence, *position, *head, d);
            let half_step = match before.row.format {
                Format::Mxfp4 => unreachable!("pages have other formats"),
                Format::Float(Float::F32) => value.abs() * 1e-6,
                Format::Float(Float::F16) => value.abs() / 2048.0,
                Format::Float(Float::Bf16) => value.abs() / 256.0,
                Format::Affine(_) => {
                    let group = before.group(*sequence, *position, *head, d / before.row.group());
                    0.5 * f64::from(Float::F16.get(&after[group..], 0))
                }
            };
            // Half a step, and the error of the arithmetic before.
            close(got as f32, *value, half_step * 1.01 + 2e-6, &format!("{isa:?} {position} {head} {d}"));
        }
        for word in 0..before.row.words() {
            let at = before.word(*sequence, *position, *head, word);
            expected[at..at + 4].copy_from_slice(&after[at..at + 4]);
        }
        for group in 0..before.row.groups() {
            let at = before.group(*sequence, *position, *head, group);
            expected[at..at + 4].copy_from_slice(&after[at..at + 4]);
        }
    }
    assert!(expected == after, "{isa:?}: only the tokens' own slots may change");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attend_agrees(shape in attend_shapes()) {
        attend(&shape);
    }

    #[test]
    fn rope_append_agrees(
        heads in 1usize..5, kv_heads in 1usize..3, dim in proptest::sample::select(vec![8usize, 24, 64, 96]),
        part in 0usize..3, interleaved in any::<bool>(), q_norm in any::<bool>(), k_norm in any::<bool>(),
        formats in (proptest::sample::select(formats()), proptest::sample::select(formats())),
        tokens in 1usize..50, seed in any::<u64>(),
    ) {
        let random = &mut Random::new(seed);
        let rotated = [0, dim / 2 / 2 * 2, dim][part];
        let layout = if interleaved { RopeLayout::Interleaved } else { RopeLayout::Half };
        let norm = Norm { eps: 1e-5, offset: 1.0, weight: Format::F16 };
        let (q_weight, k_weight) =
            (Weight::random(random, Format::F16, 1, dim), Weight::random(random, Format::F16, 1, dim));
        let width = (heads + 2 * kv_heads) * dim + 3;
        let view = |offset| View { offset, stride: width };
        let qkv = random.floats(tokens * width);
        let table = random.floats(tokens * rotated.max(1));
        let pages = shuffled(random, 2, 3);
        // Tokens at different places of two sequences.
        let places: Vec<(usize, usize)> = (0..tokens).map(|t| (t % 2, 7 + t)).collect();
        let keys = History::new(random, true, formats.0, (kv_heads, dim), &[5, 5], &pages);
        let values = History::new(random, false, formats.1, (kv_heads, dim), &[5, 5], &pages);
        let q_out = View { offset: 2, stride: heads * dim + 2 };
        let append = Append {
            heads: kv_heads,
            dim,
            k_format: formats.0,
            v_format: formats.1,
            k: view(heads * dim),
            v: view((heads + kv_heads) * dim),
        };
        let template = Template::RopeAppend(RopeAppend {
            heads,
            rotated,
            layout,
            q_norm: q_norm.then_some(norm),
            k_norm: k_norm.then_some(norm),
            rotate: false,
            q: view(0),
            q_out,
            append: append.clone(),
        });
        let ids = |f: fn(&(usize, usize)) -> usize| {
            bytes_of_ids(&places.iter().map(|p| f(p) as u32).collect::<Vec<_>>())
        };
        let mut args = vec![bytes_of(&qkv)];
        args.extend(q_norm.then(|| q_weight.bytes.clone()));
        args.extend(k_norm.then(|| k_weight.bytes.clone()));
        let inputs = [ids(|p| p.1), ids(|p| p.0), bytes_of_ids(&pages)];
        args.push(bytes_of(&table));
        args.extend(inputs.clone());
        args.push(vec![0; 4 * (tokens * q_out.stride + 2)]);
        args.extend([keys.bytes.clone(), values.bytes.clone()]);
        let rotation = (rotated > 0).then_some((&table[..], rotated, layout));
        let of_heads = |t: usize, first: usize, count: usize, how: &Heads<'_>| -> Vec<Vec<f64>> {
            let head = |h: usize| &qkv[t * width + first + h * dim..][..dim];
            (0..count).map(|h| how.expected(head(h), t)).collect()
        };
        let on_pages = |first: usize, how: &Heads<'_>| -> Vec<(usize, usize, usize, Vec<f64>)> {
            let per_token = |(t, (s, p)): (usize, &(usize, usize))| {
                let (s, p) = (*s, *p);
                of_heads(t, first, kv_heads, how).into_iter().enumerate().map(move |(h, x)| (s, p, h, x))
            };
            places.iter().enumerate().flat_map(per_token).collect()
        };
        let plain = Heads { norm: None, rotation: None };
        let q_heads = Heads { norm: q_norm.then_some((&q_weight, norm)), rotation };
        let k_heads = Heads { norm: k_norm.then_some((&k_weight, norm)), rotation };
        let last = args.len() - 1;
        launch_everywhere(&template, &args, sizes(tokens, 1, 3), |isa, out| {
            let got = floats_of(&out[last - 2]);
            for t in 0..tokens {
                for (h, expected) in of_heads(t, 0, heads, &q_heads).iter().enumerate() {
                    for (d, expected) in expected.iter().enumerate() {
                        let at = t * q_out.stride + q_out.offset + h * dim + d;
                        close(got[at], *expected, 2e-6 * (1.0 + expected.abs()), &format!("{isa:?} q {t} {h} {d}"));
                    }
                }
            }
            check_pages(isa, &keys, &out[last - 1], &on_pages(heads * dim, &k_heads));
            check_pages(isa, &values, &out[last], &on_pages((heads + kv_heads) * dim, &plain));
        });
        // The same keys and values appended on their own.
        let alone = Template::Append(append);
        let mut args = vec![bytes_of(&qkv), bytes_of(&qkv)];
        args.extend(inputs);
        args.extend([keys.bytes.clone(), values.bytes.clone()]);
        launch_everywhere(&alone, &args, sizes(tokens, 1, 3), |isa, out| {
            check_pages(isa, &keys, &out[5], &on_pages(heads * dim, &plain));
            check_pages(isa, &values, &out[6], &on_pages((heads + kv_heads) * dim, &plain));
        });
        // And the queries rotated on their own.
        let rope = Rope { heads, dim, start: 0, rotated, layout, norm: q_norm.then_some(norm), x: view(0), y: q_out };
        let mut args = vec![bytes_of(&qkv)];
        args.extend(q_norm.then(|| q_weight.bytes.clone()));
        args.extend([bytes_of(&table), vec![0; 4 * (tokens * q_out.stride + 2)]]);
        let last = args.len() - 1;
        launch_everywhere(&Template::Rope(rope), &args, sizes(tokens, 1, 3), |isa, out| {
            let got = floats_of(&out[last]);
            for t in 0..tokens {
                for (h, expected) in of_heads(t, 0, heads, &q_heads).iter().enumerate() {
                    for (d, expected) in expected.iter().enumerate() {
                        let at = t * q_out.stride + q_out.offset + h * dim + d;
                        close(got[at], *expected, 2e-6 * (1.0 + expected.abs()), &format!("{isa:?} {t} {h} {d}"));
                    }
                }
            }
        });
    }
}

/// Values that are the first elements of keys, of few rows and of many.
#[test]
fn values_are_part_of_keys() {
    let [q8, q4]: [Format; 2] = ["affine8_g32_f16", "affine4_g32_f16"].map(|f| f.parse().unwrap());
    for (i, format) in [Format::F32, Format::F16, Format::BF16, q8, q4].into_iter().enumerate() {
        for (dim, latent) in [(96, 64), (72, 40), (16, 8)] {
            // Groups are of whole heads where these do not divide.
            let tokens = vec![(0, 3), (0, 4), (1, 40), (1, 41), (1, 42), (2, 500), (0, 5)];
            let (group, window, seed) = ([4, 20][i % 2], if i == 2 { 50 } else { 0 }, i as u64);
            let formats = (format, format);
            let latent = Some(latent);
            attend(&Shape { kv_heads: 1, group, dim, window, cap: 0.0, formats, latent, sinks: false, tokens, seed });
        }
    }
    let (formats, tokens) = ((Format::F16, Format::F16), vec![(1, 2100)]);
    let latent = Some(32);
    attend(&Shape {
        kv_heads: 1,
        group: 5,
        dim: 48,
        window: 0,
        cap: 0.0,
        formats,
        latent,
        sinks: true,
        tokens,
        seed: 9,
    });
}

#[test]
fn one_token_over_a_long_history_spreads_over_threads() {
    attend(&Shape {
        kv_heads: 1,
        group: 5,
        dim: 64,
        window: 0,
        cap: 0.0,
        formats: (Format::F16, Format::F16),
        latent: None,
        sinks: true,
        tokens: vec![(1, 2100)],
        seed: 9,
    });
    attend(&Shape {
        kv_heads: 1,
        group: 5,
        dim: 64,
        window: 700,
        cap: 0.0,
        formats: (Format::F16, Format::F16),
        latent: None,
        sinks: true,
        tokens: vec![(1, 2100), (1, 2101)],
        seed: 10,
    });
}

#[test]
fn many_tokens_share_tasks() {
    let tokens = (0..150).map(|i| (i % 2, 250 + i)).collect();
    attend(&Shape {
        kv_heads: 2,
        group: 2,
        dim: 16,
        window: 90,
        cap: 0.0,
        formats: (Format::BF16, Format::F32),
        latent: None,
        sinks: true,
        tokens,
        seed: 1,
    });
}

#[test]
fn a_page_that_does_not_exist_is_named() {
    let template = Template::Attend(Attend {
        class: ShapeClass::One,
        heads: 1,
        kv_heads: 1,
        dim: 8,
        scale: 1.0,
        window: 0,
        cap: 0.0,
        k_format: Format::F16,
        v_format: Format::F16,
        latent: None,
        archive: None,
        rotate_back: false,
        sinks: None,
        q: View::dense(8),
        y: View::dense(8),
    });
    let page = vec![0; 2 * PAGE_TOKENS * 8];
    let floats = bytes_of(&[0.0; 8]);
    let args = |position: u32, sequence: u32, entry: u32| {
        let ids = [position, sequence, entry].map(|n| bytes_of_ids(&[n]));
        let [position, sequence, table] = ids;
        vec![floats.clone(), position, sequence, table, page.clone(), page.clone(), floats.clone()]
    };
    let isa = IsaKind::available()[0];
    for (args, argument) in [(args(0, 0, 1), 3), (args(0, 7, 0), 2), (args(40, 0, 0), 1)] {
        for threads in [1, 2] {
            let error = launch(&template, &args, sizes(1, 1, 1), isa, threads).unwrap_err().to_string();
            assert!(error.contains(&format!("argument {argument} holds")), "{error}");
        }
    }
    assert!(launch(&template, &args(3, 0, 0), sizes(1, 1, 1), isa, 1).is_ok());
}
