//! What chains of attention come to, and how they meet: softmax in the online form (Milakov & Gimelshein 2018).

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{A, E, Kb, V};
use swiftlm_ir::kernel::{Access, KType, Length};
use swiftlm_ir::template::Attend;

use super::Bounds;
use super::history::chains;
use super::operand::SplatTo;
use super::span::UNSEEN;

/// What a chain comes to for one query head and one element, or what chains put together come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share<'k> {
    /// Largest score.
    pub(super) largest: E<'k>,
    /// Σ e^(score - largest).
    pub(super) total: E<'k>,
    /// Σ e^(score - largest) · value.
    pub(super) sum: E<'k>,
}

impl<'k> Share<'k> {
    /// What no chain comes to.
    pub(super) fn nothing(kb: &'k Kb, zero: E<'k>) -> Self {
        Self { largest: kb.f32(UNSEEN), total: kb.f32(0.0), sum: zero }
    }

    /// The weighted mean of values beside a head's sink: attention, once all chains have met.
    pub(super) fn mean(&self, kb: &'k Kb, sink: Option<E<'k>>) -> E<'k> {
        self.sum / beside(kb, self.largest, self.total, sink).splat_to(self.sum)
    }
}

/// A total with the score of a sink, which no value belongs to. Beyond so much above the largest nothing is left of the
/// values, and powers of e stay finite.
pub(super) fn beside<'k>(kb: &'k Kb, largest: E<'k>, total: E<'k>, sink: Option<E<'k>>) -> E<'k> {
    sink.map_or(total, |sink| total + (sink - largest).min(kb.f32(80.0)).exp())
}

/// [`Share`] in variables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merged<'k> {
    largest: V<'k>,
    total: V<'k>,
    sum: V<'k>,
}

impl<'k> Merged<'k> {
    /// Nothing; `zero` is of the type of a sum.
    pub(super) fn new(kb: &'k Kb, zero: E<'k>) -> Self {
        let Share { largest, total, sum } = Share::nothing(kb, zero);
        Self { largest: kb.var(largest), total: kb.var(total), sum: kb.var(sum) }
    }

    /// What is there.
    pub(super) fn get(&self) -> Share<'k> {
        Share { largest: self.largest.get(), total: self.total.get(), sum: self.sum.get() }
    }

    /// Replaces it.
    pub(super) fn set(&self, Share { largest, total, sum }: Share<'k>) {
        self.largest.set(largest);
        self.total.set(total);
        self.sum.set(sum);
    }

    /// What is there with another chain.
    pub(super) fn with(&self, share: &Share<'k>) -> Share<'k> {
        let (before, now) = (self.largest.get(), self.largest.get().max(share.largest));
        let (shrink, weight) = ((before - now).exp(), (share.largest - now).exp());
        let like = |x: E<'k>| x.splat_to(share.sum);
        Share {
            largest: now,
            total: share.total.fma(weight, self.total.get() * shrink),
            sum: share.sum.fma(like(weight), self.sum.get() * like(shrink)),
        }
    }

    /// Adds a chain, or chains that have met.
    pub(super) fn add(&self, share: &Share<'k>) {
        self.set(self.with(share));
    }

    /// Adds a chain where a condition holds. It is computed anywhere, so that reading it need not wait.
    pub(super) fn add_if(&self, cond: E<'k>, share: &Share<'k>) {
        let (with, without) = (self.with(share), self.get());
        self.set(Share {
            largest: cond.select(with.largest, without.largest),
            total: cond.select(with.total, without.total),
            sum: cond.select(with.sum, without.sum),
        });
    }
}

/// Where workgroups leave what chains come to, in the arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partial<'k> {
    pub(super) arg: A<'k>,
    chains: usize,
    heads: usize,
    dim: usize,
    /// First of the largest scores and totals, behind all sums.
    scores: usize,
}

impl<'k> Partial<'k> {
    fn records(t: &Attend, bounds: Bounds) -> usize {
        bounds.of(Sym::Tokens) * t.heads * chains(t)
    }

    /// Numbers that all chains of a step come to.
    pub(super) fn elements(t: &Attend, bounds: Bounds) -> usize {
        Self::records(t, bounds) * (t.value_dim() + 2)
    }

    /// Declares the next argument.
    pub(super) fn declare(kb: &'k Kb, t: &Attend, bounds: Bounds) -> Self {
        let len = Length::Elements(Self::elements(t, bounds) as u64);
        let arg = kb.arg("chains", Access::ReadWrite, KType::F32, len);
        let dim = t.value_dim();
        Self { arg, chains: chains(t), heads: t.heads, dim, scores: Self::records(t, bounds) * dim }
    }

    /// The place of what a chain comes to for a head.
    pub(super) fn record(&self, token: E<'k>, head: E<'k>, chain: E<'k>) -> E<'k> {
        (token.times(self.heads) + head).times(self.chains) + chain
    }

    /// Where element `d` of its sum lies.
    pub(super) fn sum(&self, record: E<'k>, d: E<'k>) -> E<'k> {
        record.times(self.dim) + d
    }

    /// Where its largest score and its total lie.
    pub(super) fn scores(&self, record: E<'k>) -> [E<'k>; 2] {
        [0, 1].map(|i| record.times(2).plus(self.scores + i))
    }
}
