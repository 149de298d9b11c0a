//! Attention of some tokens' query heads that read one KV head, over one span of positions.
//!
//! A *row* is a query head of a token. Each page is decoded to floats once for all rows, then rows go through it four
//! at a time. What a row computes does not depend on the rows beside it: a score is one chain over elements, a sum one
//! chain over slots, a total one chain per lane.

use std::ops::Range;

use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::attend::{Attention, SPAN, UNSEEN};
use super::isa::{Isa, LANES};
use super::math::exp;
use super::share::Share;

/// How many rows may decode a page each time they read it.
const FEW: usize = 8;

/// How a head of a page is read: floats; floats of keys, of which two elements of a slot are neighbours; the same as
/// binary16 and bfloat16. Values have no pairs, halves only.
#[derive(Clone, Copy)]
enum Source {
    Plain,
    Pairs,
    HalfPairs,
    BrainPairs,
    /// Codes as floats, bytes and nibbles; what they mean is left to the groups' scales.
    Codes,
    Bytes,
    Nibbles,
}
const PLAIN: u8 = 0;
const PAIRS: u8 = 1;
const HALVES: u8 = 2;
const BRAINS: u8 = 3;
const BYTES: u8 = 4;
const NIBBLES: u8 = 5;

/// Half bytes of an element.
const fn width_of(source: u8) -> usize {
    match source {
        PLAIN | PAIRS => 8,
        HALVES | BRAINS => 4,
        BYTES => 2,
        _ => 1,
    }
}

/// Slots of a vector of keys.
const fn slots_of(source: u8) -> usize {
    if source == PLAIN { LANES } else { LANES / 2 }
}

/// Rows of a tile at most, unless one token has more.
pub(crate) const ROWS: usize = 64;

/// Some tokens of one sequence, and scratch.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) attention: &'a Attention<'a>,
    pub(crate) kv_head: usize,
    first: usize,
    tokens: usize,
    /// Scaled queries: rows of `dim`.
    queries: *mut f32,
    /// Scores, then weights: rows of [`SPAN`].
    scores: *mut f32,
    /// A decoded head of a page.
    page: *mut f32,
    /// Sums of the queries over each group of codes: rows of `groups`.
    group_sums: *mut f32,
    /// Four rows' weights, with the scales of a group in them.
    scaled: *mut f32,
}

impl<'a> Tile<'a> {
    /// Floats of scratch for so many rows.
    pub(crate) fn floats(rows: usize, dim: usize) -> usize {
        2 * (rows * dim).next_multiple_of(LANES) + rows * SPAN + PAGE_TOKENS * dim.next_multiple_of(LANES) + 4 * SPAN
    }

    /// Tokens `tokens`, which are of one sequence.
    #[inline(always)]
    pub(crate) unsafe fn new<I: Isa>(
        attention: &'a Attention<'a>,
        kv_head: usize,
        tokens: Range<usize>,
        scratch: *mut f32,
    ) -> Self {
        let (dim, width) = (attention.template.dim, attention.group() * attention.template.dim);
        let rows = tokens.len() * attention.group();
        let scores = scratch.add((rows * dim).next_multiple_of(LANES));
        let page = scores.add(rows * SPAN);
        let scaled = page.add(PAGE_TOKENS * dim.next_multiple_of(LANES));
        let group_sums = scaled.add(4 * SPAN);
        let (first, tokens) = (tokens.start, tokens.len());
        let tile = Self { attention, kv_head, first, tokens, queries: scratch, scores, page, group_sums, scaled };
        for t in 0..tile.tokens {
            let (from, to) = (attention.q.row(tile.first + t).add(kv_head * width), scratch.add(t * width));
            for i in 0..width {
                *to.add(i) = *from.add(i) * attention.template.scale;
            }
        }
        let (group, groups) = (attention.keys.row.group(), attention.keys.row.groups());
        for i in 0..rows * groups {
            let from = scratch.add(i / groups * dim + i % groups * group);
            *group_sums.add(i) = (0..group).map(|d| *from.add(d)).sum();
        }
        tile
    }

    fn rows(&self) -> usize {
        self.tokens * self.attention.group()
    }

    /// Positions of `range` that a token sees.
    #[inline(always)]
    fn seen(&self, token: usize, range: Range<usize>) -> Range<usize> {
        let position = self.attention.table.position(self.first + token);
        self.attention.first(position).max(range.start)..(position + 1).min(range.end)
    }

