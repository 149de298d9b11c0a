//! How the columns of a product are dealt to the partial sums of a result, and how these meet.
//!
//! A result's order of sums depends on the matrix only, never on how rows and outputs are blocked: partial sum `p` of `n`
//! adds the packs `p, p + n, …` in order, and partial sums are added in their order. Lanes side by side make one each where
//! few rows are multiplied, so that they read what lies side by side; one lane makes one after another where rows are many.

use swiftlm_ir::kernel::KType;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::quant::decode::pack_width;

/// Partial sums of a result: at least, and at most.
const PARTS: [usize; 2] = [8, 32];
/// Packs of a partial sum where there are enough.
const EACH: usize = 4;
/// Rows whose results meet at once: shared memory is short.
const ROWS_AT_ONCE: usize = 4;
/// Partial sums that are read in one go.
const READ_AT_ONCE: usize = 8;

/// How packs are dealt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deal {
    /// Packs of a row.
    pub(super) packs: usize,
    /// Partial sums, a power of two.
    pub(super) parts: usize,
}

impl Deal {
    /// For rows of so many columns.
    pub(super) fn of(cols: usize) -> Self {
        let packs = cols / pack_width(cols);
        let [least, most] = PARTS;
        let fits = |parts: &usize| parts * EACH <= packs;
        let parts =
            std::iter::successors(Some(most), |parts| Some(parts / 2)).take_while(|parts| *parts > least).find(fits);
        Self { packs, parts: parts.unwrap_or(least) }
    }

    /// Adds up what the lanes of a workgroup hold, and calls `store` for every result, given as its row, its output in the
    /// block and its accumulators, once and in one lane.
    ///
    /// Lanes are runs of [`Self::parts`], and `sums[row]` are a lane's partial sums: of `outputs` outputs, then of the same
    /// outputs' other parts (gate, up). All lanes of the workgroup arrive.
    pub(super) fn meet<'k>(
        self,
        kb: &'k Kb,
        outputs: usize,
        sums: &[Vec<E<'k>>],
        mut store: impl FnMut(E<'k>, E<'k>, Vec<E<'k>>),
    ) {
        let (runs, each, count) = (kb.lanes() as usize / self.parts, sums[0].len(), sums.len().min(ROWS_AT_ONCE));
        // An odd distance from partial sum to partial sum keeps neighbours in different banks.
        let results = count * each;
        let apart = (runs * results) | 1;
        let shared = kb.shared(KType::F32, ((self.parts - 1) * apart + runs * results) as u32);
        let lane = kb.lane();
        let own = lane.modulo(self.parts).times(apart) + lane.over(self.parts).times(results);
        for (block, rows) in sums.chunks(count).enumerate() {
            if block > 0 {
                kb.barrier();
            }
            for (i, sum) in rows.iter().flatten().enumerate() {
                shared.set(own.plus(i), *sum);
            }
            kb.barrier();
            kb.for_lanes(runs * rows.len() * outputs, |i| {
                let (m, n) = (i.over(runs * outputs), i.modulo(runs * outputs));
                let at = n.over(outputs).times(results) + m.times(each) + n.modulo(outputs);
                let accumulator = |of: usize| {
                    let sum = kb.var(kb.f32(0.0));
                    kb.range(kb.u32(0), kb.dim(self.parts), READ_AT_ONCE as u32, |part| {
                        let first = part.times(apart) + at.plus(of * outputs);
                        let read: Vec<E<'k>> = (0..READ_AT_ONCE).map(|i| shared.get(first.plus(i * apart))).collect();
                        read.into_iter().for_each(|part| sum.set(sum.get() + part));
                    });
                    sum.get()
                };
                let accumulators = (0..each / outputs).map(accumulator).collect();
                store(m.plus(block * count), n, accumulators);
            });
        }
    }
}
