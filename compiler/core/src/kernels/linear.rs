//! `y = epilogue(norm(x) Wᵀ, extras)`.

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::builder::{E, Kb, V};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::{Encoded, Scales};
use swiftlm_ir::template::Linear;

use super::operand::{Extras, NormWeight, Packs, RUN, Rows, dot, inverse_rms, round_pack, sum_of_run};
use super::{Bounds, Built, single, when_row};

/// Where the [`RUN`] partial sums of an output live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partials {
    /// One in each lane of a run: few rows, where reading the matrix is the cost and lanes should read side by side.
    Lanes,
    /// All in one lane: many rows, where a decoded pack is used for several rows and activations are the same in all
    /// lanes.
    Registers,
}

/// How the rows and outputs of a matrix product are dealt to lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    pub(super) partials: Partials,
    /// Rows of a workgroup; each lane has them all.
    pub(super) rows: usize,
    /// Outputs of a run or lane.
    pub(super) outputs: usize,
    pub(super) lanes: u32,
}

impl Blocking {
    fn of(t: &Linear) -> Self {
        let weights_per_output = if t.pair { 2 } else { 1 };
        match t.class {
            ShapeClass::One => Self { partials: Partials::Lanes, rows: 1, outputs: 2, lanes: 64 },
            ShapeClass::Few => Self { partials: Partials::Lanes, rows: 4, outputs: 1, lanes: 64 },
            ShapeClass::Some | ShapeClass::Many => {
                Self { partials: Partials::Registers, rows: 4 / weights_per_output, outputs: 1, lanes: 32 }
            }
        }
    }

    /// Outputs of a workgroup.
    pub(super) fn outputs_per_group(self) -> usize {
        let runs = match self.partials {
            Partials::Lanes => self.lanes / RUN,
            Partials::Registers => self.lanes,
        };
        runs as usize * self.outputs
    }

    /// First output of this lane in block `block`.
    pub(super) fn first_output<'k>(self, kb: &'k Kb, block: E<'k>) -> E<'k> {
        let run = match self.partials {
            Partials::Lanes => kb.lane().over(RUN as usize),
            Partials::Registers => kb.lane(),
        };
        block.times(self.outputs_per_group()) + run.times(self.outputs)
    }

