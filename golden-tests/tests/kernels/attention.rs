//! Kernels around the pages: rotation, append, attention.

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::ops::RopeLayout;
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::template::{Append, Attend, Norm, Rope, RopeAppend, Template, View};
use swiftlm_ir::ty::PAGE_TOKENS;

use crate::harness::{Random, Rows, Weight, bytes, dot, float_formats, from_pages, run, sizes, to_pages};

/// Entries of the page table per sequence.
pub(crate) const STRIDE: usize = 5;
pub(crate) const PAGES: usize = 17;

/// A step of tokens of three sequences: their positions, sequences and pages.
pub(crate) struct Step {
    pub(crate) positions: Vec<u32>,
    sequences: Vec<u32>,
    table: Vec<u32>,
}

impl Step {
    /// Pages are dealt in an order that is neither rising nor falling.
    pub(crate) fn new(tokens: &[(u32, u32)], bound: usize) -> Self {
        let mut positions: Vec<u32> = tokens.iter().map(|(_, position)| *position).collect();
        let mut sequences: Vec<u32> = tokens.iter().map(|(sequence, _)| *sequence).collect();
        positions.resize(bound, u32::MAX);
        sequences.resize(bound, u32::MAX);
        Self { positions, sequences, table: (0..3 * STRIDE).map(|i| (i * 7 % PAGES) as u32).collect() }
    }

    pub(crate) fn args(&self) -> [Vec<u8>; 3] {
        [bytes(&self.positions), bytes(&self.sequences), bytes(&self.table)]
    }

    /// Row of pages of `heads` heads where a head of a position of a token's sequence lies.
    fn row(&self, token: usize, position: usize, head: usize, heads: usize) -> usize {
        let page = self.table[self.sequences[token] as usize * STRIDE + position / PAGE_TOKENS] as usize;
        (page * heads + head) * PAGE_TOKENS + position % PAGE_TOKENS
    }
}

pub(crate) fn empty_pages(format: Format, heads: usize, dim: usize) -> Weight {
    let mut pages = Weight::random(&mut Random(0), format, PAGES * heads * PAGE_TOKENS, dim);
    pages.bytes.fill(0x5a);
    pages
}

/// Relative rounding error of a format.
pub(crate) fn unit(format: Format) -> f64 {
    match format.to_string().as_str() {
        "f16" => 2f64.powi(-11),
        "bf16" => 2f64.powi(-8),
        _ => 2f64.powi(-24),
    }
}

/// Table of a step: cosines, then sines of random angles.
pub(crate) fn rope_table(random: &mut Random, bound: usize, rotated: usize) -> Rows {
    let mut table = Rows::random(random, View::dense(rotated), bound, rotated);
    for row in table.data.chunks_exact_mut(rotated) {
        let (cos, sin) = row.split_at_mut(rotated / 2);
        cos.iter_mut().zip(sin).for_each(|(c, s)| (*s, *c) = (*c * 3.0).sin_cos());
    }
    table
}

/// Element `d` of a head by the definition: pairs are turned by their angle.
pub(crate) fn rotated(
    layout: RopeLayout,
    n: usize,
    table: &Rows,
    token: usize,
    d: usize,
    x: &dyn Fn(usize) -> f64,
) -> f64 {
    if d >= n {
        return x(d);
    }
    let (a, b, angle) = match layout {
        RopeLayout::Half => (d % (n / 2), d % (n / 2) + n / 2, d % (n / 2)),
        RopeLayout::Interleaved => (d / 2 * 2, d / 2 * 2 + 1, d / 2),
    };
    let (cos, sin) = (table.at(token, angle), table.at(token, angle + n / 2));
    if d == a { x(a) * cos - x(b) * sin } else { x(b) * cos + x(a) * sin }
}

pub(crate) fn normed(norm: Option<&Weight>, dim: usize, d: usize, x: &dyn Fn(usize) -> f64) -> f64 {
    let Some(weight) = norm else { return x(d) };
    x(d) / (dot(dim, x, x) / dim as f64 + 1e-3).sqrt() * (weight.at(0, d) + 0.5)
}

pub(crate) const NORM: Norm = Norm { eps: 1e-3, offset: 0.5, weight: Format::F16 };
pub(crate) const LAYOUTS: [RopeLayout; 2] = [RopeLayout::Half, RopeLayout::Interleaved];

