//! A chain's way through a history of which an archive holds a part: what lanes take of the next span is asked for while
//! this one is added, so that memory is not waited for. A lane's four slots, or eight rows, are of one page, so that it
//! uses either the archive or pages of the recent; it asks for what the archive has there in any case, since what is
//! asked for on one of two ways is waited for where they meet.

use swiftlm_ir::kernel::builder::{E, Kb, S, V};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::archived::{Archived, OCTET};
use super::history::{QUAD, SPAN, Seen};
use super::scores::Queries;
use super::shape::Shape;
use super::span::QUADS;
use super::sums::Sums;

/// Batches of octets that are asked for ahead.
const BATCHES: usize = 2;

/// An archive as chains read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead<'k> {
    kb: &'k Kb,
    archived: Archived<'k>,
    shape: Shape,
}

/// Values of the octets of a lane, by batch, chunk of the lane, vector and word.
type Octets<T> = Vec<Vec<Vec<Vec<T>>>>;

/// Words of a span that were asked for; where the archive does not hold it, whatever lies there.
#[derive(Clone, Debug)]
pub(super) struct Asked<'k> {
    keys: Vec<V<'k>>,
    /// Of keys and values.
    scales: [V<'k>; 2],
    values: Octets<V<'k>>,
}

/// What the archive has for a lane: whether it has it, and in which page.
#[derive(Clone, Copy, Debug)]
struct Held<'k> {
    holds: E<'k>,
    page: E<'k>,
    /// Where in a page.
    slot: E<'k>,
}

/// Where the archive has a span.
#[derive(Clone, Debug)]
pub(super) struct Places<'k> {
    quad: Held<'k>,
    octets: Vec<Held<'k>>,
}

/// What scores and weights of a lane's slots are multiplied by, vectors over the slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scales<'k> {
    /// Whether they are archived.
    pub(super) archived: E<'k>,
    /// Of products.
    pub(super) keys: E<'k>,
    /// Of weights.
    pub(super) values: E<'k>,
}

impl<'k> Ahead<'k> {
    /// For chains whose sums divide so.
    pub(super) fn new(kb: &'k Kb, archived: Archived<'k>, shape: Shape) -> Self {
        Self { kb, archived, shape }
    }

    /// Batches of octets that are asked for ahead.
    fn batches(&self) -> usize {
        self.shape.octet_batches().min(BATCHES)
    }

