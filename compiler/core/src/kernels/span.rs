//! A chain of spans for one KV head and some query heads of a token: scores, weights, sums of values.
//!
//! Lanes change their part twice in a span. For [scores](super::scores) a lane takes four slots and a part of the
//! elements of a key; for weights four slots and one head; for [sums](super::sums) some elements of some rows. A span is
//! as many slots as a run of 32 lanes takes, so that largest scores and totals are reductions over runs.

use swiftlm_ir::kernel::builder::{E, Kb, S, V};
use swiftlm_ir::kernel::{KType, ReduceOp};
use swiftlm_ir::quant::archive::MEAN_FROM;
use swiftlm_ir::template::Attend;

use super::ahead::{Ahead, Asked, Scales};
use super::history::{History, QUAD, SPAN, Seen, chains};
use super::scores::Queries;
use super::shape::Shape;
use super::sums::Sums;

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
    ahead: Option<Ahead<'k>>,
    /// What was asked for of the first span, if it was.
    asked: Option<Asked<'k>>,
    /// By head, the product with the mean that archived keys lack.
    centre: Option<S<'k>>,
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
    /// Of the next span of an archive.
    asked: Option<Asked<'k>>,
}

impl<'a, 'k> Chains<'a, 'k> {
    /// Chains of what a token sees for `heads` query heads whose `packs` packs `query` gives by head and number; of an
    /// archive something may be asked for before. All lanes are here.
    pub(super) fn new(
        kb: &'k Kb,
        t: &'a Attend,
        history: &History<'k>,
        (heads, packs): (usize, usize),
        query: impl Fn(E<'k>, E<'k>) -> Vec<E<'k>>,
        before: impl FnOnce(&Ahead<'k>) -> Option<Asked<'k>>,
    ) -> Self {
        let products = RUNS * RUNS.min(heads) * QUADS;
        let shape = Shape::new(&history.values(), t, heads, products);
        let exchange = kb.shared(KType::F32X4, products.max(shape.met()) as u32);
        let weights = kb.shared(KType::F32X4, (heads * QUADS) as u32);
        let shrinks = kb.shared(KType::F32, heads as u32);
        let ahead = history.archived().map(|archived| Ahead::new(kb, archived, shape));
        let asked = ahead.as_ref().and_then(before);
        let queries = Queries::new(kb, history, heads, packs, query);
        let centred = ahead.as_ref().is_some_and(|ahead| ahead.archived().archive().centered);
        let centre = centred.then(|| kb.shared(KType::F32, heads as u32));
        Self { kb, t, heads, queries, shape, exchange, weights, shrinks, ahead, asked, centre }
    }

    /// Finds what archived keys lack for a token: the mean of the products with the keys of its first tokens. All lanes
    /// are here.
    pub(super) fn find_centre(&self, seen: &Seen<'k>, kv_head: E<'k>) {
        let kb = self.kb;
        let (Some(centre), Some(ahead)) = (self.centre, &self.ahead) else { return };
        let (seen, first) = (seen.all(), ahead.archived().archive().first);
        let sums: Vec<V<'k>> = (0..self.rounds()).map(|_| kb.var(kb.f32(0.0))).collect();
        for start in (0..first).step_by(SPAN) {
            let products = self.queries.products(&seen, kv_head, kb.dim(start));
            for (sum, products) in sums.iter().zip(products.chunks(RUNS)) {
                let (quad, product) = self.meet(products);
                let of_slot = |i: usize| {
                    let position = quad.times(QUAD).plus(start + i);
                    let counts = kb.dim(MEAN_FROM).le(position) & position.lt(kb.dim(first));
                    counts.select(product.extract(i as u8), kb.f32(0.0))
                };
                let own = [0, 1, 2, 3].map(of_slot);
                let own = kb.reduce(ReduceOp::Sum, (own[0] + own[1]) + (own[2] + own[3]), QUADS as u32);
                sum.set(sum.get() + own);
                kb.barrier();
            }
        }
        for (round, sum) in sums.iter().enumerate() {
            self.for_head(round, |head| {
                let mean = sum.get() / kb.f32((first - MEAN_FROM) as f32);
                kb.when(kb.lane().modulo(QUADS).equals(kb.u32(0)), || centre.set(head, mean));
            });
        }
        kb.barrier();
    }

    /// Rounds of heads whose weights are made at once.
    fn rounds(&self) -> usize {
        self.heads.div_ceil(RUNS)
    }

    /// Which four slots are the lane's, and the sum of all parts of the products of some heads with them, of one head for
    /// each run of lanes. All lanes are here, and wait before parts are written again.
    fn meet(&self, products: &[E<'k>]) -> (E<'k>, E<'k>) {
        let Self { kb, exchange, .. } = self;
        let (heads, run, quad) = (products.len(), kb.lane().over(QUADS), kb.lane().modulo(QUADS));
        for (h, product) in products.iter().enumerate() {
            exchange.set(run.times(heads * QUADS).plus(h * QUADS) + quad, *product);
        }
        kb.barrier();
        let own = run.min(kb.dim(heads - 1));
        let parts = (0..RUNS).map(|part| exchange.get(own.times(QUADS).plus(part * heads * QUADS) + quad));
        (quad, parts.reduce(|a, b| a + b).expect("there is a part"))
    }

    /// The head whose weights the lane's run makes in a round, if there is one.
    fn for_head(&self, round: usize, body: impl FnOnce(E<'k>)) {
        let Self { kb, heads, .. } = self;
        let run = kb.lane().over(QUADS);
        let left = heads - round * RUNS;
        if left >= RUNS {
            return body(run.plus(round * RUNS));
        }
        kb.when(run.lt(kb.dim(left)), || body(run.plus(round * RUNS)));
    }

    /// A chain of nothing that begins with the span `first`.
    pub(super) fn begin(&'a self, seen: &Seen<'k>, kv_head: E<'k>, first: impl FnOnce() -> E<'k>) -> Chain<'a, 'k> {
        let (kb, rounds) = (self.kb, self.rounds());
        let vars = |value: E<'k>| (0..rounds).map(|_| kb.var(value)).collect();
        let (largest, totals) = (vars(kb.f32(UNSEEN)), vars(kb.f32(0.0).splat(4)));
        let sums = Sums::new(kb, self.shape);
        let asked = self.ahead.map(|ahead| self.asked.clone().unwrap_or_else(|| ahead.ask(seen, kv_head, first())));
        Chain { chains: self, largest, totals, sums, asked }
    }
}

impl<'k> Chain<'_, 'k> {
    /// Adds a span of which something is seen.
    pub(super) fn add(&self, seen: &Seen<'k>, kv_head: E<'k>, span: E<'k>) {
        let Chains { t, queries, weights, ahead, .. } = self.chains;
        let start = span.times(SPAN);
        if let (Some(ahead), Some(asked)) = (ahead, &self.asked) {
            let next = ahead.places(seen, span.plus(chains(t)));
            let (products, scales) = ahead.products(asked, queries, seen, kv_head, start);
            ahead.ask_keys(asked, kv_head, &next);
            self.weigh(seen, start, &products, Some(&scales));
            ahead.add(asked, &self.sums, seen, (kv_head, start), *weights);
            return ahead.ask_values(asked, kv_head, &next);
        }
        // Asked for before anything waits, so that memory is waited for once.
        let first = self.sums.read_first(seen, kv_head, start);
        let products = queries.products(seen, kv_head, start);
        self.weigh(seen, start, &products, None);
        self.sums.add(seen, kv_head, start, &first, *weights);
    }

    /// Weights of all heads from the parts of their products, and sums made ready for them.
    fn weigh(&self, seen: &Seen<'k>, start: E<'k>, products: &[E<'k>], scales: Option<&Scales<'k>>) {
        for (round, products) in products.chunks(RUNS).enumerate() {
            self.weigh_round(seen, start, round, products, scales);
        }
        let Chains { kb, heads, shrinks, .. } = self.chains;
        let shrinks: Vec<E<'k>> = (0..*heads).map(|h| shrinks.get(kb.dim(h))).collect();
        self.sums.shrink(&shrinks);
    }

    /// Weights of some heads, one head for each run of lanes.
    fn weigh_round(
        &self,
        seen: &Seen<'k>,
        start: E<'k>,
        round: usize,
        products: &[E<'k>],
        scales: Option<&Scales<'k>>,
    ) {
        let Chains { kb, t, .. } = self.chains;
        let (quad, product) = self.chains.meet(products);
        let product = scales.map_or(product, |scales| self.scaled(product, round, scales));
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
        let weights = scales.map_or(weights, |scales| weights * scales.values);
        self.chains.for_head(round, |head| {
            self.chains.weights.set(head.times(QUADS) + quad, weights);
            kb.when(quad.equals(kb.u32(0)), || self.chains.shrinks.set(head, shrink));
        });
        kb.barrier();
    }

    /// Products in the keys' own units, of the lane's head of a round, as numbers.
    fn scaled(&self, product: E<'k>, round: usize, scales: &Scales<'k>) -> E<'k> {
        let Chains { kb, heads, centre, .. } = self.chains;
        let Some(centre) = centre else { return product * scales.keys };
        let head = kb.lane().over(QUADS).plus(round * RUNS).min(kb.dim(heads - 1));
        let mean = scales.archived.select(centre.get(head), kb.f32(0.0));
        product.fma(scales.keys, mean.splat(4))
    }

    /// Largest score and total of each head, in one lane. All lanes are here.
    pub(super) fn scores(&self, store: impl Fn(E<'k>, E<'k>, E<'k>)) {
        let kb = self.chains.kb;
        for (round, (largest, total)) in self.largest.iter().zip(&self.totals).enumerate() {
            let own = [0, 1, 2, 3].map(|i| total.get().extract(i));
            let total = kb.reduce(ReduceOp::Sum, (own[0] + own[1]) + (own[2] + own[3]), QUADS as u32);
            self.chains.for_head(round, |head| {
                kb.when(kb.lane().modulo(QUADS).equals(kb.u32(0)), || store(head, largest.get(), total));
            });
        }
    }
}

/// `cap · tanh(score / cap)`, or the score where the cap is 0.
pub(super) fn capped<'k>(kb: &'k Kb, score: E<'k>, cap: f32) -> E<'k> {
    if cap == 0.0 { score } else { (score * kb.f32(1.0 / cap)).tanh_of_any() * kb.f32(cap) }
}
