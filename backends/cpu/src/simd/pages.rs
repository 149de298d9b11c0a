//! KV pages: where a token's page is, and the rows in it.

use swiftlm_ir::quant::{Float, Format};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::context::{Context, Ids};

/// Where the tokens of a step are kept.
#[derive(Clone, Copy)]
pub(crate) struct PageTable {
    positions: Ids,
    sequences: Ids,
    table: Ids,
    stride: usize,
    /// Index of the positions' argument; sequences and table follow.
    arg: usize,
}

/// Keys or values: pages of `[head][slot][dim]`.
#[derive(Clone, Copy)]
pub(crate) struct Pages {
    base: *mut u8,
    /// Pages that the argument holds.
    count: usize,
    pub(crate) float: Float,
    head_bytes: usize,
    row_bytes: usize,
    heads: usize,
}

// SAFETY: addresses; a token's own slot is written by one task only.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl PageTable {
    /// The table whose positions are argument `arg`.
    pub(crate) fn new(ctx: &Context<'_>, arg: usize) -> Result<Self, String> {
        let tokens = ctx.sizes.tokens as usize;
        Ok(Self {
            positions: ctx.ids(arg, "positions", tokens)?,
            sequences: ctx.ids(arg + 1, "sequences", tokens)?,
            table: ctx.all_ids(arg + 2)?,
            stride: ctx.sizes.table_stride as usize,
            arg,
        })
    }

    /// Position of a token in its sequence.
    #[inline(always)]
    pub(crate) fn position(&self, token: usize) -> usize {
        self.positions.get(token)
    }

    /// Page of block `block` of a token's sequence, below `pages`; what is out of range is reported.
    #[inline(always)]
    pub(crate) fn page(&self, ctx: &Context<'_>, token: usize, block: usize, pages: usize) -> Option<usize> {
        if block >= self.stride {
            ctx.faults.report(self.arg, self.position(token));
            return None;
        }
        let sequence = self.sequences.get(token);
        let Some(page) = self.table.checked(sequence.saturating_mul(self.stride).saturating_add(block)) else {
            ctx.faults.report(self.arg + 1, sequence);
            return None;
        };
        if page >= pages {
            ctx.faults.report(self.arg + 2, page);
            return None;
        }
        Some(page)
    }
}

impl Pages {
    /// The pages of argument `arg`.
    pub(crate) fn new(ctx: &Context<'_>, arg: usize, format: Format, heads: usize, dim: usize) -> Result<Self, String> {
        let Format::Float(float) = format else { return Err(format!("{format} is no format of pages")) };
        let row_bytes = dim * float.bytes();
        let head_bytes = PAGE_TOKENS * row_bytes;
        let span = ctx.span(arg)?;
        Ok(Self {
            base: span.base,
            count: span.bytes / (heads * head_bytes).max(1),
            float,
            head_bytes,
            row_bytes,
            heads,
        })
    }

    /// Pages there are.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Bytes from slot to slot.
    #[inline(always)]
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Row of a slot of a page.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, page: usize, head: usize, slot: usize) -> *mut u8 {
        self.base.add((page * self.heads + head) * self.head_bytes + slot * self.row_bytes)
    }
}
