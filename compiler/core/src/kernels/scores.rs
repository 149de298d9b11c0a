//! Scores: products of queries with keys, a part of each in every lane.

use swiftlm_ir::kernel::KType;
use swiftlm_ir::kernel::builder::{E, Kb, S};

use super::archived::Archived;
use super::history::{History, QUAD, Seen, quad_of_block};
use super::span::{QUADS, RUNS};

/// Units of recent keys that a lane reads at once beside an archive.
const UNITS_AT_ONCE: usize = 2;

/// Query heads that one workgroup takes, and what is known of them before any key is read.
///
/// A run of lanes takes a part of the elements, and a lane of it four slots. A part is whole units: the fewest elements
/// that are whole words of keys and whole vectors of queries. Units behind the last are multiplied by 0.
pub(super) struct Queries<'k> {
    kb: &'k Kb,
    heads: usize,
    dim: usize,
    /// By head and vector, a part's units one after another.
    vectors: S<'k>,
    /// Elements of a vector: 4, or 1 where heads do not divide into fours.
    width: usize,
    /// Words of a key.
    words: usize,
    /// Words of a unit.
    unit_words: usize,
    /// Elements of a unit.
    unit: usize,
    /// Units of a part.
    units: usize,
    /// Elements of a head, those multiplied by 0 included.
    filled: usize,
    /// Units that are read at once, and share scales wherever a part begins.
    piece: usize,
    /// Elements that share scales; `None` for formats without.
    group: Option<usize>,
    /// What biases are multiplied by, by head and piece.
    sums: Vec<Vec<E<'k>>>,
}

impl<'k> Queries<'k> {
    /// The queries whose `packs` packs `query` gives by head and number. All lanes of a workgroup are here.
    pub(super) fn new(
        kb: &'k Kb,
        history: &History<'k>,
        heads: usize,
        packs: usize,
        query: impl Fn(E<'k>, E<'k>) -> Vec<E<'k>>,
    ) -> Self {
        let row = history.keys().row();
        let (dim, words, per) = (row.dim, row.words(), row.per_word());
        let width = if dim.is_multiple_of(4) { 4 } else { 1 };
        let unit_words = (width / per).max(1);
        let unit = unit_words * per;
        let units = (words / unit_words).div_ceil(RUNS);
        let (group, part) = (row.group(), units * unit);
        // A group holds whole parts, or a part whole groups; else scales are those of a unit.
        let even = part * RUNS == dim && (group.is_multiple_of(part) || part.is_multiple_of(group));
        let piece = match row.groups() {
            // Few spans of what an archive holds the rest of are read here: what lanes hold meanwhile counts for more.
            0 if history.archived().is_some() => units.min(UNITS_AT_ONCE),
            0 => units,
            _ if even => part.min(group) / unit,
            _ => 1,
        };
        let elem = if width == 4 { KType::F32X4 } else { KType::F32 };
        let filled = RUNS * history.archived().map_or(part, |archived| archived.part().max(part));
        let vectors = kb.shared(elem, (heads * filled / width) as u32);
        let group = (row.groups() > 0).then_some(group);
        let mut queries =
            Self { kb, heads, dim, vectors, width, words, unit_words, unit, units, filled, piece, group, sums: vec![] };
        queries.take(packs, query);
        if group.is_some() {
            queries.sums = (0..heads).map(|h| queries.sums_of(h)).collect();
        }
        queries
    }

    /// Query heads.
    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    /// Vectors of a head, those multiplied by 0 included.
    fn vectors_of_head(&self) -> usize {
        self.filled / self.width
    }

    fn take(&self, packs: usize, query: impl Fn(E<'k>, E<'k>) -> Vec<E<'k>>) {
        let (kb, all, per_pack) = (self.kb, self.vectors_of_head(), self.dim / self.width / packs);
        kb.for_lanes(self.heads * packs, |i| {
            let (head, pack) = (i.over(packs), i.modulo(packs));
            for (j, vector) in query(head, pack).into_iter().enumerate() {
                self.vectors.set(head.times(all) + pack.times(per_pack).plus(j), vector);
            }
        });
        let (filled, zero) = (packs * per_pack, kb.f32(0.0));
        if filled < all {
            let zero = if self.width == 4 { zero.splat(4) } else { zero };
            kb.for_lanes(self.heads * (all - filled), |i| {
                let (head, rest) = (i.over(all - filled), i.modulo(all - filled));
                self.vectors.set(head.times(all) + rest.plus(filled), zero);
            });
        }
        kb.barrier();
    }