    /// The spans that any of the tokens sees.
    pub(crate) fn spans(&self) -> Range<usize> {
        (0..self.tokens)
            .map(|t| self.attention.spans(self.attention.table.position(self.first + t)))
            .fold(usize::MAX..0, |all, one| all.start.min(one.start)..all.end.max(one.end))
    }

    /// The rows' shares of a span; `None` where a page does not exist.
    #[inline(always)]
    pub(crate) unsafe fn span<I: Isa>(&self, span: usize, share: Share) -> Option<()> {
        let a = self.attention;
        let (start, end) = (span * SPAN, span.saturating_mul(SPAN).saturating_add(SPAN));
        for row in 0..self.rows() {
            share.clear::<I>(row);
        }
        let (mut low, mut high) = (end, start);
        for t in 0..self.tokens {
            let seen = self.seen(t, start..end);
            if !seen.is_empty() {
                (low, high) = (low.min(seen.start), high.max(seen.end));
            }
        }
        if low >= high {
            return Some(());
        }
        let blocks = low / PAGE_TOKENS..high.div_ceil(PAGE_TOKENS);
        let pages = a.keys.count().min(a.values.count());
        let mut heads = [[std::ptr::null_mut::<u32>(); 2]; SPAN / PAGE_TOKENS + 1];
        for block in blocks.clone() {
            let page = a.table.page(a.ctx, self.first, block, pages)?;
            heads[block - blocks.start] = [a.keys.head(page, self.kv_head), a.values.head(page, self.kv_head)];
        }
        // Behind the last keys come the first values, and behind the last values the next span's first keys.
        let next = if high == end && self.spans().end > span + 1 {
            a.keys.head(a.table.page(a.ctx, self.first, blocks.end, pages)?, self.kv_head)
        } else {
            heads[0][1]
        };
        heads[blocks.len()] = [heads[0][1], next];
        for block in blocks.clone() {
            let i = block - blocks.start;
            let keys = self.keys::<I>(heads[i][0]);
            let mut ahead = Ahead { from: heads[i + 1][0].cast(), bytes: a.keys.row.page_bytes() };
            let mut t = 0;
            while let Some((rows, _)) = self.run(&mut t, block, false) {
                self.scores::<I>(heads[i][0], keys, rows, block * PAGE_TOKENS - start, &mut ahead);
            }
        }
        for t in 0..self.tokens {
            let seen = self.seen(t, start..end);
            if !seen.is_empty() {
                for row in t * a.group()..(t + 1) * a.group() {
                    self.weigh::<I>(row, seen.start - start..seen.end - start, share);
                }
            }
        }
        for block in blocks.clone() {
            let (i, first) = (block - blocks.start, block * PAGE_TOKENS);
            let slots = (low.max(first) - first, high.min(first + PAGE_TOKENS) - first);
            let values = self.values::<I>(heads[i][1], slots);
            let mut ahead = Ahead { from: heads[i + 1][1].cast(), bytes: a.values.row.page_bytes() };
            let mut t = 0;
            while let Some((rows, slots)) = self.run(&mut t, block, true) {
                self.sums::<I>(heads[i][1], values, rows, first - start, slots, share, &mut ahead);
            }
        }
        Some(())
    }

    /// The next run of tokens from `t` on that see something of a block, with the slots that they see. Where `apart`,
    /// tokens of a run see the same slots: what lies in others may be anything and is not even multiplied by 0.
    #[inline(always)]
    fn run(&self, t: &mut usize, block: usize, apart: bool) -> Option<(Range<usize>, Range<usize>)> {
        let group = self.attention.group();
        while *t < self.tokens {
            let (first, own) = (*t, self.slots(*t, block));
            *t += 1;
            if own.is_empty() {
                continue;
            }
            while *t < self.tokens {
                let next = self.slots(*t, block);
                if next.is_empty() || apart && next != own {
                    break;
                }
                *t += 1;
            }
            return Some((first * group..*t * group, own));
        }
        None
    }

    /// Slots of a block that a token sees.
    #[inline(always)]
    fn slots(&self, token: usize, block: usize) -> Range<usize> {
        let first = block * PAGE_TOKENS;
        let seen = self.seen(token, first..first + PAGE_TOKENS);
        if seen.is_empty() { 0..0 } else { seen.start - first..seen.end - first }
    }

