//! `y[r] = x[rows[r]]`: the tokens that want logits.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::{Access, DataBound};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template;

use super::operand::{Rows, ids};
use super::{Bounds, Built, COLUMN_LANES, column_blocks, for_columns, single, when_row};

/// One workgroup per row and block of columns.
pub(super) fn build(t: &template::Rows, name: &str, bounds: Bounds) -> Built {
    let (tokens, rows) = (bounds.of(Sym::Tokens), bounds.of(Sym::Rows));
    let kb = bounds.kernel(name, COLUMN_LANES);
    let x = Rows::declare(&kb, "x", t.x, tokens, t.dim);
    let indices = ids(&kb, "rows", Access::Read, rows);
    let y = Rows::declare(&kb, "y", t.y, rows, t.dim);

    let row = kb.group(0);
    when_row(&kb, Sym::Rows, row, || {
        let token = indices.load(row).trust(DataBound::BelowImmediate(swiftlm_ir::kernel::Immediate::Tokens));
        for_columns(&kb, t.dim, |col| y.store(row, col, x.load(token, col)));
    });
    Built::whole(kb.finish(), [Groups::per_rows(1, Sym::Rows, 1), column_blocks(t.dim), single()])
}
