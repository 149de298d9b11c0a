//! `y = W_h x` or `W_hᵀ x` of the first elements of each head, what lies behind them copied.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{E, Kb, V};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::Encoded;
use swiftlm_ir::template::HeadLinear;

use super::linear::{Blocking, LANES};
use super::operand::{Packs, Rows, SplatTo};
use super::{Bounds, Built, when_row};

/// Lanes of a workgroup whose outputs are columns of the weight.
const COLUMN_LANES: u32 = 64;

/// A launch's operands but x as products read it.
struct Operands<'a, 'k> {
    kb: &'k Kb,
    t: &'a HeadLinear,
    /// x element by element.
    x: Rows<'k>,
    weight: Encoded<'k>,
    y: Rows<'k>,
    /// Tokens of the largest step.
    tokens: usize,
    /// Tokens of a workgroup.
    rows: usize,
}

/// One workgroup per block of tokens, block of outputs and head; what is copied is the block behind all outputs.
pub(super) fn build(t: &HeadLinear, name: &str, bounds: Bounds) -> Built {
    let tokens = bounds.of(Sym::Tokens);
    let blocking = Blocking::of(t.class, tokens, t.outputs() * t.heads, 1, t.weight.cols);
    let kb = bounds.kernel(name, if t.transposed { COLUMN_LANES } else { LANES });
    // The same argument, seen as rows of elements and as packs of what is multiplied.
    let (x, packs) = Packs::declare_parts(&kb, "x", t.x, tokens, (t.heads, t.dim, t.inputs()));
    let weight = Encoded::declare(&kb, "weight", t.weight);
    let y = Rows::declare(&kb, "y", t.y, tokens, t.heads * (t.outputs() + t.rest()));
    let per_group =
        if t.transposed { COLUMN_LANES as usize * weight.pack_width() } else { blocking.outputs_per_group() };
    let (blocks, rows) = (t.outputs().div_ceil(per_group), blocking.rows);
    let own = Operands { kb: &kb, t, x, weight, y, tokens, rows };

    let (first, block, head) = (kb.group(0).times(rows), kb.group(1), kb.group(2));
    let multiply = || match t.transposed {
        true => own.columns(first, block, head),
        false => own.rows(blocking, &packs, first, block, head),
    };
    when_row(&kb, Sym::Tokens, first, || {
        kb.when(head.lt(kb.dim(t.heads)), || match t.rest() {
            0 => multiply(),
            _ => kb.when_else(block.lt(kb.dim(blocks)), multiply, || own.copy(first, head)),
        });
    });
    let blocks = Groups::fixed(blocks + usize::from(t.rest() > 0));
    Built::whole(kb.finish(), [Groups::per_rows(1, Sym::Tokens, rows as u32), blocks, Groups::fixed(t.heads)])
}

impl<'k> Operands<'_, 'k> {
    /// Token `m` of the block; one behind the last is the last, computed again and not stored.
    fn token(&self, first: E<'k>, m: usize) -> E<'k> {
        first.plus(m).min(self.kb.dim(self.tokens - 1))
    }

    /// First element of a head of y.
    fn head_of_y(&self, head: E<'k>) -> E<'k> {
        head.times(self.t.outputs() + self.t.rest())
    }

    /// Row `i` of a head's matrix.
    fn weight_row(&self, head: E<'k>, i: E<'k>) -> E<'k> {
        head.times(self.t.weight.rows / self.t.heads) + i.plus(self.t.first)
    }

    /// Outputs are rows of the weight.
    fn rows(&self, blocking: Blocking, packs: &Packs<'k>, first: E<'k>, block: E<'k>, head: E<'k>) {
        let (kb, t, outputs) = (self.kb, self.t, self.t.outputs());
        let tokens: Vec<E<'k>> = (0..self.rows).map(|m| self.token(first, m)).collect();
        let rows = blocking.weight_rows(kb, block, outputs, 1);
        let rows: Vec<E<'k>> = rows.into_iter().map(|n| self.weight_row(head, n)).collect();
        let input = |pack| tokens.iter().map(|token| packs.head_pack(*token, head, pack)).collect();
        let first_output = blocking.first_output(block);
        blocking.products(kb, &self.weight, &rows, input, |m, n, values| {
            let (token, col) = (first + m, first_output + n);
            when_row(kb, Sym::Tokens, token, || {
                kb.when(col.lt(kb.dim(t.outputs())), || {
                    self.y.store(token, self.head_of_y(head) + col, values[0]);
                });
            });
        });
    }

    /// Outputs are columns of the weight: a pack for each lane, one chain over rows.
    fn columns(&self, first: E<'k>, block: E<'k>, head: E<'k>) {
        let (kb, t) = (self.kb, self.t);
        let (packs, width) = (self.weight.packs(), self.weight.pack_width());
        let pack = block.times(COLUMN_LANES as usize) + kb.lane();
        let own = pack.min(kb.dim(packs - 1));
        let zero = if width == 1 { kb.f32(0.0) } else { kb.f32(0.0).splat(4) };
        let vectors = width.div_ceil(4);
        let sums: Vec<Vec<V<'k>>> = (0..self.rows).map(|_| (0..vectors).map(|_| kb.var(zero)).collect()).collect();
        kb.range(kb.u32(0), kb.dim(t.len), 1, |i| {
            let weights = self.weight.pack(self.weight_row(head, i), own);
            for (m, sums) in sums.iter().enumerate() {
                let x = self.x.load(self.token(first, m), head.times(t.dim) + i);
                for (sum, w) in sums.iter().zip(&weights) {
                    sum.set(w.fma(x.splat_to(*w), sum.get()));
                }
            }
        });
        for (m, sums) in sums.iter().enumerate() {
            let token = first.plus(m);
            when_row(kb, Sym::Tokens, token, || {
                kb.when(pack.lt(kb.dim(packs)), || {
                    let sums = sums.iter().map(|sum| sum.get());
                    let values = sums.flat_map(|sum| (0..sum.ty().width).map(move |i| sum.extract(i)));
                    let at = self.head_of_y(head) + own.times(width);
                    values.enumerate().for_each(|(i, value)| self.y.store(token, at.plus(i), value));
                });
            });
        }
    }

    /// What lies behind the elements that are multiplied.
    fn copy(&self, first: E<'k>, head: E<'k>) {
        let (kb, t) = (self.kb, self.t);
        for m in 0..self.rows {
            let token = first.plus(m);
            when_row(kb, Sym::Tokens, token, || {
                kb.for_lanes(t.rest(), |i| {
                    let value = self.x.load(token, head.times(t.dim) + i.plus(t.inputs()));
                    self.y.store(token, self.head_of_y(head) + i.plus(t.outputs()), value);
                });
            });
        }
    }
}
