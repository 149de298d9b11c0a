//! The archived part of a history as attention reads it: keys and values of some slots, in the codes' own units.

use swiftlm_ir::kernel::Access;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::quant::Archive;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::codes::{ArchivePages, COLUMNS, Codes, Levels};
use super::pages::{PageTable, Part};
use super::span::RUNS;

/// Slots whose values a lane takes together: the codes of a word of 4 bits.
pub(super) const OCTET: usize = 8;

/// Page table, keys and values of an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Archived<'k> {
    kb: &'k Kb,
    archive: Archive,
    table: PageTable<'k>,
    keys: ArchivePages<'k>,
    values: ArchivePages<'k>,
    levels: [Levels<'k>; 2],
}

impl<'k> Archived<'k> {
    /// Declares the next three arguments. All lanes are here; a barrier comes before the first product.
    pub(super) fn declare(kb: &'k Kb, table: &PageTable<'k>, archive: Archive, sizes: (usize, usize)) -> Self {
        let table = table.declare_second(kb);
        let keys = ArchivePages::declare(kb, Part::Keys, Access::Read, archive.k, sizes);
        let values = ArchivePages::declare(kb, Part::Values, Access::Read, archive.v, sizes);
        let levels = [archive.k, archive.v].map(|format| Levels::declare(kb, format));
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

    /// Page of block `block` of a token's sequence.
    pub(super) fn page(&self, token: E<'k>, block: E<'k>) -> E<'k> {
        self.table.page(token, block)
    }

    /// Elements of a key that a run of lanes takes: whole words, or an even part of one.
    pub(super) fn part(&self) -> usize {
        self.keys.even(self.keys.row.dim.div_ceil(RUNS))
    }

    fn part_of(&self, run: E<'k>) -> Codes<'k> {
        Codes { start: run.times(self.part()), count: self.part() }
    }

    /// The words of a run's part of the keys of slots `4 · quad ..`.
    pub(super) fn key_words(&self, page: E<'k>, kv_head: E<'k>, quad: E<'k>, run: E<'k>) -> Vec<E<'k>> {
        self.keys.load(self.keys.place(page, kv_head), quad, self.part_of(run))
    }

    /// A run's part of the keys from their words.
    pub(super) fn keys(&self, words: &[E<'k>], run: E<'k>) -> Decoded<'k> {
        let codes = self.part_of(run);
        Decoded { pages: self.keys, levels: self.levels[0], words: self.keys.aligned(words, codes), count: codes.count }
    }

    /// What holds the scales of the keys, and of the values, of slots `4 · quad ..`.
    pub(super) fn scale_words(&self, page: E<'k>, kv_head: E<'k>, quad: E<'k>) -> [E<'k>; 2] {
        [self.keys, self.values].map(|pages| pages.load_scales(pages.place(page, kv_head), quad))
    }

    /// Those scales, as vectors over the slots.
    pub(super) fn scales(&self, words: [E<'k>; 2], quad: E<'k>) -> [E<'k>; 2] {
        [self.keys.scales(words[0], quad), self.values.scales(words[1], quad)]
    }

    /// The words of elements `first ..`, four for each of `vectors`, of the values of slots `8 · octet ..` of a page.
    pub(super) fn value_words(
        &self,
        (page, kv_head, octet): (E<'k>, E<'k>, E<'k>),
        first: E<'k>,
        vectors: usize,
    ) -> Vec<Vec<E<'k>>> {
        let (place, columns) = (self.values.place(page, kv_head), first.over(COLUMNS));
        (0..vectors).map(|i| self.values.load(place, columns.plus(i), slots_of(octet))).collect()
    }

    /// Four elements of the values of slots `8 · octet ..` from their words.
    pub(super) fn values(&self, words: &[E<'k>], octet: E<'k>) -> Decoded<'k> {
        let words = self.values.aligned(words, slots_of(octet));
        Decoded { pages: self.values, levels: self.levels[1], words, count: OCTET }
    }
}

fn slots_of(octet: E<'_>) -> Codes<'_> {
    Codes { start: octet.times(OCTET), count: OCTET }
}

/// Numbers of codes that were read.
#[derive(Clone, Debug)]
pub(super) struct Decoded<'k> {
    pages: ArchivePages<'k>,
    levels: Levels<'k>,
    words: Vec<E<'k>>,
    count: usize,
}

impl<'k> Decoded<'k> {
    /// Numbers `4 · i ..`: elements, over four slots, or slots, over four elements. They are decoded here.
    pub(super) fn four(&self, i: usize) -> [E<'k>; 4] {
        self.pages.four(&self.words, self.count, i).map(|codes| self.levels.get(codes))
    }
}