#[test]
fn rope_turns_pairs() {
    let mut random = Random(11);
    for (heads, dim, start, part) in
        [(3, 8, 0, 8), (5, 20, 0, 12), (1, 10, 0, 6), (8, 64, 0, 64), (2, 6, 0, 2), (3, 20, 8, 12), (2, 24, 6, 10)]
    {
        for (layout, with_norm) in LAYOUTS.into_iter().flat_map(|l| [(l, false), (l, true)]) {
            let (x_view, y_view) = (View { offset: 4, stride: heads * dim + 7 }, View::dense(heads * dim));
            let x = Rows::random(&mut random, x_view, 4, heads * dim);
            let table = rope_table(&mut random, 4, part);
            let weight = with_norm.then(|| Weight::random(&mut random, Format::F16, 1, dim));
            let y = Rows::untouched(y_view, 4, heads * dim);
            let norm = weight.as_ref().map(|_| NORM);
            let t = Rope { heads, dim, start, rotated: part, layout, norm, x: x_view, y: y_view };
            let mut args = vec![x.bytes()];
            args.extend(weight.iter().map(|w| w.bytes.clone()));
            args.extend([table.bytes(), y.bytes()]);
            let after = run(&Template::Rope(t), 4, args, sizes(3, 1, 1));
            y.after(&after[after.len() - 1]).expect(3, 1e-5, |token, col| {
                let head = |d: usize| x.at(token, col / dim * dim + d);
                let head = |d: usize| normed(weight.as_ref(), dim, d, &head);
                match (col % dim).checked_sub(start) {
                    Some(d) => rotated(layout, part, &table, token, d, &|d| head(start + d)),
                    None => head(col % dim),
                }
            });
        }
    }
}

/// Checks what was appended to empty pages: values close to `want`, everything else as before.
pub(crate) fn expect_appended(
    (pages, keys): (&Weight, bool),
    after: &[u8],
    step: &Step,
    (tokens, heads, tolerance): (usize, usize, f64),
    want: impl Fn(usize, usize, usize) -> f64,
) {
    let (dim, format) = (pages.ty.cols, pages.ty.format);
    let after = from_pages(pages.ty, after, keys);
    let layout = format.layout(pages.ty.rows, dim);
    let mut written = vec![false; pages.ty.rows];
    for token in 0..tokens {
        for head in 0..heads {
            let row = step.row(token, step.positions[token] as usize, head, heads);
            written[row] = true;
            for d in 0..dim {
                let (got, want) = (after.at(row, d), want(token, head, d));
                let bar = match format {
                    Format::Affine(a) => {
                        let group = row * (dim / a.group as usize) + d / a.group as usize;
                        let step = f64::from(a.scale.get(&after.bytes[layout.components[1].offset..], group));
                        // Half a step, and the error of the arithmetic before.
                        0.501 * step + 1e-5
                    }
                    Format::Float(_) => tolerance * want.abs() + 1e-7,
                    Format::Mxfp4 => unreachable!("pages have other formats"),
                };
                let error = (got - want).abs();
                assert!(error <= bar, "{format} {token}, {head}, {d}: got {got}, want {want}");
            }
        }
    }
    for (row, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
        for c in &layout.components {
            let place = c.offset + row * c.row_bytes..c.offset + (row + 1) * c.row_bytes;
            assert_eq!(after.bytes[place.clone()], pages.bytes[place], "row {row} of the pages was written");
        }
    }
}

#[test]
fn append_writes_rows_of_pages() {
    let mut random = Random(12);
    let step = Step::new(&[(0, 0), (2, 31), (2, 32), (1, 159), (0, 77)], 6);
    let [q8, q4]: [Format; 2] = ["affine8_g32_f16", "affine4_g64_f16"].map(|f| f.parse().expect("a format"));
    let floats = [(Format::F16, Format::F32), (Format::F32, Format::BF16), (Format::BF16, Format::F16)];
    let shapes: [&[(usize, usize)]; 2] = [&[(1, 2), (3, 10), (5, 64)], &[(1, 64), (3, 128)]];
    for (format, other) in floats.into_iter().chain([(q8, q4), (q4, q8)]) {
        for (heads, dim) in shapes[usize::from(matches!(format, Format::Affine(_)))].iter().copied() {
            let view = View { offset: 2, stride: heads * dim + 3 };
            let k = Rows::random(&mut random, view, 6, heads * dim);
            let v = Rows::random(&mut random, View::dense(heads * dim), 6, heads * dim);
            let (keys, values) = (empty_pages(format, heads, dim), empty_pages(other, heads, dim));
            let t = Append { heads, dim, k_format: format, v_format: other, k: view, v: v.view };
            let [positions, sequences, table] = step.args();
            let pages = [to_pages(&keys, true), to_pages(&values, false)];
            let args = [k.bytes(), v.bytes(), positions, sequences, table].into_iter().chain(pages).collect();
            let after = run(&Template::Append(t), 6, args, sizes(5, 1, STRIDE));
            let of = |rows: &Rows, token: usize, head: usize, d: usize| rows.at(token, head * dim + d);
            expect_appended((&keys, true), &after[5], &step, (5, heads, unit(format)), |t, h, d| of(&k, t, h, d));
            expect_appended((&values, false), &after[6], &step, (5, heads, unit(other)), |t, h, d| of(&v, t, h, d));
        }
    }
}

