//! Keys and values to the pages of their sequences, alone or together with the rotation that comes before.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::Access;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::{Append, RopeAppend};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::operand::{NormWeight, RUN, Rows};
use super::pages::{PageTable, Pages, Part};
use super::rope::{HEADS, Head, LANES, Rotation, for_run, head_blocks, head_of_lane};
use super::rotate::Turning;
use super::{Bounds, Built, single, when_row};

/// Where keys and values go.
struct Target<'a, 'k> {
    kb: &'k Kb,
    t: &'a Append,
    table: PageTable<'k>,
    keys: Pages<'k>,
    values: Pages<'k>,
    turning: Option<Turning<'k>>,
}

impl<'a, 'k> Target<'a, 'k> {
    fn new(kb: &'k Kb, t: &'a Append, table: PageTable<'k>, turning: Option<Turning<'k>>) -> Self {
        let keys = Pages::declare(kb, Part::Keys, Access::ReadWrite, t.k_format, t.heads, t.dim);
        let values = Pages::declare(kb, Part::Values, Access::ReadWrite, t.v_format, t.heads, t.dim);
        Self { kb, t, table, keys, values, turning }
    }

    /// Writes head `head`, which `source` gives, if there is one. All lanes arrive.
    fn store(&self, pages: &Pages<'k>, token: E<'k>, head: E<'k>, source: &Head<'_, 'k>) {
        let value = turned(self.kb, self.turning, self.t.dim, source);
        self.kb.when(head.lt(self.kb.dim(self.t.heads)), || {
            let position = self.table.position(token);
            let page = self.table.page(token, self.table.block(position));
            let place = pages.place(page, head, position.modulo(PAGE_TOKENS));
            for_run(self.kb, pages.row().words(), |word| pages.store(place, word, &value));
        });
    }

    /// Blocks of heads from `first` on: keys, then values.
    fn append(
        &self,
        token: E<'k>,
        first: usize,
        (k, v): (Rows<'k>, Rows<'k>),
        norm: Option<&NormWeight<'k>>,
        rotation: Option<Rotation<'k>>,
    ) {
        let (kb, t, block) = (self.kb, self.t, self.kb.group(1));
        let behind_keys = first + head_blocks(t.heads);
        // Lanes of a run that has no head help to reduce another.
        let own = |head: E<'k>| (token, head.min(kb.dim(t.heads - 1)), t.dim);
        kb.when_else(
            block.lt(kb.dim(behind_keys)),
            || {
                let head = head_of_lane(kb, block - kb.dim(first));
                self.store(&self.keys, token, head, &Head::new(kb, k, own(head), norm, rotation));
            },
            || {
                let head = head_of_lane(kb, block - kb.dim(behind_keys));
                self.store(&self.values, token, head, &Head::new(kb, v, own(head), None, None));
            },
        );
    }
}

/// The elements of the heads that runs of lanes have, rotated for quantisation if they are to be. All lanes arrive.
fn turned<'a, 'k>(
    kb: &'k Kb,
    turning: Option<Turning<'k>>,
    dim: usize,
    source: &'a Head<'_, 'k>,
) -> impl Fn(E<'k>) -> E<'k> + 'a {
    let own = kb.lane().over(RUN as usize);
    if let Some(turning) = turning {
        for_run(kb, dim, |d| turning.set(own, d, source.value(d)));
        turning.rotate(false);
    }
    move |d| match turning {
        Some(turning) => turning.get(own, d),
        None => source.value(d),
    }
}

/// One workgroup per token and block of key or value heads.
pub(super) fn build(t: &Append, name: &str, bounds: Bounds) -> Built {
    let (tokens, width) = (bounds.of(Sym::Tokens), t.heads * t.dim);
    let kb = bounds.kernel(name, LANES);
    let k = Rows::declare(&kb, "k", t.k, tokens, width);
    let v = Rows::declare(&kb, "v", t.v, tokens, width);
    let table = PageTable::declare(&kb, bounds);
    let target = Target::new(&kb, t, table, None);

    let token = kb.group(0);
    when_row(&kb, Sym::Tokens, token, || target.append(token, 0, (k, v), None, None));
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(2 * head_blocks(t.heads)), single()];
    Built::whole(kb.finish(), grid)
}

/// One workgroup per token and block of query, key or value heads.
pub(super) fn build_with_rope(t: &RopeAppend, name: &str, bounds: Bounds) -> Built {
    let (tokens, dim) = (bounds.of(Sym::Tokens), t.append.dim);
    let (q_width, kv_width) = (t.heads * dim, t.append.heads * dim);
    let kb = bounds.kernel(name, LANES);
    let views = [(t.q, q_width), (t.append.k, kv_width), (t.append.v, kv_width)];
    let [q, k, v] = Rows::declare_views(&kb, "qkv", tokens, views);
    let q_norm = t.q_norm.map(|norm| NormWeight::declare(&kb, "q_norm", norm, dim));
    let k_norm = t.k_norm.map(|norm| NormWeight::declare(&kb, "k_norm", norm, dim));
    let rotation = Rotation::declare(&kb, bounds, (0, t.rotated), t.layout);
    let table = PageTable::declare(&kb, bounds);
    let q_out = Rows::declare(&kb, "q", t.q_out, tokens, q_width);
    let turning = t.rotate.then(|| Turning::declare(&kb, HEADS, dim));
    let target = Target::new(&kb, &t.append, table, turning);

    let (token, block, q_blocks) = (kb.group(0), kb.group(1), head_blocks(t.heads));
    when_row(&kb, Sym::Tokens, token, || {
        let rotate_queries = || {
            let head = head_of_lane(&kb, block);
            let own = head.min(kb.dim(t.heads - 1));
            let source = Head::new(&kb, q, (token, own, dim), q_norm.as_ref(), rotation);
            let value = turned(&kb, turning, dim, &source);
            kb.when(head.lt(kb.dim(t.heads)), || {
                for_run(&kb, dim, |d| q_out.store(token, own.times(dim) + d, value(d)));
            });
        };
        kb.when_else(block.lt(kb.dim(q_blocks)), rotate_queries, || {
            target.append(token, q_blocks, (k, v), k_norm.as_ref(), rotation);
        });
    });
    let blocks = q_blocks + 2 * head_blocks(t.append.heads);
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(blocks), single()];
    Built::whole(kb.finish(), grid)
}
