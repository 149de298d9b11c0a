//! TurboQuant codes in kernels: pages of an archive as operands, and the coding of numbers.

use swiftlm_ir::kernel::builder::{A, E, Kb, S};
use swiftlm_ir::kernel::{Access, DataBound, KType, Length};
use swiftlm_ir::quant::{ArchiveRow, Turbo};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::pages::Part;

/// Keys or values of an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArchivePages<'k> {
    kb: &'k Kb,
    arg: A<'k>,
    pub(super) row: ArchiveRow,
    part: Part,
    heads: usize,
}

impl<'k> ArchivePages<'k> {
    /// Declares the next argument.
    pub(super) fn declare(kb: &'k Kb, part: Part, access: Access, format: Turbo, (heads, dim): (usize, usize)) -> Self {
        let row = ArchiveRow { format, dim };
        let name = if part == Part::Keys { "archived_keys" } else { "archived_values" };
        let unit = (heads * row.page_bytes() / 4) as u64;
        Self { kb, arg: kb.arg(name, access, KType::U32, Length::Units(unit)), row, part, heads }
    }

    /// A head's first word in a page.
    pub(super) fn place(&self, page: E<'k>, head: E<'k>) -> E<'k> {
        let words = self.row.page_bytes() / 4;
        page.trust(DataBound::BelowUnits(self.arg.index)).times(self.heads * words) + head.times(words)
    }

    /// Elements (of keys) or slots (of values) that codes are counted by, and the words between two of theirs.
    fn counts(&self) -> (usize, usize) {
        match self.part {
            Part::Keys => (self.row.dim, PAGE_TOKENS),
            Part::Values => (PAGE_TOKENS, self.row.dim),
        }
    }

    /// Codes `32 · group ..` that lie beside `column` (a slot of keys, an element of values), as many as there are below
    /// `count`; a group is a constant or a loop's.
    pub(super) fn codes(&self, place: E<'k>, column: E<'k>, group: E<'k>, count: usize) -> Vec<E<'k>> {
        let (all, stride) = self.counts();
        let (mut first, mut below) = (0, 0u32);
        let mut codes: Vec<E<'k>> = vec![];
        for bits in self.row.format.planes().iter().map(|bits| *bits as usize) {
            let words = (count * bits).div_ceil(32);
            let loaded: Vec<E<'k>> = (0..words)
                .map(|w| self.arg.load(place + (group.times(bits).plus(first + w)).times(stride) + column))
                .collect();
            for i in 0..count {
                let (word, within) = (i * bits / 32, i % (32 / bits));
                let shift = (8 * (within % 4) + bits * (within / 4)) as u32;
                let field = (loaded[word] >> self.kb.u32(shift)) & self.kb.u32((1 << bits) - 1);
                match codes.get_mut(i) {
                    Some(code) => *code = *code | (field << self.kb.u32(below)),
                    None => codes.push(field),
                }
            }
            first += (all * bits).div_ceil(32);
            below += bits as u32;
        }
        codes
    }

    /// The scale of a slot.
    pub(super) fn scale(&self, place: E<'k>, slot: E<'k>) -> E<'k> {
        let pair = self.arg.load(place + slot.over(2).plus(self.row.code_words()));
        slot.modulo(2).equals(self.kb.u32(0)).select(pair.half_low(), pair.half_high())
    }

    /// Writes the codes `32 · group ..` beside `column`.
    pub(super) fn store_codes(&self, place: E<'k>, column: E<'k>, group: usize, codes: &[E<'k>]) {
        let (all, stride) = self.counts();
        let (mut first, mut below) = (0, 0u32);
        for bits in self.row.format.planes().iter().map(|bits| *bits as usize) {
            for (w, codes) in codes.chunks(32 / bits).enumerate() {
                let field = |(within, code): (usize, &E<'k>)| {
                    let shift = (8 * (within % 4) + bits * (within / 4)) as u32;
                    ((*code >> self.kb.u32(below)) & self.kb.u32((1 << bits) - 1)) << self.kb.u32(shift)
                };
                let word = codes.iter().enumerate().map(field).reduce(|a, b| a | b).unwrap_or(self.kb.u32(0));
                self.arg.store(place + self.kb.dim((first + group * bits + w) * stride) + column, word);
            }
            first += (all * bits).div_ceil(32);
            below += bits as u32;
        }
    }

    /// Writes the scales of slots `2 · pair` and the next.
    pub(super) fn store_scales(&self, place: E<'k>, pair: E<'k>, scales: [E<'k>; 2]) {
        self.arg.store(place + pair.plus(self.row.code_words()), scales[0].pack_half(scales[1]));
    }
}

/// What codes mean, looked up in shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Levels<'k> {
    table: S<'k>,
}

impl<'k> Levels<'k> {
    /// Writes the table; a barrier comes before its first use.
    pub(super) fn declare(kb: &'k Kb, format: Turbo) -> Self {
        let count = 1 << format.bits;
        let table = kb.shared(KType::F32, count);
        kb.for_lanes(count as usize, |code| {
            let level = |code: u32| kb.f32(f32::from(format.level(code)));
            let pick = |found: E<'k>, i: u32| code.equals(kb.u32(i)).select(level(i), found);
            table.set(code, (1..count).fold(level(0), pick));
        });
        Self { table }
    }

    /// What a code means, in units of its vector's scale.
    pub(super) fn get(&self, code: E<'k>) -> E<'k> {
        self.table.get(code)
    }
}

/// The nearest code of a number in levels, and that code's level.
pub(super) fn coded<'k>(kb: &'k Kb, format: Turbo, levels: E<'k>) -> (E<'k>, E<'k>) {
    let half = format.levels().len() as u32;
    let (positive, size) = (kb.f32(0.0).le(levels), levels.abs());
    let (mut beyond, mut level) = (kb.u32(0), kb.f32(f32::from(format.levels()[0])));
    for (border, next) in format.borders().zip(&format.levels()[1..]) {
        let over = kb.f32(border).le(size);
        beyond = beyond + over.select(kb.u32(1), kb.u32(0));
        level = over.select(kb.f32(f32::from(*next)), level);
    }
    (positive.select(beyond.plus(half as usize), kb.u32(half - 1) - beyond), positive.select(level, -level))
}
