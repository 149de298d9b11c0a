//! Causal softmax attention where older tokens are in an archive, in the chains of [`attend`](super::attend) but a block at
//! a time: a block is read from the archive or from the pages of recent tokens. Lanes are positions while scores are made,
//! and elements of a value row while values are added.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{E, Kb, S, V};
use swiftlm_ir::kernel::{Access, KType, ReduceOp};
use swiftlm_ir::plan::{Groups, Reach};
use swiftlm_ir::quant::Archive;
use swiftlm_ir::quant::archive::MEAN_FROM;
use swiftlm_ir::template::Attend;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::archived::Archived;
use super::attend::sharers;
use super::history::{chains, first};
use super::operand::{Packs, Rows, dot, per_token};
use super::pages::{PageTable, Pages, Part};
use super::rotate::Turning;
use super::share::{Merged, Partial, Share};
use super::span::{UNSEEN, capped};
use super::{Bounds, Built, single, when_row};

/// One lane for each position of a block.
const LANES: usize = PAGE_TOKENS;
/// Of the launch's arguments those that not every kernel takes.
const POSITIONS: usize = 1;
const ARCHIVE: std::ops::Range<usize> = 6..9;
const Y: usize = 9;
const SCRATCH: usize = 10;
/// Chains that are read in one go where they are put together.
const MERGED: usize = 16;

/// The kernels.
pub(super) fn build(t: &Attend, archive: Archive, name: &str, bounds: Bounds) -> Vec<Built> {
    let parts = chain_kernel(t, archive, name, bounds);
    match sharers(t) {
        1 => vec![parts],
        _ => vec![parts, merge(t, &format!("{name}_merge"), bounds)],
    }
}

/// What a workgroup reads.
struct Own<'a, 'k> {
    kb: &'k Kb,
    t: &'a Attend,
    q: Packs<'k>,
    table: PageTable<'k>,
    keys: Pages<'k>,
    values: Pages<'k>,
    old: Archived<'k>,
    /// Rows of a page's slots, a row for each query head.
    weights: S<'k>,
    token: E<'k>,
    kv_head: E<'k>,
    heads: Vec<E<'k>>,
    position: E<'k>,
    first: E<'k>,
    /// What the mean that archived keys lack adds to each head's products.
    centre: Vec<V<'k>>,
}

/// A chain that is being made.
struct Chain<'k> {
    /// The largest score of each head so far.
    largest: Vec<V<'k>>,
    /// Each lane's share of Σ e^score.
    totals: Vec<V<'k>>,
    /// By place of the lane and head.
    sums: Vec<Vec<V<'k>>>,
}

