//! Causal softmax attention over pages: chains of spans ([`history`](super::history)), and chains put together.
//!
//! A workgroup takes a token, a KV head and some of its chains, for all query heads that read it. With few tokens every
//! chain has a workgroup, and a second kernel puts chains together; with many, one workgroup does both, in the same
//! order.

use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::kernel::KType;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::plan::{Groups, Reach};
use swiftlm_ir::quant::Format;
use swiftlm_ir::quant::decode::Encoded;
use swiftlm_ir::template::Attend;

use super::history::{History, SPAN, Seen, chains, first, spans};
use super::operand::{Packs, Rows, per_token, vector};
use super::rotate::Turning;
use super::share::{Merged, Partial, Share, beside};
use super::span::{Chain, Chains, LANES, QUADS, RUNS};
use super::{Bounds, Built, when_row};

/// Of the launch's arguments the one that every kernel takes.
const POSITIONS: usize = 1;
/// Bytes of shared memory of devices that large heads are run on.
const SHARED: usize = 32 << 10;
/// Most query heads that a workgroup takes.
const MOST_HEADS: usize = 8;
/// Chains that meet first, in their order, before what they come to meets.
const TEAM: usize = 8;
/// Elements of a head that are put together at once: a slice.
const ELEMENTS: usize = 32;
/// Teams that a workgroup reads in one go.
const TEAMS: usize = 8;
/// Numbers that are rotated at once, or one head: shared memory is short where heads are large.
const TURNED: usize = 512;

/// Of the launch's arguments what comes behind those of histories: an archive is three more, latents are one less.
fn histories_end(t: &Attend) -> usize {
    match (t.archive, t.latent) {
        (Some(_), _) => 9,
        (None, Some(_)) => 5,
        (None, None) => 6,
    }
}

/// Of the launch's arguments the sinks, if there are any.
fn sinks_at(t: &Attend) -> Option<usize> {
    t.sinks.map(|_| histories_end(t))
}

/// Of the launch's arguments the result.
fn y_at(t: &Attend) -> usize {
    histories_end(t) + usize::from(t.sinks.is_some())
}

/// Declares the next argument as the sinks, if there are any.
fn declare_sinks<'k>(kb: &'k Kb, t: &Attend) -> Option<Encoded<'k>> {
    t.sinks.map(|float| vector(kb, "sinks", Format::Float(float), t.heads))
}

/// Whether all that is seen lies in one span.
fn alone<'k>(first: E<'k>, last: E<'k>) -> E<'k> {
    first.over(SPAN).equals(last.over(SPAN))
}

/// The sink of a head, if there are any.
fn sink_of<'k>(kb: &'k Kb, sinks: Option<&Encoded<'k>>, head: impl FnOnce() -> E<'k>) -> Option<E<'k>> {
    sinks.map(|sinks| sinks.load(kb.u32(0), head()))
}

/// Bytes of shared memory that attention of so many query heads takes at most: their queries, products or what sums meet
/// in, weights and factors.
fn shared_bytes(t: &Attend, heads: usize) -> usize {
    let met = (RUNS * RUNS.min(heads) * QUADS).max(2 * LANES);
    4 * heads * t.dim.next_multiple_of(8 * RUNS) + 16 * (met + heads * QUADS + heads)
}

/// Query heads of a workgroup: all that read a KV head, or an even share of them that shared memory holds.
fn heads_of_group(t: &Attend) -> usize {
    let group = t.heads / t.kv_heads;
    let fits = |n: &usize| group.is_multiple_of(*n) && shared_bytes(t, *n) <= SHARED;
    (1..=MOST_HEADS.min(group)).rev().find(fits).unwrap_or(1)
}

/// Workgroups that share the chains of a token and KV head.
pub(super) fn sharers(t: &Attend) -> usize {
    match t.class {
        ShapeClass::One => chains(t),
        ShapeClass::Few => chains(t).div_ceil(4),
        ShapeClass::Some | ShapeClass::Many => 1,
    }
}

/// Whether a workgroup has one chain at most.
fn one_chain(t: &Attend) -> bool {
    sharers(t) == chains(t)
}

/// Bytes of what chains come to, where workgroups share them.
pub(super) fn scratch_bytes(t: &Attend, bounds: Bounds) -> usize {
    if sharers(t) == 1 { 0 } else { 4 * Partial::elements(t, bounds) }
}

/// The kernels.
pub(super) fn build(t: &Attend, name: &str, bounds: Bounds) -> Vec<Built> {
    match sharers(t) {
        1 => vec![attend(t, name, bounds)],
        _ => vec![attend(t, name, bounds), merge(t, &format!("{name}_merge"), bounds)],
    }
}

