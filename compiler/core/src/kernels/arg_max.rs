//! `y = argmax(x)` of each row, ties to the lowest index. NaN is below every number; a row of NaN gives 0.

use swiftlm_ir::kernel::{Access, KType};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::ArgMax;

use super::operand::{Rows, ids, order_key};
use super::{Bounds, Built, single, when_row};

const LANES: u32 = 64;

/// One workgroup per row.
pub(super) fn build(t: &ArgMax, name: &str, bounds: Bounds) -> Built {
    let rows = bounds.of(t.rows);
    let kb = bounds.kernel(name, LANES);
    let x = Rows::declare(&kb, "x", t.x, rows, t.dim);
    let y = ids(&kb, "y", Access::ReadWrite, rows);
    let (keys, indices) = (kb.shared(KType::U32, LANES), kb.shared(KType::U32, LANES));

    let row = kb.group(0);
    when_row(&kb, t.rows, row, || {
        let (best, best_index) = (kb.var(kb.u32(0)), kb.var(kb.u32(0)));
        kb.for_lanes(t.dim, |col| {
            let key = order_key(&kb, x.load(row, col));
            kb.when(best.get().lt(key), || {
                best.set(key);
                best_index.set(col);
            });
        });
        let lane = kb.lane();
        keys.set(lane, best.get());
        indices.set(lane, best_index.get());
        kb.barrier();
        let mut width = LANES / 2;
        while width > 0 {
            kb.when(lane.lt(kb.u32(width)), || {
                let other = lane + kb.u32(width);
                let (key, index) = (keys.get(other), indices.get(other));
                let tie = keys.get(lane).equals(key) & index.lt(indices.get(lane));
                kb.when(keys.get(lane).lt(key) | tie, || {
                    keys.set(lane, key);
                    indices.set(lane, index);
                });
            });
            kb.barrier();
            width /= 2;
        }
        kb.when(lane.equals(kb.u32(0)), || y.store(row, indices.get(kb.u32(0))));
    });
    Built::whole(kb.finish(), [Groups::per_rows(1, t.rows, 1), single(), single()])
}