impl<'k> Own<'_, 'k> {
    fn zeros(&self, n: usize) -> Vec<V<'k>> {
        (0..n).map(|_| self.kb.var(self.kb.f32(0.0))).collect()
    }

    fn mine(&self, h: usize) -> E<'k> {
        self.kb.lane().plus(h * LANES)
    }

    /// Elements of a value row that this lane adds up.
    fn places(&self) -> Vec<E<'k>> {
        (0..self.t.dim.div_ceil(LANES)).map(|j| self.kb.lane().plus(j * LANES)).collect()
    }

    fn when_place(&self, d: E<'k>, body: impl Fn()) {
        match self.t.dim.is_multiple_of(LANES) {
            true => body(),
            false => self.kb.when(d.lt(self.kb.dim(self.t.dim)), body),
        }
    }

    /// Products of the queries with this lane's key of a page of recent tokens.
    fn add_products(&self, page: E<'k>, products: &[V<'k>]) {
        let (kb, place) = (self.kb, self.keys.place(page, self.kv_head, self.kb.lane()));
        let per = self.t.dim / self.q.count();
        kb.range(kb.u32(0), kb.dim(self.q.count()), 1, |pack| {
            let key: Vec<E<'k>> = (0..per).map(|i| self.keys.element(place, pack.times(per).plus(i))).collect();
            let key: Vec<E<'k>> = key.chunks_exact(4).map(|k| E::compose4([k[0], k[1], k[2], k[3]])).collect();
            for (head, product) in self.heads.iter().zip(products) {
                product.set(product.get() + dot(&self.q.head_pack(self.token, *head, pack), &key));
            }
        });
    }

    /// The products with the mean of the first keys.
    fn find_centre(&self) {
        let (kb, archive) = (self.kb, self.old.archive());
        let count = (archive.first - MEAN_FROM) as f32;
        for block in 0..archive.first / PAGE_TOKENS {
            let products = self.zeros(self.heads.len());
            let own = self.table.block(self.position);
            self.add_products(self.table.page(self.token, kb.dim(block).min(own)), &products);
            let from = kb.dim(if block == 0 { MEAN_FROM } else { 0 });
            for (mean, product) in self.centre.iter().zip(&products) {
                let product = from.le(kb.lane()).select(product.get(), kb.f32(0.0));
                mean.set(mean.get() + kb.reduce(ReduceOp::Sum, product, LANES as u32) / kb.f32(count));
            }
        }
    }

    fn begin(&self) -> Chain<'k> {
        let n = self.heads.len();
        Chain {
            largest: (0..n).map(|_| self.kb.var(self.kb.f32(UNSEEN))).collect(),
            totals: self.zeros(n),
            sums: self.places().iter().map(|_| self.zeros(n)).collect(),
        }
    }

    /// Adds a block to a chain.
    fn add(&self, chain: &Chain<'k>, block: E<'k>) {
        let (kb, lane, t, old) = (self.kb, self.kb.lane(), self.t, &self.old);
        let (start, n) = (block.times(PAGE_TOKENS), self.heads.len());
        let of = self.table.block(self.position);
        let block = block.min(of);
        let products = self.zeros(n);
        // The scale of this lane's value.
        let value_scale = kb.var(kb.f32(1.0));
        let archived = old.holds(block, of);
        kb.when_else(
            archived,
            || {
                let page = old.table.page(self.token, block);
                old.products((page, self.kv_head, lane), &self.q, (self.token, &self.heads), &products);
                let scale = old.key_scale(page, self.kv_head, lane);
                for (h, product) in products.iter().enumerate() {
                    let mean = self.centre.get(h).map_or(kb.f32(0.0), V::get);
                    product.set(product.get() * scale + mean);
                }
                value_scale.set(old.value_scale(page, self.kv_head, lane));
            },
            || self.add_products(self.table.page(self.token, block), &products),
        );
        let seen = (start + lane).le(self.position) & self.first.le(start + lane);
        let own: Vec<E<'k>> = (products.iter().map(V::get))
            .map(|product| seen.select(capped(kb, product * kb.f32(t.scale), t.cap), kb.f32(UNSEEN)))
            .collect();
        // The last block's weights have been read.
        kb.barrier();
        for h in 0..n {
            let before = chain.largest[h].get();
            let now = before.max(kb.reduce(ReduceOp::Max, own[h], LANES as u32));
            let (shrink, weight) = ((before - now).exp(), (own[h] - now).exp());
            chain.largest[h].set(now);
            chain.totals[h].set(chain.totals[h].get() * shrink + weight);
            chain.sums.iter().for_each(|heads| heads[h].set(heads[h].get() * shrink));
            self.weights.set(self.mine(h), weight * value_scale.get());
        }
        kb.barrier();
        // What lies in slots that are not seen may be anything: it is not even multiplied by 0.
        let from = self.first.max(start) - start;
        let to = (self.position.plus(1) - start).min(kb.dim(PAGE_TOKENS));
        let places = self.places();
        let recent = || {
            let page = self.table.page(self.token, block);
            kb.range(from, to, 1, |slot| {
                let shares: Vec<E<'k>> = (0..n).map(|h| self.weights.get(slot.plus(h * LANES))).collect();
                for (d, sums) in places.iter().zip(&chain.sums) {
                    self.when_place(*d, || {
                        let value = self.values.element(self.values.place(page, self.kv_head, slot), *d);
                        sums.iter().zip(&shares).for_each(|(sum, share)| sum.set(sum.get() + *share * value));
                    });
                }
            });
        };
        let from_archive = || {
            let page = old.table.page(self.token, block);
            if t.dim.is_multiple_of(LANES) {
                return old.sums((page, self.kv_head), self.weights, &places, &chain.sums);
            }
            for (d, sums) in places.iter().zip(chain.sums.chunks(1)) {
                self.when_place(*d, || old.sums((page, self.kv_head), self.weights, &[*d], sums));
            }
        };
        kb.when_else(archived, from_archive, recent);
    }

    /// The sums of the totals over lanes. All lanes are here.
    fn totals(&self, chain: &Chain<'k>) -> Vec<E<'k>> {
        chain.totals.iter().map(|total| self.kb.reduce(ReduceOp::Sum, total.get(), LANES as u32)).collect()
    }

    /// Makes the chains whose numbers are `sharer` and every so many more.
    fn each_chain(&self, sharer: E<'k>, done: impl Fn(&Chain<'k>, E<'k>)) {
        let (kb, most) = (self.kb, chains(self.t));
        let (from, to) = (self.first.over(PAGE_TOKENS), self.table.block(self.position).plus(1));
        kb.range(sharer, (to - from).min(kb.dim(most)), sharers(self.t) as u32, |index| {
            let chain = self.begin();
            kb.range(from + index, to, most as u32, |block| self.add(&chain, block));
            done(&chain, index);
        });
    }
}