/// One workgroup per token, share of the query heads of a KV head, and share of the chains.
fn attend(t: &Attend, name: &str, bounds: Bounds) -> Built {
    let (tokens, heads, sharers) = (bounds.of(Sym::Tokens), heads_of_group(t), sharers(t));
    let shares = t.heads / heads;
    let kb = bounds.kernel(name, LANES as u32);
    let q = Packs::declare_heads(&kb, "q", t.q, tokens, t.heads, t.dim);
    let history = History::declare(&kb, t, bounds);
    let whole = sharers == 1;
    // Where others put chains together, a result is put out only of a chain that is alone.
    let puts = whole || !t.rotate_back;
    let sinks = if puts { declare_sinks(&kb, t) } else { None };
    let y = puts.then(|| Rows::declare(&kb, "y", t.y, tokens, t.heads * t.value_dim()));
    let partial = (!whole).then(|| Partial::declare(&kb, t, bounds));
    let (token, share, sharer) = (kb.group(0), kb.group(1), kb.group(2));
    let body = || {
        let head = share.times(heads);
        let query = |h, pack| q.head_pack(token, head + h, pack);
        let kv_head = || share.over(shares / t.kv_heads);
        let heads = (heads, q.count());
        let chains = Chains::new(&kb, t, &history, heads, query, |ahead| {
            // A workgroup with one chain asks for it before it waits for queries.
            one_chain(t).then(|| {
                let seen = history.of(token);
                ahead.ask(&seen, kv_head(), spans(seen.first, seen.last).0 + sharer)
            })
        });
        let own = Own { kb: &kb, t, seen: history.of(token), kv_head: kv_head(), sharer };
        chains.find_centre(&own.seen, own.kv_head);
        let store = |h: E<'_>, d, value| {
            if let Some(y) = y {
                y.store(token, (head + h).times(t.value_dim()) + d, value);
            }
        };
        match partial {
            None => own.whole(&chains, |h| sink_of(&kb, sinks.as_ref(), || head + h), store),
            Some(partial) => {
                let record = |h, chain| partial.record(token, head + h, chain);
                own.parts(&chains, &partial, record, |h| sink_of(&kb, sinks.as_ref(), || head + h), store);
            }
        }
    };
    when_row(&kb, Sym::Tokens, token, || {
        kb.when(share.lt(kb.dim(shares)) & sharer.lt(kb.dim(sharers)), body);
    });
    let sharers = Groups::fixed(sharers).reaching(Reach::Each(SPAN as u32));
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(shares), sharers];
    let outputs = y.map(|_| y_at(t)).into_iter().chain(partial.map(|_| y_at(t) + 1));
    let sinks = sinks_at(t).filter(|_| puts);
    Built { kernel: kb.finish(), args: (0..histories_end(t)).chain(sinks).chain(outputs).collect(), grid }
}

/// What a workgroup computes.
struct Own<'a, 'k> {
    kb: &'k Kb,
    t: &'a Attend,
    seen: Seen<'k>,
    kv_head: E<'k>,
    sharer: E<'k>,
}

