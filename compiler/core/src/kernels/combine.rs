//! `out[t] = epilogue(Σ_r weights[t, r] · y[t, r], extras)`, ranks in order.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::{Combine, View};

use super::operand::{Extras, Rows};
use super::{Bounds, Built, COLUMN_LANES, column_blocks, for_columns, single, when_row};

/// One workgroup per token and block of columns.
pub(super) fn build(t: &Combine, name: &str, bounds: Bounds) -> Built {
    let tokens = bounds.of(Sym::Tokens);
    let kb = bounds.kernel(name, COLUMN_LANES);
    let y = Rows::declare(&kb, "y", View::dense(t.dim), tokens * t.top_k, t.dim);
    let weights = Rows::declare(&kb, "weights", View::dense(t.top_k), tokens, t.top_k);
    let extras = Extras::declare(&kb, &t.extras, tokens, t.dim);
    let out = Rows::declare(&kb, "out", t.out, tokens, t.dim);

    let token = kb.group(0);
    when_row(&kb, Sym::Tokens, token, || {
        for_columns(&kb, t.dim, |col| {
            let term = |rank: usize| weights.load(token, kb.dim(rank)) * y.load(token.times(t.top_k).plus(rank), col);
            let sum = (1..t.top_k).fold(term(0), |sum, rank| sum + term(rank));
            out.store(token, col, extras.map(&t.epilogue, &[sum], token, col));
        });
    });
    Built::whole(kb.finish(), [Groups::per_rows(1, Sym::Tokens, 1), column_blocks(t.dim), single()])
}
