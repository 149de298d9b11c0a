//! What a token attends to: the blocks of its sequence, and the parts that they are taken in.
//!
//! Blocks go by spans of four at absolute places. The spans that a token sees are dealt to chains, one to each in turn;
//! a chain is one softmax in the online form (Milakov & Gimelshein 2018), and chains meet in their order. So the order
//! of every sum follows from a token's position, whoever computes which chain.

use swiftlm_ir::kernel::Access;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::template::Attend;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::Bounds;
use super::archived::Archived;
use super::pages::{PageTable, Pages, Part, Place};

/// Positions of a span.
pub(super) const SPAN: usize = 4 * PAGE_TOKENS;
/// Slots that a lane takes together.
pub(super) const QUAD: usize = 4;
/// Chains of all KV heads of a token, where there are few heads: enough workgroups for a large device.
const CHAINS: usize = 512;

/// Most chains of a token's history for one KV head.
pub(super) fn chains(t: &Attend) -> usize {
    let most = (CHAINS / t.kv_heads).clamp(16, 128);
    // A window lies in one span more than it fills.
    if t.window == 0 { most } else { most.min(t.window.div_ceil(SPAN) + 1) }
}

/// The tokens' histories as operands.
#[derive(Clone, Copy, Debug)]
pub(super) struct History<'k> {
    kb: &'k Kb,
    table: PageTable<'k>,
    keys: Pages<'k>,
    values: Pages<'k>,
    archived: Option<Archived<'k>>,
    window: usize,
}

/// Where the keys and values of a block lie, and how they are stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'k> {
    /// The pages of keys.
    pub(super) keys: Pages<'k>,
    /// The pages of values.
    pub(super) values: Pages<'k>,
    page: E<'k>,
}

/// What one token sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'k> {
    history: History<'k>,
    token: E<'k>,
    /// Its position, the last that it sees.
    pub(super) last: E<'k>,
    /// The first position that it sees.
    pub(super) first: E<'k>,
}

impl<'k> History<'k> {
    /// Declares the next arguments: the page table's, keys, values unless these are part of keys, and the same of an
    /// archive. All lanes are here; a barrier comes before what is archived is used.
    pub(super) fn declare(kb: &'k Kb, t: &Attend, bounds: Bounds) -> Self {
        let table = PageTable::declare(kb, bounds);
        let keys = Pages::declare(kb, Part::Keys, Access::Read, t.k_format, t.kv_heads, t.dim);
        let values = match t.latent {
            Some(_) => keys,
            None => Pages::declare(kb, Part::Values, Access::Read, t.v_format, t.kv_heads, t.dim),
        };
        let archived = t.archive.map(|archive| Archived::declare(kb, &table, archive, (t.kv_heads, t.dim)));
        Self { kb, table, keys, values, archived, window: t.window }
    }

    /// The pages of keys of any block, for what does not depend on the block.
    pub(super) fn keys(&self) -> Pages<'k> {
        self.keys
    }

    /// The pages of values of any block.
    pub(super) fn values(&self) -> Pages<'k> {
        self.values
    }

    /// The archive, if there is one.
    pub(super) fn archived(&self) -> Option<Archived<'k>> {
        self.archived
    }

    /// What a token sees.
    pub(super) fn of(&self, token: E<'k>) -> Seen<'k> {
        let last = self.table.position(token);
        Seen { history: *self, token, last, first: first(self.kb, last, self.window) }
    }
}

impl<'k> Seen<'k> {
    /// A position, or the nearest that is seen.
    pub(super) fn nearest(&self, position: E<'k>) -> E<'k> {
        if self.history.window == 0 { position.min(self.last) } else { position.max(self.first).min(self.last) }
    }

    /// Whether a position is seen.
    pub(super) fn contains(&self, position: E<'k>) -> E<'k> {
        // What lies before the first wraps to what is far behind the last.
        (position - self.first).le(self.last - self.first)
    }

    /// The block of a position that is seen.
    pub(super) fn block(&self, position: E<'k>) -> Block<'k> {
        let History { table, keys, values, .. } = self.history;
        // Changes nothing but what can be proved of it.
        let block = position.over(PAGE_TOKENS).min(table.block(self.last));
        Block { keys, values, page: table.page(self.token, block) }
    }

    /// Whether a position that is seen is read from the archive, and the page of the archive that its block has.
    pub(super) fn archived(&self, archived: &Archived<'k>, position: E<'k>) -> (E<'k>, E<'k>) {
        let of = self.history.table.block(self.last);
        let block = position.over(PAGE_TOKENS).min(of);
        (archived.holds(block, of), archived.page(self.token, block))
    }

    /// The same token as if it saw all before it.
    pub(super) fn all(&self) -> Self {
        let Self { history, token, last, .. } = *self;
        Self { history: History { window: 0, ..history }, token, last, first: history.kb.u32(0) }
    }
}

impl<'k> Block<'k> {
    /// A head of the keys of four slots, from that of `position` on.
    pub(super) fn quad(&self, head: E<'k>, position: E<'k>) -> Place<'k> {
        self.keys.place(self.page, head, quad_of_block(position))
    }

    /// A head of the values of a position.
    pub(super) fn row(&self, head: E<'k>, position: E<'k>) -> Place<'k> {
        self.values.place(self.page, head, position.modulo(PAGE_TOKENS))
    }
}

/// First position that a query at `position` sees.
pub(super) fn first<'k>(kb: &'k Kb, position: E<'k>, window: usize) -> E<'k> {
    match window {
        0 => kb.u32(0),
        window => position.plus(1).max(kb.dim(window)) - kb.dim(window),
    }
}

/// The span of one position, and that behind the span of another.
pub(super) fn spans<'k>(first: E<'k>, last: E<'k>) -> (E<'k>, E<'k>) {
    (first.over(SPAN), last.over(SPAN).plus(1))
}

/// Which four slots of its block a position is in.
pub(super) fn quad_of_block(position: E<'_>) -> E<'_> {
    position.modulo(PAGE_TOKENS).over(QUAD)
}
