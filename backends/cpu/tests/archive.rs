//! Micro-kernels of `rotate`, `archive`, of `rope_append` that rotates and `attend` that reads an archive, on every
//! instruction set, against the codec of the host and f64.

mod common;

use common::{Random, bytes_of, bytes_of_ids, close, floats_of, ids_of, launch, launch_everywhere, sizes};
use half::f16;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::ops::RopeLayout;
use swiftlm_ir::quant::archive::MEAN_FROM;
use swiftlm_ir::quant::rotation::rotate;
use swiftlm_ir::quant::{Archive, ArchiveRow, Float, Format, Turbo};
use swiftlm_ir::template::{Append, Archiving, Attend, RopeAppend, Rotate, Template, View};
use swiftlm_ir::ty::PAGE_TOKENS;

fn turned(x: &[f32], dim: usize, inverse: bool) -> Vec<f32> {
    let mut y = x.to_vec();
    y.chunks_exact_mut(dim).for_each(|head| rotate(head, inverse).unwrap());
    y
}

#[test]
fn rotations_are_the_host_s() {
    let random = &mut Random::new(1);
    for (heads, dim, inverse) in
        [(3, 64, false), (2, 96, true), (1, 16, true), (5, 128, false), (2, 8, false), (1, 80, true)]
    {
        let (x, view) = (random.floats(4 * heads * dim), View::dense(heads * dim));
        let template = Template::Rotate(Rotate { heads, dim, inverse, x: view, y: view });
        launch_everywhere(&template, &[bytes_of(&x), vec![0; 4 * x.len()]], sizes(4, 1, 1), |isa, out| {
            for (got, expected) in floats_of(&out[1]).into_iter().zip(turned(&x, dim, inverse)) {
                close(got, f64::from(expected), 1e-5, &format!("{isa:?}, {dim}"));
            }
        });
    }
}

/// A head of keys (or values) of a page of floats, from rows of `dim` elements.
fn page(rows: &[f32], dim: usize, keys: bool) -> Vec<u8> {
    let half = |slot: usize, d: usize| f16::from_f32(rows[slot * dim + d]).to_le_bytes();
    if !keys {
        return (0..PAGE_TOKENS).flat_map(|slot| (0..dim).flat_map(move |d| half(slot, d))).collect();
    }
    let word = |word: usize, slot: usize| [half(slot, 2 * word), half(slot, 2 * word + 1)].concat();
    (0..dim / 2).flat_map(|w| (0..PAGE_TOKENS).flat_map(move |slot| word(w, slot))).collect()
}

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| f16::from_f32(*x).to_f32()).collect()
}

fn archive(k: &str, v: &str, centered: bool) -> Archive {
    Archive { k: k.parse().unwrap(), v: v.parse().unwrap(), first: 32, last: 32, centered }
}

/// Words of a page's head as bytes.
fn words(words: &[u32]) -> Vec<u8> {
    bytes_of_ids(words)
}

const HEADS: usize = 2;
/// Pages of a sequence, in shuffled order.
const TABLE: [u32; 5] = [3, 0, 4, 1, 2];

