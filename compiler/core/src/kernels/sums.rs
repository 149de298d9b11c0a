//! Weighted sums of values: some elements of some rows in every lane, until a chain ends.

use swiftlm_ir::kernel::builder::{E, Kb, S, V};

use super::archived::{Archived, Decoded, OCTET};
use super::history::{QUAD, Seen, quad_of_block};
use super::pages::Pages;
use super::shape::{Output, Shape};
use super::span::QUADS;

/// Sums of a chain that is being made.
pub(super) struct Sums<'k> {
    kb: &'k Kb,
    shape: Shape,
    /// By chunk, head and vector.
    sums: Vec<Vec<Vec<V<'k>>>>,
    /// What biases add to every element, by chunk and head.
    biases: Vec<Vec<V<'k>>>,
}

/// A chunk of four rows that was read.
pub(super) struct Rows<'k> {
    /// Which four of the span, and whether there is one, if that is not certain.
    quad: E<'k>,
    exists: Option<E<'k>>,
    position: E<'k>,
    pages: Pages<'k>,
    /// A word or more of each of the four; of values that are part of keys, of each word those of the four.
    words: Vec<E<'k>>,
    /// Scales and biases as stored; of slots that are not seen they may be anything.
    groups: Option<[E<'k>; 4]>,
}

impl<'k> Sums<'k> {
    /// Sums of nothing.
    pub(super) fn new(kb: &'k Kb, shape: Shape) -> Self {
        let (zero, zeros) = (kb.f32(0.0), kb.f32(0.0).splat(4));
        let vars = |n: usize, value: E<'k>| (0..n).map(|_| kb.var(value)).collect::<Vec<V<'k>>>();
        let biased = shape.group.map_or(0, |_| shape.heads);
        let sums = |_| (0..shape.heads).map(|_| vars(shape.vectors(), zeros)).collect();
        let sums = (0..shape.each).map(sums).collect();
        Self { kb, shape, sums, biases: (0..shape.each).map(|_| vars(biased, zero)).collect() }
    }

    /// Multiplies the sums of each head.
    pub(super) fn shrink(&self, factors: &[E<'k>]) {
        for (sums, biases) in self.sums.iter().zip(&self.biases) {
            for (sums, factor) in sums.iter().zip(factors) {
                sums.iter().for_each(|sum| sum.set(sum.get() * factor.splat(4)));
            }
            biases.iter().zip(factors).for_each(|(bias, factor)| bias.set(bias.get() * *factor));
        }
    }

    /// Reads the first rows of the span that begins at `start`, to be added once their weights are known.
    pub(super) fn read_first(&self, seen: &Seen<'k>, kv_head: E<'k>, start: E<'k>) -> Vec<Vec<Rows<'k>>> {
        self.read(seen, kv_head, start, self.shape.batches(self.kb, seen, start).0)
    }

    /// Adds the rows of the span, of which `first` were read; `weights` are by head and four of slots.
    pub(super) fn add(&self, seen: &Seen<'k>, kv_head: E<'k>, start: E<'k>, first: &[Vec<Rows<'k>>], weights: S<'k>) {
        self.take(seen, first, weights);
        let (from, to) = self.shape.batches(self.kb, seen, start);
        if self.shape.batch() < QUADS {
            self.kb.range(from.plus(1), to, 1, |batch| {
                self.take(seen, &self.read(seen, kv_head, start, batch), weights);
            });
        }
    }

    /// Reads a batch of rows, by chunk of the lane.
    fn read(&self, seen: &Seen<'k>, kv_head: E<'k>, start: E<'k>, batch: E<'k>) -> Vec<Vec<Rows<'k>>> {
        let (kb, shape) = (self.kb, &self.shape);
        let row = shape.row(kb).min(kb.dim(shape.rows - 1));
        let chunk_rows = |index: usize| {
            let chunk = shape.chunk(kb, index);
            let of = |i: usize| {
                let quad = row + batch.times(shape.batch()).plus(i * shape.rows);
                let exists = (!QUADS.is_multiple_of(shape.batch())).then(|| quad.lt(kb.dim(QUADS)));
                let quad = if exists.is_some() { quad.min(kb.dim(QUADS - 1)) } else { quad };
                self.read_four(seen, kv_head, start, (quad, exists), chunk)
            };
            (0..shape.read_at_once()).map(of).collect()
        };
        (0..shape.each).map(chunk_rows).collect()
    }

