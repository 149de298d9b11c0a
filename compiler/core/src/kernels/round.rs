//! Declared rounding of a product's input, where it is loaded.

use swiftlm_ir::kernel::builder::{E, Kb, V};
use swiftlm_ir::quant::Float;
use swiftlm_ir::quant::decode::{pack_width, word_of, word_values};
use swiftlm_ir::rounding::{LEAST_MAGNITUDE, Rounding};
use swiftlm_ir::ty::DType;

use super::operand::vectors;

/// Adding and subtracting this rounds a number of magnitude below 2²² to a whole one, halves to even.
const SHIFT: f32 = 12_582_912.0;

/// Pack `pack` of some rows of `width` columns, rounded as declared; `packs` gives a pack of each row as it is.
///
/// A group's scale is found anew for each of its packs: lanes share nothing, so the result depends on the row only.
pub(super) fn rounded<'k>(
    kb: &'k Kb,
    width: usize,
    to: Option<Rounding>,
    pack: E<'k>,
    packs: &dyn Fn(E<'k>) -> Vec<Vec<E<'k>>>,
) -> Vec<Vec<E<'k>>> {
    let (steps, group) = match to {
        None => return packs(pack),
        Some(Rounding::F16) => {
            return packs(pack).iter().map(|row| each(row, |x| x.round(DType::F16))).collect();
        }
        Some(Rounding::Bf16 { terms }) => {
            return packs(pack).iter().map(|row| each(row, |x| bf16(kb, x, terms))).collect();
        }
        Some(Rounding::Int { bits, group }) => (Rounding::largest(bits), group as usize),
    };
    let per = group / pack_width(width);
    let first = pack.over(per).times(per);
    let values = packs(pack);
    let largest: Vec<V<'k>> = values.iter().map(|_| kb.var(kb.f32(LEAST_MAGNITUDE))).collect();
    kb.range(first, first.plus(per), 1, |other| {
        for (row, largest) in packs(other).iter().zip(&largest) {
            let magnitude = scalars(row).fold(largest.get(), |max, x| max.max(x.abs()));
            largest.set(magnitude);
        }
    });
    let round = |(row, largest): (&Vec<E<'k>>, &V<'k>)| {
        let (scale, inverse) = (largest.get() / kb.f32(steps), kb.f32(steps) / largest.get());
        each(row, |x| ((x * inverse + kb.f32(SHIFT)) - kb.f32(SHIFT)) * scale)
    };
    values.iter().zip(&largest).map(round).collect()
}

/// The sum of so many bfloat16 that is nearest to `x` term by term.
fn bf16<'k>(kb: &'k Kb, x: E<'k>, terms: u8) -> E<'k> {
    let nearest = |x: E<'k>| word_values(kb, Float::Bf16, word_of(kb, Float::Bf16, &[x, kb.f32(0.0)]))[0];
    (1..terms).fold(nearest(x), |sum, _| sum + nearest(x - sum))
}

fn scalars<'k>(row: &[E<'k>]) -> impl Iterator<Item = E<'k>> {
    row.iter().flat_map(|v| (0..v.ty().width).map(|i| v.extract(i)))
}

fn each<'k>(row: &[E<'k>], f: impl Fn(E<'k>) -> E<'k>) -> Vec<E<'k>> {
    vectors(scalars(row).map(f).collect())
}