    /// A head of keys as scores read it: where few rows do, as it is stored if that takes no more than a load.
    #[inline(always)]
    unsafe fn keys<I: Isa>(&self, head: *const u32) -> (Source, *const u8) {
        let a = self.attention;
        let few = self.rows() <= FEW;
        match a.keys.row.format {
            Format::Float(Float::F32) => (Source::Plain, head.cast()),
            Format::Float(Float::F16) if few => (Source::HalfPairs, head.cast()),
            Format::Float(Float::Bf16) if few => (Source::BrainPairs, head.cast()),
            Format::Float(_) => {
                a.keys.key_pairs::<I>(head, self.page);
                (Source::Pairs, self.page.cast_const().cast())
            }
            Format::Affine(a) if few => (if a.bits == 8 { Source::Bytes } else { Source::Nibbles }, head.cast()),
            Format::Affine(_) => {
                a.keys.key_codes::<I>(head, self.page);
                (Source::Codes, self.page.cast_const().cast())
            }
        }
    }

    /// A head of values as sums read it.
    #[inline(always)]
    unsafe fn values<I: Isa>(&self, head: *const u32, slots: (usize, usize)) -> (Source, *const u8) {
        let a = self.attention;
        let direct = self.rows() <= FEW && a.template.dim.is_multiple_of(LANES);
        match a.values.row.format {
            Format::Float(Float::F32) if a.template.dim.is_multiple_of(LANES) => (Source::Plain, head.cast()),
            Format::Float(Float::F16) if direct => (Source::HalfPairs, head.cast()),
            Format::Float(Float::Bf16) if direct => (Source::BrainPairs, head.cast()),
            Format::Affine(a) if direct => (if a.bits == 8 { Source::Bytes } else { Source::Nibbles }, head.cast()),
            Format::Affine(_) => {
                a.values.values::<I>(head, slots, self.page);
                (Source::Codes, self.page.cast_const().cast())
            }
            Format::Float(_) => {
                a.values.values::<I>(head, slots, self.page);
                (Source::Plain, self.page.cast_const().cast())
            }
        }
    }

