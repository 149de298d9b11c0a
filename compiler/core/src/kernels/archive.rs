//! Full pages to an archive: the launch's tokens that fill the last slot of a page encode the page.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{E, Kb, S};
use swiftlm_ir::kernel::{Access, KType};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::Turbo;
use swiftlm_ir::quant::archive::MEAN_FROM;
use swiftlm_ir::quant::turbo::Scale;
use swiftlm_ir::template::Archiving;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::codes::{ArchivePages, coded};
use super::pages::{PageTable, Pages, Part, Place};
use super::{Bounds, Built, when_row};

/// A lane for each slot of a page.
const LANES: u32 = PAGE_TOKENS as u32;

/// One half of a page: where it lies, where it goes, and what lanes tell each other.
struct Half<'a, 'k> {
    kb: &'k Kb,
    format: Turbo,
    dim: usize,
    from: &'a Pages<'k>,
    to: &'a ArchivePages<'k>,
    /// What an element of each slot is multiplied by to be coded.
    factors: S<'k>,
    scales: S<'k>,
    /// The mean to take off, or zeros.
    mean: Option<S<'k>>,
}

impl<'k> Half<'_, 'k> {
    /// Element `d` of a slot less the mean.
    fn value(&self, row: Place<'k>, d: E<'k>) -> E<'k> {
        let x = self.from.element(row, d);
        match self.mean {
            Some(mean) => x - mean.get(d),
            None => x,
        }
    }

    /// Writes scales, and codes: those of keys slot by slot, those of values element by element.
    fn encode(&self, (page, old_page): (E<'k>, E<'k>), head: E<'k>, keys: bool) {
        let (kb, lane) = (self.kb, self.kb.lane());
        let place = self.to.place(old_page, head);
        let own = self.from.place(page, head, lane);
        let square = kb.var(kb.f32(0.0));
        kb.range(kb.u32(0), kb.dim(self.dim), 1, |d| square.set(square.get() + self.value(own, d).square()));
        let seen = kb.f32(0.0).lt(square.get()) & square.get().le(kb.f32(f32::MAX));
        let inverse = seen.select(square.get(), kb.f32(1.0)).rsqrt();
        let factor =
            seen.select(kb.f32(self.format.levels_per_deviation() * (self.dim as f32).sqrt()) * inverse, kb.f32(0.0));
        let products = kb.var(kb.f32(0.0));
        let take = |x: E<'k>, level: E<'k>| {
            let other = if self.format.scale == Scale::Matched { level } else { x };
            products.set(products.get() + level * other);
        };
        let code = |x: E<'k>| coded(kb, self.format, x * factor);
        if keys {
            for group in 0..self.dim.div_ceil(PAGE_TOKENS) {
                let count = (self.dim - group * PAGE_TOKENS).min(PAGE_TOKENS);
                let codes: Vec<E<'k>> = (0..count)
                    .map(|i| {
                        let x = self.value(own, kb.dim(group * PAGE_TOKENS + i));
                        let (code, level) = code(x);
                        take(x, level);
                        code
                    })
                    .collect();
                self.to.store_codes(place, lane, group, &codes);
            }
        } else {
            kb.range(kb.u32(0), kb.dim(self.dim), 1, |d| {
                let x = self.value(own, d);
                take(x, code(x).1);
            });
        }
        let scale = match self.format.scale {
            Scale::Matched => (products.get() / seen.select(square.get(), kb.f32(1.0))).rsqrt(),
            Scale::Unbiased => square.get() / products.get().max(kb.f32(f32::MIN_POSITIVE)),
        };
        self.factors.set(lane, factor);
        self.scales.set(lane, seen.select(scale.min(kb.f32(65504.0)), kb.f32(0.0)));
        kb.barrier();
        kb.for_lanes(PAGE_TOKENS / 2, |pair| {
            let scales = [0, 1].map(|i| self.scales.get(pair.times(2).plus(i)));
            self.to.store_scales(place, pair, scales);
        });
        if !keys {
            kb.for_lanes(self.dim, |d| {
                let codes: Vec<E<'k>> = (0..PAGE_TOKENS)
                    .map(|slot| {
                        let x = self.value(self.from.place(page, head, kb.dim(slot)), d);
                        coded(kb, self.format, x * self.factors.get(kb.dim(slot))).0
                    })
                    .collect();
                self.to.store_codes(place, d, 0, &codes);
            });
        }
    }
}

/// One workgroup per token, KV head and half.
pub(super) fn build(t: &Archiving, name: &str, bounds: Bounds) -> Built {
    let kb = bounds.kernel(name, LANES);
    let sizes = (t.heads, t.dim);
    let table = PageTable::declare(&kb, bounds);
    let keys = Pages::declare(&kb, Part::Keys, Access::ReadWrite, t.k_format, t.heads, t.dim);
    let values = Pages::declare(&kb, Part::Values, Access::ReadWrite, t.v_format, t.heads, t.dim);
    let old_table = table.declare_second(&kb);
    let old_keys = ArchivePages::declare(&kb, Part::Keys, Access::ReadWrite, t.archive.k, sizes);
    let old_values = ArchivePages::declare(&kb, Part::Values, Access::ReadWrite, t.archive.v, sizes);
    let (factors, scales) = (kb.shared(KType::F32, LANES), kb.shared(KType::F32, LANES));
    let mean = t.archive.centered.then(|| kb.shared(KType::F32, t.dim as u32));

    let (token, head) = (kb.group(0), kb.group(1).min(kb.dim(t.heads - 1)));
    when_row(&kb, Sym::Tokens, token, || {
        let position = table.position(token);
        kb.when(position.modulo(PAGE_TOKENS).equals(kb.dim(PAGE_TOKENS - 1)), || {
            let block = table.block(position);
            let pages = (table.page(token, block), old_table.page(token, block));
            let half = |from, to, format, mean| Half { kb: &kb, format, dim: t.dim, from, to, factors, scales, mean };
            kb.when_else(
                kb.group(2).equals(kb.u32(0)),
                || {
                    if let Some(mean) = mean {
                        first_mean(&kb, t, &keys, (token, head), &table, mean, block);
                    }
                    half(&keys, &old_keys, t.archive.k, mean).encode(pages, head, true);
                },
                || half(&values, &old_values, t.archive.v, None).encode(pages, head, false),
            );
        });
    });
    let grid = [Groups::per_rows(1, Sym::Tokens, 1), Groups::fixed(t.heads), Groups::fixed(2)];
    Built::whole(kb.finish(), grid)
}

/// The mean of the first tokens' keys; zeros while they are not all there.
fn first_mean<'k>(
    kb: &'k Kb,
    t: &Archiving,
    keys: &Pages<'k>,
    (token, head): (E<'k>, E<'k>),
    table: &PageTable<'k>,
    mean: S<'k>,
    block: E<'k>,
) {
    let (blocks, count) = (t.archive.first / PAGE_TOKENS, t.archive.first - MEAN_FROM);
    kb.for_lanes(t.dim, |d| {
        let sum = kb.var(kb.f32(0.0));
        for first in 0..blocks {
            let page = table.page(token, kb.dim(first).min(block));
            let from = if first == 0 { MEAN_FROM } else { 0 };
            kb.range(kb.dim(from), kb.dim(PAGE_TOKENS), 1, |slot| {
                sum.set(sum.get() + keys.element(keys.place(page, head, slot), d));
            });
        }
        let whole = kb.dim(blocks).le(block.plus(1));
        mean.set(d, whole.select(sum.get() / kb.f32(count as f32), kb.f32(0.0)));
    });
    kb.barrier();
}