#[test]
fn rope_append_does_both() {
    let mut random = Random(13);
    let step = Step::new(&[(0, 5), (1, 64), (2, 159), (1, 65)], 5);
    for (i, (heads, kv, dim, part)) in
        [(4, 2, 8, 8), (6, 1, 20, 12), (5, 5, 64, 64), (2, 2, 6, 0)].into_iter().enumerate()
    {
        for layout in LAYOUTS {
            let affine = dim == 64 && layout == RopeLayout::Half;
            let format =
                if affine { "affine8_g64_f16".parse().expect("a format") } else { float_formats()[(i + 1) % 3] };
            let (q_width, kv_width) = (heads * dim, kv * dim);
            let stride = q_width + 2 * kv_width + 1;
            let view = |offset: usize| View { offset, stride };
            let views = [view(0), view(q_width), view(q_width + kv_width)];
            let merged = Rows::random(&mut random, view(0), 5, q_width + 2 * kv_width);
            let norms: [Option<Weight>; 2] =
                [i % 2 == 0, i != 1].map(|on| on.then(|| Weight::random(&mut random, Format::F16, 1, dim)));
            let table = rope_table(&mut random, 5, part.max(2));
            let q_out = Rows::untouched(View { offset: 1, stride: q_width + 2 }, 5, q_width);
            let pages = empty_pages(format, kv, dim);
            let append = Append { heads: kv, dim, k_format: format, v_format: format, k: views[1], v: views[2] };
            let [q_norm, k_norm] = [0, 1].map(|i| norms[i].as_ref().map(|_| NORM));
            let t = RopeAppend {
                heads,
                rotated: part,
                layout,
                q_norm,
                k_norm,
                rotate: false,
                q: views[0],
                q_out: q_out.view,
                append,
            };
            let rope = if part == 0 { bytes(&[0f32; 5]) } else { table.bytes() };
            let mut args = vec![merged.bytes()];
            args.extend(norms.iter().flatten().map(|w| w.bytes.clone()));
            args.push(rope);
            args.extend(step.args());
            args.extend([q_out.bytes(), to_pages(&pages, true), to_pages(&pages, false)]);
            let after = run(&Template::RopeAppend(t), 5, args, sizes(4, 1, STRIDE));
            let turned = |norm: &Option<Weight>, first: usize, token: usize, d: usize| {
                let head = |d: usize| merged.at(token, first + d);
                let head = |d: usize| normed(norm.as_ref(), dim, d, &head);
                rotated(layout, part, &table, token, d, &head)
            };
            let n = after.len();
            q_out
                .after(&after[n - 3])
                .expect(4, 1e-5, |token, col| turned(&norms[0], col / dim * dim, token, col % dim));
            let shape = (4, kv, 1.01 * unit(format) + 1e-5);
            expect_appended((&pages, true), &after[n - 2], &step, shape, |token, head, d| {
                turned(&norms[1], q_width + head * dim, token, d)
            });
            expect_appended((&pages, false), &after[n - 1], &step, shape, |token, head, d| {
                merged.at(token, q_width + kv_width + head * dim + d)
            });
        }
    }
}

