//! Attention of some tokens' query heads that read one KV head, over one span of positions.
//!
//! A *row* is a query head of a token. Each page is decoded to floats once for all rows, then rows go through it four
//! at a time. What a row computes does not depend on the rows beside it: a score is one chain over elements, a sum one
//! chain over slots, a total one chain per lane.

use std::ops::Range;

use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::ahead::Ahead;
use super::archived::{Halves, Weights};
use super::attend::{Attention, SPAN, UNSEEN};
use super::isa::{Isa, LANES};
use super::math::{exp, tanh};
use super::share::Share;

/// How many rows may decode a page each time they read it.
const FEW: usize = 8;

/// How a head of a page is read: floats; floats of keys, of which two elements of a slot are neighbours; the same as
/// binary16 and bfloat16. Values have no pairs, halves only.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Plain,
    Pairs,
    HalfPairs,
    BrainPairs,
    /// Codes as floats, bytes and nibbles; what they mean is left to the groups' scales.
    Codes,
    Bytes,
    Nibbles,
}
/// A head of a page: as it is stored, and where what is read of it lies.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) head: *const u32,
    pub(super) source: Source,
    pub(super) from: *const u8,
}
pub(super) const PLAIN: u8 = 0;
pub(super) const PAIRS: u8 = 1;
pub(super) const HALVES: u8 = 2;
pub(super) const BRAINS: u8 = 3;
pub(super) const BYTES: u8 = 4;
pub(super) const NIBBLES: u8 = 5;

/// Half bytes of an element.
pub(super) const fn width_of(source: u8) -> usize {
    match source {
        PLAIN | PAIRS => 8,
        HALVES | BRAINS => 4,
        BYTES => 2,
        _ => 1,
    }
}

/// Rows of a tile at most, unless one token has more.
pub(crate) const ROWS: usize = 64;

/// Some tokens of one sequence, and scratch.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) attention: &'a Attention<'a>,
    pub(crate) kv_head: usize,
    pub(super) first: usize,
    pub(super) tokens: usize,
    /// Scaled queries: rows of `dim`.
    pub(super) queries: *mut f32,
    /// Scores, then weights: rows of [`SPAN`].
    pub(super) scores: *mut f32,
    /// A decoded head of a page.
    pub(super) page: *mut f32,
    /// Sums of the queries over each group of codes: rows of `groups`.
    pub(super) group_sums: *mut f32,
    /// Four rows' weights, with the scales of a group in them.
    pub(super) scaled: *mut f32,
    /// Queries rounded for an archive, and what the mean that its keys lack adds to their scores: a row's each.
    pub(super) halves: *mut Halves,
    pub(super) centres: *mut f32,
    /// Weights rounded for an archive: a row's each.
    pub(super) rounded: *mut Weights,
}

/// Where a block's heads of keys and values lie: recent ones and archived ones, as far as any row reads them.
#[derive(Clone, Copy)]
pub(super) struct Block {
    recent: [*const u32; 2],
    pub(super) archived: [*const u32; 2],
}

impl<'a> Tile<'a> {
    /// Floats of scratch for so many rows.
    pub(crate) fn floats(rows: usize, dim: usize) -> usize {
        let archived = rows * ((size_of::<Halves>() + size_of::<Weights>()) / 4 + dim / 2 + 1);
        let rounded = 2 * (rows * dim).next_multiple_of(LANES);
        rounded + rows * SPAN + PAGE_TOKENS * dim.next_multiple_of(LANES) + 4 * SPAN + archived + LANES
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
        let halves = group_sums.add((rows * dim).next_multiple_of(LANES)).cast::<Halves>();
        let rounded = halves.add(rows).cast::<Weights>();
        let centres = rounded.add(rows).cast::<f32>();
        let queries = scratch;
        let tile = Self {
            attention,
            kv_head,
            first,
            tokens,
            queries,
            scores,
            page,
            group_sums,
            scaled,
            halves,
            centres,
            rounded,
        };
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
        if let Some(archived) = &attention.archived {
            let bytes = centres.add(rows).cast::<i8>();
            for row in 0..rows {
                let halves = Halves::round::<I>(queries.add(row * dim), dim, bytes.add(2 * row * dim));
                tile.halves.add(row).write(halves);
                *centres.add(row) = 0.0;
            }
            if archived.archive.centered {
                tile.add_centres::<I>(archived);
            }
        }
        tile
    }

    /// Whether a token reads a block from the archive.
    #[inline(always)]
    pub(super) fn reads_archive(&self, token: usize, block: usize) -> bool {
        let of = self.attention.table.position(self.first + token) / PAGE_TOKENS;
        self.attention.archived.as_ref().is_some_and(|archived| archived.archive.holds(block, of))
    }

