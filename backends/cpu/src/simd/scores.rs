//! Scores of a tile's rows with the keys of one page: a chain over elements for each row and slot.

use std::ops::Range;

use swiftlm_ir::ty::PAGE_TOKENS;

use super::ahead::{Ahead, Steps};
use super::attend::SPAN;
use super::isa::{Isa, LANES};
use super::tile::{BRAINS, BYTES, HALVES, NIBBLES, PAIRS, PLAIN, Source, Stored, Tile, read, width_of};

/// Slots of a vector of keys.
const fn slots_of(source: u8) -> usize {
    if source == PLAIN { LANES } else { LANES / 2 }
}

impl Tile<'_> {
    /// Scores of rows for the slots of a head of keys; `at` is the page's place in the span.
    #[inline(always)]
    pub(super) unsafe fn scores<I: Isa>(&self, keys: Stored, rows: Range<usize>, at: usize, ahead: &mut Ahead) {
        let Stored { head, source, from } = keys;
        match source {
            Source::Plain => self.scores_of::<I, PLAIN>(from, rows, at, ahead),
            Source::Pairs => self.scores_of::<I, PAIRS>(from, rows, at, ahead),
            Source::HalfPairs => self.scores_of::<I, HALVES>(from, rows, at, ahead),
            Source::BrainPairs => self.scores_of::<I, BRAINS>(from, rows, at, ahead),
            Source::Codes => self.code_scores::<I, PLAIN>(head, from, rows, at, ahead),
            Source::Bytes => self.code_scores::<I, BYTES>(head, from, rows, at, ahead),
            Source::Nibbles => self.code_scores::<I, NIBBLES>(head, from, rows, at, ahead),
        }
    }

    #[inline(always)]
    unsafe fn scores_of<I: Isa, const S: u8>(&self, keys: *const u8, rows: Range<usize>, at: usize, ahead: &mut Ahead) {
        let mut row = rows.start;
        while row + 4 <= rows.end {
            self.dots::<I, S, 4>(keys, row, at, ahead);
            row += 4;
        }
        match rows.end - row {
            1 => self.dots::<I, S, 1>(keys, row, at, ahead),
            2 => self.dots::<I, S, 2>(keys, row, at, ahead),
            3 => self.dots::<I, S, 3>(keys, row, at, ahead),
            _ => {}
        }
    }

    #[inline(always)]
    unsafe fn dots<I: Isa, const S: u8, const N: usize>(
        &self,
        keys: *const u8,
        row: usize,
        at: usize,
        ahead: &mut Ahead,
    ) {
        let dim = self.attention.template.dim;
        let to = self.scores.add(row * SPAN + at);
        let queries = self.queries.add(row * dim).cast_const();
        // Vectors of a page's slots: of slots, or of slots with two elements each.
        let (vectors, steps) = if S == PLAIN { (2, dim) } else { (4, dim / 2) };
        if I::WIDE {
            let part = ahead.part(vectors / 2, steps);
            for v in (0..vectors).step_by(2) {
                let from = keys.add(v * LANES * width_of(S) / 2);
                chains::<I, S, N, 2>(from, vectors, steps, (queries, dim), to.add(v * slots_of(S)), part.of(v / 2));
            }
        } else {
            let part = ahead.part(vectors, steps);
            for v in 0..vectors {
                let from = keys.add(v * LANES * width_of(S) / 2);
                chains::<I, S, N, 1>(from, vectors, steps, (queries, dim), to.add(v * slots_of(S)), part.of(v));
            }
        }
    }

    /// Scores where keys are codes: a chain over the codes of each group, then its scale and bias.
    #[inline(always)]
    unsafe fn code_scores<I: Isa, const S: u8>(
        &self,
        head: *const u32,
        keys: *const u8,
        rows: Range<usize>,
        at: usize,
        ahead: &mut Ahead,
    ) {
        let mut row = rows.start;
        while row < rows.end {
            let words = self.attention.template.dim / if S == NIBBLES { 8 } else { 4 };
            let part = ahead.part(PAGE_TOKENS / LANES, words);
            for v in 0..PAGE_TOKENS / LANES {
                let place = (row, at, v * LANES);
                match rows.end - row {
                    1 => self.code_chains::<I, S, 1>(head, keys, place, part.of(v)),
                    2 => self.code_chains::<I, S, 2>(head, keys, place, part.of(v)),
                    3 => self.code_chains::<I, S, 3>(head, keys, place, part.of(v)),
                    _ => self.code_chains::<I, S, 4>(head, keys, place, part.of(v)),
                }
            }
            row += 4;
        }
    }

    /// Scores of `N` rows for 16 slots.
    #[inline(always)]
    unsafe fn code_chains<I: Isa, const S: u8, const N: usize>(
        &self,
        head: *const u32,
        keys: *const u8,
        (row, at, slot): (usize, usize, usize),
        ahead: Steps,
    ) {
        let (dim, layout) = (self.attention.template.dim, self.attention.keys.row);
        let (group, groups) = (layout.group(), layout.groups());
        let queries = self.queries.add(row * dim).cast_const();
        let per = if S == NIBBLES { 8 } else { 4 };
        let mut line = ahead.from;
        for g in 0..groups {
            let mut chains = [I::splat(0.0); N];
            for word in g * group / per..(g + 1) * group / per {
                I::prefetch(line);
                line = line.wrapping_add(ahead.step);
                for i in 0..per {
                    let d = word * per + i;
                    let code = match S {
                        BYTES => I::code(keys.cast::<u32>().add(word * PAGE_TOKENS + slot), 8 * i as i32, 255),
                        NIBBLES => I::code(keys.cast::<u32>().add(word * PAGE_TOKENS + slot), 4 * i as i32, 15),
                        _ => I::load(keys.cast::<f32>().add(d * PAGE_TOKENS + slot)),
                    };
                    for n in 0..N {
                        chains[n] = I::fma(I::splat(*queries.add(n * dim + d)), code, chains[n]);
                    }
                }
            }
            let [scale, bias] = I::halves_f16(head.add((layout.words() + g) * PAGE_TOKENS + slot));
            for n in 0..N {
                let to = self.scores.add((row + n) * SPAN + at + slot);
                let sum = I::splat(*self.group_sums.add((row + n) * groups + g));
                let own = I::fma(scale, chains[n], I::mul(bias, sum));
                I::store(to, if g == 0 { own } else { I::add(I::load(to), own) });
            }
        }
    }
}

