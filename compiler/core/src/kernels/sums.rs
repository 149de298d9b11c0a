//! Weighted sums of values: some elements of some rows in every lane, until a chain ends.

use swiftlm_ir::kernel::builder::{E, Kb, S, V};

use super::history::{QUAD, Seen, quad_of_block};
use super::pages::Pages;
use super::span::{LANES, QUADS};

/// Fours of rows that a lane reads in one go.
const READ_AT_ONCE: usize = 2;

/// How values divide over lanes: a lane takes a chunk of the elements of every so manieth four rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Query heads.
    heads: usize,
    /// Elements of a chunk.
    chunk: usize,
    /// Chunks of a row.
    chunks: usize,
    /// Chunks of a lane.
    each: usize,
    /// Fours of rows that the lanes take at once.
    rows: usize,
    /// Heads whose sums meet at once at the end of a chain.
    at_once: usize,
    /// Elements that share scales; `None` for formats without.
    group: Option<usize>,
    /// Words of a chunk, where values are part of keys.
    latent: Option<usize>,
}

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

/// A vector of the sum of a head that a lane holds at the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output<'k> {
    /// The head.
    pub(super) head: E<'k>,
    /// The vector; what lies behind a chunk is nothing.
    pub(super) sum: E<'k>,
    first: E<'k>,
    elements: usize,
}

impl<'k> Output<'k> {
    /// The same place with another vector.
    pub(super) fn with(&self, sum: E<'k>) -> Self {
        Self { sum, ..*self }
    }

    /// Each element with its index in the head.
    pub(super) fn each(&self, f: impl Fn(E<'k>, E<'k>)) {
        (0..self.elements).for_each(|i| f(self.first.plus(i), self.sum.extract(i as u8)));
    }
}

impl Shape {
    /// Of values for `heads` query heads whose sums may meet in `room` shared vectors; of keys the first `latent`
    /// elements, where these are values.
    pub(super) fn new(values: &Pages<'_>, latent: Option<usize>, heads: usize, room: usize) -> Self {
        let row = values.row();
        let narrow = |latent: usize| {
            let fits = |words: &usize| words * row.per_word() <= 8 && latent.is_multiple_of(words * row.per_word());
            [4, 2].into_iter().find(fits).unwrap_or(1)
        };
        let (dim, latent) = (latent.unwrap_or(row.dim), latent.map(narrow));
        let chunk = latent.unwrap_or(values.width()) * row.per_word();
        let chunks = dim / chunk;
        let (each, rows) = (chunks.div_ceil(LANES), (LANES / chunks).clamp(1, QUADS));
        let group = (row.groups() > 0).then_some(row.group());
        let shape = Self { heads, chunk, chunks, each, rows, at_once: 1, group, latent };
        Self { at_once: (room / shape.met()).clamp(1, heads), ..shape }
    }

    /// Vectors of a chunk.
    fn vectors(&self) -> usize {
        self.chunk.div_ceil(4)
    }

    /// Vectors of a head.
    fn head(&self) -> usize {
        self.chunks * self.vectors()
    }

    /// Shared vectors in which the sums of a head meet.
    pub(super) fn met(&self) -> usize {
        self.rows * self.head()
    }

    /// Vectors of `heads` heads that a lane puts out at most.
    fn rounds(&self, heads: usize) -> usize {
        (heads * self.head()).div_ceil(LANES)
    }

    /// Vectors that a lane puts out at most.
    pub(super) fn outputs(&self) -> usize {
        self.heads.div_ceil(self.at_once) * self.rounds(self.at_once)
    }

    /// For each vector of heads `first ..` that the lane puts out: its number, and its index among those heads.
    fn each_output<'k>(&self, kb: &'k Kb, first: usize, f: impl Fn(usize, E<'k>)) {
        let all = self.at_once.min(self.heads - first) * self.head();
        for round in 0..all.div_ceil(LANES) {
            let (number, index) =
                (first / self.at_once * self.rounds(self.at_once) + round, kb.lane().plus(round * LANES));
            let body = || f(number, index);
            if (round + 1) * LANES > all { kb.when(index.lt(kb.dim(all)), body) } else { body() }
        }
    }

