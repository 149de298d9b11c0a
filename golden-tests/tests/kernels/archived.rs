//! Attention over an archive, compared with the definition, for every width of codes, sizes of heads, and classes.

use swiftlm_compiler::kernels::build;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::quant::archive::MEAN_FROM;
use swiftlm_ir::quant::rotation::rotate;
use swiftlm_ir::quant::turbo::Scale;
use swiftlm_ir::quant::{Archive, ArchiveRow, Float, Format, Turbo};
use swiftlm_ir::template::{Attend, Template, View};
use swiftlm_ir::ty::PAGE_TOKENS;
use swiftlm_shader::{LowerOptions, lower};

use crate::harness::{Random, Rows, Weight, bytes, dot, floats, run, sizes, to_pages};

/// Blocks of a sequence: three spans and a part of one.
const BLOCKS: usize = 13;
const SEQUENCES: usize = 2;
const PAGES: usize = SEQUENCES * BLOCKS;
const CHUNK: usize = 70;

/// A history of two sequences, kept twice: as it is, and in codes.
struct History {
    archive: Archive,
    kv_heads: usize,
    dim: usize,
    tables: [Vec<u32>; 2],
    /// Keys and values of the recent, a row for each page, head and slot.
    recent: [Weight; 2],
    /// Words of the archive, and what they mean, in the same order.
    words: [Vec<u32>; 2],
    decoded: [Vec<f32>; 2],
}

impl History {
    fn new(random: &mut Random, archive: Archive, kv_heads: usize, dim: usize) -> Self {
        let recent = [(); 2].map(|()| Weight::random(random, Format::F16, PAGES * kv_heads * PAGE_TOKENS, dim));
        let encode = |random: &mut Random, format: Turbo, keys: bool| {
            let row = ArchiveRow::new(format, dim).expect("a size that is supported");
            let head = |_: usize| {
                let x: Vec<f32> = (0..PAGE_TOKENS * dim).map(|_| random.unit() + random.unit()).collect();
                row.encode(&x, keys)
            };
            let words: Vec<Vec<u32>> = (0..PAGES * kv_heads).map(head).collect();
            let decoded = words.iter().flat_map(|words| row.decode(words, keys)).collect();
            (words.concat(), decoded)
        };
        let [keys, values] = [(archive.k, true), (archive.v, false)].map(|(format, keys)| encode(random, format, keys));
        let table = |by: usize| (0..PAGES).map(|i| ((i * by + 5) % PAGES) as u32).collect();
        let tables = [table(7), table(11)];
        Self { archive, kv_heads, dim, tables, recent, words: [keys.0, values.0], decoded: [keys.1, values.1] }
    }

    /// Row of a position of a sequence among all pages of the recent (0) or of the archive (1).
    fn row(&self, of: usize, sequence: u32, position: usize, head: usize) -> usize {
        let page = self.tables[of][sequence as usize * BLOCKS + position / PAGE_TOKENS] as usize;
        (page * self.kv_heads + head) * PAGE_TOKENS + position % PAGE_TOKENS
    }

    /// Element `d` of the key (0) or value (1) of a position that a query at `last` sees.
    fn at(&self, part: usize, (sequence, last): (u32, usize), position: usize, head: usize, d: usize) -> f64 {
        match self.archive.holds(position / PAGE_TOKENS, last / PAGE_TOKENS) {
            true => f64::from(self.decoded[part][self.row(1, sequence, position, head) * self.dim + d]),
            false => self.recent[part].at(self.row(0, sequence, position, head), d),
        }
    }

    /// Pages that no query reads hold what is no number: scales and recent rows.
    fn poison(&mut self, tokens: &[(u32, usize)]) {
        let mut read = [vec![false; PAGES], vec![false; PAGES]];
        for (sequence, last) in tokens {
            for block in 0..=last / PAGE_TOKENS {
                let of = usize::from(self.archive.holds(block, last / PAGE_TOKENS));
                read[of][self.tables[of][*sequence as usize * BLOCKS + block] as usize] = true;
            }
        }
        let (rows, heads) = (self.kv_heads * PAGE_TOKENS, self.kv_heads);
        for (page, _) in read[0].iter().enumerate().filter(|(_, read)| !**read) {
            for weight in &mut self.recent {
                let row_bytes = self.dim * 2;
                weight.bytes[page * rows * row_bytes..(page + 1) * rows * row_bytes].fill(0xff);
            }
        }
        for (page, _) in read[1].iter().enumerate().filter(|(_, read)| !**read) {
            for words in &mut self.words {
                let each = words.len() / PAGES / heads * heads;
                words[page * each..(page + 1) * each].fill(u32::MAX);
            }
        }
    }
}

