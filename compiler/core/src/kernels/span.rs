//! A chain of spans for one KV head and some query heads of a token: scores, weights, sums of values.
//!
//! Lanes change their part twice in a span. For [scores](super::scores) a lane takes four slots and a part of the
//! elements of a key; for weights four slots and one head; for [sums](super::sums) some elements of some rows. A span is
//! as many slots as a run of 32 lanes takes, so that largest scores and totals are reductions over runs.

use swiftlm_ir::kernel::builder::{E, Kb, S, V};
use swiftlm_ir::kernel::{KType, ReduceOp};
use swiftlm_ir::template::Attend;

use super::history::{History, QUAD, SPAN, Seen};
use super::scores::Queries;
use super::sums::{Shape, Sums};

/// Lanes of a workgroup.
pub(super) const LANES: usize = 128;
/// Fours of slots of a span: lanes of a run.
pub(super) const QUADS: usize = SPAN / QUAD;
/// Runs of a workgroup: parts of a key, and heads whose weights are made at once.
pub(super) const RUNS: usize = LANES / QUADS;
/// Score of what a query does not see. Finite, so that no difference of scores is undefined.
pub(super) const UNSEEN: f32 = -1e30;

/// What the chains of a workgroup share.
pub(super) struct Chains<'a, 'k> {
    kb: &'k Kb,
    t: &'a Attend,
    heads: usize,
    queries: Queries<'k>,
    /// How sums divide over lanes.
    pub(super) shape: Shape,
    /// Products by part, head and four of slots; later sums by row, head and vector.
    pub(super) exchange: S<'k>,
    /// By head and four of slots.
    weights: S<'k>,
    /// What the sums of each head are multiplied by before a span is added.
    shrinks: S<'k>,
}

/// A chain that is being made.
pub(super) struct Chain<'a, 'k> {
    chains: &'a Chains<'a, 'k>,
    /// The largest score so far, of each round of heads whose weights are made at once.
    largest: Vec<V<'k>>,
    /// The lane's part of Σ e^(score - largest).
    totals: Vec<V<'k>>,
    /// The lane's part of Σ e^(score - largest) · value.
    pub(super) sums: Sums<'k>,
}

impl<'a, 'k> Chains<'a, 'k> {
    /// Chains for `heads` query heads whose `packs` packs `query` gives by head and number. All lanes are here.
    pub(super) fn new(
        kb: &'k Kb,
        t: &'a Attend,
        history: &History<'k>,
        (heads, packs): (usize, usize),
        query: impl Fn(E<'k>, E<'k>) -> Vec<E<'k>>,
    ) -> Self {
        let products = RUNS * RUNS.min(heads) * QUADS;
        let shape = Shape::new(&history.values(), t.latent, heads, products);
        let exchange = kb.shared(KType::F32X4, products.max(shape.met()) as u32);
        let weights = kb.shared(KType::F32X4, (heads * QUADS) as u32);
        let shrinks = kb.shared(KType::F32, heads as u32);
        let queries = Queries::new(kb, &history.keys(), heads, packs, query);
        Self { kb, t, heads, queries, shape, exchange, weights, shrinks }
    }

    /// A chain of nothing.
    pub(super) fn begin(&'a self) -> Chain<'a, 'k> {
        let (kb, rounds) = (self.kb, self.heads.div_ceil(RUNS));
        let vars = |value: E<'k>| (0..rounds).map(|_| kb.var(value)).collect();
        let (largest, totals) = (vars(kb.f32(UNSEEN)), vars(kb.f32(0.0).splat(4)));
        Chain { chains: self, largest, totals, sums: Sums::new(kb, self.shape) }
    }
}