    /// Where a block lies; `None` where a page does not exist.
    #[inline(always)]
    unsafe fn place(&self, block: usize) -> Option<Block> {
        let (a, nowhere) = (self.attention, [std::ptr::null(); 2]);
        let mut place = Block { recent: nowhere, archived: nowhere };
        let reads = |archived: bool| {
            (0..self.tokens).any(|t| !self.slots(t, block).is_empty() && self.reads_archive(t, block) == archived)
        };
        if reads(false) {
            let page = a.table.page(a.ctx, self.first, block, a.keys.count().min(a.values.count()))?;
            place.recent =
                [a.keys.head(page, self.kv_head).cast_const(), a.values.head(page, self.kv_head).cast_const()];
        }
        if let Some(archived) = a.archived.as_ref().filter(|_| reads(true)) {
            let (keys, values) = (&archived.keys, &archived.values);
            let page = archived.table.page(a.ctx, self.first, block, keys.count.min(values.count))?;
            place.archived = [keys.head(page, self.kv_head).cast_const(), values.head(page, self.kv_head).cast_const()];
        }
        Some(place)
    }

    /// What will be read of a half of a block, to be asked for meanwhile.
    #[inline(always)]
    fn ahead(&self, place: &Block, half: usize) -> Ahead {
        let a = self.attention;
        match (&a.archived, place.archived[half].is_null()) {
            (Some(archived), false) => {
                let row = if half == 0 { &archived.keys.row } else { &archived.values.row };
                Ahead { from: place.archived[half].cast(), bytes: row.page_bytes() }
            }
            _ => {
                let row = if half == 0 { &a.keys.row } else { &a.values.row };
                Ahead { from: place.recent[half].cast(), bytes: row.page_bytes() }
            }
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.tokens * self.attention.group()
    }

    /// Positions of `range` that a token sees.
    #[inline(always)]
    pub(super) fn seen(&self, token: usize, range: Range<usize>) -> Range<usize> {
        let position = self.attention.table.position(self.first + token);
        self.attention.first(position).max(range.start)..(position + 1).min(range.end)
    }

    /// The spans that any of the tokens sees.
    pub(crate) fn spans(&self) -> Range<usize> {
        let (mut start, mut end) = (usize::MAX, 0);
        for t in self.first..self.first + self.tokens {
            let own = self.attention.spans(self.attention.table.position(t));
            (start, end) = (start.min(own.start), end.max(own.end));
        }
        start..end
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
        let nowhere = Block { recent: [std::ptr::null(); 2], archived: [std::ptr::null(); 2] };
        let mut places = [nowhere; SPAN / PAGE_TOKENS + 1];
        for block in blocks.clone() {
            places[block - blocks.start] = self.place(block)?;
        }
        // Behind the last keys come the first values, and behind the last values the next span's first keys.
        let mut behind = places[0];
        (behind.recent[0], behind.archived[0]) = (behind.recent[1], behind.archived[1]);
        if high == end && self.spans().end > span + 1 {
            let next = self.place(blocks.end)?;
            (behind.recent[1], behind.archived[1]) = (next.recent[0], next.archived[0]);
        }
        places[blocks.len()] = behind;
        for block in blocks.clone() {
            let i = block - blocks.start;
            let (place, at) = (places[i], block * PAGE_TOKENS - start);
            let mut ahead = self.ahead(&places[i + 1], 0);
            if !place.recent[0].is_null() {
                let keys = self.keys::<I>(place.recent[0]);
                let mut t = 0;
                while let Some((rows, _)) = self.run(&mut t, block, (false, false)) {
                    self.scores::<I>(keys, rows, at, &mut ahead);
                }
            }
            if let Some(archived) = a.archived.as_ref().filter(|_| !place.archived[0].is_null()) {
                let mut t = 0;
                while let Some((rows, _)) = self.run(&mut t, block, (true, false)) {
                    self.archived_scores::<I>(archived, place.archived[0], rows, at, &mut ahead);
                }
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
        if let Some(archived) = &a.archived {
            self.round_archived::<I>(archived, &places[..blocks.len()], blocks.clone(), start..end);
        }
        for block in blocks.clone() {
            let (i, first) = (block - blocks.start, block * PAGE_TOKENS);
            let (place, slots) = (places[i], (low.max(first) - first, high.min(first + PAGE_TOKENS) - first));
            let mut ahead = self.ahead(&places[i + 1], 1);
            if !place.recent[1].is_null() {
                let values = self.values::<I>(place.recent[1], slots);
                let mut t = 0;
                while let Some((rows, slots)) = self.run(&mut t, block, (false, true)) {
                    self.sums::<I>(values, rows, first - start, slots, share, &mut ahead);
                }
            }
            if let Some(archived) = a.archived.as_ref().filter(|_| !place.archived[1].is_null()) {
                let mut t = 0;
                while let Some((rows, _)) = self.run(&mut t, block, (true, false)) {
                    let page = (first - start) / PAGE_TOKENS;
                    self.archived_sums::<I>(archived, place.archived[1], rows, page, share, &mut ahead);
                }
            }
        }
        Some(())
    }

    /// The next run of tokens from `t` on that see something of a block, and read it from the archive if `archived` or
    /// not, with the slots that they see. Where `apart`, tokens of a run see the same slots: what lies in others may be
    /// anything and is not even multiplied by 0.
    #[inline(always)]
    fn run(
        &self,
        t: &mut usize,
        block: usize,
        (archived, apart): (bool, bool),
    ) -> Option<(Range<usize>, Range<usize>)> {
        let group = self.attention.group();
        while *t < self.tokens {
            let (first, own) = (*t, self.slots(*t, block));
            *t += 1;
            if own.is_empty() || self.reads_archive(first, block) != archived {
                continue;
            }
            while *t < self.tokens {
                let next = self.slots(*t, block);
                if next.is_empty() || self.reads_archive(*t, block) != archived || apart && next != own {
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
    pub(super) fn slots(&self, token: usize, block: usize) -> Range<usize> {
        let first = block * PAGE_TOKENS;
        let seen = self.seen(token, first..first + PAGE_TOKENS);
        if seen.is_empty() { 0..0 } else { seen.start - first..seen.end - first }
    }

    /// A head of keys as scores read it: where few rows do, as it is stored if that takes no more than a load.
    #[inline(always)]
    unsafe fn keys<I: Isa>(&self, head: *const u32) -> Stored {
        let a = self.attention;
        let few = self.rows() <= FEW;
        let (source, from): (Source, *const u8) = match a.keys.row.format {
            Format::Float(Float::F32) => (Source::Plain, head.cast()),
            Format::Float(Float::F16) if few => (Source::HalfPairs, head.cast()),
            Format::Float(Float::Bf16) if few => (Source::BrainPairs, head.cast()),
            Format::Float(_) => {
                a.keys.key_pairs::<I>(head, self.page);
                (Source::Pairs, self.page.cast_const().cast())
            }
            Format::Affine(a) if few => (if a.bits == 8 { Source::Bytes } else { Source::Nibbles }, head.cast()),
            Format::Affine(_) | Format::Mxfp4 => {
                a.keys.key_codes::<I>(head, self.page);
                (Source::Codes, self.page.cast_const().cast())
            }
        };
        Stored { head, source, from }
    }

    /// A head of values as sums read it.
    #[inline(always)]
    unsafe fn values<I: Isa>(&self, head: *const u32, slots: (usize, usize)) -> Stored {
        let a = self.attention;
        if let Some(latent) = a.template.latent {
            a.keys.latents::<I>(head, latent, self.page);
            return Stored { head, source: Source::Plain, from: self.page.cast_const().cast() };
        }
        let direct = self.rows() <= FEW && a.template.dim.is_multiple_of(LANES);
        let (source, from): (Source, *const u8) = match a.values.row.format {
            Format::Float(Float::F32) if a.template.dim.is_multiple_of(LANES) => (Source::Plain, head.cast()),
            Format::Float(Float::F16) if direct => (Source::HalfPairs, head.cast()),
            Format::Float(Float::Bf16) if direct => (Source::BrainPairs, head.cast()),
            Format::Affine(a) if direct => (if a.bits == 8 { Source::Bytes } else { Source::Nibbles }, head.cast()),
            Format::Affine(_) | Format::Mxfp4 => {
                a.values.values::<I>(head, slots, self.page);
                (Source::Codes, self.page.cast_const().cast())
            }
            Format::Float(_) => {
                a.values.values::<I>(head, slots, self.page);
                (Source::Plain, self.page.cast_const().cast())
            }
        };
        Stored { head, source, from }
    }

    /// Turns a row's scores into weights, capped before; what it does not see gets the weight 0.
    #[inline(always)]
    unsafe fn weigh<I: Isa>(&self, row: usize, seen: Range<usize>, share: Share) {
        let scores = self.scores.add(row * SPAN);
        let vectors = seen.start / LANES * LANES..seen.end.next_multiple_of(LANES);
        let unseen = (vectors.start..seen.start).chain(seen.end..vectors.end);
        let cap = self.attention.template.cap;
        if cap != 0.0 {
            for i in vectors.clone().step_by(LANES) {
                let score = I::mul(I::load(scores.add(i)), I::splat(1.0 / cap));
                I::store(scores.add(i), I::mul(tanh::<I>(score), I::splat(cap)));
            }
        }
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
}

/// 16 stored numbers.
#[inline(always)]
pub(super) unsafe fn read<I: Isa, const S: u8>(from: *const u8) -> I::F {
    match S {
        HALVES => I::load_f16(from.cast()),
        BRAINS => I::load_bf16(from.cast()),
        BYTES => I::load_u8(from),
        NIBBLES => I::load_u4(from),
        _ => I::load(from.cast()),
    }
}
