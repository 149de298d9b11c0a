//! `y = epilogue(norm(x) Wᵀ, extras)`.

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::KType;
use swiftlm_ir::kernel::builder::{E, Kb, V};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::{Encoded, Scales};
use swiftlm_ir::template::Linear;

use super::operand::{Extras, NormWeight, Packs, RUN, Rows, dot, inverse_rms, sum_of_run};
use super::round::rounded;
use super::{Bounds, Built, single, tile, when_row};

/// How the rows and outputs of a matrix product are dealt to workgroups. Each run of lanes has all rows and some outputs
/// of its workgroup, so that a decoded pack serves several rows and a pack of a row several outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    /// Rows of a workgroup.
    pub(super) rows: usize,
    /// Outputs of a run.
    pub(super) outputs: usize,
    /// Lanes of a workgroup.
    pub(super) lanes: u32,
}

impl Blocking {
    /// For at most `bound` rows: a row that no step has cannot be proven to stay inside.
    fn of(t: &Linear, bound: usize) -> Self {
        let (rows, outputs) = match t.class {
            ShapeClass::One => (1, 4),
            ShapeClass::Few => (4, 4),
            ShapeClass::Some | ShapeClass::Many => (8, 4),
        };
        Self { rows: rows.min(bound), outputs: if t.pair { outputs / 2 } else { outputs }, lanes: 64 }
    }

    fn runs(self) -> usize {
        (self.lanes / RUN) as usize
    }

    /// Outputs of a workgroup.
    pub(super) fn outputs_per_group(self) -> usize {
        self.runs() * self.outputs
    }

    /// First output of this run in block `block`.
    pub(super) fn first_output<'k>(self, kb: &'k Kb, block: E<'k>) -> E<'k> {
        block.times(self.outputs_per_group()) + kb.lane().over(RUN as usize).times(self.outputs)
    }

    /// Rows of the matrix behind the outputs from `first` on, of `count`: for each part (gate, up) of `parts`, the
    /// outputs of a run. Outputs behind the last are computed from it and not stored.
    pub(super) fn weight_rows<'k>(self, kb: &'k Kb, first: E<'k>, count: usize, parts: usize) -> Vec<E<'k>> {
        let outputs: Vec<E<'k>> = (0..self.outputs).map(|n| first.plus(n).min(kb.dim(count - 1))).collect();
        (0..parts).flat_map(|part| outputs.iter().map(move |n| n.plus(part * count))).collect()
    }

    /// Calls `store` for the results of this lane, each given as its row and output in the block and its accumulators.
    /// The lanes of a run share the results, so that an epilogue runs once for each.
    pub(super) fn for_results<'k>(
        self,
        kb: &'k Kb,
        sums: &[Vec<E<'k>>],
        mut store: impl FnMut(E<'k>, E<'k>, Vec<E<'k>>),
    ) {
        let (parts, count, run) = (sums[0].len() / self.outputs, self.rows * self.outputs, RUN as usize);
        let result = |i: usize, part: usize| sums[i / self.outputs][part * self.outputs + i % self.outputs];
        let lane = kb.lane().modulo(run);
        for first in (0..count).step_by(run) {
            let own = first..count.min(first + run);
            let pick = |part: usize| {
                own.clone()
                    .skip(1)
                    .fold(result(first, part), |value, i| lane.equals(kb.dim(i - first)).select(result(i, part), value))
            };
            let values: Vec<E<'k>> = (0..parts).map(pick).collect();
            kb.when(lane.lt(kb.dim(own.len())), || {
                let i = lane.plus(first);
                store(i.over(self.outputs), i.modulo(self.outputs), values);
            });
        }
    }
}

/// Packs that a lane takes at a turn. Wide rows are dealt in pieces of 32 columns, so that scales are loaded once for
/// several packs; narrow ones pack by pack, so that every lane has some.
pub(super) fn packs_per_turn(packs: usize) -> usize {
    let turn = 4;
    if packs.is_multiple_of(turn) && packs >= turn * RUN as usize { turn } else { 1 }
}

/// `sums[m][n] = Σ x[m] · W[weight_rows[n]]`: `x(pack)` gives a pack of each row.
///
/// Lane `p` of a run adds the packs of turns `p, p + RUN, …` in order; the lanes of a run are combined by halving. So
/// every sum is made in one order, which depends on the matrix only.
pub(super) fn products<'k>(
    kb: &'k Kb,
    rows: usize,
    weight: &Encoded<'k>,
    weight_rows: &[E<'k>],
    x: impl Fn(E<'k>) -> Vec<Vec<E<'k>>>,
) -> Vec<Vec<E<'k>>> {
    let zeros = || -> Vec<V<'k>> { weight_rows.iter().map(|_| kb.var(kb.f32(0.0))).collect() };
    let sums: Vec<Vec<V<'k>>> = (0..rows).map(|_| zeros()).collect();
    let turn = packs_per_turn(weight.packs());
    kb.range(kb.lane().modulo(RUN as usize), kb.dim(weight.packs() / turn), RUN, |own| {
        let first = own.times(turn);
        let scales: Vec<Scales<'k>> = weight_rows.iter().map(|n| weight.scales(*n, first)).collect();
        for pack in (0..turn).map(|i| first.plus(i)) {
            let x = x(pack);
            for (n, (row, scales)) in weight_rows.iter().zip(&scales).enumerate() {
                let w = weight.pack_scaled(*row, pack, *scales);
                for (sums, x) in sums.iter().zip(&x) {
                    sums[n].set(sums[n].get() + dot(x, &w));
                }
            }
        }
    });
    sums.iter().map(|row| row.iter().map(|sum| sum_of_run(kb, sum.get())).collect()).collect()
}

/// `1 / rms` of each of a workgroup's rows. The runs share the rows where there are several.
fn inverse_rms_of<'k>(kb: &'k Kb, blocking: Blocking, x: &Packs<'k>, rows: &[E<'k>], eps: f64) -> Vec<E<'k>> {
    let of = |row: E<'k>| inverse_rms(kb, x.width, eps, |pack| x.pack(row, pack));
    if let [row] = rows {
        return vec![of(*row)];
    }
    let run = kb.lane().over(RUN as usize);
    let shared = kb.shared(KType::F32, blocking.runs() as u32);
    let own = (1..rows.len()).fold(rows[0], |row, m| run.equals(kb.dim(m)).select(rows[m], row));
    let scale = of(own);
    kb.when(kb.lane().modulo(RUN as usize).equals(kb.u32(0)), || shared.set(run, scale));
    kb.barrier();
    (0..rows.len()).map(|m| shared.get(kb.dim(m))).collect()
}