    fn output<'k>(&self, first: usize, index: E<'k>, sum: E<'k>) -> Output<'k> {
        let vector = index.modulo(self.head());
        let chunk = vector.over(self.vectors()).times(self.chunk);
        let d = chunk + vector.modulo(self.vectors()).times(4);
        Output { head: index.over(self.head()).plus(first), sum, first: d, elements: self.chunk.min(4) }
    }

    /// The places of the vectors that the lane puts out, each with its number.
    pub(super) fn places<'k>(&self, kb: &'k Kb, f: impl Fn(usize, Output<'k>)) {
        let zeros = kb.f32(0.0).splat(4);
        for first in (0..self.heads).step_by(self.at_once) {
            self.each_output(kb, first, |i, index| f(i, self.output(first, index, zeros)));
        }
    }

    /// The first four rows of the lane in a batch; lanes behind the last have none.
    fn row<'k>(&self, kb: &'k Kb) -> E<'k> {
        kb.lane().over(self.chunks.min(LANES))
    }

    /// Fours of rows that a lane reads in one go.
    fn read_at_once(&self) -> usize {
        READ_AT_ONCE.min(QUADS.div_ceil(self.rows))
    }

    /// Fours of rows of a batch.
    fn batch(&self) -> usize {
        self.rows * self.read_at_once()
    }

    /// The batches of the span that begins at `start` of which something is seen.
    fn batches<'k>(&self, kb: &'k Kb, seen: &Seen<'k>, start: E<'k>) -> (E<'k>, E<'k>) {
        let (batch, last) = (self.batch() * QUAD, QUADS.div_ceil(self.batch()) - 1);
        let from = (seen.first.max(start) - start).over(batch).min(kb.dim(last));
        (from, (seen.last - start).over(batch).min(kb.dim(last)).plus(1))
    }

    /// Runs `body` in lanes that have rows.
    fn when_rows<'k>(&self, kb: &'k Kb, body: impl FnOnce(E<'k>)) {
        let row = self.row(kb);
        if self.rows * self.chunks < LANES { kb.when(row.lt(kb.dim(self.rows)), || body(row)) } else { body(row) }
    }
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

    /// The lane's chunk number `index`; one behind the last is the last.
    fn chunk(&self, index: usize) -> E<'k> {
        let (kb, chunks) = (self.kb, self.shape.chunks);
        if chunks < LANES {
            return kb.lane().modulo(chunks);
        }
        let chunk = kb.lane().plus(index * LANES);
        if chunks.is_multiple_of(LANES) { chunk } else { chunk.min(kb.dim(chunks - 1)) }
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
            let chunk = self.chunk(index);
            let of = |i: usize| {
                let quad = row + batch.times(shape.batch()).plus(i * shape.rows);
                let exists = (!QUADS.is_multiple_of(shape.batch())).then(|| quad.lt(kb.dim(QUADS)));
                let quad = if exists.is_some() { quad.min(kb.dim(QUADS - 1)) } else { quad };
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
            };
            (0..shape.read_at_once()).map(of).collect()
        };
        (0..shape.each).map(chunk_rows).collect()
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
                let slot = |sum, i: usize| elements[i][j].fma(weights.extract(i as u8).splat(4), sum);
                sum.set((0..QUAD).fold(sum.get(), slot));
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
                    let at = row.times(heads * shape.head()) + self.chunk(index).times(shape.vectors());
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

/// Vectors of 4, the last filled with 0.
fn vectors<'k>(kb: &'k Kb, elements: &[E<'k>]) -> Vec<E<'k>> {
    let element = |part: &[E<'k>], i: usize| part.get(i).copied().unwrap_or_else(|| kb.f32(0.0));
    elements.chunks(4).map(|part| E::compose4([0, 1, 2, 3].map(|i| element(part, i)))).collect()
}