/// One workgroup per token, KV head and share of the chains, with all query heads that read it.
fn chain_kernel(t: &Attend, archive: Archive, name: &str, bounds: Bounds) -> Built {
    let (tokens, group, sharers) = (bounds.of(Sym::Tokens), t.heads / t.kv_heads, sharers(t));
    let kb = bounds.kernel(name, LANES as u32);
    let q = Packs::declare_heads(&kb, "q", t.q, tokens, t.heads, t.dim);
    let table = PageTable::declare(&kb, bounds);
    // Declared as what may be written: read element by element.
    let keys = Pages::declare(&kb, Part::Keys, Access::ReadWrite, t.k_format, t.kv_heads, t.dim);
    let values = Pages::declare(&kb, Part::Values, Access::ReadWrite, t.v_format, t.kv_heads, t.dim);
    let old = Archived::declare(&kb, &table, archive, (t.kv_heads, t.dim));
    let (y, partial) = match sharers {
        1 => (Some(Rows::declare(&kb, "y", t.y, tokens, t.heads * t.dim)), None),
        _ => (None, Some(Partial::declare(&kb, t, bounds))),
    };
    let turning = (t.rotate_back && y.is_some()).then(|| Turning::declare(&kb, group, t.dim));
    let weights = kb.shared(KType::F32, (group * LANES) as u32);
    let (token, kv_head, sharer) = (kb.group(0), kb.group(1), kb.group(2));
    let body = || {
        let position = table.position(token);
        let heads = (0..group).map(|h| kv_head.times(group).plus(h)).collect();
        let centre = match archive.centered {
            true => (0..group).map(|_| kb.var(kb.f32(0.0))).collect(),
            false => vec![],
        };
        let first = first(&kb, position, t.window);
        let own =
            Own { kb: &kb, t, q, table, keys, values, old, weights, token, kv_head, heads, position, first, centre };
        if archive.centered {
            own.find_centre();
        }
        if let Some(partial) = partial {
            own.each_chain(sharer, |chain, index| {
                let totals = own.totals(chain);
                for (h, head) in own.heads.iter().enumerate() {
                    let record = partial.record(token, *head, index);
                    kb.when(kb.lane().equals(kb.u32(0)), || {
                        let [at, then] = partial.scores(record);
                        partial.arg.store(at, chain.largest[h].get());
                        partial.arg.store(then, totals[h]);
                    });
                    for (d, sums) in own.places().iter().zip(&chain.sums) {
                        own.when_place(*d, || partial.arg.store(partial.sum(record, *d), sums[h].get()));
                    }
                }
            });
        }
        let Some(y) = y else { return };
        let merged: Vec<Vec<Merged<'_>>> =
            (own.places().iter()).map(|_| (0..group).map(|_| Merged::new(&kb, kb.f32(0.0))).collect()).collect();
        own.each_chain(sharer, |chain, _| {
            let totals = own.totals(chain);
            for (heads, sums) in merged.iter().zip(&chain.sums) {
                for (h, merged) in heads.iter().enumerate() {
                    merged.add(&Share { largest: chain.largest[h].get(), total: totals[h], sum: sums[h].get() });
                }
            }
        });
        for (d, heads) in own.places().iter().zip(&merged) {
            own.when_place(*d, || {
                for (h, merged) in heads.iter().enumerate() {
                    match turning {
                        Some(turning) => turning.set(kb.dim(h), *d, merged.get().mean()),
                        None => y.store(token, own.heads[h].times(t.dim) + *d, merged.get().mean()),
                    }
                }
            });
        }
        if let Some(turning) = turning {
            turning.rotate(true);
            kb.for_lanes(t.dim, |d| {
                for (h, head) in own.heads.iter().enumerate() {
                    y.store(token, head.times(t.dim) + d, turning.get(kb.dim(h), d));
                }
            });
        }
    };
    when_row(&kb, Sym::Tokens, token, || {
        kb.when(kv_head.lt(kb.dim(t.kv_heads)) & sharer.lt(kb.dim(sharers)), body);
    });
    let shares = Groups::fixed(sharers).reaching(Reach::Each(PAGE_TOKENS as u32));
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(t.kv_heads), shares];
    let last = if sharers == 1 { Y } else { SCRATCH };
    Built { kernel: kb.finish(), args: (0..ARCHIVE.end).chain([last]).collect(), grid }
}

