//! The rotation that goes before quantisation, of heads that lie in shared memory: see
//! [`rotation`](swiftlm_ir::quant::rotation).

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::KType;
use swiftlm_ir::kernel::builder::{E, Kb, S};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::rotation::{ROUNDS, flips, hartley, parts};
use swiftlm_ir::template::Rotate;

use super::operand::Rows;
use super::rope::{HEADS, LANES, head_blocks};
use super::{Bounds, Built, single, when_row};

/// Most stages of a transform between two barriers.
const STAGES: u32 = 3;

/// Heads of a workgroup in shared memory, one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turning<'k> {
    kb: &'k Kb,
    heads: S<'k>,
    count: usize,
    dim: usize,
}

impl<'k> Turning<'k> {
    /// Room for `count` heads.
    pub(super) fn declare(kb: &'k Kb, count: usize, dim: usize) -> Self {
        Self { kb, heads: kb.shared(KType::F32, (count * dim) as u32), count, dim }
    }

    /// Element `d` of head `head`.
    pub(super) fn get(&self, head: E<'k>, d: E<'k>) -> E<'k> {
        self.heads.get(head.times(self.dim) + d)
    }

    /// Writes element `d` of head `head`.
    pub(super) fn set(&self, head: E<'k>, d: E<'k>, value: E<'k>) {
        self.heads.set(head.times(self.dim) + d, value);
    }

    /// Rotates all heads, or back, once every lane has written its elements. All lanes arrive.
    pub(super) fn rotate(&self, inverse: bool) {
        self.kb.barrier();
        for i in 0..ROUNDS {
            if inverse {
                self.transform();
                self.flip(ROUNDS - 1 - i);
            } else {
                self.flip(i);
                self.transform();
            }
        }
    }

    /// The signs of a round, with the factor that keeps lengths.
    fn flip(&self, round: u32) {
        let (kb, dim) = (self.kb, self.dim);
        let (_, power) = self.parts();
        let word = |w: usize| (0..32).filter(|b| flips(round, 32 * w + b)).fold(0u32, |word, b| word | 1 << b);
        let factor = kb.f32(1.0 / (power as f32).sqrt());
        kb.for_lanes(self.count * dim, |i| {
            let d = i.modulo(dim);
            let first = kb.u32(word(0));
            let signs = (1..dim.div_ceil(32))
                .fold(first, |found, w| d.over(32).equals(kb.dim(w)).select(kb.u32(word(w)), found));
            let negative = ((signs >> d.modulo(32)) & kb.u32(1)).equals(kb.u32(1));
            self.heads.set(i, self.heads.get(i) * negative.select(-factor, factor));
        });
        kb.barrier();
    }

    fn parts(&self) -> (usize, usize) {
        parts(self.dim).expect("verified templates have sizes that rotate")
    }

    fn transform(&self) {
        let (kb, (odd, power)) = (self.kb, self.parts());
        let mut half = 1;
        while half < power {
            // Several stages of pairs between two barriers: a lane takes all that meet in them.
            let stages = (power / half).ilog2().min(STAGES);
            let points = 1 << stages;
            kb.for_lanes(self.count * self.dim / points, |i| {
                let first = i.over(half).times(points * half) + i.modulo(half);
                let mut x: Vec<E<'k>> = (0..points).map(|j| self.heads.get(first.plus(j * half))).collect();
                for distance in (0..stages).map(|stage| 1 << stage) {
                    for j in (0..points).filter(|j| j & distance == 0) {
                        (x[j], x[j + distance]) = (x[j] + x[j + distance], x[j] - x[j + distance]);
                    }
                }
                x.iter().enumerate().for_each(|(j, x)| self.heads.set(first.plus(j * half), *x));
            });
            kb.barrier();
            half *= points;
        }
        if odd > 1 {
            kb.for_lanes(self.count * power, |i| {
                let first = i.over(power).times(self.dim) + i.modulo(power);
                let column: Vec<E<'k>> = (0..odd).map(|a| self.heads.get(first.plus(a * power))).collect();
                for a in 0..odd {
                    let parts = column.iter().enumerate().map(|(c, x)| *x * kb.f32(hartley(odd, a, c)));
                    if let Some(sum) = parts.reduce(|a, b| a + b) {
                        self.heads.set(first.plus(a * power), sum);
                    }
                }
            });
            kb.barrier();
        }
    }
}

/// One workgroup per token and [`HEADS`] heads.
pub(super) fn build(t: &Rotate, name: &str, bounds: Bounds) -> Built {
    let (tokens, width) = (bounds.of(Sym::Tokens), t.heads * t.dim);
    let kb = bounds.kernel(name, LANES);
    let x = Rows::declare(&kb, "x", t.x, tokens, width);
    let y = Rows::declare(&kb, "y", t.y, tokens, width);
    let turning = Turning::declare(&kb, HEADS, t.dim);
    let (token, first) = (kb.group(0), kb.group(1).times(HEADS * t.dim));
    let last = kb.dim(width - 1);
    when_row(&kb, Sym::Tokens, token, || {
        // Elements behind the last head are the last one's again.
        kb.for_lanes(HEADS * t.dim, |i| turning.heads.set(i, x.load(token, (first + i).min(last))));
        turning.rotate(t.inverse);
        kb.for_lanes(HEADS * t.dim, |i| {
            kb.when((first + i).lt(kb.dim(width)), || y.store(token, (first + i).min(last), turning.heads.get(i)));
        });
    });
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(head_blocks(t.heads)), single()];
    Built::whole(kb.finish(), grid)
}
