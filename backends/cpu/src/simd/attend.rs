//! The template `attend`: causal softmax attention over pages.
//!
//! Positions are taken in spans of [`SPAN`] at absolute places: a softmax within each, then span after span in the online
//! form (Milakov & Gimelshein 2018). Whether the spans of a token run on one thread or on many, and whichever tokens
//! share a tile, the same numbers meet in the same order.

use std::ops::Range;

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::template::Attend;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::Micro;
use super::archived::Archived;
use super::context::{Context, Needs, Rows};
use super::isa::{Isa, Task};
use super::pages::{PageTable, Pages, Part};
use super::share::Share;
use super::tile::{ROWS, Tile};
use super::turn::Turn;
use super::weights::Matrix;

/// Positions of a span.
pub(crate) const SPAN: usize = 8 * PAGE_TOKENS;
/// Score of what a query does not see. Finite, so that no difference of scores is undefined.
pub(crate) const UNSEEN: f32 = -1e30;

/// A launch's operands.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a> {
    pub(crate) ctx: &'a Context<'a>,
    pub(crate) template: &'a Attend,
    pub(crate) table: PageTable,
    pub(crate) keys: Pages,
    pub(crate) values: Pages,
    pub(crate) archived: Option<Archived>,
    pub(crate) q: Rows,
    y: Rows,
    turn: Option<Turn>,
    sinks: Option<(Float, Matrix)>,
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
    pub(crate) fn spans(&self, position: usize) -> Range<usize> {
        self.first(position) / SPAN..position / SPAN + 1
    }

    /// Writes the results of one token's heads.
    #[inline(always)]
    unsafe fn finish<I: Isa>(&self, token: usize, kv_head: usize, share: &Share) {
        let dim = self.template.value_dim();
        let y = self.y.row(token).add(kv_head * self.group() * dim);
        let sink = |row: usize| {
            self.sinks.map(|(float, of)| {
                let at = of.row(0).add((kv_head * self.group() + row) * float.bytes());
                float.get(std::slice::from_raw_parts(at, float.bytes()), 0)
            })
        };
        share.finish::<I>(self.group(), sink, y);
        if let Some(turn) = self.turn {
            for head in 0..self.group() {
                turn.apply::<I>(y.add(head * dim), true);
            }
        }
    }
}

/// All spans of some tokens for one KV head.
struct Whole<'a> {
    attention: &'a Attention<'a>,
    kv_head: usize,
    tokens: Range<usize>,
    scratch: *mut f32,
}

impl Task for Whole<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { attention, kv_head, tokens, scratch } = self;
        let (dim, group) = (attention.template.value_dim(), attention.group());
        let mut first = tokens.start;
        while first < tokens.end {
            // Tokens of one sequence share its pages.
            let sequence = attention.table.sequence(first);
            let same = (first..tokens.end).take_while(|t| attention.table.sequence(*t) == sequence).count();
            let (rows, run) = (same * group, first..first + same);
            first = run.end;
            let (total, part) = (Share::new(scratch, dim), Share::new(scratch.add(Share::floats(rows, dim)), dim));
            let tile = Tile::new::<I>(attention, kv_head, run.clone(), scratch.add(2 * Share::floats(rows, dim)));
            for row in 0..rows {
                total.clear::<I>(row);
            }
            for span in tile.spans() {
                if tile.span::<I>(span, part).is_none() {
                    return;
                }
                for (i, token) in run.clone().enumerate() {
                    let own = attention.spans(attention.table.position(token));
                    if own.contains(&span) {
                        total.rows(i * group).merge::<I>(&part.rows(i * group), group);
                    }
                }
            }
            for (i, token) in run.enumerate() {
                attention.finish::<I>(token, kv_head, &total.rows(i * group));
            }
        }
    }
}

/// Some spans of one token for one KV head, left in the launch's scratch.
struct Piece<'a> {
    attention: &'a Attention<'a>,
    token: usize,
    kv_head: usize,
    spans: Range<usize>,
    /// The share of span 0.
    shares: *mut f32,
    scratch: *mut f32,
}

// SAFETY: addresses of scratch; tasks use disjoint parts.
unsafe impl Send for Piece<'_> {}

impl Task for Piece<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { attention, token, kv_head, spans, shares, scratch } = self;
        let dim = attention.template.value_dim();
        let size = Share::floats(attention.group(), dim);
        let tile = Tile::new::<I>(attention, kv_head, token..token + 1, scratch);
        let seen = tile.spans();
        for span in spans.start.max(seen.start)..spans.end.min(seen.end) {
            if tile.span::<I>(span, Share::new(shares.wrapping_add(span * size), dim)).is_none() {
                return;
            }
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
    total: *mut f32,
}

// SAFETY: addresses of scratch; tasks use disjoint parts.
unsafe impl Send for Merge<'_> {}