/// Attention by the definition, rotated back: all query heads of a token.
fn attended(t: &Attend, history: &History, (q, sinks): (&Rows, &Weight), row: usize, token: (u32, usize)) -> Vec<f32> {
    let (archive, last) = (history.archive, token.1);
    let first = if t.window == 0 { 0 } else { (last + 1).saturating_sub(t.window) };
    let head = |head: usize| {
        let kv_head = head / (t.heads / t.kv_heads);
        let product = |p: usize| dot(t.dim, |d| q.at(row, head * t.dim + d), |d| history.at(0, token, p, kv_head, d));
        let mean = || {
            let recent = |p: usize| {
                let key = history.row(0, token.0, p, kv_head);
                dot(t.dim, |d| q.at(row, head * t.dim + d), |d| history.recent[0].at(key, d))
            };
            (MEAN_FROM..archive.first).map(recent).sum::<f64>() / (archive.first - MEAN_FROM) as f64
        };
        let mean = if archive.centered { mean() } else { 0.0 };
        let score = |p: usize| {
            let archived = archive.holds(p / PAGE_TOKENS, last / PAGE_TOKENS);
            let product = f64::from(t.scale) * (product(p) + if archived { mean } else { 0.0 });
            if t.cap > 0.0 { f64::from(t.cap) * (product / f64::from(t.cap)).tanh() } else { product }
        };
        let scores: Vec<f64> = (first..=last).map(score).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sink = t.sinks.map_or(0.0, |_| (sinks.at(0, head) - largest).exp());
        let total = weights.iter().sum::<f64>() + sink;
        let value = |d: usize| {
            (first..=last).zip(&weights).map(|(p, w)| w / total * history.at(1, token, p, kv_head, d)).sum::<f64>()
        };
        let mut mean: Vec<f32> = (0..t.dim).map(|d| value(d) as f32).collect();
        rotate(&mut mean, true).expect("a size that rotates");
        mean
    };
    (0..t.heads).flat_map(head).collect()
}

/// The kernels' results for some tokens in the class of their number.
fn results(
    t: &Attend,
    history: &History,
    (q, sinks): (&Rows, &Weight),
    tokens: &[(u32, usize)],
    first: usize,
) -> Vec<f32> {
    let class = ShapeClass::of(tokens.len());
    let bound = class.max_rows(CHUNK).min(CHUNK);
    let ids = |of: &dyn Fn(&(u32, usize)) -> u32| {
        let mut ids: Vec<u32> = tokens.iter().map(of).collect();
        ids.resize(bound, 0);
        bytes(&ids)
    };
    let mut queries = q.data[first * q.width..(first + tokens.len()) * q.width].to_vec();
    queries.resize(bound * q.width, f32::NAN);
    let mut args = vec![
        bytes(&queries),
        ids(&|(_, position)| *position as u32),
        ids(&|(sequence, _)| *sequence),
        bytes(&history.tables[0]),
        to_pages(&history.recent[0], true),
        to_pages(&history.recent[1], false),
        bytes(&history.tables[1]),
        bytes(&history.words[0]),
        bytes(&history.words[1]),
    ];
    args.extend(t.sinks.map(|_| sinks.bytes.clone()));
    args.push(vec![0xff; 4 * bound * q.width]);
    let y_at = args.len() - 1;
    let template = Template::Attend(Attend { class, ..t.clone() });
    let after = run(&template, CHUNK, args, sizes(tokens.len(), 1, BLOCKS));
    floats(&after[y_at])[..tokens.len() * q.width].to_vec()
}

/// Heads, KV heads, elements; bits of keys and values; first and last tokens not archived; centred; window; cap.
type Case = ((usize, usize, usize), (u8, u8), (usize, usize), bool, usize, f32);

const CASES: [Case; 10] = [
    ((4, 1, 64), (4, 4), (32, 32), false, 0, 0.0),
    ((8, 2, 64), (4, 3), (64, 96), true, 0, 0.0),
    ((6, 1, 128), (3, 4), (32, 32), true, 0, 2.5),
    ((2, 2, 80), (2, 1), (32, 64), false, 0, 0.0),
    ((3, 3, 96), (1, 2), (0, 32), false, 300, 0.0),
    ((2, 1, 112), (3, 3), (32, 32), true, 190, 0.0),
    ((2, 1, 192), (4, 4), (160, 32), true, 0, 0.0),
    ((9, 1, 16), (3, 2), (32, 32), false, 0, 3.0),
    ((2, 1, 256), (2, 3), (32, 32), false, 0, 0.0),
    ((1, 1, 48), (1, 1), (0, 64), false, 200, 0.0),
];

