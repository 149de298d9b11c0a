//! `y = epilogue(norm(x) Wᵀ, extras)`.

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::KType;
use swiftlm_ir::kernel::builder::{E, Kb, S, V};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::{Encoded, pack_width};
use swiftlm_ir::template::Linear;

use super::deal::Deal;
use super::operand::{Extras, NormWeight, Packs, Rows, dot, inverse_rms, run_of};
use super::round::rounded;
use super::{Bounds, Built, single, tile, when_row};

/// Lanes of a workgroup.
pub(super) const LANES: u32 = 128;
/// Rows of a matrix from which on there are enough for all of a device's lanes.
const MANY_OUTPUTS: usize = 8192;

/// Columns of a row that shared memory has room for beside partial sums: 12 of 16 KiB.
const LONGEST_KEPT: usize = 3072;

/// How the rows and outputs of a matrix product are dealt to workgroups. Each run of lanes has all rows and some outputs
/// of its workgroup, so that a decoded pack serves several rows and a pack of a row several outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    /// Rows of a workgroup.
    pub(super) rows: usize,
    /// Outputs of a run.
    pub(super) outputs: usize,
    /// How a run's lanes share columns.
    pub(super) deal: Deal,
}

impl Blocking {
    /// Of at most `bound` rows of so many outputs, each of `parts` rows of a matrix of `cols` columns: a row that no step
    /// has cannot be proven to stay inside.
    pub(super) fn of(class: ShapeClass, bound: usize, outputs: usize, parts: usize, cols: usize) -> Self {
        let (rows, each) = match class {
            ShapeClass::One => (1, outputs_of_one(outputs, parts)),
            ShapeClass::Few => (4, 4 / parts),
            ShapeClass::Some | ShapeClass::Many => (8, 4 / parts),
        };
        Self { rows: rows.min(bound), outputs: each, deal: Deal::of(cols) }
    }

    fn runs(self) -> usize {
        LANES as usize / self.deal.parts
    }

    /// Outputs of a workgroup.
    pub(super) fn outputs_per_group(self) -> usize {
        self.runs() * self.outputs
    }

    /// First output of block `block`.
    pub(super) fn first_output<'k>(self, block: E<'k>) -> E<'k> {
        block.times(self.outputs_per_group())
    }

    /// Rows of the matrix behind this run's outputs of block `block`, of `count` outputs in all: for each part (gate, up) of
    /// `parts`, the outputs of the run. Outputs behind the last are computed from it and not stored.
    pub(super) fn weight_rows<'k>(self, kb: &'k Kb, block: E<'k>, count: usize, parts: usize) -> Vec<E<'k>> {
        let first = self.first_output(block) + kb.lane().over(self.deal.parts).times(self.outputs);
        let outputs: Vec<E<'k>> = (0..self.outputs).map(|n| first.plus(n).min(kb.dim(count - 1))).collect();
        (0..parts).flat_map(|part| outputs.iter().map(move |n| n.plus(part * count))).collect()
    }

    /// `Σ x[m] · W[weight_rows[n]]`: `x(pack)` gives a pack of each row, `store` takes a result's row and output in the block
    /// and its accumulators. All lanes of a workgroup arrive.
    pub(super) fn products<'k>(
        self,
        kb: &'k Kb,
        weight: &Encoded<'k>,
        weight_rows: &[E<'k>],
        x: impl Fn(E<'k>) -> Vec<Vec<E<'k>>>,
        store: impl FnMut(E<'k>, E<'k>, Vec<E<'k>>),
    ) {
        let zeros = || -> Vec<V<'k>> { weight_rows.iter().map(|_| kb.var(kb.f32(0.0))).collect() };
        let sums: Vec<Vec<V<'k>>> = (0..self.rows).map(|_| zeros()).collect();
        let Deal { packs, parts } = self.deal;
        let lane = kb.lane().modulo(parts);
        let add = |pack| {
            let x = x(pack);
            for (n, row) in weight_rows.iter().enumerate() {
                let w = weight.pack(*row, pack);
                for (sums, x) in sums.iter().zip(&x) {
                    sums[n].set(sums[n].get() + dot(x, &w));
                }
            }
        };
        match [4, 2].into_iter().map(|n| n * parts).find(|block| packs.is_multiple_of(*block)) {
            // Several packs are asked for before one is used.
            Some(block) => kb.range(kb.u32(0), kb.dim(packs / block), 1, |own| {
                (0..block).step_by(parts).for_each(|first| add(own.times(block).plus(first) + lane));
            }),
            None => kb.range(lane, kb.dim(packs), parts as u32, add),
        }
        let sums: Vec<Vec<E<'k>>> = sums.iter().map(|row| row.iter().map(|sum| sum.get()).collect()).collect();
        self.deal.meet(kb, self.outputs, &sums, store);
    }
}

/// Outputs of a run that multiplies one row: one where outputs are few, so that enough lanes ask for the matrix at once.
fn outputs_of_one(outputs: usize, parts: usize) -> usize {
    if outputs * parts >= MANY_OUTPUTS { 4 / parts } else { 1 }
}

/// A row in shared memory: the first vectors of all its packs, then the second ones, so that lanes side by side read what
/// lies side by side.
struct KeptRow<'k> {
    memory: S<'k>,
    packs: usize,
    vectors: usize,
}

