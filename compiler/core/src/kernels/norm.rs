//! `y = epilogue(x / rms(x) · (w + offset), extras)` of a row, or of each head of a row.

use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::pack_width;
use swiftlm_ir::template::RmsNorm;

use super::operand::{Extras, NormWeight, Packs, RUN, Rows, inverse_rms, run_of};
use super::{Bounds, Built, single, when_row};

/// Heads that a workgroup normalises side by side, a run of lanes each.
const HEADS: usize = 4;

/// One workgroup per row and [`HEADS`] heads.
pub(super) fn build(t: &RmsNorm, name: &str, bounds: Bounds) -> Built {
    let rows = bounds.of(t.rows);
    let (run, runs) = match t.heads {
        1 => (run_of(t.dim), 1),
        heads => (RUN, HEADS.min(heads.next_power_of_two())),
    };
    let kb = bounds.kernel(name, run * runs as u32);
    let x = Packs::declare_heads(&kb, "x", t.x, rows, t.heads, t.dim);
    let weight = NormWeight::declare(&kb, "norm", t.norm, t.weights());
    let extras = Extras::declare(&kb, &t.extras, rows, t.heads * t.dim);
    let y = Rows::declare(&kb, "y", t.y, rows, t.heads * t.dim);

    let row = kb.group(0);
    when_row(&kb, t.rows, row, || {
        let head = kb.group(1).times(runs) + kb.lane().over(run as usize);
        // Lanes of a run that has no head help to reduce another.
        let own = head.min(kb.dim(t.heads - 1));
        let scale = inverse_rms(&kb, run, t.dim, weight.eps(), |pack| x.head_pack(row, own, pack));
        kb.when(head.lt(kb.dim(t.heads)), || {
            kb.range(kb.lane().modulo(run as usize), kb.dim(x.count()), run, |pack| {
                let values = x.head_pack(row, own, pack);
                let values = if t.grouped { values } else { weight.apply(&[values], &[scale], pack).concat() };
                let first = own.times(t.dim) + pack.times(pack_width(t.dim));
                let scalars = values.iter().flat_map(|v| (0..v.ty().width).map(|i| v.extract(i)));
                for (i, value) in scalars.enumerate() {
                    let col = first.plus(i);
                    let value = if t.grouped { value * scale * weight.load(col) } else { value };
                    y.store(row, col, extras.map(&t.epilogue, &[value], row, col));
                }
            });
        });
    });
    let grid = [Groups::per_rows(1, t.rows, 1), Groups::fixed(t.heads.div_ceil(runs)), single()];
    Built::whole(kb.finish(), grid)
}
