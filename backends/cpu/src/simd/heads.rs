//! Attention of the query heads of one KV head over one span of positions.

use std::ops::Range;

use swiftlm_ir::quant::Float;
use swiftlm_ir::template::Attend;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::attend::{Attention, SPAN};
use super::isa::{Isa, LANES, sums};
use super::math::exp;
use super::weights::{load_floats, load_full, load_some, store_some};

/// Score of what a query does not see. Finite, so that no difference of scores is undefined.
const UNSEEN: f32 = -1e30;

/// What some positions give to each query head: largest score, Σ e^(score - largest), and that sum over values.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    /// Per head: largest, total, padding to 16, then the sums, padded to 16.
    base: *mut f32,
    heads: usize,
    dim: usize,
}

// SAFETY: an address of scratch; tasks use disjoint shares.
unsafe impl Send for Share {}

impl Share {
    /// Floats of a share.
    pub(crate) fn floats(heads: usize, dim: usize) -> usize {
        heads * (LANES + dim.next_multiple_of(LANES))
    }

    /// The share at `base`.
    pub(crate) fn new(base: *mut f32, heads: usize, dim: usize) -> Self {
        Self { base, heads, dim }
    }

    #[inline(always)]
    unsafe fn head(&self, head: usize) -> *mut f32 {
        self.base.add(head * Self::floats(1, self.dim))
    }

    #[inline(always)]
    unsafe fn sums(&self, head: usize) -> *mut f32 {
        self.head(head).add(LANES)
    }

    /// Nothing seen yet.
    #[inline(always)]
    unsafe fn clear<I: Isa>(&self) {
        for head in 0..self.heads {
            *self.head(head) = UNSEEN;
            *self.head(head).add(1) = 0.0;
            for d in (0..self.dim).step_by(LANES) {
                I::store(self.sums(head).add(d), I::splat(0.0));
            }
        }
    }

    /// Adds a later share.
    #[inline(always)]
    pub(crate) unsafe fn merge<I: Isa>(&self, later: &Self) {
        for head in 0..self.heads {
            let (own, other) = (self.head(head), later.head(head));
            let largest = if *own > *other { *own } else { *other };
            let (a, b) = (exp::<I>(I::splat(*own - largest)), exp::<I>(I::splat(*other - largest)));
            let total = I::fma(I::splat(*own.add(1)), a, I::mul(I::splat(*other.add(1)), b));
            *own = largest;
            store_some::<I>(own.add(1), total, 1);
            for d in (0..self.dim).step_by(LANES) {
                let (to, from) = (self.sums(head).add(d), later.sums(head).add(d));
                I::store(to, I::fma(I::load(to), a, I::mul(I::load(from), b)));
            }
        }
    }

    /// Writes the heads' results, one after another.
    #[inline(always)]
    pub(crate) unsafe fn finish<I: Isa>(&self, y: *mut f32) {
        for head in 0..self.heads {
            let total = I::splat(*self.head(head).add(1));
            for d in (0..self.dim).step_by(LANES) {
                let value = I::div(I::load(self.sums(head).add(d)), total);
                store_some::<I>(y.add(head * self.dim + d), value, self.dim - d);
            }
        }
    }
}

/// One token's query heads of one KV head.
pub(crate) struct BlockTask<'a> {
    pub(crate) attention: &'a Attention<'a>,
    pub(crate) token: usize,
    pub(crate) kv_head: usize,
    /// A block's scores, then weights, per head.
    pub(crate) scores: *mut f32,
}