impl Task for Merge<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let (attention, group) = (self.attention, self.attention.group());
        let dim = attention.template.value_dim();
        let total = Share::new(self.total, dim);
        for row in 0..group {
            total.clear::<I>(row);
        }
        for span in attention.spans(attention.table.position(self.token)) {
            let share = Share::new(self.shares.wrapping_add(span * Share::floats(group, dim)), dim);
            total.merge::<I>(&share, group);
        }
        attention.finish::<I>(self.token, self.kv_head, &total);
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

/// Tasks per thread that even out threads of different speed.
const SPREAD: usize = 4;

/// Whether the spans of a token are spread over threads: where tokens and heads alone do not keep them busy.
fn spreads(template: &Attend, sizes: &StepSizes, threads: usize) -> bool {
    threads > 1 && sizes.tokens as usize * template.kv_heads <= SPREAD * threads && table_spans(sizes) > 1
}

/// Spans that a row of the page table can hold.
fn table_spans(sizes: &StepSizes) -> usize {
    (sizes.table_stride as usize * PAGE_TOKENS).div_ceil(SPAN)
}

impl Micro for Attend {
    fn needs(&self, sizes: &StepSizes, threads: usize) -> Needs {
        let group = self.heads / self.kv_heads;
        // Asked for by every step, so that the first small one finds it: see `spreads`.
        let launch = if threads > 1 {
            SPREAD * threads * table_spans(sizes) * Share::floats(group, self.value_dim())
        } else {
            0
        };
        let launch = launch + if self.rotate_back { Turn::needs(self.dim) } else { 0 };
        let rows = ROWS.max(group);
        Needs { launch, worker: 2 * Share::floats(rows, self.value_dim()) + Tile::floats(rows, self.dim) }
    }

    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String> {
        let (tokens, width, group) = (ctx.sizes.tokens as usize, self.heads * self.dim, self.heads / self.kv_heads);
        let table = PageTable::new(ctx, 1)?;
        let sizes = (self.kv_heads, self.dim);
        let archived = self.archive.map(|archive| Archived::new(ctx, 6, &table, archive, sizes)).transpose()?;
        // What shares of spans are left in comes behind the rotation's table.
        let turn = if self.rotate_back { Some(Turn::new(self.dim, scratch)?) } else { None };
        let scratch = scratch.wrapping_add(if self.rotate_back { Turn::needs(self.dim) } else { 0 });
        let keys = Pages::new(ctx, 4, Part::Keys, self.k_format, self.kv_heads, self.dim)?;
        let (values, y) = match (self.latent, archived) {
            (Some(_), _) => (keys, 5),
            (None, archived) => {
                let values = Pages::new(ctx, 5, Part::Values, self.v_format, self.kv_heads, self.dim)?;
                (values, if archived.is_some() { 9 } else { 6 })
            }
        };
        let sinks = self.sinks.map(|float| {
            let ty = WeightType { format: Format::Float(float), rows: 1, cols: self.heads };
            Ok::<_, String>((float, ctx.matrix(y, "sinks", ty)?))
        });
        let sinks = sinks.transpose()?;
        let y = if sinks.is_some() { y + 1 } else { y };
        let attention = Attention {
            ctx,
            template: self,
            table,
            keys,
            values,
            archived,
            q: ctx.rows(0, "q", self.q, tokens, width)?,
            y: ctx.rows(y, "y", self.y, tokens, self.heads * self.value_dim())?,
            turn,
            sinks,
        };
        let (heads, attention) = (self.kv_heads, &attention);
        if !spreads(self, &ctx.sizes, ctx.pool.threads()) {
            // As many tokens as share a tile, while there are tasks enough.
            let per = (tokens * heads / (SPREAD * ctx.pool.threads())).clamp(1, (ROWS / group).max(1));
            let parts = tokens.div_ceil(per);
            ctx.parallel(parts * heads, |task, scratch| {
                // Later tokens see more: they go first.
                let (part, kv_head) = (parts - 1 - task % parts, task / parts);
                Whole { attention, kv_head, tokens: part * per..((part + 1) * per).min(tokens), scratch }
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
        let (spans, share, shares) =
            (table_spans(&ctx.sizes), Share::floats(group, self.value_dim()), Scratch(scratch));
        // Of a window the spans before it are nobody's.
        let seen = || (0..tokens).map(|t| attention.spans(attention.table.position(t)));
        let (start, end) = (seen().map(|s| s.start).min().unwrap_or(0), seen().map(|s| s.end).max().unwrap_or(0));
        let per = (tokens * heads * (end - start) / (4 * SPREAD * ctx.pool.threads())).max(1);
        let pieces = (end - start).div_ceil(per);
        ctx.parallel(tokens * heads * pieces, |task, scratch| {
            let (piece, of) = (task % pieces, task / pieces);
            Piece {
                attention,
                token: of / heads,
                kv_head: of % heads,
                spans: start + piece * per..start + (piece + 1) * per,
                shares: shares.at(of * spans * share),
                scratch,
            }
        });
        ctx.parallel(tokens * heads, |task, total| Merge {
            attention,
            token: task / heads,
            kv_head: task % heads,
            shares: shares.at(task * spans * share),
            total,
        });
        Ok(())
    }
}
