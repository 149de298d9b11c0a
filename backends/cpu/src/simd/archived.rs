//! What a tile reads from an archive: codes become bytes once for all rows, and scores and sums are products of bytes.
//!
//! Queries are rounded to 16 bits by heads, weights by pages, each as two signed bytes (see [`quantize`](super::quantize)),
//! so that sums are exact in any order. A code is the byte of its level and 128; the part of 128 is taken off by the sum
//! of the other factor.

use std::ops::Range;

use swiftlm_ir::quant::archive::MEAN_FROM;
use swiftlm_ir::quant::{Archive, ArchiveRow, Turbo};
use swiftlm_ir::rounding::{LEAST_MAGNITUDE, Rounding};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::ahead::Ahead;
use super::attend::SPAN;
use super::context::Context;
use super::isa::{Isa, LANES};
use super::pages::PageTable;
use super::quantize::{HIGH, whole};
use super::share::Share;
use super::tile::{Block, Tile};

/// What is added to levels so that they are bytes without a sign.
const MIDDLE: f32 = 128.0;

/// Keys or values of an archive.
#[derive(Clone, Copy)]
pub(crate) struct ArchivePages {
    base: *mut u8,
    /// Pages that the argument holds.
    pub(crate) count: usize,
    pub(crate) row: ArchiveRow,
    heads: usize,
}

// SAFETY: addresses; a page's head is written by one task only.
unsafe impl Send for ArchivePages {}
// SAFETY: as above.
unsafe impl Sync for ArchivePages {}

impl ArchivePages {
    /// The pages of argument `arg`.
    pub(crate) fn new(ctx: &Context<'_>, arg: usize, format: Turbo, heads: usize, dim: usize) -> Result<Self, String> {
        let (row, span) = (ArchiveRow::new(format, dim)?, ctx.span(arg)?);
        Ok(Self { base: span.base, count: span.bytes / (heads * row.page_bytes()).max(1), row, heads })
    }

    /// A head of a page.
    #[inline(always)]
    pub(crate) unsafe fn head(&self, page: usize, head: usize) -> *mut u32 {
        self.base.add((page * self.heads + head) * self.row.page_bytes()).cast()
    }

    /// The levels and 128 of the codes of a head: of `count` codes in each of `columns`, four neighbours to the four bytes
    /// of a column.
    #[inline(always)]
    unsafe fn bytes<I: Isa>(&self, head: *const u32, sizes: (usize, usize), table: &[u8; 16], to: *mut u8) {
        match self.row.format.bits {
            4 => unpack::<I, 4, 0>(head, sizes, table, to),
            3 => unpack::<I, 2, 1>(head, sizes, table, to),
            2 => unpack::<I, 2, 0>(head, sizes, table, to),
            _ => unpack::<I, 1, 0>(head, sizes, table, to),
        }
    }

    /// The scales of a head's slots.
    #[inline(always)]
    pub(super) unsafe fn scales<I: Isa>(&self, head: *const u32) -> [f32; PAGE_TOKENS] {
        let mut scales = [0f32; PAGE_TOKENS];
        let from = head.add(self.row.code_words()).cast::<u16>();
        for slot in (0..PAGE_TOKENS).step_by(LANES) {
            I::store(scales.as_mut_ptr().add(slot), I::load_f16(from.add(slot)));
        }
        scales
    }
}

/// See [`ArchivePages::bytes`]: planes of `LOW` bits, and of `HIGH` more if there are.
#[inline(always)]
unsafe fn unpack<I: Isa, const LOW: usize, const HIGH: usize>(
    head: *const u32,
    (count, columns): (usize, usize),
    table: &[u8; 16],
    to: *mut u8,
) {
    let high = head.add((count * LOW).div_ceil(32) * columns);
    for word in 0..(count * LOW).div_ceil(32) {
        for column in (0..columns).step_by(LANES) {
            let words = I::load_bytes(head.add(word * columns + column).cast());
            for field in 0..8 / LOW {
                let four = word * (8 / LOW) + field;
                let mut codes = I::bits(words, (LOW * field) as u32, (1 << LOW) - 1);
                if HIGH > 0 {
                    let words = I::load_bytes(high.add(four / (8 / HIGH.max(1)) * columns + column).cast());
                    let plane = I::bits(words, (HIGH * (four % (8 / HIGH.max(1)))) as u32, (1 << HIGH) - 1);
                    codes = I::join(plane, LOW as u32, codes);
                }
                if 4 * four < count {
                    I::store_bytes(to.add(4 * (four * columns + column)), I::look_up(codes, table));
                }
            }
        }
    }
}

/// Bytes of each code's level and 128.
fn table(format: Turbo) -> [u8; 16] {
    let mut table = [0; 16];
    for code in 0..1 << format.bits {
        table[code as usize] = (i16::from(format.level(code)) + MIDDLE as i16) as u8;
    }
    table
}

