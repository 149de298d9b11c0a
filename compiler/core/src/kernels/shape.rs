//! How values divide over the lanes of a workgroup, and which lane puts out what at the end of a chain.

use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::template::Attend;

use super::archived::{Archived, OCTET};
use super::history::{QUAD, SPAN, Seen};
use super::pages::Pages;
use super::span::{LANES, QUADS};

/// Fours of rows that a lane reads in one go.
const READ_AT_ONCE: usize = 2;
/// Octets of a span.
const OCTETS: usize = SPAN / OCTET;

/// How values divide over lanes: a lane takes a chunk of the elements of every so manieth four rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Query heads.
    pub(super) heads: usize,
    /// Elements of a chunk.
    pub(super) chunk: usize,
    /// Chunks of a row.
    pub(super) chunks: usize,
    /// Chunks of a lane.
    pub(super) each: usize,
    /// Fours of rows that the lanes take at once, or octets where there is an archive.
    pub(super) rows: usize,
    /// Heads whose sums meet at once at the end of a chain.
    pub(super) at_once: usize,
    /// Elements that share scales; `None` for formats without.
    pub(super) group: Option<usize>,
    /// Words of a chunk, where values are part of keys.
    pub(super) latent: Option<usize>,
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
    /// Of values for the query heads of `t` that a workgroup takes, whose sums may meet in `room` shared vectors.
    pub(super) fn new(values: &Pages<'_>, t: &Attend, heads: usize, room: usize) -> Self {
        let row = values.row();
        let narrow = |latent: usize| {
            let fits = |words: &usize| words * row.per_word() <= 8 && latent.is_multiple_of(words * row.per_word());
            [4, 2].into_iter().find(fits).unwrap_or(1)
        };
        let (octets, latent) = (t.archive.is_some(), t.latent.map(narrow));
        let chunk = latent.unwrap_or(values.width()) * row.per_word();
        let chunks = t.value_dim() / chunk;
        let most = if octets { OCTETS } else { QUADS };
        let (each, rows) = (chunks.div_ceil(LANES), (LANES / chunks).clamp(1, most));
        let group = (row.groups() > 0).then_some(row.group());
        let shape = Self { heads, chunk, chunks, each, rows, at_once: 1, group, latent };
        Self { at_once: (room / shape.met()).clamp(1, heads), ..shape }
    }

    /// Vectors of a chunk.
    pub(super) fn vectors(&self) -> usize {
        self.chunk.div_ceil(4)
    }

    /// Vectors of a head.
    pub(super) fn head(&self) -> usize {
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
    pub(super) fn each_output<'k>(&self, kb: &'k Kb, first: usize, f: impl Fn(usize, E<'k>)) {
        let all = self.at_once.min(self.heads - first) * self.head();
        for round in 0..all.div_ceil(LANES) {
            let (number, index) =
                (first / self.at_once * self.rounds(self.at_once) + round, kb.lane().plus(round * LANES));
            let body = || f(number, index);
            if (round + 1) * LANES > all { kb.when(index.lt(kb.dim(all)), body) } else { body() }
        }
    }

    pub(super) fn output<'k>(&self, first: usize, index: E<'k>, sum: E<'k>) -> Output<'k> {
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
    pub(super) fn row<'k>(&self, kb: &'k Kb) -> E<'k> {
        kb.lane().over(self.chunks.min(LANES))
    }

    /// Fours of rows that a lane reads in one go.
    pub(super) fn read_at_once(&self) -> usize {
        READ_AT_ONCE.min(QUADS.div_ceil(self.rows))
    }

    /// Fours of rows of a batch.
    pub(super) fn batch(&self) -> usize {
        self.rows * self.read_at_once()
    }

    /// The batches of the span that begins at `start` of which something is seen.
    pub(super) fn batches<'k>(&self, kb: &'k Kb, seen: &Seen<'k>, start: E<'k>) -> (E<'k>, E<'k>) {
        let (batch, last) = (self.batch() * QUAD, QUADS.div_ceil(self.batch()) - 1);
        let from = (seen.first.max(start) - start).over(batch).min(kb.dim(last));
        (from, (seen.last - start).over(batch).min(kb.dim(last)).plus(1))
    }

    /// Batches of octets of a span.
    pub(super) fn octet_batches(&self) -> usize {
        OCTETS.div_ceil(self.rows)
    }

    /// The lane's octet of a batch, and whether there is one, if that is not certain.
    pub(super) fn octet<'k>(&self, kb: &'k Kb, batch: E<'k>) -> (E<'k>, Option<E<'k>>) {
        let octet = self.row(kb).min(kb.dim(self.rows - 1)) + batch.times(self.rows);
        let exists = (!OCTETS.is_multiple_of(self.rows)).then(|| octet.lt(kb.dim(OCTETS)));
        (if exists.is_some() { octet.min(kb.dim(OCTETS - 1)) } else { octet }, exists)
    }

    /// The lane's chunk number `index`; one behind the last is the last.
    pub(super) fn chunk<'k>(&self, kb: &'k Kb, index: usize) -> E<'k> {
        let chunks = self.chunks;
        if chunks < LANES {
            return kb.lane().modulo(chunks);
        }
        let chunk = kb.lane().plus(index * LANES);
        if chunks.is_multiple_of(LANES) { chunk } else { chunk.min(kb.dim(chunks - 1)) }
    }

    /// Words of the values of an octet of an archive, by chunk of the lane and vector.
    pub(super) fn read_octet<'k>(
        &self,
        kb: &'k Kb,
        archived: &Archived<'k>,
        place: (E<'k>, E<'k>, E<'k>),
    ) -> Vec<Vec<Vec<E<'k>>>> {
        let chunk = |i| archived.value_words(place, self.chunk(kb, i).times(self.chunk), self.chunk / QUAD);
        (0..self.each).map(chunk).collect()
    }

    /// Runs `body` in lanes that have rows.
    pub(super) fn when_rows<'k>(&self, kb: &'k Kb, body: impl FnOnce(E<'k>)) {
        let row = self.row(kb);
        if self.rows * self.chunks < LANES { kb.when(row.lt(kb.dim(self.rows)), || body(row)) } else { body(row) }
    }
}