impl<'k> Chain<'_, 'k> {
    /// Adds a span of which something is seen.
    pub(super) fn add(&self, seen: &Seen<'k>, kv_head: E<'k>, span: E<'k>) {
        let Chains { kb, queries, heads, .. } = self.chains;
        let start = span.times(SPAN);
        // Asked for before anything waits, so that memory is waited for once.
        let first = self.sums.read_first(seen, kv_head, start);
        let products = queries.products(seen, kv_head, start);
        for (round, products) in products.chunks(RUNS).enumerate() {
            self.weigh(seen, start, round, products);
        }
        let shrinks: Vec<E<'k>> = (0..*heads).map(|h| self.chains.shrinks.get(kb.dim(h))).collect();
        self.sums.shrink(&shrinks);
        self.sums.add(seen, kv_head, start, &first, self.chains.weights);
    }

    /// Weights of some heads from the parts of their products, one head for each run of lanes.
    fn weigh(&self, seen: &Seen<'k>, start: E<'k>, round: usize, products: &[E<'k>]) {
        let Chains { kb, t, exchange, .. } = self.chains;
        let (heads, run, quad) = (products.len(), kb.lane().over(QUADS), kb.lane().modulo(QUADS));
        for (h, product) in products.iter().enumerate() {
            exchange.set(run.times(heads * QUADS).plus(h * QUADS) + quad, *product);
        }
        kb.barrier();
        let own = run.min(kb.dim(heads - 1));
        let parts = (0..RUNS).map(|part| exchange.get(own.times(QUADS).plus(part * heads * QUADS) + quad));
        let product = parts.reduce(|a, b| a + b).expect("there is a part");
        let score = |i: usize| {
            let score = capped(kb, product.extract(i as u8) * kb.f32(t.scale), t.cap);
            seen.contains(start + quad.times(QUAD).plus(i)).select(score, kb.f32(UNSEEN))
        };
        let scores = [0, 1, 2, 3].map(score);
        let most = scores[0].max(scores[1]).max(scores[2].max(scores[3]));
        let before = self.largest[round].get();
        let now = before.max(kb.reduce(ReduceOp::Max, most, QUADS as u32));
        let shrink = (before - now).exp();
        let weights = E::compose4(scores.map(|score| (score - now).exp()));
        self.largest[round].set(now);
        self.totals[round].set(self.totals[round].get().fma(shrink.splat(4), weights));
        self.for_head(round, |head| {
            self.chains.weights.set(head.times(QUADS) + quad, weights);
            kb.when(quad.equals(kb.u32(0)), || self.chains.shrinks.set(head, shrink));
        });
        kb.barrier();
    }

    /// The head whose weights the lane's run makes in a round, if there is one.
    fn for_head(&self, round: usize, body: impl FnOnce(E<'k>)) {
        let Chains { kb, heads, .. } = self.chains;
        let run = kb.lane().over(QUADS);
        let left = heads - round * RUNS;
        if left >= RUNS {
            return body(run.plus(round * RUNS));
        }
        kb.when(run.lt(kb.dim(left)), || body(run.plus(round * RUNS)));
    }

    /// Largest score and total of each head, in one lane. All lanes are here.
    pub(super) fn scores(&self, store: impl Fn(E<'k>, E<'k>, E<'k>)) {
        let kb = self.chains.kb;
        for (round, (largest, total)) in self.largest.iter().zip(&self.totals).enumerate() {
            let own = [0, 1, 2, 3].map(|i| total.get().extract(i));
            let total = kb.reduce(ReduceOp::Sum, (own[0] + own[1]) + (own[2] + own[3]), QUADS as u32);
            self.for_head(round, |head| {
                kb.when(kb.lane().modulo(QUADS).equals(kb.u32(0)), || store(head, largest.get(), total));
            });
        }
    }
}

/// `cap · tanh(score / cap)`, or the score where the cap is 0.
pub(super) fn capped<'k>(kb: &'k Kb, score: E<'k>, cap: f32) -> E<'k> {
    if cap == 0.0 { score } else { (score * kb.f32(1.0 / cap)).tanh_of_any() * kb.f32(cap) }
}
