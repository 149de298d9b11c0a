//! `y = rope(norm(x))` of each head; as a function from element to value it also feeds the append.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::ops::RopeLayout;
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::pack_width;
use swiftlm_ir::template::Rope;

use super::operand::{NormWeight, RUN, Rows, inverse_rms};
use super::{Bounds, Built, single, when_row};

/// Heads that a workgroup works on side by side, a run of lanes each.
pub(super) const HEADS: usize = 4;
/// Lanes of such a workgroup.
pub(super) const LANES: u32 = RUN * HEADS as u32;

/// Blocks of heads.
pub(super) fn head_blocks(heads: usize) -> usize {
    heads.div_ceil(HEADS)
}

/// Head of this lane in block `block`.
pub(super) fn head_of_lane<'k>(kb: &'k Kb, block: E<'k>) -> E<'k> {
    block.times(HEADS) + kb.lane().over(RUN as usize)
}

/// The lanes of a run share `0..n`.
pub(super) fn for_run<'k>(kb: &'k Kb, n: usize, body: impl FnOnce(E<'k>)) {
    kb.range(kb.lane().modulo(RUN as usize), kb.dim(n), RUN, body);
}

/// The step's rotation: cosines, then sines of each token's angles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation<'k> {
    kb: &'k Kb,
    table: Rows<'k>,
    start: usize,
    rotated: usize,
    layout: RopeLayout,
}

impl<'k> Rotation<'k> {
    /// Declares the next argument as the table of `rotated` elements from `start` on; where nothing is rotated it is
    /// bound, but not read.
    pub(super) fn declare(
        kb: &'k Kb,
        bounds: Bounds,
        (start, rotated): (usize, usize),
        layout: RopeLayout,
    ) -> Option<Self> {
        let table = Rows::declare_input(kb, "table", bounds.of(Sym::Tokens), rotated.max(1));
        (rotated > 0).then_some(Self { kb, table, start, rotated, layout })
    }

    /// Element `d` of the head `x` of `dim` elements, rotated: of a pair, `a·cos - b·sin` and `b·cos + a·sin`.
    fn apply(&self, token: E<'k>, dim: usize, d: E<'k>, x: impl Fn(E<'k>) -> E<'k>) -> E<'k> {
        let (kb, half) = (self.kb, self.rotated / 2);
        let whole = self.rotated == dim;
        // What lies before the first wraps to what is far behind the last.
        let from_start = if self.start == 0 { d } else { d - kb.dim(self.start) };
        let at = if whole { d } else { from_start.modulo(self.rotated) };
        let (partner, angle, is_first) = match self.layout {
            RopeLayout::Half => (at.plus(half).modulo(self.rotated), at.modulo(half), at.lt(kb.dim(half))),
            RopeLayout::Interleaved => {
                let odd = at.modulo(2);
                (at.over(2).times(2) + (kb.u32(1) - odd), at.over(2), odd.equals(kb.u32(0)))
            }
        };
        let (cos, sin) = (self.table.load(token, angle), self.table.load(token, angle.plus(half)));
        let own = x(d);
        let turned = own * cos + x(partner.plus(self.start)) * is_first.select(-sin, sin);
        if whole { turned } else { from_start.lt(kb.dim(self.rotated)).select(turned, own) }
    }
}

/// One head of a row, normalised and rotated, as a function from element to value.
pub(super) struct Head<'a, 'k> {
    x: Rows<'k>,
    token: E<'k>,
    /// The head's first element in the row.
    first: E<'k>,
    dim: usize,
    norm: Option<(&'a NormWeight<'k>, E<'k>)>,
    rotation: Option<Rotation<'k>>,
}

impl<'a, 'k> Head<'a, 'k> {
    /// Head `head` of row `token` of `x`. All lanes of a workgroup arrive.
    pub(super) fn new(
        kb: &'k Kb,
        x: Rows<'k>,
        (token, head, dim): (E<'k>, E<'k>, usize),
        norm: Option<&'a NormWeight<'k>>,
        rotation: Option<Rotation<'k>>,
    ) -> Self {
        let (first, n) = (head.times(dim), pack_width(dim));
        let scale = |norm: &'a NormWeight<'k>| {
            (norm, inverse_rms(kb, RUN, dim, norm.eps(), |pack| x.pack(token, first + pack.times(n), n)))
        };
        Self { x, token, first, dim, norm: norm.map(scale), rotation }
    }

    fn normalised(&self, d: E<'k>) -> E<'k> {
        let x = self.x.load(self.token, self.first + d);
        match self.norm {
            Some((weight, scale)) => x * scale * weight.load(d),
            None => x,
        }
    }

    /// Element `d`.
    pub(super) fn value(&self, d: E<'k>) -> E<'k> {
        match &self.rotation {
            Some(rotation) => rotation.apply(self.token, self.dim, d, |d| self.normalised(d)),
            None => self.normalised(d),
        }
    }
}

/// One workgroup per token and [`HEADS`] heads.
pub(super) fn build(t: &Rope, name: &str, bounds: Bounds) -> Built {
    let (tokens, width) = (bounds.of(Sym::Tokens), t.heads * t.dim);
    let kb = bounds.kernel(name, LANES);
    let x = Rows::declare(&kb, "x", t.x, tokens, width);
    let norm = t.norm.map(|norm| NormWeight::declare(&kb, "norm", norm, t.dim));
    let rotation = Rotation::declare(&kb, bounds, (t.start, t.rotated), t.layout);
    let y = Rows::declare(&kb, "y", t.y, tokens, width);

    let token = kb.group(0);
    when_row(&kb, Sym::Tokens, token, || {
        let head = head_of_lane(&kb, kb.group(1));
        // Lanes of a run that has no head help to reduce another.
        let own = head.min(kb.dim(t.heads - 1));
        let source = Head::new(&kb, x, (token, own, t.dim), norm.as_ref(), rotation);
        kb.when(head.lt(kb.dim(t.heads)), || {
            for_run(&kb, t.dim, |d| y.store(token, own.times(t.dim) + d, source.value(d)));
        });
    });
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(head_blocks(t.heads)), single()];
    Built::whole(kb.finish(), grid)
}