/// Puts chains together: one workgroup per token and query head.
fn merge(t: &Attend, name: &str, bounds: Bounds) -> Built {
    let most = chains(t);
    let kb = bounds.kernel(name, t.dim.next_power_of_two().clamp(32, 256) as u32);
    let positions = per_token(&kb, "positions", bounds);
    let partial = Partial::declare(&kb, t, bounds);
    let y = Rows::declare(&kb, "y", t.y, bounds.of(Sym::Tokens), t.heads * t.dim);
    let turning = t.rotate_back.then(|| Turning::declare(&kb, 1, t.dim));
    let (token, head) = (kb.group(0), kb.group(1));
    let body = || {
        let last = positions.load(token);
        let (from, to) = (first(&kb, last, t.window).over(PAGE_TOKENS), last.over(PAGE_TOKENS).plus(1));
        let count = (to - from).min(kb.dim(most));
        kb.for_lanes(t.dim, |d| {
            let merged = Merged::new(&kb, kb.f32(0.0));
            kb.range(kb.u32(0), count, MERGED as u32, |start| {
                // All are read before one is used: what lies behind the last chain is read, too, and left alone.
                let read = |i: usize| {
                    let record = partial.record(token, head, start.plus(i).min(kb.dim(most - 1)));
                    let [largest, total] = partial.scores(record).map(|at| partial.arg.load(at));
                    Share { largest, total, sum: partial.arg.load(partial.sum(record, d)) }
                };
                let shares: Vec<Share<'_>> = (0..MERGED).map(read).collect();
                for (i, share) in shares.iter().enumerate() {
                    kb.when(start.plus(i).lt(count), || merged.add(share));
                }
            });
            match turning {
                Some(turning) => turning.set(kb.u32(0), d, merged.get().mean()),
                None => y.store(token, head.times(t.dim) + d, merged.get().mean()),
            }
        });
        if let Some(turning) = turning {
            turning.rotate(true);
            kb.for_lanes(t.dim, |d| y.store(token, head.times(t.dim) + d, turning.get(kb.u32(0), d)));
        }
    };
    when_row(&kb, Sym::Tokens, token, || kb.when(head.lt(kb.dim(t.heads)), body));
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(t.heads), single()];
    Built { kernel: kb.finish(), args: vec![POSITIONS, SCRATCH, Y], grid }
}