    /// Calls `store` for the results of this lane, each given as its row and output in the block and its accumulators.
    /// The lanes of a run share the results, so that an epilogue runs once for each.
    pub(super) fn for_results<'k>(
        self,
        kb: &'k Kb,
        sums: &[Vec<E<'k>>],
        mut store: impl FnMut(E<'k>, E<'k>, Vec<E<'k>>),
    ) {
        let per_output = sums[0].len() / self.outputs;
        let result = |i: usize, part: usize| sums[i / self.outputs][part * self.outputs + i % self.outputs];
        let count = self.rows * self.outputs;
        if self.partials == Partials::Registers {
            for i in 0..count {
                let values = (0..per_output).map(|part| result(i, part)).collect();
                store(kb.dim(i / self.outputs), kb.dim(i % self.outputs), values);
            }
            return;
        }
        let lane = kb.lane().modulo(RUN as usize);
        for first in (0..count).step_by(RUN as usize) {
            let own = (first..count.min(first + RUN as usize)).collect::<Vec<_>>();
            let pick = |part: usize| {
                own.iter().skip(1).fold(result(first, part), |value, i| {
                    lane.equals(kb.dim(i - first)).select(result(*i, part), value)
                })
            };
            let values: Vec<E<'k>> = (0..per_output).map(pick).collect();
            kb.when(lane.lt(kb.dim(own.len())), || {
                let i = lane.plus(first);
                store(i.over(self.outputs), i.modulo(self.outputs), values);
            });
        }
    }
}

/// `sums[m][n] = Σ x(m) · W[weight_rows[n]]`: `x(m, pack)` gives a pack of row `m`.
///
/// Partial sum `p` adds packs `p, p + RUN, …` in order; partial sums are combined by halving. That is the same tree
/// wherever they live.
pub(super) fn products<'k>(
    kb: &'k Kb,
    blocking: Blocking,
    weight: &Encoded<'k>,
    weight_rows: &[E<'k>],
    x: impl Fn(usize, E<'k>) -> Vec<E<'k>>,
) -> Vec<Vec<E<'k>>> {
    let (run, packs) = (RUN as usize, weight.packs());
    let own: Vec<E<'k>> = match blocking.partials {
        Partials::Lanes => vec![kb.lane().modulo(run)],
        Partials::Registers => (0..run.min(packs)).map(|p| kb.dim(p)).collect(),
    };
    let zeros = |n: usize| -> Vec<V<'k>> { (0..n).map(|_| kb.var(kb.f32(0.0))).collect() };
    // sums[p][m][n]
    let sums: Vec<Vec<Vec<V<'k>>>> =
        own.iter().map(|_| (0..blocking.rows).map(|_| zeros(weight_rows.len())).collect()).collect();
    // Whether some of them have no pack in the last round.
    let ragged = !packs.is_multiple_of(run) && (packs > run || blocking.partials == Partials::Lanes);
    kb.range(kb.u32(0), kb.dim(packs), RUN, |base| {
        let mut scales: Option<(usize, Vec<Scales<'k>>)> = None;
        for (p, mine) in own.iter().enumerate() {
            let pack = base + *mine;
            let mut add = || {
                // Scales are loaded once for the neighbours that share them, where control flow lets them be kept.
                let group = p / weight.packs_per_scale().min(run);
                let kept = scales.take().filter(|(of, _)| *of == group && !ragged);
                let (_, shared) = scales.insert(
                    kept.unwrap_or_else(|| (group, weight_rows.iter().map(|n| weight.scales(*n, pack)).collect())),
                );
                let decoded: Vec<Vec<E<'k>>> =
                    weight_rows.iter().zip(shared).map(|(n, s)| weight.pack_scaled(*n, pack, *s)).collect();
                for (m, sums) in sums[p].iter().enumerate() {
                    let x = x(m, pack);
                    for (sum, w) in sums.iter().zip(&decoded) {
                        sum.set(sum.get() + dot(&x, w));
                    }
                }
            };
            if ragged { kb.when(pack.lt(kb.dim(packs)), add) } else { add() }
        }
    });
    let total = |m: usize, n: usize| match blocking.partials {
        Partials::Lanes => sum_of_run(kb, sums[0][m][n].get()),
        Partials::Registers => halve(kb, sums.iter().map(|p| p[m][n].get()).collect()),
    };
    (0..blocking.rows).map(|m| (0..weight_rows.len()).map(|n| total(m, n)).collect()).collect()
}

/// The sum that a reduction of a run gives where the other lanes hold 0.
fn halve<'k>(kb: &'k Kb, mut values: Vec<E<'k>>) -> E<'k> {
    values.resize(RUN as usize, kb.f32(0.0));
    while values.len() > 1 {
        let upper = values.split_off(values.len() / 2);
        values = values.into_iter().zip(upper).map(|(a, b)| a + b).collect();
    }
    values[0]
}

/// One workgroup per block of rows and block of outputs. Blocks of rows come first: what they read of the matrix is
/// still near.
pub(super) fn build(t: &Linear, name: &str, bounds: Bounds) -> Built {
    let (rows, blocking) = (bounds.of(t.rows), Blocking::of(t));
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
        let output = |n: usize| first_output.plus(n).min(kb.dim(outputs - 1));
        let weight_rows: Vec<E<'_>> = (0..t.weight.rows / outputs)
            .flat_map(|part| (0..blocking.outputs).map(move |n| (part, n)))
            .map(|(part, n)| output(n).plus(part * outputs))
            .collect();
        let scales: Option<Vec<E<'_>>> = norm.as_ref().map(|norm| {
            x_rows.iter().map(|row| inverse_rms(&kb, inputs, norm.eps(), |pack| x.pack(*row, pack))).collect()
        });
        let input = |m: usize, pack| {
            let mut values = x.pack(x_rows[m], pack);
            if let (Some(norm), Some(scales)) = (&norm, &scales) {
                values = norm.apply(&values, scales[m], pack);
            }
            round_pack(values, t.round)
        };
        let sums = products(&kb, blocking, &weight, &weight_rows, input);
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
    Built { kernel: kb.finish(), grid }
}
