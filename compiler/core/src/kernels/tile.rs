//! Products of many rows: a workgroup decodes a piece of the matrix once for all of its rows, and keeps it beside a piece
//! of the rows in shared memory; a lane adds up a block of results.
//!
//! A lane makes the partial sums of its results one after another ([`deal`](super::deal)) and adds each to those before it.
//!
//! For a piece of 32 columns a lane does 32 · 32 multiplications with 96 vectors from shared memory; a workgroup reads
//! 64 · 32 inputs and as many codes. So the matrix is read once for 64 rows, and inputs once for 64 of its rows.

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::KType;
use swiftlm_ir::kernel::builder::{E, Kb, S, V};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::{Encoded, pack_width};
use swiftlm_ir::template::Linear;

use super::deal::Deal;
use super::operand::{Extras, Packs, Rows, dot};
use super::round::rounded;
use super::{Bounds, Built, single, when_row};

const LANES: usize = 128;
/// Rows of a workgroup, and rows of the matrix.
const SIDE: usize = 64;
/// Lanes side by side along the matrix's rows.
const ACROSS: usize = 16;
/// Lanes side by side along rows.
const DOWN: usize = LANES / ACROSS;
/// Packs of a piece.
const PACKS: usize = 4;
/// Columns of a pack.
const WIDTH: usize = 8;
/// Vectors of 4 of a pack.
const VECTORS: usize = WIDTH / 4;

/// Whether a product of at most `bound` rows is made so: rows enough to share what is decoded, and whole packs.
pub(super) fn fits(t: &Linear, bound: usize) -> bool {
    t.class == ShapeClass::Many && bound >= SIDE && t.norm.is_none() && pack_width(t.weight.cols) == WIDTH
}

/// The two pieces in shared memory, vector by vector: 64 of the rows, then 64 of the matrix.
struct Pieces<'k> {
    kb: &'k Kb,
    memory: S<'k>,
}

impl<'k> Pieces<'k> {
    fn place(which: usize, pack: E<'k>, vector: usize, row: E<'k>) -> E<'k> {
        pack.times(VECTORS).plus(which * PACKS * VECTORS + vector).times(SIDE) + row
    }

    /// Lanes write the packs of one piece: neighbours take packs of one row.
    fn fill(&self, which: usize, pack: impl Fn(E<'k>, E<'k>) -> Vec<E<'k>>) {
        self.kb.for_lanes(SIDE * PACKS, |item| {
            let (own, row) = (item.modulo(PACKS), item.over(PACKS));
            for (vector, value) in pack(row, own).into_iter().enumerate() {
                self.memory.set(Self::place(which, own, vector, row), value);
            }
        });
    }

    /// The pack of a row.
    fn pack(&self, which: usize, pack: E<'k>, row: E<'k>) -> Vec<E<'k>> {
        (0..VECTORS).map(|vector| self.memory.get(Self::place(which, pack, vector, row))).collect()
    }
}

/// A lane's results, by row and output: the partial sum that is being made, and those before it added up.
struct Block<'k> {
    results: Vec<Vec<[V<'k>; 2]>>,
}

impl<'k> Block<'k> {
    fn new(kb: &'k Kb) -> Self {
        let row = || (0..SIDE / ACROSS).map(|_| [0; 2].map(|_| kb.var(kb.f32(0.0)))).collect();
        Self { results: (0..SIDE / DOWN).map(|_| row()).collect() }
    }

    /// Adds the partial sums to those before them and begins the next.
    fn next_part(&self, kb: &'k Kb) {
        for [part, sum] in self.results.iter().flatten() {
            sum.set(sum.get() + part.get());
            part.set(kb.f32(0.0));
        }
    }
}

/// One workgroup per 64 rows and 64 rows of the matrix.
pub(super) fn build(t: &Linear, name: &str, bounds: Bounds) -> Built {
    let (rows, inputs, outputs) = (bounds.of(t.rows), t.weight.cols, t.outputs());
    let parts = t.weight.rows / outputs;
    let outputs_per_group = SIDE / parts;
    let kb = bounds.kernel(name, LANES as u32);
    let x = Packs::declare(&kb, "x", t.x, rows, inputs);
    let weight = Encoded::declare(&kb, "weight", t.weight);
    let extras = Extras::declare(&kb, &t.extras, rows, outputs);
    let y = Rows::declare(&kb, "y", t.y, rows, outputs);

    let pieces = Pieces { kb: &kb, memory: kb.shared(KType::F32X4, (2 * SIDE * PACKS * VECTORS) as u32) };
    let first_row = kb.group(0).times(SIDE);
    let first_output = kb.group(1).times(outputs_per_group);
    when_row(&kb, t.rows, first_row, || {
        let (across, down) = (kb.lane().modulo(ACROSS), kb.lane().over(ACROSS));
        let block = Block::new(&kb);
        // Rows and outputs behind the last are computed from others and not stored.
        let x_pack = |row, pack| {
            let row = (first_row + row).min(kb.dim(rows - 1));
            rounded(&kb, inputs, t.round, pack, &|pack| vec![x.pack(row, pack)]).swap_remove(0)
        };
        let w_pack = |row, pack| {
            let output = (first_output + E::modulo(row, outputs_per_group)).min(kb.dim(outputs - 1));
            weight.pack(row.over(outputs_per_group).times(outputs) + output, pack)
        };
        let Deal { packs, parts: sums } = Deal::of(inputs);
        kb.range(kb.u32(0), kb.dim(sums), 1, |part| {
            kb.range(part, kb.dim(packs), (PACKS * sums) as u32, |own| {
                let pack = |i| own + E::times(i, sums);
                let inside = |i| pack(i).min(kb.dim(packs - 1));
                kb.barrier();
                pieces.fill(0, |row, i| x_pack(row, inside(i)));
                pieces.fill(1, |row, i| w_pack(row, inside(i)));
                kb.barrier();
                kb.range(kb.u32(0), kb.dim(PACKS), 1, |i| {
                    let add = || {
                        let of_rows: Vec<Vec<E<'_>>> =
                            (0..SIDE / DOWN).map(|m| pieces.pack(0, i, down.plus(m * DOWN))).collect();
                        for n in 0..SIDE / ACROSS {
                            let w = pieces.pack(1, i, across.plus(n * ACROSS));
                            for (results, x) in block.results.iter().zip(&of_rows) {
                                let [part, _] = results[n];
                                part.set(part.get() + dot(x, &w));
                            }
                        }
                    };
                    if packs.is_multiple_of(PACKS * sums) { add() } else { kb.when(pack(i).lt(kb.dim(packs)), add) }
                });
            });
            block.next_part(&kb);
        });
        for (m, results) in block.results.iter().enumerate() {
            let row = first_row + down.plus(m * DOWN);
            when_row(&kb, t.rows, row, || {
                let count = results.len() / parts;
                for n in 0..count {
                    let col = first_output + across.plus(n * ACROSS);
                    let values: Vec<E<'_>> = (0..parts).map(|part| results[part * count + n][1].get()).collect();
                    kb.when(col.lt(kb.dim(outputs)), || {
                        y.store(row, col, extras.map(&t.epilogue, &values, row, col));
                    });
                }
            });
        }
    });
    let grid = [Groups::per_rows(1, t.rows, SIDE as u32), Groups::fixed(outputs.div_ceil(outputs_per_group)), single()];
    Built::whole(kb.finish(), grid)
}
