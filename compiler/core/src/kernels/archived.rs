//! The archived part of a history as attention reads it: a page at a time, in the codes' own units.

use swiftlm_ir::kernel::Access;
use swiftlm_ir::kernel::builder::{E, Kb, S, V};
use swiftlm_ir::quant::Archive;
use swiftlm_ir::quant::decode::pack_width;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::codes::{ArchivePages, Levels};
use super::operand::{Packs, dot};
use super::pages::{PageTable, Part};

/// Page table, keys and values of an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Archived<'k> {
    kb: &'k Kb,
    archive: Archive,
    pub(super) table: PageTable<'k>,
    keys: ArchivePages<'k>,
    values: ArchivePages<'k>,
    levels: [Levels<'k>; 2],
}

impl<'k> Archived<'k> {
    /// Declares the next three arguments. All lanes arrive.
    pub(super) fn declare(kb: &'k Kb, table: &PageTable<'k>, archive: Archive, sizes: (usize, usize)) -> Self {
        let table = table.declare_second(kb);
        let keys = ArchivePages::declare(kb, Part::Keys, Access::Read, archive.k, sizes);
        let values = ArchivePages::declare(kb, Part::Values, Access::Read, archive.v, sizes);
        let levels = [archive.k, archive.v].map(|format| Levels::declare(kb, format));
        kb.barrier();
        Self { kb, archive, table, keys, values, levels }
    }

    /// The archive.
    pub(super) fn archive(&self) -> Archive {
        self.archive
    }

    /// Whether a query in block `of` reads block `block` from here.
    pub(super) fn holds(&self, block: E<'k>, of: E<'k>) -> E<'k> {
        let kb = self.kb;
        kb.dim(self.archive.first / PAGE_TOKENS).le(block) & block.plus(self.archive.last / PAGE_TOKENS).lt(of)
    }

    /// Adds the products of heads' queries with the key of a slot, in units of its scale.
    pub(super) fn products(
        &self,
        (page, kv_head, slot): (E<'k>, E<'k>, E<'k>),
        q: &Packs<'k>,
        (token, heads): (E<'k>, &[E<'k>]),
        products: &[V<'k>],
    ) {
        let (kb, dim, place) = (self.kb, self.keys.row.dim, self.keys.place(page, kv_head));
        let per = pack_width(dim);
        let add = |group: E<'k>, count: usize| {
            let codes = self.keys.codes(place, slot, group, count);
            let levels: Vec<E<'k>> = codes.into_iter().map(|code| self.levels[0].get(code)).collect();
            for (p, levels) in levels.chunks(per).enumerate() {
                let key: Vec<E<'k>> = levels.chunks_exact(4).map(|l| E::compose4([l[0], l[1], l[2], l[3]])).collect();
                let pack = group.times(PAGE_TOKENS / per).plus(p);
                for (head, product) in heads.iter().zip(products) {
                    product.set(product.get() + dot(&q.head_pack(token, *head, pack), &key));
                }
            }
        };
        if dim >= PAGE_TOKENS {
            kb.range(kb.u32(0), kb.dim(dim / PAGE_TOKENS), 1, |group| add(group, PAGE_TOKENS));
        }
        if !dim.is_multiple_of(PAGE_TOKENS) {
            add(kb.dim(dim / PAGE_TOKENS), dim % PAGE_TOKENS);
        }
    }

    /// The scale of a slot's key.
    pub(super) fn key_scale(&self, page: E<'k>, kv_head: E<'k>, slot: E<'k>) -> E<'k> {
        self.keys.scale(self.keys.place(page, kv_head), slot)
    }

    /// The scale of a slot's value.
    pub(super) fn value_scale(&self, page: E<'k>, kv_head: E<'k>, slot: E<'k>) -> E<'k> {
        self.values.scale(self.values.place(page, kv_head), slot)
    }

    /// Adds some elements of the values of a page to each head's sums, weighted by `weights` (rows of a page's slots, scales
    /// in them).
    pub(super) fn sums(
        &self,
        (page, kv_head): (E<'k>, E<'k>),
        weights: S<'k>,
        elements: &[E<'k>],
        sums: &[Vec<V<'k>>],
    ) {
        let (kb, place) = (self.kb, self.values.place(page, kv_head));
        let codes: Vec<Vec<E<'k>>> =
            elements.iter().map(|d| self.values.codes(place, *d, kb.u32(0), PAGE_TOKENS)).collect();
        for slot in 0..PAGE_TOKENS {
            let heads = sums.first().map_or(0, Vec::len);
            let shares: Vec<E<'k>> = (0..heads).map(|h| weights.get(kb.dim(h * PAGE_TOKENS + slot))).collect();
            for (codes, sums) in codes.iter().zip(sums) {
                let level = self.levels[1].get(codes[slot]);
                sums.iter().zip(&shares).for_each(|(sum, share)| sum.set(share.fma(level, sum.get())));
            }
        }
    }
}