/// An archive as an argument of attention.
#[derive(Clone, Copy)]
pub(crate) struct Archived {
    pub(crate) archive: Archive,
    pub(crate) table: PageTable,
    pub(crate) keys: ArchivePages,
    pub(crate) values: ArchivePages,
    key_bytes: [u8; 16],
    value_bytes: [u8; 16],
}

impl Archived {
    /// Arguments `arg` and the next two, for the tokens of `table`.
    pub(crate) fn new(
        ctx: &Context<'_>,
        arg: usize,
        table_of: &PageTable,
        archive: Archive,
        (heads, dim): (usize, usize),
    ) -> Result<Self, String> {
        Ok(Self {
            archive,
            table: table_of.second(ctx, arg)?,
            keys: ArchivePages::new(ctx, arg + 1, archive.k, heads, dim)?,
            values: ArchivePages::new(ctx, arg + 2, archive.v, heads, dim)?,
            key_bytes: table(archive.k),
            value_bytes: table(archive.v),
        })
    }
}

/// Numbers rounded to 16 bits, as two rows of signed bytes.
#[derive(Clone, Copy)]
pub(super) struct Halves {
    /// High bytes, then low bytes.
    bytes: *mut i8,
    /// How many numbers there are.
    count: usize,
    /// What a low byte counts for.
    scale: f32,
    /// 128 times the sums of the bytes.
    offsets: [f32; 2],
}

impl Halves {
    /// Rounds `count` numbers, a multiple of 16.
    #[inline(always)]
    pub(super) unsafe fn round<I: Isa>(x: *const f32, count: usize, bytes: *mut i8) -> Self {
        let mut largest = I::splat(0.0);
        for i in (0..count).step_by(LANES) {
            let x = I::load(x.add(i));
            largest = I::max(I::max(x, I::sub(I::splat(0.0), x)), largest);
        }
        let largest = I::largest(largest).max(LEAST_MAGNITUDE);
        let steps = Rounding::largest(16);
        let (mut high_sum, mut low_sum) = (I::splat(0.0), I::splat(0.0));
        for i in (0..count).step_by(LANES) {
            let codes = whole::<I>(I::load(x.add(i)), steps / largest);
            let high = whole::<I>(codes, 1.0 / HIGH);
            let low = I::fma(high, I::splat(-HIGH), codes);
            (high_sum, low_sum) = (I::add(high_sum, high), I::add(low_sum, low));
            I::store_i8(bytes.add(i), high);
            I::store_i8(bytes.add(count + i), low);
        }
        let offsets = [MIDDLE * I::sum(high_sum), MIDDLE * I::sum(low_sum)];
        Self { bytes, count, scale: largest / steps, offsets }
    }

    /// The products with levels whose products with the two rows of bytes these are.
    #[inline(always)]
    unsafe fn value<I: Isa>(&self, high: I::Whole, low: I::Whole) -> I::F {
        let high = I::sub(I::to_float(high), I::splat(self.offsets[0]));
        let low = I::sub(I::to_float(low), I::splat(self.offsets[1]));
        I::mul(I::fma(high, I::splat(HIGH), low), I::splat(self.scale))
    }
}

/// A row's weights of a span, rounded to 16 bits.
pub(super) struct Weights {
    /// For each page the high bytes, then the low bytes.
    bytes: [i8; 2 * SPAN],
    /// 128 times the sums of the numbers of a page.
    offsets: [f32; SPAN / PAGE_TOKENS],
    /// What a low byte counts for.
    scale: f32,
}

/// Products of `N` rows of signed bytes with 16 columns of bytes: vectors of four neighbours, `stride` bytes apart.
#[inline(always)]
unsafe fn products<I: Isa, const N: usize>(
    bytes: *const u8,
    stride: usize,
    steps: usize,
    x: [*const i8; N],
) -> [I::Whole; N] {
    let mut sums = [I::zeros(); N];
    if I::DOTS_LIMIT > 1 << 24 {
        let mut dots = [I::no_dots(); N];
        for step in 0..steps {
            let bytes = I::load_bytes(bytes.add(step * stride));
            for n in 0..N {
                dots[n] = I::dot(dots[n], bytes, x[n].add(4 * step));
            }
        }
        for n in 0..N {
            sums[n] = I::add_dots(sums[n], dots[n], 1);
        }
        return sums;
    }
    // A product of four half bytes adds at most 2 · 15 · 127 to a sum.
    let most = (I::DOTS_LIMIT / (2 * 15 * 127)) as usize;
    let mut step = 0;
    while step < steps {
        let end = (step + most).min(steps);
        let (mut low, mut high) = ([I::no_dots(); N], [I::no_dots(); N]);
        for step in step..end {
            let bytes = I::load_bytes(bytes.add(step * stride));
            let (lower, upper) = (I::bits(bytes, 0, 15), I::bits(bytes, 4, 15));
            for n in 0..N {
                low[n] = I::dot(low[n], lower, x[n].add(4 * step));
                high[n] = I::dot(high[n], upper, x[n].add(4 * step));
            }
        }
        for n in 0..N {
            sums[n] = I::add_dots(I::add_dots(sums[n], low[n], 1), high[n], 16);
        }
        step = end;
    }
    sums
}

