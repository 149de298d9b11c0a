//! The gated delta rule: `S ← α S (I − β k kᵀ) + β v kᵀ`, `y = scale · S q`, token after token.
//!
//! A row of S, the part that makes one element of a value, needs no other: a run of lanes holds it in registers over all
//! tokens of a segment, reads it where the segment begins and writes it where it ends. With `e = β (v − α S k)` a row
//! becomes `α S + e kᵀ`, and answers `α S q + e (k · q)`: all sums of a token are over what is there when it comes.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::Delta;

use super::memory::{Row, VALUES, dot, softplus};
use super::operand::{RUN, Rows, vector};
use super::segment::{Segments, State};
use super::{Bounds, Built, single};

/// `1 / √(Σ x² + eps)` of a vector that a run of lanes holds, where it is to be normalised.
fn inverse_norm<'k>(kb: &'k Kb, eps: Option<f64>, x: &[E<'k>]) -> Option<E<'k>> {
    eps.map(|eps| (dot(kb, x, x) + kb.f32(eps as f32)).rsqrt())
}

/// One workgroup per segment and [`VALUES`] rows of S of a head.
pub(super) fn build(t: &Delta, name: &str, bounds: Bounds) -> Built {
    let (tokens, keys, values) = (bounds.of(Sym::Tokens), t.key_heads * t.key, t.heads * t.value);
    let kb = bounds.kernel(name, RUN * VALUES as u32);
    let [q, k, v] = Rows::declare_views(&kb, "qkv", tokens, [(t.q, keys), (t.k, keys), (t.v, values)]);
    let decay = Rows::declare(&kb, "alpha", t.alpha, tokens, t.heads);
    let write = Rows::declare(&kb, "beta", t.beta, tokens, t.heads);
    let [a, b] = [("decay_a", 0), ("decay_b", 1)].map(|(name, i)| vector(&kb, name, t.decay[i], t.heads));
    let segments = Segments::declare(&kb, bounds);
    let state = State::declare(&kb, "memory", values * t.key);
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
        let shift = b.load(zero, head);
        let first = head.over(t.heads / t.key_heads).times(t.key);
        kb.range(segment.first, segment.end, 1, |token| {
            let alpha = (rate * softplus(&kb, decay.load(token, head) + shift)).exp();
            let beta = write.load(token, head).sigmoid();
            let (queries, keys, old) = (row.part(q, token, first), row.part(k, token, first), row.values());
            let (q_norm, k_norm) = (inverse_norm(&kb, t.norm, &queries), inverse_norm(&kb, t.norm, &keys));
            let scaled = |x, norm: Option<_>| norm.map_or(x, |norm| x * norm);
            let known = scaled(alpha * dot(&kb, &old, &keys), k_norm);
            let error = scaled(beta * (v.load(token, at) - known), k_norm);
            let answer = alpha * dot(&kb, &old, &queries) + error * dot(&kb, &keys, &queries);
            for ((_, value), (old, key)) in row.held.iter().zip(old.iter().zip(&keys)) {
                value.set(alpha * *old + error * *key);
            }
            let leads = kb.lane().modulo(RUN as usize).equals(zero) & element.lt(kb.dim(t.value));
            kb.when(leads, || y.store(token, at, scaled(answer, q_norm) * kb.f32(t.scale)));
        });
        kb.when(element.lt(kb.dim(t.value)), || row.store(state, |col| place + (at.times(t.key) + col)));
    });
    let groups = Groups::fixed(t.heads * t.value.div_ceil(VALUES));
    Built::whole(kb.finish(), [Segments::groups(), groups, single()])
}
