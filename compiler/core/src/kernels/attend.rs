//! Causal softmax attention over pages: the online form (Milakov & Gimelshein 2018), a block of positions at a time.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{E, Kb, S, V};
use swiftlm_ir::kernel::{Access, KType};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::Attend;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::operand::{Packs, Rows, dot};
use super::pages::{PageTable, Pages, Part};
use super::{Bounds, Built, single, when_row};

/// One lane for each position of a block.
const LANES: usize = PAGE_TOKENS;
/// Score of what a query does not see. Finite, so that no difference of scores is undefined.
const UNSEEN: f32 = -1e30;

/// Largest of the lanes' numbers, or their sum in lane order, for each of `heads` rows of a shared array.
fn fold<'k>(kb: &'k Kb, rows: S<'k>, init: &[E<'k>], combine: impl Fn(E<'k>, E<'k>) -> E<'k>) -> Vec<E<'k>> {
    let folded: Vec<V<'k>> = init.iter().map(|init| kb.var(*init)).collect();
    kb.range(kb.u32(0), kb.dim(LANES), 1, |i| {
        for (h, value) in folded.iter().enumerate() {
            value.set(combine(value.get(), rows.get(i.plus(h * LANES))));
        }
    });
    folded.iter().map(V::get).collect()
}

/// `cap · tanh(score / cap)`, or the score where the cap is 0.
fn capped<'k>(kb: &'k Kb, score: E<'k>, cap: f32) -> E<'k> {
    if cap == 0.0 { score } else { (score * kb.f32(1.0 / cap)).tanh_of_any() * kb.f32(cap) }
}

/// One workgroup per token and KV head, with all query heads that read it. Lanes are positions while scores are made,
/// and words of a value row while values are added.
pub(super) fn build(t: &Attend, name: &str, bounds: Bounds) -> Built {
    let (tokens, group) = (bounds.of(Sym::Tokens), t.heads / t.kv_heads);
    let kb = bounds.kernel(name, LANES as u32);
    let q = Packs::declare_heads(&kb, "q", t.q, tokens, t.heads, t.dim);
    let table = PageTable::declare(&kb, bounds);
    let keys = Pages::declare(&kb, Part::Keys, Access::Read, t.k_format, t.kv_heads, t.dim);
    let values = Pages::declare(&kb, Part::Values, Access::Read, t.v_format, t.kv_heads, t.dim);
    let y = Rows::declare(&kb, "y", t.y, tokens, t.heads * t.dim);
    let scores = kb.shared(KType::F32, (group * LANES) as u32);
    let weights = kb.shared(KType::F32, (group * LANES) as u32);

    let (token, kv_head) = (kb.group(0), kb.group(1));
    let body = || {
        let (position, lane) = (table.position(token), kb.lane());
        let head = |h: usize| kv_head.times(group).plus(h);
        let mine = |h: usize| lane.plus(h * LANES);
        let first = match t.window {
            0 => kb.u32(0),
            window => position.plus(1).max(kb.dim(window)) - kb.dim(window),
        };
        let value_words = values.row().words();
        let words: Vec<E<'_>> = (0..value_words.div_ceil(LANES)).map(|j| lane.plus(j * LANES)).collect();
        let when_word = |word: E<'_>, body: &dyn Fn()| match value_words.is_multiple_of(LANES) {
            true => body(),
            false => kb.when(word.lt(kb.dim(value_words)), body),
        };
        let zeros = |n: usize| -> Vec<V<'_>> { (0..n).map(|_| kb.var(kb.f32(0.0))).collect() };
        let largest: Vec<V<'_>> = (0..group).map(|_| kb.var(kb.f32(UNSEEN))).collect();
        // Each lane's share of Σ e^score.
        let total = zeros(group);
        // sums[j][element of a word][head]
        let sums: Vec<Vec<Vec<V<'_>>>> =
            words.iter().map(|_| (0..values.row().per_word()).map(|_| zeros(group)).collect()).collect();

        kb.range(first.over(PAGE_TOKENS), table.block(position).plus(1), 1, |block| {
            let (page, start) = (table.page(token, block), block.times(PAGE_TOKENS));
            let products = zeros(group);
            kb.range(kb.u32(0), kb.dim(q.count()), 1, |pack| {
                let key = keys.pack(keys.place(page, kv_head, lane), pack);
                for (h, product) in products.iter().enumerate() {
                    product.set(product.get() + dot(&q.head_pack(token, head(h), pack), &key));
                }
            });
            let seen = (start + lane).le(position) & first.le(start + lane);
            let own: Vec<E<'_>> = (products.iter().map(V::get))
                .map(|product| seen.select(capped(&kb, product * kb.f32(t.scale), t.cap), kb.f32(UNSEEN)))
                .collect();
            for (h, score) in own.iter().enumerate() {
                scores.set(mine(h), *score);
            }
            kb.barrier();
            let before: Vec<E<'_>> = largest.iter().map(V::get).collect();
            let now = fold(&kb, scores, &before, E::max);
            for h in 0..group {
                let (shrink, weight) = ((before[h] - now[h]).exp(), (own[h] - now[h]).exp());
                largest[h].set(now[h]);
                total[h].set(total[h].get() * shrink + weight);
                sums.iter().flatten().for_each(|heads| heads[h].set(heads[h].get() * shrink));
                weights.set(mine(h), weight);
            }
            kb.barrier();
            // What lies in slots that are not seen may be anything: it is not even multiplied by 0.
            let (from, to) = (first.max(start) - start, (position.plus(1) - start).min(kb.dim(PAGE_TOKENS)));
            kb.range(from, to, 1, |slot| {
                let shares: Vec<E<'_>> = (0..group).map(|h| weights.get(slot.plus(h * LANES))).collect();
                for (word, sums) in words.iter().zip(&sums) {
                    when_word(*word, &|| {
                        for (value, heads) in values.word(values.place(page, kv_head, slot), *word).iter().zip(sums) {
                            for (sum, share) in heads.iter().zip(&shares) {
                                sum.set(sum.get() + *share * *value);
                            }
                        }
                    });
                }
            });
        });

        for (h, total) in total.iter().enumerate() {
            scores.set(mine(h), total.get());
        }
        kb.barrier();
        let total = fold(&kb, scores, &vec![kb.f32(0.0); group], |a, b| a + b);
        for (word, sums) in words.iter().zip(&sums) {
            when_word(*word, &|| {
                for (i, heads) in sums.iter().enumerate() {
                    let d = word.times(values.row().per_word()).plus(i);
                    for (h, sum) in heads.iter().enumerate() {
                        y.store(token, head(h).times(t.dim) + d, sum.get() / total[h]);
                    }
                }
            });
        }
    };
    when_row(&kb, Sym::Tokens, token, || kb.when(kv_head.lt(kb.dim(t.kv_heads)), body));
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(t.kv_heads), single()];
    Built { kernel: kb.finish(), grid }
}
