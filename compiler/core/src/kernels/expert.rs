//! `y[t, r] = epilogue(x[t, r] W[ids[t, r]]ᵀ + b[ids[t, r]])`.

use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::kernel::Access;
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::Encoded;
use swiftlm_ir::template::ExpertLinear;

use super::linear::{Blocking, LANES};
use super::operand::{Extras, Packs, Rows, ids};
use super::round::rounded;
use super::{Bounds, Built, single, when_row};

/// One workgroup per (token, rank) and block of outputs: neighbouring rows use other experts, so nothing is shared.
pub(super) fn build(t: &ExpertLinear, name: &str, bounds: Bounds) -> Built {
    let tokens = bounds.of(Sym::Tokens);
    let (ranked, expert_rows) = (tokens * t.top_k, t.weight.rows / t.experts);
    let outputs = if t.pair { expert_rows / 2 } else { expert_rows };
    let parts = expert_rows / outputs;
    let blocking = Blocking::of(ShapeClass::One, 1, t.top_k * outputs, parts, t.weight.cols);
    let kb = bounds.kernel(name, LANES);
    let x = Packs::declare(&kb, "x", t.x, if t.x_per_rank { ranked } else { tokens }, t.weight.cols);
    let ids = ids(&kb, "ids", Access::ReadWrite, ranked);
    let weight = Encoded::declare(&kb, "weight", t.weight);
    let bias = t.bias.map(|float| Encoded::declare(&kb, "bias", t.bias_type(float)));
    let y = Rows::declare(&kb, "y", t.y, ranked, outputs);
    let extras = Extras::declare(&kb, &[], ranked, outputs);

    let (token, rank) = (kb.group(0).over(t.top_k), kb.group(0).modulo(t.top_k));
    when_row(&kb, Sym::Tokens, token, || {
        let row = token.times(t.top_k) + rank;
        let id = ids.load(row);
        // Lanes add up together, so a row whose expert is not in memory is computed from another and not stored.
        let (expert, present) = (id.min(kb.dim(t.experts - 1)), id.lt(kb.dim(t.experts)));
        let own = blocking.weight_rows(&kb, kb.group(1), outputs, parts);
        let weight_rows: Vec<_> = own.into_iter().map(|n| expert.times(expert_rows) + n).collect();
        let x_row = if t.x_per_rank { row } else { token };
        let input = |pack| rounded(&kb, t.weight.cols, t.round, pack, &|pack| vec![x.pack(x_row, pack)]);
        let first_output = blocking.first_output(kb.group(1));
        blocking.products(&kb, &weight, &weight_rows, input, |_, n, mut values| {
            let col = first_output + n;
            kb.when(present & col.lt(kb.dim(outputs)), || {
                for ((part, value), bias) in values.iter_mut().enumerate().zip(bias.iter().cycle()) {
                    let at = expert.times(expert_rows) + col.plus(part * outputs);
                    *value = *value + bias.load(at, kb.u32(0));
                }
                y.store(row, col, extras.map(&t.epilogue, &values, row, col));
            });
        });
    });
    let grid = [
        Groups::per_rows(t.top_k, Sym::Tokens, 1),
        Groups::fixed(outputs.div_ceil(blocking.outputs_per_group())),
        single(),
    ];
    Built::whole(kb.finish(), grid)
}
