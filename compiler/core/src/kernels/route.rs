//! Choice of experts: the `top_k` largest scores of each token, ties to the lowest id, and their weights.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::{Access, KType};
use swiftlm_ir::ops::Routing;
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::{Route, View};

use super::operand::{RUN, Rows, ids, order_key};
use super::{Bounds, Built, single, when_row};

const LANES: u32 = 32;

/// One workgroup per token. An expert's rank is the number of experts before it: that is a permutation whatever the
/// scores are, so every rank gets an id, also where scores are NaN.
pub(super) fn build(t: &Route, name: &str, bounds: Bounds) -> Built {
    let (tokens, top_k) = (bounds.of(Sym::Tokens), t.top_k);
    let kb = bounds.kernel(name, LANES);
    let scores = Rows::declare(&kb, "scores", t.scores, tokens, t.experts);
    let ids = ids(&kb, "ids", Access::ReadWrite, tokens * top_k);
    let weights = Rows::declare(&kb, "weights", View::dense(top_k), tokens, top_k);
    let keys = kb.shared(KType::U32, t.experts as u32);
    let chosen = kb.shared(KType::F32, top_k as u32);

    let token = kb.group(0);
    when_row(&kb, Sym::Tokens, token, || {
        let score = |e| scores.load(token, e);
        let (zero, experts) = (kb.u32(0), kb.dim(t.experts));
        kb.for_lanes(t.experts, |e| keys.set(e, order_key(&kb, score(e))));
        kb.barrier();

        let largest = kb.var(score(zero));
        kb.range(zero, experts, 1, |e| largest.set(largest.get().max(score(e))));
        let largest = largest.get();
        let total = match t.routing {
            Routing::Softmax => {
                kb.fold_sum(kb.lane().modulo(RUN as usize), RUN, t.experts, |e| (score(e) - largest).exp())
            }
            Routing::Sigmoid => kb.f32(1.0),
        };
        kb.for_lanes(t.experts, |e| {
            let (key, before) = (keys.get(e), kb.var(zero));
            kb.range(zero, experts, 1, |other| {
                let other_key = keys.get(other);
                let precedes = key.lt(other_key) | (key.equals(other_key) & other.lt(e));
                before.set(before.get() + precedes.select(kb.u32(1), zero));
            });
            let rank = before.get();
            kb.when(rank.lt(kb.dim(top_k)), || {
                ids.store(token.times(top_k) + rank, e);
                chosen.set(
                    rank,
                    match t.routing {
                        Routing::Softmax => (score(e) - largest).exp() / total,
                        Routing::Sigmoid => score(e).sigmoid(),
                    },
                );
            });
        });
        kb.barrier();

        let sum = match t.normalize {
            true => (1..top_k).fold(chosen.get(zero), |sum, rank| sum + chosen.get(kb.dim(rank))),
            false => kb.f32(1.0),
        };
        kb.for_lanes(top_k, |rank| weights.store(token, rank, chosen.get(rank) / sum));
    });
    Built::whole(kb.finish(), [Groups::per_rows(1, Sym::Tokens, 1), single(), single()])
}