impl<'k> Own<'_, 'k> {
    /// Makes chain after chain.
    fn each_chain(&self, chains: &Chains<'_, 'k>, done: impl Fn(&Chain<'_, 'k>, E<'k>)) {
        let Self { kb, t, seen, kv_head, sharer } = self;
        let ((from, to), most) = (spans(seen.first, seen.last), super::history::chains(t));
        kb.range(*sharer, (to - from).min(kb.dim(most)), sharers(t) as u32, |index| {
            let chain = chains.begin(seen, *kv_head, || from + index);
            kb.range(from + index, to, most as u32, |span| chain.add(seen, *kv_head, span));
            done(&chain, index);
        });
    }

    /// Leaves what each chain comes to, `record` says where by head and chain; a chain that is alone is a result, unless
    /// results are rotated.
    fn parts(
        &self,
        chains: &Chains<'_, 'k>,
        partial: &Partial<'k>,
        record: impl Fn(E<'k>, E<'k>) -> E<'k>,
        sink: impl Fn(E<'k>) -> Option<E<'k>>,
        store: impl Fn(E<'k>, E<'k>, E<'k>),
    ) {
        let kb = self.kb;
        // Whether there is one chain, and what its sums are divided by.
        let alone = (!self.t.rotate_back).then(|| {
            let totals = kb.shared(KType::F32, heads_of_group(self.t) as u32);
            (alone(self.seen.first, self.seen.last), totals)
        });
        self.each_chain(chains, |chain, index| {
            chain.scores(|h, largest, total| {
                let [at, then] = partial.scores(record(h, index));
                partial.arg.store(at, largest);
                partial.arg.store(then, total);
                if let Some((_, totals)) = alone {
                    totals.set(h, beside(kb, largest, total, sink(h)));
                }
            });
            chain.sums.finish(chains.exchange, |_, out| {
                let leave = || {
                    let record = record(out.head, index);
                    out.each(|d, sum| partial.arg.store(partial.sum(record, d), sum));
                };
                let Some((alone, totals)) = alone else { return leave() };
                let total = totals.get(out.head).splat(4);
                let put = || out.with(out.sum / total).each(|d, value| store(out.head, d, value));
                kb.when_else(alone, put, leave);
            });
        });
    }

    /// Puts chains together; `store` takes head, index and value of a result.
    fn whole(
        &self,
        chains: &Chains<'_, 'k>,
        sink: impl Fn(E<'k>) -> Option<E<'k>>,
        store: impl Fn(E<'k>, E<'k>, E<'k>),
    ) {
        let kb = self.kb;
        let zeros = kb.f32(0.0).splat(4);
        let merged = || (0..chains.shape.outputs()).map(|_| Merged::new(kb, zeros)).collect::<Vec<_>>();
        let (team, all) = (merged(), merged());
        let scores = kb.shared(KType::F32, 2 * heads_of_group(self.t) as u32);
        self.each_chain(chains, |chain, index| {
            chain.scores(|h, largest, total| {
                scores.set(h.times(2), largest);
                scores.set(h.times(2).plus(1), total);
            });
            // Behind its first barrier all lanes read the scores, before its last they have.
            chain.sums.finish(chains.exchange, |i, out| {
                let [largest, total] = [0, 1].map(|i| scores.get(out.head.times(2).plus(i)));
                team[i].add(&Share { largest, total, sum: out.sum });
            });
            kb.when(index.modulo(TEAM).equals(kb.dim(TEAM - 1)), || {
                for (team, all) in team.iter().zip(&all) {
                    all.add(&team.get());
                    team.set(Share::nothing(kb, zeros));
                }
            });
        });
        let each = |store: &dyn Fn(E<'k>, E<'k>, E<'k>)| {
            chains.shape.places(kb, |i, out| {
                // Of a team that is not full, or of none: what comes to nothing changes nothing.
                let mean = all[i].with(&team[i].get()).mean(kb, sink(out.head));
                out.with(mean).each(|d, value| store(out.head, d, value));
            });
        };
        if self.t.rotate_back { self.rotated(each, store) } else { each(&store) }
    }

    /// Rotates results back: `each` gives its argument head, index and value of what is rotated.
    fn rotated(&self, each: impl Fn(&dyn Fn(E<'k>, E<'k>, E<'k>)), store: impl Fn(E<'k>, E<'k>, E<'k>)) {
        let (kb, dim, heads) = (self.kb, self.t.dim, heads_of_group(self.t));
        let at_once = (TURNED / dim).clamp(1, heads);
        let turning = Turning::declare(kb, at_once, dim);
        for first in (0..heads).step_by(at_once) {
            each(&|h, d, value| {
                // What lies before wraps to what is far behind.
                let own = h - kb.dim(first);
                // The lesser changes nothing but what can be proved where no lane comes.
                kb.when(own.lt(kb.dim(at_once)), || turning.set(own.min(kb.dim(at_once - 1)), d, value));
            });
            turning.rotate(true);
            kb.for_lanes(at_once.min(heads - first) * dim, |i| {
                let (own, d) = (i.over(dim), i.modulo(dim));
                store(own.plus(first), d, turning.get(own, d));
            });
            kb.barrier();
        }
    }
}

/// Puts chains together: one workgroup per token, query head and a slice of the elements, or all slices where results are
/// rotated. A run of lanes takes a team of chains; then a run puts the teams of a slice together.
fn merge(t: &Attend, name: &str, bounds: Bounds) -> Built {
    let (most, dim, rotated) = (chains(t), t.value_dim(), t.rotate_back);
    let slices = dim.div_ceil(ELEMENTS);
    let at_once = if rotated { slices.min(TEAMS) } else { 1 };
    let teams = most.div_ceil(TEAM);
    let kb = bounds.kernel(name, (ELEMENTS * TEAMS) as u32);
    let positions = per_token(&kb, "positions", bounds);
    let partial = Partial::declare(&kb, t, bounds);
    let sinks = declare_sinks(&kb, t);
    let y = Rows::declare(&kb, "y", t.y, bounds.of(Sym::Tokens), t.heads * dim);
    let [largest, total] = [0, 1].map(|_| kb.shared(KType::F32, (teams * ELEMENTS) as u32));
    let sum = kb.shared(KType::F32, (at_once * teams * ELEMENTS) as u32);
    let turning = rotated.then(|| Turning::declare(&kb, 1, dim));
    let (token, head, slice) = (kb.group(0), kb.group(1), kb.group(2));
    // Slices `slice ..`, as many as are taken at once.
    let body = |last: E<'_>, slice: E<'_>, put: &dyn Fn(E<'_>, &Merged<'_>)| {
        let (run, lane) = (kb.lane().over(ELEMENTS), kb.lane().modulo(ELEMENTS));
        let d = slice.times(ELEMENTS) + lane;
        let (from, to) = spans(first(&kb, last, t.window), last);
        let count = (to - from).min(kb.dim(most));
        let count_of_teams = count.plus(TEAM - 1).over(TEAM);
        kb.range(run, count_of_teams, TEAMS as u32, |team| {
            // All are read before one is used: what lies behind the last chain is read, too, and left alone.
            let index = |i: usize| team.times(TEAM).plus(i);
            let read = |i: usize| {
                let record = partial.record(token, head, index(i).min(kb.dim(most - 1)));
                let [largest, total] = partial.scores(record).map(|at| partial.arg.load(at));
                let sum = |j: usize| partial.sum(record, d.plus(j * ELEMENTS).min(kb.dim(dim - 1)));
                let share = |j: usize| Share { largest, total, sum: partial.arg.load(sum(j)) };
                (0..at_once).map(share).collect()
            };
            let shares: Vec<Vec<Share<'_>>> = (0..TEAM).map(read).collect();
            for j in 0..at_once {
                let merged = Merged::new(&kb, kb.f32(0.0));
                shares.iter().enumerate().for_each(|(i, shares)| merged.add_if(index(i).lt(count), &shares[j]));
                let (at, share) = (team.times(ELEMENTS) + lane, merged.get());
                if j == 0 {
                    largest.set(at, share.largest);
                    total.set(at, share.total);
                }
                sum.set(at.plus(j * teams * ELEMENTS), share.sum);
            }
        });
        kb.barrier();
        let (takes, d) = match at_once {
            1 => (run.equals(kb.u32(0)), d),
            n => (run.lt(kb.dim(n)), d + run.times(ELEMENTS)),
        };
        kb.when(takes & d.lt(kb.dim(dim)), || {
            let merged = Merged::new(&kb, kb.f32(0.0));
            kb.range(kb.u32(0), count_of_teams, 1, |team| {
                let at = team.times(ELEMENTS) + lane;
                let of_slice = if at_once == 1 { at } else { at + run.times(teams * ELEMENTS) };
                merged.add(&Share { largest: largest.get(at), total: total.get(at), sum: sum.get(of_slice) });
            });
            put(d, &merged);
        });
    };
    let store = |d: E<'_>, merged: &Merged<'_>| {
        y.store(token, head.times(dim) + d, merged.get().mean(&kb, sink_of(&kb, sinks.as_ref(), || head)));
    };
    let whole = |turning: Turning<'_>, last: E<'_>| {
        for slice in (0..slices).step_by(at_once) {
            body(last, kb.dim(slice), &|d, merged| {
                turning.set(kb.u32(0), d, merged.get().mean(&kb, sink_of(&kb, sinks.as_ref(), || head)));
            });
            // Teams of the next slices are written where those of these were read.
            kb.barrier();
        }
        turning.rotate(true);
        kb.for_lanes(dim, |d| y.store(token, head.times(dim) + d, turning.get(kb.u32(0), d)));
    };
    when_row(&kb, Sym::Tokens, token, || {
        let last = positions.load(token);
        if let Some(turning) = turning {
            return kb.when(head.lt(kb.dim(t.heads)), || whole(turning, last));
        }
        // The only chain of a token was put out where it was made.
        let several = !alone(first(&kb, last, t.window), last);
        kb.when(head.lt(kb.dim(t.heads)) & slice.lt(kb.dim(slices)) & several, || body(last, slice, &store));
    });
    let each = Groups::fixed(if rotated { 1 } else { slices });
    let each = if rotated { each } else { each.reaching(Reach::Beyond(SPAN as u32)) };
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(t.heads), each];
    let args = [POSITIONS, y_at(t) + 1].into_iter().chain(sinks_at(t)).chain([y_at(t)]);
    Built { kernel: kb.finish(), args: args.collect(), grid }
}