    /// Scores of rows for the slots of a head of keys; `at` is the page's place in the span.
    #[inline(always)]
    unsafe fn scores<I: Isa>(
        &self,
        head: *const u32,
        keys: (Source, *const u8),
        rows: Range<usize>,
        at: usize,
        ahead: &mut Ahead,
    ) {
        match keys.0 {
            Source::Plain => self.scores_of::<I, PLAIN>(keys.1, rows, at, ahead),
            Source::Pairs => self.scores_of::<I, PAIRS>(keys.1, rows, at, ahead),
            Source::HalfPairs => self.scores_of::<I, HALVES>(keys.1, rows, at, ahead),
            Source::BrainPairs => self.scores_of::<I, BRAINS>(keys.1, rows, at, ahead),
            Source::Codes => self.code_scores::<I, PLAIN>(head, keys.1, rows, at, ahead),
            Source::Bytes => self.code_scores::<I, BYTES>(head, keys.1, rows, at, ahead),
            Source::Nibbles => self.code_scores::<I, NIBBLES>(head, keys.1, rows, at, ahead),
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

    /// Sums where values are codes: weights take the scales of a group, and the biases are added at once.
    #[inline(always)]
    unsafe fn code_sums<I: Isa, const S: u8>(
        &self,
        head: *const u32,
        values: *const u8,
        rows: Range<usize>,
        (at, slots): (usize, Range<usize>),
        share: Share,
        ahead: &mut Ahead,
    ) {
        let (width, layout) = (self.attention.template.dim.next_multiple_of(LANES), self.attention.values.row);
        let mut row = rows.start;
        while row < rows.end {
            let (count, part) = ((rows.end - row).min(4), ahead.part(width / LANES, PAGE_TOKENS));
            for g in 0..layout.groups() {
                let (mut scales, mut biases) = ([0f32; PAGE_TOKENS], [0f32; PAGE_TOKENS]);
                for s in (0..PAGE_TOKENS).step_by(LANES) {
                    let [scale, bias] = I::halves_f16(head.add((layout.words() + g) * PAGE_TOKENS + s));
                    I::store(scales.as_mut_ptr().add(s), scale);
                    I::store(biases.as_mut_ptr().add(s), bias);
                }
                // What lies in slots that are not seen may be anything.
                for s in (0..slots.start).chain(slots.end..PAGE_TOKENS) {
                    (scales[s], biases[s]) = (0.0, 0.0);
                }
                let columns = g * layout.group()..((g + 1) * layout.group()).next_multiple_of(LANES);
                for n in 0..count {
                    let weights = self.scores.add((row + n) * SPAN + at);
                    let mut sum = I::splat(0.0);
                    for s in (0..PAGE_TOKENS).step_by(LANES) {
                        // Weights of vectors that nobody sees were never computed.
                        if s + LANES <= slots.start || s >= slots.end {
                            continue;
                        }
                        let weight = I::load(weights.add(s));
                        sum = I::fma(weight, I::load(biases.as_ptr().add(s)), sum);
                        I::store(self.scaled.add(n * SPAN + s), I::mul(weight, I::load(scales.as_ptr().add(s))));
                    }
                    let sum = I::splat(I::sum(sum));
                    for d in columns.clone().step_by(LANES) {
                        let to = share.sums(row + n).add(d);
                        I::store(to, I::add(I::load(to), sum));
                    }
                }
                for d in columns.step_by(LANES) {
                    let (from, place) = (values.add(d * width_of(S) / 2), (share, row, d));
                    let (weights, slots, part) = (self.scaled.cast_const(), slots.clone(), part.of(d / LANES));
                    match count {
                        1 => weighted::<I, S, 1, 1>(from, width, weights, slots, place, part),
                        2 => weighted::<I, S, 2, 1>(from, width, weights, slots, place, part),
                        3 => weighted::<I, S, 3, 1>(from, width, weights, slots, place, part),
                        _ => weighted::<I, S, 4, 1>(from, width, weights, slots, place, part),
                    }
                }
            }
            row += 4;
        }
    }

    /// Turns a row's scores into weights; what it does not see gets the weight 0.
    #[inline(always)]
    unsafe fn weigh<I: Isa>(&self, row: usize, seen: Range<usize>, share: Share) {
        let scores = self.scores.add(row * SPAN);
        let vectors = seen.start / LANES * LANES..seen.end.next_multiple_of(LANES);
        let unseen = (vectors.start..seen.start).chain(seen.end..vectors.end);
        for i in unseen.clone() {
            *scores.add(i) = UNSEEN;
        }
        let mut largest = I::splat(UNSEEN);
        for i in vectors.clone().step_by(LANES) {
            largest = I::max(largest, I::load(scores.add(i)));
        }
        let largest = I::largest(largest);
        *share.largest(row) = largest;
        for i in vectors.clone().step_by(LANES) {
            I::store(scores.add(i), exp::<I>(I::sub(I::load(scores.add(i)), I::splat(largest))));
        }
        for i in unseen {
            *scores.add(i) = 0.0;
        }
        let mut total = I::splat(0.0);
        for i in vectors.step_by(LANES) {
            total = I::add(total, I::load(scores.add(i)));
        }
        I::store(share.total(row), total);
    }

    /// Adds the weighted values of slots to rows' sums, in the order of slots.
    #[inline(always)]
    unsafe fn sums<I: Isa>(
        &self,
        head: *const u32,
        values: (Source, *const u8),
        rows: Range<usize>,
        at: usize,
        slots: Range<usize>,
        share: Share,
        ahead: &mut Ahead,
    ) {
        match values.0 {
            Source::Plain | Source::Pairs => self.sums_of::<I, PLAIN>(values.1, rows, at, slots, share, ahead),
            Source::HalfPairs => self.sums_of::<I, HALVES>(values.1, rows, at, slots, share, ahead),
            Source::BrainPairs => self.sums_of::<I, BRAINS>(values.1, rows, at, slots, share, ahead),
            Source::Codes => self.code_sums::<I, PLAIN>(head, values.1, rows, (at, slots), share, ahead),
            Source::Bytes => self.code_sums::<I, BYTES>(head, values.1, rows, (at, slots), share, ahead),
            Source::Nibbles => self.code_sums::<I, NIBBLES>(head, values.1, rows, (at, slots), share, ahead),
        }
    }

    #[inline(always)]
    unsafe fn sums_of<I: Isa, const S: u8>(
        &self,
        values: *const u8,
        rows: Range<usize>,
        at: usize,
        slots: Range<usize>,
        share: Share,
        ahead: &mut Ahead,
    ) {
        let mut row = rows.start;
        while row + 4 <= rows.end {
            self.columns::<I, S, 4>(values, row, at, slots.clone(), share, ahead);
            row += 4;
        }
        match rows.end - row {
            1 => self.columns::<I, S, 1>(values, row, at, slots, share, ahead),
            2 => self.columns::<I, S, 2>(values, row, at, slots, share, ahead),
            3 => self.columns::<I, S, 3>(values, row, at, slots, share, ahead),
            _ => {}
        }
    }

    #[inline(always)]
    unsafe fn columns<I: Isa, const S: u8, const N: usize>(
        &self,
        values: *const u8,
        row: usize,
        at: usize,
        slots: Range<usize>,
        share: Share,
        ahead: &mut Ahead,
    ) {
        let (mut d, width) = (0, self.attention.template.dim.next_multiple_of(LANES));
        let part = ahead.part(width / LANES, PAGE_TOKENS);
        let weights = self.scores.add(row * SPAN + at).cast_const();
        while (I::WIDE || N <= 2) && d + 2 * LANES <= width {
            let from = values.add(d * width_of(S) / 2);
            weighted::<I, S, N, 2>(from, width, weights, slots.clone(), (share, row, d), part.of(d / LANES));
            d += 2 * LANES;
        }
        while d < width {
            let from = values.add(d * width_of(S) / 2);
            weighted::<I, S, N, 1>(from, width, weights, slots.clone(), (share, row, d), part.of(d / LANES));
            d += LANES;
        }
    }
}

/// Memory that is needed next and asked for while something else is computed: pages lie anywhere, so nothing else
/// would foresee it, and asking for all of it at once would hold up what is computed.
struct Ahead {
    from: *const u8,
    bytes: usize,
}

/// A part of it: a place and the bytes from one step of a loop to the next, and from one loop to the next.
#[derive(Clone, Copy)]
struct Steps {
    from: *const u8,
    step: usize,
    loop_bytes: usize,
}

impl Ahead {
    /// Hands it all out to so many loops of so many steps; nothing is left for those who ask later.
    #[inline(always)]
    fn part(&mut self, loops: usize, steps: usize) -> Steps {
        let step = self.bytes / (loops * steps);
        self.bytes = 0;
        Steps { from: self.from, step, loop_bytes: steps * step }
    }
}

impl Steps {
    /// What loop `i` asks for.
    #[inline(always)]
    fn of(self, i: usize) -> Self {
        Self { from: self.from.wrapping_add(i * self.loop_bytes), ..self }
    }
}

/// 16 stored numbers.
#[inline(always)]
unsafe fn read<I: Isa, const S: u8>(from: *const u8) -> I::F {
    match S {
        HALVES => I::load_f16(from.cast()),
        BRAINS => I::load_bf16(from.cast()),
        BYTES => I::load_u8(from),
        NIBBLES => I::load_u4(from),
        _ => I::load(from.cast()),
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

/// Adds weighted values to the sums of `N` rows from `row` on, `C` vectors of columns from `d` on.
#[inline(always)]
unsafe fn weighted<I: Isa, const S: u8, const N: usize, const C: usize>(
    values: *const u8,
    width: usize,
    weights: *const f32,
    slots: Range<usize>,
    (share, row, d): (Share, usize, usize),
    ahead: Steps,
) {
    let mut sums = [[I::splat(0.0); C]; N];
    for n in 0..N {
        for c in 0..C {
            sums[n][c] = I::load(share.sums(row + n).add(d + c * LANES));
        }
    }
    let mut line = ahead.from;
    for slot in slots {
        for c in 0..C {
            I::prefetch(line.wrapping_add(c * ahead.loop_bytes));
        }
        line = line.wrapping_add(ahead.step);
        let mut value = [I::splat(0.0); C];
        for c in 0..C {
            value[c] = read::<I, S>(values.add((slot * width + c * LANES) * width_of(S) / 2));
        }
        for n in 0..N {
            let weight = I::splat(*weights.add(n * SPAN + slot));
            for c in 0..C {
                sums[n][c] = I::fma(weight, value[c], sums[n][c]);
            }
        }
    }
    for n in 0..N {
        for c in 0..C {
            I::store(share.sums(row + n).add(d + c * LANES), sums[n][c]);
        }
    }
}
