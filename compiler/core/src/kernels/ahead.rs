//! A chain's way through a history of which an archive holds a part: what lanes take of the next span is asked for while
//! this one is added, so that memory is not waited for. A lane's four slots, or eight rows, are of one page, so that it
//! reads either the archive or pages of the recent.

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

/// Words of a span that were asked for; where the archive does not hold it, whatever was there before.
pub(super) struct Ahead<'k> {
    kb: &'k Kb,
    archived: Archived<'k>,
    shape: Shape,
    keys: Vec<V<'k>>,
    /// Of keys and values.
    scales: [V<'k>; 2],
    /// By batch, chunk of the lane, vector and word.
    values: Vec<Vec<Vec<Vec<V<'k>>>>>,
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
    /// Of chains whose sums divide so.
    pub(super) fn new(kb: &'k Kb, archived: Archived<'k>, shape: Shape) -> Self {
        let word = || kb.var(kb.u32(0).splat(4));
        let vector = |_: usize| (0..archived.words_of_values()).map(|_| word()).collect();
        let chunk = |_: usize| (0..shape.vectors()).map(vector).collect();
        let batch = |_: usize| (0..shape.each).map(chunk).collect();
        let batches = shape.octet_batches().min(BATCHES);
        Self {
            kb,
            archived,
            shape,
            keys: (0..archived.words_of_keys()).map(|_| word()).collect(),
            scales: [word(), word()],
            values: (0..batches).map(batch).collect(),
        }
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
        Places { quad: self.quad(seen, start), octets: (0..self.values.len()).map(octet).collect() }
    }

    /// Asks for a span.
    pub(super) fn ask(&self, seen: &Seen<'k>, kv_head: E<'k>, span: E<'k>) {
        let places = self.places(seen, span);
        self.ask_keys(kv_head, &places);
        self.ask_values(kv_head, &places);
    }

    /// Asks for keys and scales.
    pub(super) fn ask_keys(&self, kv_head: E<'k>, Places { quad, .. }: &Places<'k>) {
        let Held { holds, page, slot } = *quad;
        self.kb.when(holds, || {
            let words = self.archived.key_words(page, kv_head, slot.over(QUAD), self.kb.lane().over(QUADS));
            self.keys.iter().zip(words).for_each(|(var, word)| var.set(word));
            let scales = self.archived.scale_words(page, kv_head, slot.over(QUAD));
            self.scales.iter().zip(scales).for_each(|(var, word)| var.set(word));
        });
    }

    /// Asks for values.
    pub(super) fn ask_values(&self, kv_head: E<'k>, Places { octets, .. }: &Places<'k>) {
        for (held, vars) in octets.iter().zip(&self.values) {
            self.kb.when(held.holds, || {
                let place = (held.page, kv_head, held.slot.over(OCTET));
                let read = self.shape.read_octet(self.kb, &self.archived, place);
                let words = read.into_iter().flatten().flatten();
                vars.iter().flatten().flatten().zip(words).for_each(|(var, word)| var.set(word));
            });
        }
    }

    /// The lane's part of q · k, as [`Queries::products`]; of archived keys in units of their scales, which are here, too.
    pub(super) fn products(
        &self,
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
            || set(queries.add_archived(&self.archived, &get(&self.keys), get(&products))),
            || set(queries.products(seen, kv_head, start)),
        );
        let scales = self.archived.scales([0, 1].map(|i| self.scales[i].get()), slot.over(QUAD));
        let [keys, values] = scales.map(|scales| holds.select(scales, ones));
        (get(&products), Scales { archived: holds, keys, values })
    }

    /// Adds the values of the span.
    pub(super) fn add(&self, sums: &Sums<'k>, seen: &Seen<'k>, kv_head: E<'k>, start: E<'k>, weights: S<'k>) {
        let (kb, shape, ahead) = (self.kb, &self.shape, self.values.len());
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
        self.values.iter().enumerate().for_each(|(i, asked)| add(kb.dim(i), Some(asked)));
        if ahead < shape.octet_batches() {
            kb.range(kb.dim(ahead), kb.dim(shape.octet_batches()), 1, |batch| add(batch, None));
        }
    }
}
