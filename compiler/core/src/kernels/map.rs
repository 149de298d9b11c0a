//! `y = map(extras)`, element by element.

use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::Elementwise;

use super::operand::{Extras, Rows};
use super::{Bounds, Built, COLUMN_LANES, column_blocks, for_columns, single, when_row};

/// One workgroup per row and block of columns.
pub(super) fn build(t: &Elementwise, name: &str, bounds: Bounds) -> Built {
    let rows = bounds.of(t.rows);
    let kb = bounds.kernel(name, COLUMN_LANES);
    let extras = Extras::declare(&kb, &t.extras, rows, t.dim);
    let y = Rows::declare(&kb, "y", t.y, rows, t.dim);

    let row = kb.group(0);
    when_row(&kb, t.rows, row, || {
        for_columns(&kb, t.dim, |col| y.store(row, col, extras.map(&t.map, &[], row, col)));
    });
    Built::whole(kb.finish(), [Groups::per_rows(1, t.rows, 1), column_blocks(t.dim), single()])
}
