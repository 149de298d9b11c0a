//! A selective state space: `S ← e^(−e^a · Δ) S + Δ x Bᵀ`, `y = S C + d x`, token after token.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::Ssm;

use super::memory::{Row, VALUES, dot, softplus};
use super::operand::{Extras, RUN, Rows, vector};
use super::segment::{Segments, State};
use super::{Bounds, Built, single};

/// `x` between two bounds; one that every time step keeps costs nothing.
fn between<'k>(kb: &'k Kb, x: E<'k>, [least, most]: [f32; 2]) -> E<'k> {
    let x = if least > 0.0 { x.max(kb.f32(least)) } else { x };
    if most < f32::MAX { x.min(kb.f32(most)) } else { x }
}

/// One workgroup per segment and [`VALUES`] rows of S of a head.
pub(super) fn build(t: &Ssm, name: &str, bounds: Bounds) -> Built {
    let (tokens, keys, values) = (bounds.of(Sym::Tokens), t.groups * t.key, t.heads * t.value);
    let kb = bounds.kernel(name, RUN * VALUES as u32);
    let [c, b, x] = Rows::declare_views(&kb, "cbx", tokens, [(t.c, keys), (t.b, keys), (t.x, values)]);
    let steps = Rows::declare(&kb, "dt", t.dt, tokens, t.heads);
    let [a, shift, d] = [("a", 0), ("dt_bias", 1), ("d", 2)].map(|(name, i)| vector(&kb, name, t.weights[i], t.heads));
    let segments = Segments::declare(&kb, bounds);
    let state = State::declare(&kb, "memory", values * t.key);
    let extras = Extras::declare(&kb, &t.extras, tokens, values);
    let y = Rows::declare(&kb, "y", t.y, tokens, values);

    segments.when(kb.group(0), |segment| {
        let blocks = t.value.div_ceil(VALUES);
        let head = kb.group(1).over(blocks).min(kb.dim(t.heads - 1));
        let element = kb.group(1).modulo(blocks).times(VALUES) + kb.lane().over(RUN as usize);
        // Lanes of a run that has no row help to reduce another.
        let own = element.min(kb.dim(t.value - 1));
        let at = head.times(t.value) + own;
        let place = segments.place(&segment, state);
        let row = Row::new(&kb, t.key, |col| state.load(&kb, &segment, place + (at.times(t.key) + col)));
        let zero = kb.u32(0);
        let rate = -a.load(zero, head).exp();
        let (shift, through) = (shift.load(zero, head), d.load(zero, head));
        let first = head.over(t.heads / t.groups).times(t.key);
        kb.range(segment.first, segment.end, 1, |token| {
            let step = between(&kb, softplus(&kb, steps.load(token, head) + shift), t.bounds);
            let (decay, own) = ((rate * step).exp(), x.load(token, at));
            let taken = step * own;
            let inputs = row.part(b, token, first);
            for ((_, value), b) in row.held.iter().zip(inputs) {
                value.set(decay * value.get() + taken * b);
            }
            let answer = dot(&kb, &row.values(), &row.part(c, token, first)) + through * own;
            let leads = kb.lane().modulo(RUN as usize).equals(zero) & element.lt(kb.dim(t.value));
            kb.when(leads, || y.store(token, at, extras.map(&t.epilogue, &[answer], token, at)));
        });
        kb.when(element.lt(kb.dim(t.value)), || row.store(state, |col| place + (at.times(t.key) + col)));
    });
    let groups = Groups::fixed(t.heads * t.value.div_ceil(VALUES));
    Built::whole(kb.finish(), [Segments::groups(), groups, single()])
}
