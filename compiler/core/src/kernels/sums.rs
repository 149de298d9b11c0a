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
    /// Of values for `heads` query heads whose sums may meet in `room` shared vectors.
    pub(super) fn new(values: &Pages<'_>, heads: usize, room: usize) -> Self {
        let row = values.row();
        let chunk = values.width() * row.per_word();
        let chunks = row.dim / chunk;
        let (each, rows) = (chunks.div_ceil(LANES), (LANES / chunks).clamp(1, QUADS));
        let group = (row.groups() > 0).then_some(row.group());
        let shape = Self { heads, chunk, chunks, each, rows, at_once: 1, group };
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

    /// Runs `body` in lanes that have rows.
    fn when_rows<'k>(&self, kb: &'k Kb, body: impl FnOnce(E<'k>)) {
        let row = kb.lane().over(self.chunks.min(LANES));
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

    /// Adds the rows of the span that begins at `start`; `weights` are by head and four of slots.
    pub(super) fn add(&self, seen: &Seen<'k>, kv_head: E<'k>, start: E<'k>, weights: S<'k>) {
        let (kb, rows) = (self.kb, self.shape.rows);
        let at_once = READ_AT_ONCE.min(QUADS.div_ceil(rows));
        let batch = rows * at_once;
        let batches = QUADS.div_ceil(batch);
        // Batches of which nothing is seen are left out.
        let from = (seen.first.max(start) - start).over(batch * QUAD);
        let to = (seen.last - start).over(batch * QUAD).min(kb.dim(batches - 1)).plus(1);
        self.shape.when_rows(kb, |row| {
            kb.range(from, to, 1, |i| {
                let quads = (0..at_once).map(|j| row + i.times(batch).plus(j * rows));
                if batches * batch == QUADS {
                    return self.add_rows(seen, kv_head, start, &quads.collect::<Vec<_>>(), weights);
                }
                for quad in quads {
                    kb.when(quad.lt(kb.dim(QUADS)), || self.add_rows(seen, kv_head, start, &[quad], weights));
                }
            });
        });
    }

    /// Adds rows of some fours of slots.
    fn add_rows(&self, seen: &Seen<'k>, kv_head: E<'k>, start: E<'k>, quads: &[E<'k>], weights: S<'k>) {
        let kb = self.kb;
        for (index, (sums, biases)) in self.sums.iter().zip(&self.biases).enumerate() {
            let chunk = self.chunk(index);
            // All rows are read before one is used.
            let read: Vec<_> =
                quads.iter().map(|quad| self.read(seen, kv_head, start + quad.times(QUAD), chunk)).collect();
            for (quad, (rows, scales)) in quads.iter().zip(read) {
                let weights: Vec<E<'k>> = (0..self.shape.heads).map(|h| weights.get(quad.plus(h * QUADS))).collect();
                let scaled: Vec<E<'k>> = match scales {
                    None => weights,
                    Some([scale, bias]) => {
                        weights.iter().zip(biases).for_each(|(w, sum)| sum.set(sum.get() + w.dot(bias)));
                        weights.iter().map(|w| *w * scale).collect()
                    }
                };
                for (slot, elements) in rows.into_iter().enumerate() {
                    let elements = vectors(kb, &elements);
                    for (sums, weights) in sums.iter().zip(&scaled) {
                        let weight = weights.extract(slot as u8).splat(4);
                        elements.iter().zip(sums).for_each(|(e, sum)| sum.set(e.fma(weight, sum.get())));
                    }
                }
            }
        }
    }

    /// A chunk of four rows, and their scales and biases. A slot that is not seen may hold anything: in its stead one that
    /// is seen is read, whose weight is 0.
    fn read(
        &self,
        seen: &Seen<'k>,
        kv_head: E<'k>,
        first: E<'k>,
        chunk: E<'k>,
    ) -> ([Vec<E<'k>>; 4], Option<[E<'k>; 2]>) {
        let nearest = seen.nearest(first);
        let block = seen.block(nearest);
        let places = [0, 1, 2, 3].map(|i| block.row(kv_head, seen.nearest(first.plus(i))));
        let loaded = places.map(|place| block.values.load(place, chunk));
        let scales = self.shape.group.and_then(|group| {
            let both =
                block.values.scales(places[0], quad_of_block(nearest), chunk.times(self.shape.chunk).over(group))?;
            let seen = [0, 1, 2, 3].map(|i| seen.contains(first.plus(i)));
            let zero = self.kb.f32(0.0);
            Some(both.map(|all| E::compose4([0, 1, 2, 3].map(|i| seen[i].select(all.extract(i as u8), zero)))))
        });
        (loaded.map(|bits| block.values.elements(bits)), scales)
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