/// Histories of five pages: by page and head rows of `dim` elements, rounded as pages round them.
struct Histories {
    dim: usize,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Histories {
    fn new(random: &mut Random, dim: usize) -> Self {
        let mut half = |offset: f32| {
            let head =
                |random: &mut Random| random.floats(PAGE_TOKENS * dim).iter().map(|x| x + offset).collect::<Vec<_>>();
            (0..TABLE.len() * HEADS).map(|_| rounded(&head(random))).collect()
        };
        Self { dim, keys: half(0.4), values: half(0.0) }
    }

    /// Bytes of all pages, each block's where the table says.
    fn pages(&self, of: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
        let at = |page: u32| TABLE.iter().position(|p| *p == page).unwrap();
        (0..TABLE.len() as u32)
            .flat_map(|page| (0..HEADS).map(move |head| at(page) * HEADS + head))
            .flat_map(of)
            .collect()
    }

    /// What keys of a head lack in the archive.
    fn mean(&self, archive: &Archive, head: usize) -> Vec<f32> {
        let sum = |d: usize| (MEAN_FROM..PAGE_TOKENS).map(|slot| self.keys[head][slot * self.dim + d]).sum::<f32>();
        let count = (PAGE_TOKENS - MEAN_FROM) as f32;
        (0..self.dim).map(|d| if archive.centered { sum(d) / count } else { 0.0 }).collect()
    }

    /// Rows of a block's head as they go to the archive.
    fn archived(&self, archive: &Archive, i: usize, keys: bool) -> Vec<f32> {
        if !keys {
            return self.values[i].clone();
        }
        let mean = self.mean(archive, i % HEADS);
        self.keys[i].iter().enumerate().map(|(j, x)| x - mean[j % self.dim]).collect()
    }
}

#[test]
fn pages_are_coded_as_the_host_codes_them() {
    for (archive, dim) in [
        (archive("turbo4", "turbo4", false), 64),
        (archive("turbo3_unbiased", "turbo2", true), 48),
        (archive("turbo4", "turbo1", true), 96),
    ] {
        let histories = Histories::new(&mut Random::new(dim as u64), dim);
        let rows = [archive.k, archive.v].map(|format: Turbo| ArchiveRow::new(format, dim).unwrap());
        let positions: Vec<u32> = vec![31, 40, 63, 95, 159];
        let template =
            Template::Archive(Archiving { heads: HEADS, dim, k_format: Format::F16, v_format: Format::F16, archive });
        let empty = |row: ArchiveRow| vec![0xffu8; TABLE.len() * HEADS * row.page_bytes()];
        let args = [
            bytes_of_ids(&positions),
            bytes_of_ids(&[0; 5]),
            bytes_of_ids(&TABLE),
            histories.pages(|i| page(&histories.keys[i], dim, true)),
            histories.pages(|i| page(&histories.values[i], dim, false)),
            bytes_of_ids(&TABLE),
            empty(rows[0]),
            empty(rows[1]),
        ];
        launch_everywhere(&template, &args, sizes(5, 1, TABLE.len()), |isa, out| {
            for (row, keys, bytes) in [(rows[0], true, &out[6]), (rows[1], false, &out[7])] {
                let all = ids_of(bytes);
                for (block, head) in [0, 1, 2, 4].into_iter().flat_map(|b| (0..HEADS).map(move |h| (b, h))) {
                    let at = (TABLE[block] as usize * HEADS + head) * row.page_bytes() / 4;
                    let got = row.decode(&all[at..at + row.page_bytes() / 4], keys);
                    let x = histories.archived(&archive, block * HEADS + head, keys);
                    let expected = row.decode(&row.encode(&x, keys), keys);
                    // A number near a border may have either code.
                    let other = got.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 2e-3).count();
                    assert!(other <= 2, "{isa:?}, {}, keys {keys}, block {block}: {other} others", row.format);
                }
                // Page 1 of the table is of a block that no token filled.
                let at = TABLE[3] as usize * HEADS * row.page_bytes();
                assert!(bytes[at..at + row.page_bytes()].iter().all(|b| *b == 0xff), "{isa:?}: left alone");
            }
        });
    }
}

#[test]
fn attention_reads_old_blocks_from_the_archive() {
    for (archive, dim, group, window) in [
        (archive("turbo4", "turbo4", false), 64, 4, 0),
        (archive("turbo3", "turbo2", true), 48, 1, 0),
        (archive("turbo4_unbiased", "turbo3", true), 96, 7, 0),
        (archive("turbo1", "turbo4", false), 16, 3, 110),
    ] {
        let (random, heads) = (&mut Random::new(7 + dim as u64), HEADS * group);
        let histories = Histories::new(random, dim);
        let rows = [archive.k, archive.v].map(|format: Turbo| ArchiveRow::new(format, dim).unwrap());
        let old = |row: ArchiveRow, keys: bool| {
            histories.pages(|i| words(&row.encode(&histories.archived(&archive, i, keys), keys)))
        };
        // Chunks of tokens, tokens alone, and one that sees no archive.
        let positions: Vec<usize> = (84..104).chain([159, 20, 128, 127, 130]).collect();
        let view = View::dense(heads * dim);
        let q: Vec<f32> = random.floats(positions.len() * view.stride).iter().map(|x| 2.0 * x).collect();
        let scale = 1.0 / (dim as f32).sqrt();
        let sinks = (group > 1).then(|| random.floats(heads));
        let template = |tokens: usize| {
            Template::Attend(Attend {
                class: ShapeClass::of(tokens),
                heads,
                kv_heads: HEADS,
                dim,
                scale,
                window,
                cap: 0.0,
                k_format: Format::F16,
                v_format: Format::F16,
                latent: None,
                archive: Some(archive),
                rotate_back: true,
                sinks: sinks.as_ref().map(|_| Float::F32),
                q: view,
                y: view,
            })
        };
        let args = |tokens: std::ops::Range<usize>| {
            let of: Vec<u32> = positions[tokens.clone()].iter().map(|p| *p as u32).collect();
            let mut args = vec![
                bytes_of(&q[tokens.start * view.stride..tokens.end * view.stride]),
                bytes_of_ids(&of),
                bytes_of_ids(&vec![0; of.len()]),
                bytes_of_ids(&TABLE),
                histories.pages(|i| page(&histories.keys[i], dim, true)),
                histories.pages(|i| page(&histories.values[i], dim, false)),
                bytes_of_ids(&TABLE),
                old(rows[0], true),
                old(rows[1], false),
            ];
            args.extend(sinks.iter().map(|sinks| bytes_of(sinks)));
            args.push(vec![0; 4 * of.len() * view.stride]);
            args
        };
        let read = |block: usize, head: usize, keys: bool, from_archive: bool| {
            let (i, row) = (block * HEADS + head, if keys { rows[0] } else { rows[1] });
            if !from_archive {
                return if keys { histories.keys[i].clone() } else { histories.values[i].clone() };
            }
            let coded = row.decode(&row.encode(&histories.archived(&archive, i, keys), keys), keys);
            let mean = histories.mean(&archive, head);
            coded.iter().enumerate().map(|(j, x)| if keys { x + mean[j % dim] } else { *x }).collect()
        };
        let count = positions.len();
        launch_everywhere(&template(count), &args(0..count), sizes(count, 1, TABLE.len()), |isa, out| {
            let last = out.len() - 1;
            let got = floats_of(&out[last]);
            for (t, position) in positions.iter().enumerate() {
                let first = if window == 0 { 0 } else { (position + 1).saturating_sub(window) };
                for head in 0..heads {
                    let query = &q[t * view.stride + head * dim..][..dim];
                    let sink = sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
                    let (mut total, mut sums) = (sink, vec![0.0f64; dim]);
                    for block in first / PAGE_TOKENS..position / PAGE_TOKENS + 1 {
                        let old = archive.holds(block, position / PAGE_TOKENS);
                        let [keys, values] = [true, false].map(|keys| read(block, head / group, keys, old));
                        for slot in 0..PAGE_TOKENS {
                            let p = block * PAGE_TOKENS + slot;
                            if p < first || p > *position {
                                continue;
                            }
                            let of = |x: &[f32], d: usize| f64::from(x[slot * dim + d]);
                            let score: f64 = (0..dim).map(|d| f64::from(query[d]) * of(&keys, d)).sum();
                            let weight = (score * f64::from(scale)).exp();
                            total += weight;
                            sums.iter_mut().enumerate().for_each(|(d, sum)| *sum += weight * of(&values, d));
                        }
                    }
                    let y: Vec<f32> = sums.iter().map(|sum| (sum / total) as f32).collect();
                    for (d, expected) in turned(&y, dim, true).into_iter().enumerate() {
                        let what = format!("{isa:?}, {archive:?}, position {position}, head {head}, element {d}");
                        close(got[t * view.stride + head * dim + d], f64::from(expected), 1e-4, &what);
                    }
                }
                let alone = launch(&template(1), &args(t..t + 1), sizes(1, 1, TABLE.len()), isa, 2).unwrap();
                let same = alone[last] == out[last][4 * t * view.stride..4 * (t + 1) * view.stride];
                assert!(same, "{isa:?}: position {position} differs between alone and in its batch");
            }
        });
    }
}