/// One workgroup per block of rows and block of outputs. Blocks of rows come first: what they read of the matrix is
/// still near.
pub(super) fn build(t: &Linear, name: &str, bounds: Bounds) -> Built {
    if tile::fits(t, bounds.of(t.rows)) {
        return tile::build(t, name, bounds);
    }
    let (rows, blocking) = (bounds.of(t.rows), Blocking::of(t, bounds.of(t.rows)));
    let (inputs, outputs) = (t.weight.cols, t.outputs());
    let kb = bounds.kernel(name, blocking.lanes);
    let x = Packs::declare(&kb, "x", t.x, rows, inputs);
    let norm = t.norm.map(|norm| NormWeight::declare(&kb, "norm", norm, inputs));
    let weight = Encoded::declare(&kb, "weight", t.weight);
    let extras = Extras::declare(&kb, &t.extras, rows, outputs);
    let y = Rows::declare(&kb, "y", t.y, rows, outputs);

    let first_row = kb.group(0).times(blocking.rows);
    when_row(&kb, t.rows, first_row, || {
        // Rows and outputs behind the last are computed from others and not stored.
        let row = |m: usize| first_row.plus(m).min(kb.dim(rows - 1));
        let x_rows: Vec<E<'_>> = (0..blocking.rows).map(row).collect();
        let first_output = blocking.first_output(&kb, kb.group(1));
        let weight_rows = blocking.weight_rows(&kb, first_output, outputs, t.weight.rows / outputs);
        let scales = norm.as_ref().map(|norm| inverse_rms_of(&kb, blocking, &x, &x_rows, norm.eps()));
        let input = |pack| {
            let values: Vec<Vec<E<'_>>> = x_rows.iter().map(|row| x.pack(*row, pack)).collect();
            match (&norm, &scales) {
                (Some(norm), Some(scales)) => norm.apply(&values, scales, pack),
                _ => values,
            }
        };
        let input = |pack| rounded(&kb, inputs, t.round, pack, &input);
        let sums = products(&kb, blocking.rows, &weight, &weight_rows, input);
        blocking.for_results(&kb, &sums, |m, n, values| {
            let (row, col) = (first_row + m, first_output + n);
            when_row(&kb, t.rows, row, || {
                kb.when(col.lt(kb.dim(outputs)), || {
                    y.store(row, col, extras.map(&t.epilogue, &values, row, col));
                });
            });
        });
    });
    let grid = [
        Groups::per_rows(1, t.rows, blocking.rows as u32),
        Groups::fixed(outputs.div_ceil(blocking.outputs_per_group())),
        single(),
    ];
    Built::whole(kb.finish(), grid)
}
