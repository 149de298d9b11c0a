//! Choice of experts: the `top_k` largest scores of each token, ties to the lowest id, and their weights.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{E, Kb, S};
use swiftlm_ir::kernel::{Access, KType};
use swiftlm_ir::ops::Routing;
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::Encoded;
use swiftlm_ir::template::{Route, View};

use super::operand::{RUN, Rows, ids, order_key, vector};
use super::{Bounds, Built, single, when_row};

const LANES: u32 = 32;

/// A choice under construction.
struct Choice<'a, 'k> {
    kb: &'k Kb,
    t: &'a Route,
    scores: Rows<'k>,
    bias: Option<Encoded<'k>>,
    token: E<'k>,
    zero: E<'k>,
    /// The largest score, and the sum of all chances before they are divided by it.
    largest: E<'k>,
    total: E<'k>,
}

impl<'k> Choice<'_, 'k> {
    fn score(&self, e: E<'k>) -> E<'k> {
        self.scores.load(self.token, e)
    }

    fn chance(&self, e: E<'k>) -> E<'k> {
        match self.t.routing {
            Routing::Softmax => (self.score(e) - self.largest).exp() / self.total,
            Routing::Sigmoid => self.score(e).sigmoid(),
        }
    }

    /// What an expert is chosen by.
    fn choice(&self, e: E<'k>) -> E<'k> {
        match &self.bias {
            Some(bias) => self.chance(e) + bias.load(self.kb.u32(0), e),
            None => self.score(e),
        }
    }

    /// Whether `a` with key `key_a` comes before `b` with key `key_b`.
    fn precedes((a, key_a): (E<'k>, E<'k>), (b, key_b): (E<'k>, E<'k>)) -> E<'k> {
        key_b.lt(key_a) | (key_b.equals(key_a) & a.lt(b))
    }

    /// How many of `count` come before number `own` by their keys.
    fn rank(&self, keys: &S<'k>, count: E<'k>, own: E<'k>) -> E<'k> {
        let (kb, zero) = (self.kb, self.zero);
        let (key, before) = (keys.get(own), kb.var(zero));
        kb.range(zero, count, 1, |other| {
            let precedes = Self::precedes((other, keys.get(other)), (own, key));
            before.set(before.get() + precedes.select(kb.u32(1), zero));
        });
        before.get()
    }

    /// Leaves in `keys` 0, the key of what is no number, of experts whose groups are not kept; the kept ones' keys are
    /// one more than they were, so that these come before them.
    fn keep_groups(&self, keys: &S<'k>) {
        let (kb, t) = (self.kb, self.t);
        let each = t.experts / t.groups;
        let groups = kb.shared(KType::U32, t.groups as u32);
        kb.for_lanes(t.groups, |group| {
            let best = [0, 1].map(|_| kb.var(kb.f32(f32::MIN)));
            kb.range(kb.u32(0), kb.dim(each), 1, |i| {
                let choice = self.choice(group.times(each) + i);
                let [first, second] = best.map(|best| best.get());
                best[1].set(second.max(choice.min(first)));
                best[0].set(first.max(choice));
            });
            groups.set(group, order_key(kb, best[0].get() + best[1].get()));
        });
        kb.barrier();
        kb.for_lanes(t.experts, |e| {
            let rank = self.rank(&groups, kb.dim(t.groups), e.over(each));
            let key = keys.get(e).plus(1);
            keys.set(e, rank.lt(kb.dim(t.kept)).select(key, kb.u32(0)));
        });
        kb.barrier();
    }
}

/// One workgroup per token. An expert's rank is the number of experts before it: that is a permutation whatever the
/// scores are, so every rank gets an id, also where scores are NaN.
pub(super) fn build(t: &Route, name: &str, bounds: Bounds) -> Built {
    let (tokens, top_k) = (bounds.of(Sym::Tokens), t.top_k);
    let kb = bounds.kernel(name, LANES);
    let scores = Rows::declare(&kb, "scores", t.scores, tokens, t.experts);
    let bias = t.bias.map(|format| vector(&kb, "bias", format, t.experts));
    let ids = ids(&kb, "ids", Access::ReadWrite, tokens * top_k);
    let weights = Rows::declare(&kb, "weights", View::dense(top_k), tokens, top_k);
    let keys = kb.shared(KType::U32, t.experts as u32);
    let chosen = kb.shared(KType::F32, top_k as u32);

    let token = kb.group(0);
    when_row(&kb, Sym::Tokens, token, || {
        let score = |e| scores.load(token, e);
        let (zero, experts) = (kb.u32(0), kb.dim(t.experts));
        if t.bias.is_none() {
            kb.for_lanes(t.experts, |e| keys.set(e, order_key(&kb, score(e))));
            kb.barrier();
        }

        let largest = kb.var(score(zero));
        kb.range(zero, experts, 1, |e| largest.set(largest.get().max(score(e))));
        let largest = largest.get();
        let total = match t.routing {
            Routing::Softmax => {
                kb.fold_sum(kb.lane().modulo(RUN as usize), RUN, t.experts, |e| (score(e) - largest).exp())
            }
            Routing::Sigmoid => kb.f32(1.0),
        };
        let choice = Choice { kb: &kb, t, scores, bias, token, zero, largest, total };
        if t.bias.is_some() {
            kb.for_lanes(t.experts, |e| keys.set(e, order_key(&kb, choice.choice(e))));
            kb.barrier();
        }
        if t.groups > 1 {
            choice.keep_groups(&keys);
        }
        kb.for_lanes(t.experts, |e| {
            let rank = choice.rank(&keys, experts, e);
            kb.when(rank.lt(kb.dim(top_k)), || {
                ids.store(token.times(top_k) + rank, e);
                chosen.set(rank, choice.chance(e));
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