    fn part(&self) -> E<'k> {
        self.kb.lane().over(QUADS)
    }

    /// The elements of head `h` in unit `unit` of the lane's part.
    fn unit(&self, h: usize, unit: usize) -> Vec<E<'k>> {
        let per = self.unit / self.width;
        let first = self.part().times(self.units * per).plus(h * self.vectors_of_head() + unit * per);
        let vectors = (0..per).map(|i| self.vectors.get(first.plus(i)));
        vectors.flat_map(|v| (0..self.width).map(move |i| v.extract(i as u8))).collect()
    }

    fn pieces(&self) -> Vec<Vec<usize>> {
        (0..self.units).collect::<Vec<_>>().chunks(self.piece).map(<[usize]>::to_vec).collect()
    }

    fn sums_of(&self, h: usize) -> Vec<E<'k>> {
        let sum = |piece: Vec<usize>| {
            let all = piece.into_iter().flat_map(|unit| self.unit(h, unit));
            all.reduce(|a, b| a + b).expect("a piece has an element")
        };
        self.pieces().into_iter().map(sum).collect()
    }

    /// The lane's part of q · k by head, as vectors over its slots of the span that begins at `start`.
    pub(super) fn products(&self, seen: &Seen<'k>, kv_head: E<'k>, start: E<'k>) -> Vec<E<'k>> {
        let (kb, part) = (self.kb, self.part());
        // Where no slot is seen, others are read: scores of the unseen are replaced.
        let position = seen.nearest(start + kb.lane().modulo(QUADS).times(QUAD));
        let block = seen.block(position);
        let place = block.quad(kv_head, position);
        let part_words = self.units * self.unit_words;
        let word = |unit: usize, i: usize| {
            let at = part.times(part_words).plus(unit * self.unit_words + i);
            if part_words * RUNS == self.words { at } else { at.min(kb.dim(self.words - 1)) }
        };
        let zeros = kb.f32(0.0).splat(4);
        let mut total = vec![zeros; self.heads];
        for (piece, units) in self.pieces().into_iter().enumerate() {
            let scales = self.group.map(|group| {
                let first = part.times(self.units * self.unit).plus(units[0] * self.unit).min(kb.dim(self.dim - 1));
                block.keys.scales(block.keys.groups(place, quad_of_block(position), first.over(group)))
            });
            // All words of a piece are read before one is used.
            let words = units.iter().flat_map(|unit| (0..self.unit_words).map(move |i| (*unit, i)));
            let loaded: Vec<E<'k>> = words.map(|(unit, i)| block.keys.load(place, word(unit, i))).collect();
            let mut own = if scales.is_some() { vec![zeros; self.heads] } else { total.clone() };
            for (unit, words) in units.iter().zip(loaded.chunks(self.unit_words)) {
                let elements: Vec<E<'k>> = words.iter().flat_map(|bits| block.keys.elements(*bits)).collect();
                for (h, own) in own.iter_mut().enumerate() {
                    for (element, q) in elements.iter().zip(self.unit(h, *unit)) {
                        *own = element.fma(q.splat(4), *own);
                    }
                }
            }
            total = match scales {
                None => own,
                Some([scale, bias]) => (own.iter().zip(&total).zip(&self.sums))
                    .map(|((own, total), sums)| bias.fma(sums[piece].splat(4), own.fma(scale, *total)))
                    .collect(),
            };
        }
        total
    }

    /// `total` and the same of archived keys, in units of their scales, from the words of the lane's part of them.
    pub(super) fn add_archived(&self, archived: &Archived<'k>, words: &[E<'k>], mut total: Vec<E<'k>>) -> Vec<E<'k>> {
        let (first, keys) = (self.part().times(archived.part() / QUAD), archived.keys(words, self.part()));
        for i in 0..archived.part() / QUAD {
            let elements = keys.four(i);
            for (h, total) in total.iter_mut().enumerate() {
                let q = self.vectors.get(first.plus(h * self.vectors_of_head() + i));
                for (j, element) in elements.iter().enumerate() {
                    *total = element.fma(q.extract(j as u8).splat(4), *total);
                }
            }
        }
        total
    }
}
