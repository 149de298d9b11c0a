//! `y = argmax(x)` of each row, ties to the lowest index. NaN is below every number; a row of NaN gives 0.
//!
//! Rows are as wide as a vocabulary, so workgroups share one, and a second kernel compares what they found.

use swiftlm_ir::kernel::builder::{A, E, Kb};
use swiftlm_ir::kernel::{Access, KType};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::ArgMax;

use super::operand::{Rows, ids, order_key};
use super::{Bounds, Built, single, when_row};

const LANES: u32 = 128;
/// Columns of a workgroup.
const BLOCK: usize = 2048;
/// Of the launch's arguments the result; behind it is what workgroups found.
const Y: usize = 1;
const FOUND: usize = 2;

/// Blocks of a row.
fn blocks(t: &ArgMax) -> usize {
    t.dim.div_ceil(BLOCK)
}

/// What workgroups found: a key and an index of each block of each row.
fn found<'k>(kb: &'k Kb, t: &ArgMax, rows: usize) -> A<'k> {
    ids(kb, "found", Access::ReadWrite, 2 * rows * blocks(t))
}

/// Bytes of what workgroups found, where several share a row.
pub(super) fn scratch_bytes(t: &ArgMax, bounds: Bounds) -> usize {
    if blocks(t) == 1 { 0 } else { 8 * bounds.of(t.rows) * blocks(t) }
}

/// The kernels.
pub(super) fn build(t: &ArgMax, name: &str, bounds: Bounds) -> Vec<Built> {
    match blocks(t) {
        1 => vec![search(t, name, bounds)],
        _ => vec![search(t, name, bounds), compare(t, &format!("{name}_merge"), bounds)],
    }
}

/// One workgroup per row and block of columns.
fn search(t: &ArgMax, name: &str, bounds: Bounds) -> Built {
    let (rows, blocks) = (bounds.of(t.rows), blocks(t));
    let kb = bounds.kernel(name, LANES);
    let x = Rows::declare(&kb, "x", t.x, rows, t.dim);
    let out = if blocks == 1 { ids(&kb, "y", Access::ReadWrite, rows) } else { found(&kb, t, rows) };
    let (row, block) = (kb.group(0), kb.group(1));
    when_row(&kb, t.rows, row, || {
        kb.when(block.lt(kb.dim(blocks)), || {
            let x = |i| {
                // Of the last block the last column stands for those behind it.
                let col = (block.times(BLOCK) + i).min(kb.dim(t.dim - 1));
                (order_key(&kb, x.load(row, col)), col)
            };
            best(&kb, BLOCK.min(t.dim), x, |key, index| match blocks {
                1 => out.store(row, index),
                _ => {
                    let at = (row.times(blocks) + block).times(2);
                    out.store(at, key);
                    out.store(at.plus(1), index);
                }
            });
        });
    });
    let args = vec![0, if blocks == 1 { Y } else { FOUND }];
    Built { kernel: kb.finish(), args, grid: [Groups::per_rows(1, t.rows, 1), Groups::fixed(blocks), single()] }
}

/// Compares what was found in the blocks of a row: one workgroup per row.
fn compare(t: &ArgMax, name: &str, bounds: Bounds) -> Built {
    let (rows, blocks) = (bounds.of(t.rows), blocks(t));
    let kb = bounds.kernel(name, LANES);
    let y = ids(&kb, "y", Access::ReadWrite, rows);
    let found = found(&kb, t, rows);
    let row = kb.group(0);
    when_row(&kb, t.rows, row, || {
        let of_block = |block| {
            let at = (row.times(blocks) + block).times(2);
            (found.load(at), found.load(at.plus(1)))
        };
        best(&kb, blocks, of_block, |_, index| y.store(row, index));
    });
    Built { kernel: kb.finish(), args: vec![Y, FOUND], grid: [Groups::per_rows(1, t.rows, 1), single(), single()] }
}

/// Gives `put` the largest key of `count` candidates and the least index that has it, in one lane. All lanes of the
/// workgroup arrive.
fn best<'k>(kb: &'k Kb, count: usize, candidate: impl Fn(E<'k>) -> (E<'k>, E<'k>), put: impl FnOnce(E<'k>, E<'k>)) {
    let (keys, indices) = (kb.shared(KType::U32, LANES), kb.shared(KType::U32, LANES));
    let (best, best_index) = (kb.var(kb.u32(0)), kb.var(kb.u32(0)));
    kb.for_lanes(count, |i| {
        let (key, index) = candidate(i);
        kb.when(best.get().lt(key), || {
            best.set(key);
            best_index.set(index);
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
    kb.when(lane.equals(kb.u32(0)), || put(keys.get(kb.u32(0)), indices.get(kb.u32(0))));
}
