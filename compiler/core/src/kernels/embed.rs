//! `y[t] = scale · W[ids[t]]`.

use swiftlm_ir::kernel::Access;
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::Encoded;
use swiftlm_ir::template::Embed;

use super::operand::{Rows, ids};
use super::{Bounds, Built, COLUMN_LANES, column_blocks, for_columns, single, when_row};

/// One workgroup per row and block of columns. Ids outside the segment are left to the launches of other segments.
pub(super) fn build(t: &Embed, name: &str, bounds: Bounds) -> Built {
    let (rows, cols) = (bounds.of(t.rows), t.weight.cols);
    let kb = bounds.kernel(name, COLUMN_LANES);
    let ids = ids(&kb, "ids", Access::Read, rows);
    let weight = Encoded::declare(&kb, "weight", t.weight);
    let y = Rows::declare(&kb, "y", t.y, rows, cols);

    let row = kb.group(0);
    when_row(&kb, t.rows, row, || {
        let id = ids.load(row);
        let segment_row = id - kb.dim(t.first_row);
        // Ids before the segment wrap to large numbers.
        kb.when(segment_row.lt(kb.dim(t.weight.rows)), || {
            for_columns(&kb, cols, |col| {
                y.store(row, col, kb.f32(t.scale) * weight.load(segment_row, col));
            });
        });
    });
    let grid = [Groups::per_rows(1, t.rows, 1), column_blocks(cols), single()];
    Built::whole(kb.finish(), grid)
}