    fn held(&self, seen: &Seen<'k>, position: E<'k>) -> Held<'k> {
        let position = seen.nearest(position);
        let (holds, page) = seen.archived(&self.archived, position);
        Held { holds, page, slot: position.modulo(PAGE_TOKENS) }
    }

    fn quad(&self, seen: &Seen<'k>, start: E<'k>) -> Held<'k> {
        self.held(seen, start + self.kb.lane().modulo(QUADS).times(QUAD))
    }

    fn octet(&self, seen: &Seen<'k>, start: E<'k>, octet: E<'k>) -> Held<'k> {
        self.held(seen, start + octet.times(OCTET))
    }

    /// The archive.
    pub(super) fn archived(&self) -> &Archived<'k> {
        &self.archived
    }

    /// Where a span is.
    pub(super) fn places(&self, seen: &Seen<'k>, span: E<'k>) -> Places<'k> {
        let start = span.times(SPAN);
        let octet = |i| self.octet(seen, start, self.shape.octet(self.kb, self.kb.dim(i)).0);
        Places { quad: self.quad(seen, start), octets: (0..self.batches()).map(octet).collect() }
    }

    fn read_keys(&self, kv_head: E<'k>, Held { page, slot, .. }: Held<'k>) -> (Vec<E<'k>>, [E<'k>; 2]) {
        let quad = slot.over(QUAD);
        let words = self.archived.key_words(page, kv_head, quad, self.kb.lane().over(QUADS));
        (words, self.archived.scale_words(page, kv_head, quad))
    }

    fn read_values(&self, kv_head: E<'k>, octets: &[Held<'k>]) -> Octets<E<'k>> {
        let place = |held: &Held<'k>| (held.page, kv_head, held.slot.over(OCTET));
        octets.iter().map(|held| self.shape.read_octet(self.kb, &self.archived, place(held))).collect()
    }

    /// Asks for a span.
    pub(super) fn ask(&self, seen: &Seen<'k>, kv_head: E<'k>, span: E<'k>) -> Asked<'k> {
        let places = self.places(seen, span);
        let var = |word: E<'k>| self.kb.var(word);
        let (keys, scales) = self.read_keys(kv_head, places.quad);
        let (keys, scales) = (keys.into_iter().map(var).collect(), scales.map(var));
        let vector = |words: Vec<E<'k>>| words.into_iter().map(var).collect();
        let chunk = |vectors: Vec<Vec<E<'k>>>| vectors.into_iter().map(vector).collect();
        let batch = |chunks: Vec<Vec<Vec<E<'k>>>>| chunks.into_iter().map(chunk).collect();
        let values = self.read_values(kv_head, &places.octets).into_iter().map(batch).collect();
        Asked { keys, scales, values }
    }

    /// Asks for the keys and scales of a span in place of those of another.
    pub(super) fn ask_keys(&self, asked: &Asked<'k>, kv_head: E<'k>, places: &Places<'k>) {
        let (keys, scales) = self.read_keys(kv_head, places.quad);
        asked.keys.iter().zip(keys).for_each(|(var, word)| var.set(word));
        asked.scales.iter().zip(scales).for_each(|(var, word)| var.set(word));
    }

    /// Asks for the values of a span in place of those of another.
    pub(super) fn ask_values(&self, asked: &Asked<'k>, kv_head: E<'k>, places: &Places<'k>) {
        let read = self.read_values(kv_head, &places.octets).into_iter().flatten().flatten().flatten();
        asked.values.iter().flatten().flatten().flatten().zip(read).for_each(|(var, word)| var.set(word));
    }

    /// The lane's part of q · k, as [`Queries::products`]; of archived keys in units of their scales, which are here, too.
    pub(super) fn products(
        &self,
        asked: &Asked<'k>,
        queries: &Queries<'k>,
        seen: &Seen<'k>,
        kv_head: E<'k>,
        start: E<'k>,
    ) -> (Vec<E<'k>>, Scales<'k>) {
        let (kb, zeros, ones) = (self.kb, self.kb.f32(0.0).splat(4), self.kb.f32(1.0).splat(4));
        let Held { holds, slot, .. } = self.quad(seen, start);
        let products: Vec<V<'k>> = (0..queries.heads()).map(|_| kb.var(zeros)).collect();
        let set = |found: Vec<E<'k>>| products.iter().zip(found).for_each(|(var, product)| var.set(product));
        let get = |vars: &[V<'k>]| vars.iter().map(V::get).collect::<Vec<_>>();
        kb.when_else(
            holds,
            || set(queries.add_archived(&self.archived, &get(&asked.keys), get(&products))),
            || set(queries.products(seen, kv_head, start)),
        );
        let scales = self.archived.scales([0, 1].map(|i| asked.scales[i].get()), slot.over(QUAD));
        let [keys, values] = scales.map(|scales| holds.select(scales, ones));
        (get(&products), Scales { archived: holds, keys, values })
    }

    /// Adds the values of the span.
    pub(super) fn add(
        &self,
        asked: &Asked<'k>,
        sums: &Sums<'k>,
        seen: &Seen<'k>,
        (kv_head, start): (E<'k>, E<'k>),
        weights: S<'k>,
    ) {
        let (kb, shape, ahead) = (self.kb, &self.shape, self.batches());
        let add = |batch: E<'k>, asked: Option<&Vec<Vec<Vec<V<'k>>>>>| {
            let (octet, exists) = shape.octet(kb, batch);
            let body = || {
                let held = self.octet(seen, start, octet);
                let own = held.slot.over(OCTET);
                let got = |words: &Vec<V<'k>>| words.iter().map(V::get).collect::<Vec<_>>();
                let from_archive = || {
                    let words = match asked {
                        Some(asked) => asked.iter().map(|chunk| chunk.iter().map(got).collect()).collect(),
                        None => shape.read_octet(kb, &self.archived, (held.page, kv_head, own)),
                    };
                    sums.add_octet(&self.archived, &words, (octet, own), weights);
                };
                kb.when_else(held.holds, from_archive, || sums.add_recent(seen, kv_head, start, octet, weights));
            };
            match exists {
                Some(exists) => kb.when(exists, body),
                None => body(),
            }
        };
        asked.values.iter().enumerate().for_each(|(i, asked)| add(kb.dim(i), Some(asked)));
        if ahead < shape.octet_batches() {
            kb.range(kb.dim(ahead), kb.dim(shape.octet_batches()), 1, |batch| add(batch, None));
        }
    }
}