    /// Reads a chunk of four rows.
    fn read_four(
        &self,
        seen: &Seen<'k>,
        kv_head: E<'k>,
        start: E<'k>,
        (quad, exists): (E<'k>, Option<E<'k>>),
        chunk: E<'k>,
    ) -> Rows<'k> {
        let shape = &self.shape;
        let position = start + quad.times(QUAD);
        let nearest = seen.nearest(position);
        let block = seen.block(nearest);
        // A slot that is not seen may hold anything: in its stead one that is seen is read, with a weight of 0.
        let places = match shape.latent {
            Some(_) => [block.quad(kv_head, nearest); 4],
            None => [0, 1, 2, 3].map(|i| block.row(kv_head, seen.nearest(position.plus(i)))),
        };
        let words = match shape.latent {
            Some(n) => (0..n).map(|i| block.values.load(places[0], chunk.times(n).plus(i))).collect(),
            None => places.iter().map(|place| block.values.load(*place, chunk)).collect(),
        };
        let group = |elements: usize| chunk.times(shape.chunk).over(elements);
        let groups = |elements| block.values.groups(places[0], quad_of_block(nearest), group(elements));
        Rows { quad, exists, position, pages: block.values, words, groups: shape.group.map(groups) }
    }

    /// Adds what [`Shape::read_octet`] read of octet `octet` of the span, which is octet `own` of its page.
    pub(super) fn add_octet(
        &self,
        archived: &Archived<'k>,
        read: &[Vec<Vec<E<'k>>>],
        (octet, own): (E<'k>, E<'k>),
        weights: S<'k>,
    ) {
        for (words, sums) in read.iter().zip(&self.sums) {
            let values: Vec<Decoded<'k>> = words.iter().map(|words| archived.values(words, own)).collect();
            for i in 0..OCTET / QUAD {
                let quad = octet.times(OCTET / QUAD).plus(i);
                let weights: Vec<E<'k>> = (0..self.shape.heads).map(|h| weights.get(quad.plus(h * QUADS))).collect();
                for (j, values) in values.iter().enumerate() {
                    // A vector at a time: the fewer numbers a lane holds, the more lanes run.
                    let rows = values.four(i);
                    for (sums, weights) in sums.iter().zip(&weights) {
                        add_four(&rows, &sums[j], *weights);
                    }
                }
            }
        }
    }

    /// Adds the same octet from pages of the recent.
    pub(super) fn add_recent(&self, seen: &Seen<'k>, kv_head: E<'k>, start: E<'k>, octet: E<'k>, weights: S<'k>) {
        // One four after another, for the same reason; few spans are of the recent.
        for i in 0..OCTET / QUAD {
            let quad = octet.times(OCTET / QUAD).plus(i);
            let chunk = |index| self.shape.chunk(self.kb, index);
            let four = |index| vec![self.read_four(seen, kv_head, start, (quad, None), chunk(index))];
            self.take(seen, &(0..self.shape.each).map(four).collect::<Vec<_>>(), weights);
        }
    }

    /// Adds rows that were read.
    fn take(&self, seen: &Seen<'k>, read: &[Vec<Rows<'k>>], weights: S<'k>) {
        for ((rows, sums), biases) in read.iter().zip(&self.sums).zip(&self.biases) {
            for rows in rows {
                let body = || self.take_four(seen, rows, sums, biases, weights);
                match rows.exists {
                    Some(exists) => self.kb.when(exists, body),
                    None => body(),
                }
            }
        }
    }

    fn take_four(&self, seen: &Seen<'k>, rows: &Rows<'k>, sums: &[Vec<V<'k>>], biases: &[V<'k>], weights: S<'k>) {
        let kb = self.kb;
        let weights: Vec<E<'k>> = (0..self.shape.heads).map(|h| weights.get(rows.quad.plus(h * QUADS))).collect();
        let scaled: Vec<E<'k>> = match rows.groups {
            None => weights,
            Some(groups) => {
                let slot = |i: usize| seen.contains(rows.position.plus(i)).select(groups[i], kb.u32(0));
                let [scale, bias] = rows.pages.scales([0, 1, 2, 3].map(slot));
                weights.iter().zip(biases).for_each(|(w, sum)| sum.set(sum.get() + w.dot(bias)));
                weights.iter().map(|w| *w * scale).collect()
            }
        };
        if self.shape.latent.is_some() {
            return self.take_latents(seen, rows, sums, &scaled);
        }
        let elements: Vec<Vec<E<'k>>> =
            rows.words.iter().map(|words| vectors(kb, &rows.pages.elements(*words))).collect();
        for (sums, weights) in sums.iter().zip(&scaled) {
            for (j, sum) in sums.iter().enumerate() {
                add_four(&[0, 1, 2, 3].map(|i| elements[i][j]), sum, *weights);
            }
        }
    }

    /// As [`Self::take_four`] of words that hold the same elements of four slots. What is not seen may be anything.
    fn take_latents(&self, seen: &Seen<'k>, rows: &Rows<'k>, sums: &[Vec<V<'k>>], weights: &[E<'k>]) {
        let kb = self.kb;
        let slot = |i: usize| seen.contains(rows.position.plus(i)).select(kb.u32(u32::MAX), kb.u32(0));
        let mask = E::compose4([0, 1, 2, 3].map(slot));
        let elements: Vec<E<'k>> = rows.words.iter().flat_map(|word| rows.pages.elements(*word & mask)).collect();
        for (sums, weights) in sums.iter().zip(weights) {
            let products: Vec<E<'k>> = elements.iter().map(|slots| slots.dot(*weights)).collect();
            for (sum, product) in sums.iter().zip(vectors(kb, &products)) {
                sum.set(sum.get() + product);
            }
        }
    }

    /// Adds up what lanes have in shared vectors, and gives each vector of a head to one lane. All lanes are here.
    pub(super) fn finish(&self, exchange: S<'k>, put: impl Fn(usize, Output<'k>)) {
        let (kb, shape) = (self.kb, &self.shape);
        for first in (0..shape.heads).step_by(shape.at_once) {
            let heads = shape.at_once.min(shape.heads - first);
            shape.when_rows(kb, |row| {
                for (index, (sums, biases)) in self.sums.iter().zip(&self.biases).enumerate() {
                    let at = row.times(heads * shape.head()) + shape.chunk(kb, index).times(shape.vectors());
                    for h in 0..heads {
                        let bias = biases.get(first + h).map(|bias| bias.get().splat(4));
                        for (j, sum) in sums[first + h].iter().enumerate() {
                            let sum = bias.map_or(sum.get(), |bias| sum.get() + bias);
                            exchange.set(at.plus(h * shape.head() + j), sum);
                        }
                    }
                }
            });
            kb.barrier();
            shape.each_output(kb, first, |i, index| {
                let rows = (0..shape.rows).map(|row| exchange.get(index.plus(row * heads * shape.head())));
                put(i, shape.output(first, index, rows.reduce(|a, b| a + b).expect("there is a row")));
            });
            kb.barrier();
        }
    }
}

/// Adds a vector of each of four rows to a sum.
fn add_four<'k>(rows: &[E<'k>; QUAD], sum: &V<'k>, weights: E<'k>) {
    let slot = |sum, i: usize| rows[i].fma(weights.extract(i as u8).splat(4), sum);
    sum.set((0..QUAD).fold(sum.get(), slot));
}

/// Vectors of 4, the last filled with 0.
fn vectors<'k>(kb: &'k Kb, elements: &[E<'k>]) -> Vec<E<'k>> {
    let element = |part: &[E<'k>], i: usize| part.get(i).copied().unwrap_or_else(|| kb.f32(0.0));
    elements.chunks(4).map(|part| E::compose4([0, 1, 2, 3].map(|i| element(part, i)))).collect()
}