/// Rows that go together.
#[inline(always)]
fn strip<I: Isa>(left: usize) -> usize {
    match left {
        4.. if I::WIDE => 4,
        _ => 1,
    }
}

impl Tile<'_> {
    /// The products of queries with the mean of the first keys, where any token reads the archive.
    #[inline(always)]
    pub(super) unsafe fn add_centres<I: Isa>(&self, archived: &Archived) {
        let (a, dim) = (self.attention, self.attention.template.dim);
        let blocks = archived.archive.first / PAGE_TOKENS;
        let last = (0..self.tokens).map(|t| a.table.position(self.first + t) / PAGE_TOKENS).max().unwrap_or(0);
        if !archived.archive.holds(blocks, last) {
            return;
        }
        let count = (archived.archive.first - MEAN_FROM) as f32;
        for block in 0..blocks {
            let Some(page) = a.table.page(a.ctx, self.first, block, a.keys.count()) else { return };
            a.keys.floats::<I>(a.keys.head(page, self.kv_head), self.page);
            for slot in if block == 0 { MEAN_FROM } else { 0 }..PAGE_TOKENS {
                for row in 0..self.rows() {
                    let mut sum = I::splat(0.0);
                    for d in (0..dim).step_by(LANES) {
                        let key = I::load(self.page.add(slot * dim + d));
                        sum = I::fma(I::load(self.queries.add(row * dim + d)), key, sum);
                    }
                    *self.centres.add(row) += I::sum(sum) / count;
                }
            }
        }
    }

    /// Rounds the weights of all archived slots of a span.
    #[inline(always)]
    pub(super) unsafe fn round_archived<I: Isa>(
        &self,
        of: &Archived,
        places: &[Block],
        blocks: Range<usize>,
        span: Range<usize>,
    ) {
        let mut scales = [0f32; SPAN];
        for (place, block) in places.iter().zip(blocks.clone()) {
            if !place.archived[1].is_null() {
                let at = block * PAGE_TOKENS - span.start;
                scales[at..at + PAGE_TOKENS].copy_from_slice(&of.values.scales::<I>(place.archived[1]));
            }
        }
        for t in 0..self.tokens {
            let archived = |block: &usize| self.reads_archive(t, *block) && !self.slots(t, *block).is_empty();
            let (Some(first), Some(last)) = (blocks.clone().find(archived), blocks.clone().rfind(archived)) else {
                continue;
            };
            let slots = first * PAGE_TOKENS - span.start..(last + 1) * PAGE_TOKENS - span.start;
            let seen = self.seen(t, span.clone()).start - span.start;
            for row in t * self.attention.group()..(t + 1) * self.attention.group() {
                self.round_weights::<I>(row, slots.clone(), seen, scales.as_ptr());
            }
        }
    }

    /// Scores of rows for the slots of an archived head of keys.
    #[inline(always)]
    pub(super) unsafe fn archived_scores<I: Isa>(
        &self,
        archived: &Archived,
        head: *const u32,
        rows: Range<usize>,
        at: usize,
        ahead: &mut Ahead,
    ) {
        let (dim, bytes) = (archived.keys.row.dim, self.page.cast::<u8>());
        ahead.ask::<I>();
        archived.keys.bytes::<I>(head, (dim, PAGE_TOKENS), &archived.key_bytes, bytes);
        let scales = archived.keys.scales::<I>(head);
        let mut row = rows.start;
        while row < rows.end {
            let count = strip::<I>(rows.end - row);
            match count {
                4 => self.scores_of_bytes::<I, 4, 8>(bytes, row, at, &scales),
                _ => self.scores_of_bytes::<I, 1, 2>(bytes, row, at, &scales),
            }
            row += count;
        }
    }

    /// Scores of `R` rows, which are `N` rows of bytes.
    #[inline(always)]
    unsafe fn scores_of_bytes<I: Isa, const R: usize, const N: usize>(
        &self,
        bytes: *const u8,
        row: usize,
        at: usize,
        scales: &[f32; PAGE_TOKENS],
    ) {
        let dim = self.attention.template.dim;
        let mut x = [std::ptr::null(); N];
        for r in 0..R {
            let halves = &*self.halves.add(row + r);
            (x[2 * r], x[2 * r + 1]) = (halves.bytes.cast_const(), halves.bytes.add(halves.count).cast_const());
        }
        for slot in (0..PAGE_TOKENS).step_by(LANES) {
            let dots = products::<I, N>(bytes.add(4 * slot), 4 * PAGE_TOKENS, dim / 4, x);
            let scale = I::load(scales.as_ptr().add(slot));
            for r in 0..R {
                let value = (*self.halves.add(row + r)).value::<I>(dots[2 * r], dots[2 * r + 1]);
                let score = I::fma(value, scale, I::splat(*self.centres.add(row + r)));
                I::store(self.scores.add((row + r) * SPAN + at + slot), score);
            }
        }
    }

    /// Rounds a row's weights of the slots `slots` of a span, which are whole pages but for what lies before `seen`, with the
    /// scales of their values in them. Weights of vectors before that were never computed.
    #[inline(always)]
    pub(super) unsafe fn round_weights<I: Isa>(
        &self,
        row: usize,
        slots: Range<usize>,
        seen: usize,
        scales: *const f32,
    ) {
        let (weights, scaled) = (self.scores.add(row * SPAN).cast_const(), self.scaled);
        let mut largest = I::splat(0.0);
        for i in slots.clone().step_by(LANES) {
            let x = match i + LANES > seen {
                true => I::mul(I::load(weights.add(i)), I::load(scales.add(i))),
                false => I::splat(0.0),
            };
            I::store(scaled.add(i), x);
            largest = I::max(I::max(x, I::sub(I::splat(0.0), x)), largest);
        }
        let (largest, steps) = (I::largest(largest).max(LEAST_MAGNITUDE), Rounding::largest(16));
        let (inverse, rounded) = (steps / largest, &mut *self.rounded.add(row));
        rounded.scale = largest / steps;
        for page in slots.step_by(PAGE_TOKENS) {
            let bytes = rounded.bytes.as_mut_ptr().add(2 * page);
            let mut sum = I::splat(0.0);
            for i in (0..PAGE_TOKENS).step_by(LANES) {
                let codes = whole::<I>(I::load(scaled.add(page + i)), inverse);
                let high = whole::<I>(codes, 1.0 / HIGH);
                I::store_i8(bytes.add(i), high);
                I::store_i8(bytes.add(PAGE_TOKENS + i), I::fma(high, I::splat(-HIGH), codes));
                sum = I::add(sum, codes);
            }
            rounded.offsets[page / PAGE_TOKENS] = MIDDLE * I::sum(sum);
        }
    }

    /// Adds an archived head of values, weighted, to rows' sums; `page` is its number in the span.
    #[inline(always)]
    pub(super) unsafe fn archived_sums<I: Isa>(
        &self,
        archived: &Archived,
        head: *const u32,
        rows: Range<usize>,
        page: usize,
        share: Share,
        ahead: &mut Ahead,
    ) {
        let (dim, bytes) = (archived.values.row.dim, self.page.cast::<u8>());
        ahead.ask::<I>();
        archived.values.bytes::<I>(head, (PAGE_TOKENS, dim), &archived.value_bytes, bytes);
        let mut row = rows.start;
        while row < rows.end {
            let count = strip::<I>(rows.end - row);
            match count {
                4 => self.sums_of_bytes::<I, 4, 8>(bytes, dim, (row, page), share),
                _ => self.sums_of_bytes::<I, 1, 2>(bytes, dim, (row, page), share),
            }
            row += count;
        }
    }

    #[inline(always)]
    unsafe fn sums_of_bytes<I: Isa, const R: usize, const N: usize>(
        &self,
        bytes: *const u8,
        dim: usize,
        (row, page): (usize, usize),
        share: Share,
    ) {
        let mut x = [std::ptr::null(); N];
        for r in 0..R {
            let codes = (*self.rounded.add(row + r)).bytes.as_ptr().add(2 * page * PAGE_TOKENS);
            (x[2 * r], x[2 * r + 1]) = (codes, codes.add(PAGE_TOKENS));
        }
        for d in (0..dim).step_by(LANES) {
            let dots = products::<I, N>(bytes.add(4 * d), 4 * dim, PAGE_TOKENS / 4, x);
            for r in 0..R {
                let (rounded, to) = (&*self.rounded.add(row + r), share.sums(row + r).add(d));
                let both = I::fma(I::to_float(dots[2 * r]), I::splat(HIGH), I::to_float(dots[2 * r + 1]));
                let sum = I::sub(both, I::splat(rounded.offsets[page]));
                I::store(to, I::fma(sum, I::splat(rounded.scale), I::load(to)));
            }
        }
    }
}