/// Softmax attention by the definition.
pub(crate) fn attended(
    t: &Attend,
    step: &Step,
    q: &Rows,
    (k, v): (&Weight, &Weight),
    sinks: Option<&Weight>,
    (token, col): (usize, usize),
) -> f64 {
    let (head, position) = (col / t.value_dim(), step.positions[token] as usize);
    let kv_head = head / (t.heads / t.kv_heads);
    let first = if t.window == 0 { 0 } else { (position + 1).saturating_sub(t.window) };
    let row = |p: usize| step.row(token, p, kv_head, t.kv_heads);
    let product = |p: usize| f64::from(t.scale) * dot(t.dim, |d| q.at(token, head * t.dim + d), |d| k.at(row(p), d));
    let cap = f64::from(t.cap);
    let score = |p: usize| if cap > 0.0 { cap * (product(p) / cap).tanh() } else { product(p) };
    let scores: Vec<f64> = (first..=position).map(score).collect();
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sink = sinks.map_or(0.0, |sinks| (sinks.at(0, head) - largest).exp());
    let total = weights.iter().sum::<f64>() + sink;
    (first..=position).zip(&weights).map(|(p, w)| w / total * v.at(row(p), col % t.value_dim())).sum()
}

/// Values that no query of `step` sees become NaN: none may reach a result.
pub(crate) fn poison(pages: &mut Weight, step: &Step, tokens: usize, heads: usize) {
    let mut seen = vec![false; pages.ty.rows];
    for token in 0..tokens {
        for position in 0..=step.positions[token] as usize {
            (0..heads).for_each(|head| seen[step.row(token, position, head, heads)] = true);
        }
    }
    let layout = pages.ty.format.layout(pages.ty.rows, pages.ty.cols);
    for (row, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
        for c in &layout.components {
            pages.bytes[c.offset + row * c.row_bytes..][..c.row_bytes].fill(0xff);
        }
    }
}

#[test]
fn attend_is_softmax_over_what_a_query_sees() {
    let mut random = Random(14);
    let tokens = [(0, 0), (0, 31), (1, 32), (2, 159), (1, 100), (2, 63)];
    for (i, (heads, kv_heads, dim)) in
        [(4, 2, 64), (6, 1, 8), (3, 3, 20), (8, 2, 128), (2, 1, 6), (4, 4, 96)].into_iter().enumerate()
    {
        for (class, window, cap) in [
            (ShapeClass::Some, 0, 0.0),
            (ShapeClass::One, 0, 1.5),
            (ShapeClass::Few, 40, 4.0),
            (ShapeClass::Many, 1, 0.0),
        ] {
            let count = class.max_rows(8).min(6);
            let bound = class.max_rows(8).min(8);
            let step = Step::new(&tokens[6 - count..], bound);
            let q_view = View { offset: 4 * (i % 2), stride: heads * dim + 4 };
            let y_view = View { offset: i, stride: heads * dim + 9 };
            let formats: Vec<Format> = match dim.is_multiple_of(64) && window > 0 {
                true => ["affine8_g64_f16", "affine4_g32_f16", "f16"].map(|f| f.parse().expect("a format")).into(),
                false => float_formats(),
            };
            let (k_format, v_format) = (formats[i % 3], formats[(i + 1) % 3]);
            let q = Rows::random(&mut random, q_view, bound, heads * dim);
            let y = Rows::untouched(y_view, bound, heads * dim);
            let [mut k, mut v] =
                [k_format, v_format].map(|f| Weight::random(&mut random, f, PAGES * kv_heads * PAGE_TOKENS, dim));
            poison(&mut k, &step, count, kv_heads);
            poison(&mut v, &step, count, kv_heads);
            let scale = 3.0 / (dim as f32).sqrt();
            let sinks = (i % 2 == 0).then(|| Weight::random(&mut random, Format::F16, 1, heads));
            let (archive, rotate_back) = (None, false);
            let (q_at, y_at) = (q_view, y_view);
            let t = Attend {
                class,
                heads,
                kv_heads,
                dim,
                scale,
                window,
                cap,
                k_format,
                v_format,
                latent: None,
                archive,
                rotate_back,
                sinks: sinks.as_ref().map(|_| Float::F16),
                q: q_at,
                y: y_at,
            };
            let [positions, sequences, table] = step.args();
            let mut args = vec![q.bytes(), positions, sequences, table, to_pages(&k, true), to_pages(&v, false)];
            args.extend(sinks.iter().map(|sinks| sinks.bytes.clone()));
            args.push(y.bytes());
            let y_at = args.len() - 1;
            let after = run(&Template::Attend(t.clone()), 8, args, sizes(count, 1, STRIDE));
            y.after(&after[y_at])
                .expect(count, 1e-5, |token, col| attended(&t, &step, &q, (&k, &v), sinks.as_ref(), (token, col)));
        }
    }
}