impl<'k> KeptRow<'k> {
    /// A row of `width` columns, if it is not too long and its packs are of vectors; `pack` makes one. All lanes of a
    /// workgroup arrive.
    fn fill(kb: &'k Kb, width: usize, pack: impl Fn(E<'k>) -> Vec<E<'k>>) -> Option<Self> {
        let (packs, vectors) = (width / pack_width(width), pack_width(width) / 4);
        if vectors == 0 || width > LONGEST_KEPT {
            return None;
        }
        let row = Self { memory: kb.shared(KType::F32X4, (packs * vectors) as u32), packs, vectors };
        kb.for_lanes(packs, |at| {
            for (vector, value) in pack(at).into_iter().enumerate() {
                row.memory.set(at.plus(vector * packs), value);
            }
        });
        kb.barrier();
        Some(row)
    }

    fn pack(&self, pack: E<'k>) -> Vec<E<'k>> {
        (0..self.vectors).map(|vector| self.memory.get(pack.plus(vector * self.packs))).collect()
    }
}

/// `1 / rms` of each of a workgroup's rows. The runs share the rows where there are several.
fn inverse_rms_of<'k>(kb: &'k Kb, x: &Packs<'k>, rows: &[E<'k>], eps: f64) -> Vec<E<'k>> {
    let width = run_of(x.width);
    let of = |row: E<'k>| inverse_rms(kb, width, x.width, eps, |pack| x.pack(row, pack));
    if let [row] = rows {
        return vec![of(*row)];
    }
    let (run, runs) = (kb.lane().over(width as usize), (kb.lanes() / width) as usize);
    let shared = kb.shared(KType::F32, rows.len().next_multiple_of(runs) as u32);
    for (block, rows) in rows.chunks(runs).enumerate() {
        let own = (1..rows.len()).fold(rows[0], |row, m| run.equals(kb.dim(m)).select(rows[m], row));
        let scale = of(own);
        kb.when(kb.lane().modulo(width as usize).equals(kb.u32(0)), || shared.set(run.plus(block * runs), scale));
    }
    kb.barrier();
    (0..rows.len()).map(|m| shared.get(kb.dim(m))).collect()
}

/// One workgroup per block of rows and block of outputs. Blocks of rows come first: what they read of the matrix is
/// still near.
pub(super) fn build(t: &Linear, name: &str, bounds: Bounds) -> Built {
    if tile::fits(t, bounds.of(t.rows)) {
        return tile::build(t, name, bounds);
    }
    let (rows, inputs, outputs) = (bounds.of(t.rows), t.weight.cols, t.outputs());
    let parts = t.weight.rows / outputs;
    let blocking = Blocking::of(t.class, rows, outputs, parts, inputs);
    let kb = bounds.kernel(name, LANES);
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
        let weight_rows = blocking.weight_rows(&kb, kb.group(1), outputs, parts);
        let scales = norm.as_ref().map(|norm| inverse_rms_of(&kb, &x, &x_rows, norm.eps()));
        let computed = |pack| {
            let values: Vec<Vec<E<'_>>> = x_rows.iter().map(|row| x.pack(*row, pack)).collect();
            match (&norm, &scales) {
                (Some(norm), Some(scales)) => norm.apply(&values, scales, pack),
                _ => values,
            }
        };
        // Every run reads all of a row: a normalised one is made once for all of them.
        let kept = (norm.is_some() && blocking.rows == 1)
            .then(|| KeptRow::fill(&kb, inputs, |pack| computed(pack).swap_remove(0)));
        let kept = kept.flatten();
        let input = |pack| kept.as_ref().map_or_else(|| computed(pack), |kept| vec![kept.pack(pack)]);
        let input = |pack| rounded(&kb, inputs, t.round, pack, &input);
        let first_output = blocking.first_output(kb.group(1));
        blocking.products(&kb, &weight, &weight_rows, input, |m, n, values| {
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