#[test]
fn queries_keys_and_values_are_rotated_on_their_way() {
    let (random, dim, heads) = (&mut Random::new(5), 48, 2);
    let width = (heads + 2 * HEADS) * dim;
    let qkv = random.floats(3 * width);
    let view = |offset: usize| View { offset, stride: width };
    let append = Append {
        heads: HEADS,
        dim,
        k_format: Format::F16,
        v_format: Format::F16,
        k: view(heads * dim),
        v: view((heads + HEADS) * dim),
    };
    let template = Template::RopeAppend(RopeAppend {
        heads,
        rotated: dim,
        layout: RopeLayout::Half,
        q_norm: None,
        k_norm: None,
        rotate: true,
        q: view(0),
        q_out: View::dense(heads * dim),
        append,
    });
    // Angles of 0: nothing else happens.
    let table: Vec<f32> = (0..3 * dim).map(|i| if i % dim < dim / 2 { 1.0 } else { 0.0 }).collect();
    let pages = vec![0u8; HEADS * PAGE_TOKENS * dim * 2];
    let args = [
        bytes_of(&qkv),
        bytes_of(&table),
        bytes_of_ids(&[4, 5, 6]),
        bytes_of_ids(&[0; 3]),
        bytes_of_ids(&[0]),
        vec![0; 4 * 3 * heads * dim],
        pages.clone(),
        pages,
    ];
    launch_everywhere(&template, &args, sizes(3, 1, 1), |isa, out| {
        let q = floats_of(&out[5]);
        for t in 0..3 {
            let row = turned(&qkv[t * width..(t + 1) * width], dim, false);
            for i in 0..heads * dim {
                close(q[t * heads * dim + i], f64::from(row[i]), 1e-5, &format!("{isa:?}"));
            }
            for (head, d) in (0..HEADS).flat_map(|h| (0..dim).map(move |d| (h, d))) {
                let base = head * PAGE_TOKENS * dim * 2;
                let key = base + ((d / 2) * PAGE_TOKENS + t + 4) * 4 + d % 2 * 2;
                let value = base + ((t + 4) * dim + d) * 2;
                for (bytes, at, offset) in [(&out[6], key, heads), (&out[7], value, heads + HEADS)] {
                    let got = f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
                    close(got, f64::from(row[(offset + head) * dim + d]), 1e-3, &format!("{isa:?}, {head}, {d}"));
                }
            }
        }
    });
}