fn close(got: f32, want: f32) -> bool {
    (got - want).abs() <= 2e-5 * (1.0 + want.abs())
}

#[test]
fn an_archive_is_read_as_the_definition_says_in_every_class() {
    let mut random = Random(41);
    for (i, ((heads, kv_heads, dim), (k, v), (first, last), centered, window, cap)) in CASES.into_iter().enumerate() {
        let scale = if i % 2 == 0 { Scale::Matched } else { Scale::Unbiased };
        let codes = |bits| Turbo::new(bits, scale).expect("1 to 4 bits");
        let archive = Archive { k: codes(k), v: codes(v), first, last, centered };
        let mut history = History::new(&mut random, archive, kv_heads, dim);
        let view = View::dense(heads * dim);
        let ends = [BLOCKS * PAGE_TOKENS - 1, 3, 129, 255, 256, 300];
        let tokens: Vec<(u32, usize)> = (0..CHUNK).map(|i| ((i % SEQUENCES) as u32, ends[i % ends.len()])).collect();
        let q = Rows::random(&mut random, view, CHUNK, heads * dim);
        history.poison(&tokens);
        let (k_format, v_format) = (Format::F16, Format::F16);
        let t = Attend {
            class: ShapeClass::One,
            heads,
            kv_heads,
            dim,
            scale: 1.5 / (dim as f32).sqrt(),
            window,
            cap,
            k_format,
            v_format,
            latent: None,
            archive: Some(archive),
            rotate_back: true,
            sinks: (i % 3 != 1).then_some(Float::F16),
            q: view,
            y: view,
        };
        let sinks = Weight::random(&mut random, Format::F16, 1, heads);
        let rows = (&q, &sinks);
        let few = results(&t, &history, rows, &tokens[..6], 0);
        for (row, token) in tokens.iter().enumerate().take(6) {
            let want = attended(&t, &history, rows, row, *token);
            for (col, (got, want)) in few[row * q.width..].iter().zip(&want).enumerate() {
                assert!(close(*got, *want), "case {i}, {token:?}, {col}: got {got}, want {want}");
            }
        }
        // One page more of the recent is something else.
        history.archive.last += PAGE_TOKENS;
        let wrong = attended(&t, &history, rows, 0, tokens[0]);
        assert!(few.iter().zip(&wrong).any(|(got, wrong)| !close(*got, *wrong)), "case {i}: pages make no difference");
        // The same bits in any class; where all tokens fill a chunk, the interpreter takes its time.
        let mut counts = vec![(0, 1), (5, 1), (0, 9)];
        counts.extend((i == 0).then_some((0, CHUNK)));
        for (from, count) in counts {
            let part = results(&t, &history, rows, &tokens[from..from + count], from);
            let n = part.len().min(few.len() - from * q.width);
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&part[..n]), bits(&few[from * q.width..][..n]), "case {i}: {count} tokens from {from}");
        }
    }
}

/// Large groups of large heads, in the shared memory that the smallest of the devices we know have.
#[test]
fn large_heads_fit_in_shared_memory() {
    for dim in [64, 128, 256, 512] {
        for class in ShapeClass::ALL {
            for bits in [3, 4] {
                let archive = Archive { centered: true, ..Archive::of_bits(bits, bits).expect("1 to 4 bits") };
                let view = View::dense(8 * dim);
                let t = Attend {
                    class,
                    heads: 8,
                    kv_heads: 1,
                    dim,
                    scale: 1.0,
                    window: 0,
                    cap: 0.0,
                    k_format: Format::F16,
                    v_format: Format::F16,
                    latent: None,
                    archive: Some(archive),
                    rotate_back: true,
                    sinks: None,
                    q: view,
                    y: view,
                };
                for built in build(&Template::Attend(t), CHUNK, 1) {
                    let options = LowerOptions { subgroup: None, shared_bytes: 32 << 10, ..LowerOptions::default() };
                    let lowered = lower(&built.kernel, &options);
                    assert!(lowered.is_ok(), "{dim}, {class:?}, {bits} bits: {:?}", lowered.err());
                }
            }
        }
    }
}