/// Scores of `N` rows for `V` vectors of slots. Keys come `vectors` vectors a step; a step is an element, or two.
#[inline(always)]
unsafe fn chains<I: Isa, const S: u8, const N: usize, const V: usize>(
    keys: *const u8,
    vectors: usize,
    steps: usize,
    (queries, dim): (*const f32, usize),
    to: *mut f32,
    ahead: Steps,
) {
    let mut chains = [[I::splat(0.0); V]; N];
    let mut line = ahead.from;
    for step in 0..steps {
        I::prefetch(line);
        line = line.wrapping_add(ahead.step);
        let mut key = [I::splat(0.0); V];
        for v in 0..V {
            key[v] = read::<I, S>(keys.add((step * vectors + v) * LANES * width_of(S) / 2));
        }
        for n in 0..N {
            let query = if S == PLAIN {
                I::splat(*queries.add(n * dim + step))
            } else {
                I::splat_pair(queries.add(n * dim + 2 * step))
            };
            for v in 0..V {
                chains[n][v] = I::fma(query, key[v], chains[n][v]);
            }
        }
    }
    for n in 0..N {
        for v in 0..V {
            let to = to.add(n * SPAN + v * slots_of(S));
            if S == PLAIN {
                I::store(to, chains[n][v]);
            } else {
                I::store_pair_sums(to, chains[n][v]);
            }
        }
    }
}
