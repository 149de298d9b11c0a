//! The template `attend`: causal softmax attention over pages, in its online form (Milakov & Gimelshein 2018).
//!
//! Positions are taken in spans of [`SPAN`] at absolute places: within a span block after block, then span after span.
//! Whether the spans of a token run on one thread or on many, the same numbers meet in the same order.

use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::Attend;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::Micro;
use super::context::{Context, Needs, Rows};
use super::heads::{BlockTask, Share};
use super::isa::{Isa, LANES, Task};
use super::pages::{PageTable, Pages};

/// Positions of a span.
pub(crate) const SPAN: usize = 8 * PAGE_TOKENS;
/// Tokens that one task handles where there are many.
const TOKENS: usize = 8;

/// A launch's operands.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a> {
    pub(crate) ctx: &'a Context<'a>,
    pub(crate) template: &'a Attend,
    pub(crate) table: PageTable,
    pub(crate) keys: Pages,
    pub(crate) values: Pages,
    pub(crate) q: Rows,
    y: Rows,
}

impl Attention<'_> {
    /// Query heads of a KV head.
    #[inline(always)]
    pub(crate) fn group(&self) -> usize {
        self.template.heads / self.template.kv_heads
    }

    /// First position that a query at `position` sees.
    #[inline(always)]
    pub(crate) fn first(&self, position: usize) -> usize {
        match self.template.window {
            0 => 0,
            window => (position + 1).saturating_sub(window),
        }
    }

    /// The spans that a query at `position` sees.
    fn spans(&self, position: usize) -> std::ops::Range<usize> {
        self.first(position) / SPAN..position / SPAN + 1
    }
}

/// All spans of some tokens for one KV head.
struct Whole<'a> {
    attention: &'a Attention<'a>,
    kv_head: usize,
    first: usize,
    last: usize,
    scratch: *mut f32,
}

impl Task for Whole<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let (attention, dim) = (self.attention, self.attention.template.dim);
        let total = Share::new(self.scratch, attention.group(), dim);
        let part = Share::new(self.scratch.add(Share::floats(attention.group(), dim)), attention.group(), dim);
        let blocks = self.scratch.add(2 * Share::floats(attention.group(), dim));
        for token in self.first..self.last {
            for (i, span) in attention.spans(attention.table.position(token)).enumerate() {
                let to = if i == 0 { total } else { part };
                BlockTask { attention, token, kv_head: self.kv_head, scores: blocks }.span::<I>(span, to);
                if i > 0 {
                    total.merge::<I>(&part);
                }
            }
            total.finish::<I>(attention.y.row(token).add(self.kv_head * attention.group() * dim));
        }
    }
}

/// One span of one token for one KV head, left in the launch's scratch.
struct Part<'a> {
    attention: &'a Attention<'a>,
    token: usize,
    kv_head: usize,
    span: usize,
    to: Share,
    scratch: *mut f32,
}

impl Task for Part<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { attention, token, kv_head, span, to, scratch } = self;
        if attention.spans(attention.table.position(token)).contains(&span) {
            BlockTask { attention, token, kv_head, scores: scratch }.span::<I>(span, to);
        }
    }
}

/// The spans of one token for one KV head, put together.
struct Merge<'a> {
    attention: &'a Attention<'a>,
    token: usize,
    kv_head: usize,
    /// The share of span 0.
    shares: *mut f32,
}

// SAFETY: an address of the launch's scratch; tasks use disjoint parts.
unsafe impl Send for Merge<'_> {}

impl Task for Merge<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let (attention, dim, group) = (self.attention, self.attention.template.dim, self.attention.group());
        let share = |span: usize| Share::new(self.shares.wrapping_add(span * Share::floats(group, dim)), group, dim);
        let spans = attention.spans(attention.table.position(self.token));
        let total = share(spans.start);
        for span in spans.start + 1..spans.end {
            total.merge::<I>(&share(span));
        }
        total.finish::<I>(attention.y.row(self.token).add(self.kv_head * group * dim));
    }
}

/// A pointer that tasks may share.
#[derive(Clone, Copy)]
struct Scratch(*mut f32);
// SAFETY: tasks use disjoint parts.
unsafe impl Sync for Scratch {}

impl Scratch {
    fn at(&self, floats: usize) -> *mut f32 {
        self.0.wrapping_add(floats)
    }
}

/// Whether the spans of a token are spread over threads: where tokens and heads alone do not keep them busy.
fn spreads(template: &Attend, sizes: &StepSizes, threads: usize) -> bool {
    threads > 1 && sizes.tokens as usize * template.kv_heads < 4 * threads && table_spans(sizes) > 1
}

/// Spans that a row of the page table can hold.
fn table_spans(sizes: &StepSizes) -> usize {
    (sizes.table_stride as usize * PAGE_TOKENS).div_ceil(SPAN)
}

impl Micro for Attend {
    fn needs(&self, sizes: &StepSizes, threads: usize) -> Needs {
        let group = self.heads / self.kv_heads;
        let share = Share::floats(group, self.dim);
        // Asked for by every step, so that the first small one finds it: see `spreads`.
        let launch = if threads > 1 { 4 * threads * table_spans(sizes) * share } else { 0 };
        Needs { launch, worker: 2 * share + (group * PAGE_TOKENS).next_multiple_of(LANES) }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let (tokens, width, group) = (ctx.sizes.tokens as usize, self.heads * self.dim, self.heads / self.kv_heads);
        let attention = Attention {
            ctx,
            template: self,
            table: PageTable::new(ctx, 1)?,
            keys: Pages::new(ctx, 4, self.k_format, self.kv_heads, self.dim)?,
            values: Pages::new(ctx, 5, self.v_format, self.kv_heads, self.dim)?,
            q: ctx.rows(0, "q", self.q, tokens, width)?,
            y: ctx.rows(6, "y", self.y, tokens, width)?,
        };
        let (heads, attention) = (self.kv_heads, &attention);
        if !spreads(self, &ctx.sizes, ctx.pool.threads()) {
            let per = if tokens * heads >= 8 * TOKENS * ctx.pool.threads() { TOKENS } else { 1 };
            let parts = tokens.div_ceil(per);
            ctx.parallel(parts * heads, |task, scratch| {
                let (part, kv_head) = (task % parts, task / parts);
                Whole { attention, kv_head, first: part * per, last: ((part + 1) * per).min(tokens), scratch }
            });
            return Ok(());
        }
        for token in 0..tokens {
            let (position, stride) = (attention.table.position(token), ctx.sizes.table_stride as usize);
            if position / PAGE_TOKENS >= stride {
                ctx.faults.report(1, position);
                return Ok(());
            }
        }
        let (spans, share, shares) = (table_spans(&ctx.sizes), Share::floats(group, self.dim), Scratch(scratch));
        let reached = (0..tokens).map(|t| attention.spans(attention.table.position(t)).end).max().unwrap_or(0);
        ctx.parallel(tokens * heads * reached, |task, scratch| {
            let (span, of) = (task % reached, task / reached);
            let to = Share::new(shares.at((of * spans + span) * share), group, self.dim);
            Part { attention, token: of / heads, kv_head: of % heads, span, to, scratch }
        });
        ctx.parallel(tokens * heads, |task, _| Merge {
            attention,
            token: task / heads,
            kv_head: task % heads,
            shares: shares.at(task * spans * share),
        });
        Ok(())
    }
}