impl BlockTask<'_> {
    /// The share of the seen positions of a span, block after block.
    #[inline(always)]
    pub(crate) unsafe fn span<I: Isa>(&self, span: usize, share: Share) {
        let a = self.attention;
        let position = a.table.position(self.token);
        let (first, last) = (a.first(position).max(span * SPAN), position.min(span * SPAN + SPAN - 1));
        share.clear::<I>();
        let pages = a.keys.count().min(a.values.count());
        for block in first / PAGE_TOKENS..last / PAGE_TOKENS + 1 {
            let Some(page) = a.table.page(a.ctx, self.token, block, pages) else { return };
            let start = block * PAGE_TOKENS;
            // What lies in slots that are not seen may be anything: it is not even multiplied by 0.
            let (from, to) = (first.max(start) - start, (last + 1 - start).min(PAGE_TOKENS));
            let keys = a.keys.row(page, self.kv_head, 0);
            let values = a.values.row(page, self.kv_head, 0);
            let next =
                if block < last / PAGE_TOKENS { a.table.page(a.ctx, self.token, block + 1, pages) } else { None };
            if let Some(next) = next {
                prefetch::<I>(a.keys.row(next, self.kv_head, 0), a.keys.row_bytes());
            }
            match a.keys.float {
                Float::F32 => self.scores::<I>(Float::F32, keys, from, to),
                Float::F16 => self.scores::<I>(Float::F16, keys, from, to),
                Float::Bf16 => self.scores::<I>(Float::Bf16, keys, from, to),
            }
            for head in 0..share.heads {
                self.weigh::<I>(head, from, to, share);
            }
            if let Some(next) = next {
                prefetch::<I>(a.values.row(next, self.kv_head, 0), a.values.row_bytes());
            }
            match a.values.float {
                Float::F32 => self.add::<I>(Float::F32, values, from, to, share),
                Float::F16 => self.add::<I>(Float::F16, values, from, to, share),
                Float::Bf16 => self.add::<I>(Float::Bf16, values, from, to, share),
            }
        }
    }

    /// Scaled dot products of all query heads with the keys of slots `from .. to`.
    #[inline(always)]
    unsafe fn scores<I: Isa>(&self, float: Float, keys: *const u8, from: usize, to: usize) {
        let group = self.attention.group();
        let mut head = 0;
        while head + 4 <= group {
            self.slots::<I, 4>(float, head, keys, from, to);
            head += 4;
        }
        if head + 2 <= group {
            self.slots::<I, 2>(float, head, keys, from, to);
            head += 2;
        }
        if head < group {
            self.slots::<I, 1>(float, head, keys, from, to);
        }
    }

    #[inline(always)]
    unsafe fn slots<I: Isa, const N: usize>(&self, float: Float, head: usize, keys: *const u8, from: usize, to: usize) {
        let mut slot = from;
        while slot + 4 <= to {
            self.dots::<I, N, 4>(float, head, keys, slot);
            slot += 4;
        }
        while slot < to {
            self.dots::<I, N, 1>(float, head, keys, slot);
            slot += 1;
        }
    }

    /// Scores of `N` heads from `head` on for `S` slots from `slot` on.
    #[inline(always)]
    unsafe fn dots<I: Isa, const N: usize, const S: usize>(
        &self,
        float: Float,
        head: usize,
        keys: *const u8,
        slot: usize,
    ) {
        let Attend { dim, scale, .. } = *self.attention.template;
        let (group, stride) = (self.attention.group(), self.attention.keys.row_bytes());
        let q = self.attention.q.row(self.token).add((self.kv_head * group + head) * dim).cast_const();
        let mut products = [[I::splat(0.0); S]; N];
        let keys = keys.add(slot * stride);
        let mut d = 0;
        while d + LANES <= dim {
            let mut key = [I::splat(0.0); S];
            for s in 0..S {
                key[s] = load_full::<I>(float, keys.add(s * stride + d * float.bytes()));
            }
            for n in 0..N {
                let input = I::load(q.add(n * dim + d));
                for s in 0..S {
                    products[n][s] = I::fma(input, key[s], products[n][s]);
                }
            }
            d += LANES;
        }
        if d < dim {
            let mut key = [I::splat(0.0); S];
            for s in 0..S {
                key[s] = load_floats::<I>(float, keys.add(s * stride + d * float.bytes()), dim - d);
            }
            for n in 0..N {
                let input = load_some::<I>(q.add(n * dim + d), dim - d);
                for s in 0..S {
                    products[n][s] = I::fma(input, key[s], products[n][s]);
                }
            }
        }
        for n in 0..N {
            let mut scores = sums::<I, S>(&products[n]);
            for score in &mut scores {
                *score *= scale;
            }
            let to = self.scores.add((head + n) * PAGE_TOKENS + slot);
            to.cast::<[f32; S]>().write_unaligned(scores);
        }
    }

    /// Turns a head's scores into weights, and rescales what it has so far to the new largest score.
    #[inline(always)]
    unsafe fn weigh<I: Isa>(&self, head: usize, from: usize, to: usize, share: Share) {
        let scores = self.scores.add(head * PAGE_TOKENS);
        for slot in (0..from).chain(to..PAGE_TOKENS) {
            *scores.add(slot) = UNSEEN;
        }
        let (low, high) = (I::load(scores), I::load(scores.add(LANES)));
        let own = share.head(head);
        let before = *own;
        let block = I::largest(I::max(low, high));
        let largest = if before > block { before } else { block };
        let shrink = exp::<I>(I::splat(before - largest));
        let low = exp::<I>(I::sub(low, I::splat(largest)));
        let high = exp::<I>(I::sub(high, I::splat(largest)));
        I::store(scores, low);
        I::store(scores.add(LANES), high);
        for slot in (0..from).chain(to..PAGE_TOKENS) {
            *scores.add(slot) = 0.0;
        }
        let sum = I::sum(I::add(I::load(scores), I::load(scores.add(LANES))));
        *own = largest;
        store_some::<I>(own.add(1), I::fma(I::splat(*own.add(1)), shrink, I::splat(sum)), 1);
        if before < largest && before > UNSEEN {
            for d in (0..share.dim).step_by(LANES) {
                let to = share.sums(head).add(d);
                I::store(to, I::mul(I::load(to), shrink));
            }
        }
    }

    /// Adds the weighted values of slots `from .. to`, in the order of slots.
    #[inline(always)]
    unsafe fn add<I: Isa>(&self, float: Float, values: *const u8, from: usize, to: usize, share: Share) {
        let slots = from..to;
        let mut head = 0;
        while head + 4 <= share.heads {
            self.columns::<I, 4>(float, values, slots.clone(), share, head);
            head += 4;
        }
        if head + 2 <= share.heads {
            self.columns::<I, 2>(float, values, slots.clone(), share, head);
            head += 2;
        }
        if head < share.heads {
            self.columns::<I, 1>(float, values, slots, share, head);
        }
    }

    #[inline(always)]
    unsafe fn columns<I: Isa, const N: usize>(
        &self,
        float: Float,
        values: *const u8,
        slots: Range<usize>,
        share: Share,
        head: usize,
    ) {
        let mut d = 0;
        while d + 2 * LANES <= share.dim {
            self.weighted::<I, N, 2>(float, values, slots.clone(), share, (head, d), LANES);
            d += 2 * LANES;
        }
        if d + LANES <= share.dim {
            self.weighted::<I, N, 1>(float, values, slots.clone(), share, (head, d), LANES);
            d += LANES;
        }
        if d < share.dim {
            self.weighted::<I, N, 1>(float, values, slots, share, (head, d), share.dim - d);
        }
    }

    /// Of `N` heads, `C` vectors of columns, of which the last has `count` columns.
    #[inline(always)]
    unsafe fn weighted<I: Isa, const N: usize, const C: usize>(
        &self,
        float: Float,
        values: *const u8,
        slots: Range<usize>,
        share: Share,
        (head, d): (usize, usize),
        count: usize,
    ) {
        let stride = self.attention.values.row_bytes();
        let weights = self.scores.add(head * PAGE_TOKENS);
        let mut sums = [[I::splat(0.0); C]; N];
        for n in 0..N {
            for c in 0..C {
                sums[n][c] = I::load(share.sums(head + n).add(d + c * LANES));
            }
        }
        for slot in slots {
            let row = values.add(slot * stride + d * float.bytes());
            let mut value = [I::splat(0.0); C];
            for c in 0..C {
                value[c] = load_floats::<I>(float, row.add(c * LANES * float.bytes()), count);
            }
            for n in 0..N {
                let weight = I::splat(*weights.add(n * PAGE_TOKENS + slot));
                for c in 0..C {
                    sums[n][c] = I::fma(weight, value[c], sums[n][c]);
                }
            }
        }
        for n in 0..N {
            for c in 0..C {
                I::store(share.sums(head + n).add(d + c * LANES), sums[n][c]);
            }
        }
    }
}

/// Asks for a head's rows of a page: the next page lies anywhere, so nothing else would foresee it.
#[inline(always)]
unsafe fn prefetch<I: Isa>(from: *const u8, row_bytes: usize) {
    for line in (0..PAGE_TOKENS * row_bytes).step_by(64) {
        I::prefetch(from.wrapping_add(line));
    }
}
