//! KV pages as operands: where a token's page is, and heads in a page, encoded or decoded.

use swiftlm_ir::kernel::builder::{A, E, Kb};
use swiftlm_ir::kernel::{Access, DataBound, Immediate, KType, Length};
use swiftlm_ir::quant::decode::{word_of, word_values};
use swiftlm_ir::quant::encode::GroupExpr;
use swiftlm_ir::quant::{Format, HeadRow};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::Bounds;
use super::operand::{SplatTo, per_token};

/// The inputs that say where tokens are kept. What the host checks when it writes them: sequences are rows of the page
/// table, positions lie within a row of it, and entries are pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageTable<'k> {
    kb: &'k Kb,
    positions: A<'k>,
    sequences: A<'k>,
    table: A<'k>,
}

impl<'k> PageTable<'k> {
    /// Declares the next three arguments.
    pub(super) fn declare(kb: &'k Kb, bounds: Bounds) -> Self {
        Self {
            kb,
            positions: per_token(kb, "positions", bounds),
            sequences: per_token(kb, "sequences", bounds),
            table: kb.arg("page_table", Access::Read, KType::U32, Length::PageTable),
        }
    }

    /// Another page table for the same tokens, the next argument.
    pub(super) fn declare_second(&self, kb: &'k Kb) -> Self {
        Self { table: kb.arg("archive_table", Access::Read, KType::U32, Length::PageTable), ..*self }
    }

    /// Position of a token in its sequence.
    pub(super) fn position(&self, token: E<'k>) -> E<'k> {
        self.positions.load(token)
    }

    /// Which of its sequence's pages a position is in.
    pub(super) fn block(&self, position: E<'k>) -> E<'k> {
        position.over(PAGE_TOKENS).trust(DataBound::BelowImmediate(Immediate::TableStride))
    }

    /// Page of block `block` of a token's sequence.
    pub(super) fn page(&self, token: E<'k>, block: E<'k>) -> E<'k> {
        let sequence = self.sequences.load(token).trust(DataBound::BelowUnits(self.table.index));
        self.table.load(sequence * self.kb.immediate(Immediate::TableStride) + block)
    }
}

/// Which half of a state pages hold: [`HeadRow`] says how each lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Keys,
    Values,
}

/// Keys or values of a state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages<'k> {
    kb: &'k Kb,
    arg: A<'k>,
    row: HeadRow,
    part: Part,
    heads: usize,
    /// Words of an element of the argument: what is read in one go.
    width: usize,
}

/// A head of a token in a page: the head's first element, and the slot; of keys that are read, four slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'k> {
    first: E<'k>,
    slot: E<'k>,
}

impl<'k> Pages<'k> {
    /// Declares the next argument. What is only read is read in vectors: of keys a word of four slots, of values
    /// neighbours in a row, up to 8 elements of a head.
    pub(super) fn declare(kb: &'k Kb, part: Part, access: Access, format: Format, heads: usize, dim: usize) -> Self {
        let row = HeadRow { format, dim };
        let name = if part == Part::Keys { "key_pages" } else { "value_pages" };
        let narrow = |width: &usize| row.words().is_multiple_of(*width) && width * row.per_word() <= 8;
        let width = match (access, part) {
            (Access::ReadWrite, _) => 1,
            (Access::Read, Part::Keys) => 4,
            (Access::Read, Part::Values) => [4, 2].into_iter().find(narrow).unwrap_or(1),
        };
        let (elem, unit) = ([KType::U32, KType::U32X2, KType::U32X4][width / 2], heads * row.page_bytes() / 4 / width);
        Self { kb, arg: kb.arg(name, access, elem, Length::Units(unit as u64)), row, part, heads, width }
    }

    /// How a head is stored.
    pub(super) fn row(&self) -> HeadRow {
        self.row
    }

    /// Words that are read in one go.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Where a head of a token is; of keys that are read, the head of slots `4 · slot ..`.
    pub(super) fn place(&self, page: E<'k>, head: E<'k>, slot: E<'k>) -> Place<'k> {
        let elements = self.row.page_bytes() / 4 / self.width;
        let page = page.trust(DataBound::BelowUnits(self.arg.index)).times(self.heads * elements);
        Place { first: page + head.times(elements), slot }
    }

    fn at(&self, place: Place<'k>, word: E<'k>) -> E<'k> {
        match self.part {
            Part::Keys => place.first + word.times(PAGE_TOKENS / self.width) + place.slot,
            Part::Values => place.first + place.slot.times(self.row.words() / self.width) + word,
        }
    }

    fn group_at(&self, place: Place<'k>, group: E<'k>) -> E<'k> {
        let slots = PAGE_TOKENS / self.width;
        place.first + group.times(slots).plus(self.row.words() * slots) + place.slot
    }

    /// Word `word` of four slots, or words `width · word ..` of a row of values, as stored.
    pub(super) fn load(&self, place: Place<'k>, word: E<'k>) -> E<'k> {
        self.arg.load(self.at(place, word))
    }

    /// Element `d` of a head of what may be written.
    pub(super) fn element(&self, place: Place<'k>, d: E<'k>) -> E<'k> {
        let per = self.row.per_word();
        let values = self.decode(self.load(place, d.over(per)));
        let pick =
            |found: E<'k>, (i, value): (usize, &E<'k>)| d.modulo(per).equals(self.kb.dim(i)).select(*value, found);
        values.iter().enumerate().skip(1).fold(values[0], pick)
    }

    /// The elements of what [`Self::load`] gave, which [`Self::scales`] are for: of keys, for each element of a word a
    /// vector over the slots.
    pub(super) fn elements(&self, loaded: E<'k>) -> Vec<E<'k>> {
        match self.part {
            Part::Keys => self.decode(loaded),
            Part::Values => (0..loaded.ty().width).flat_map(|i| self.decode(loaded.extract(i))).collect(),
        }
    }

    /// The elements of a word, or of each word of a vector.
    fn decode(&self, words: E<'k>) -> Vec<E<'k>> {
        match (self.row.format, words.ty().width) {
            (Format::Float(float), 1) => word_values(self.kb, float, words),
            (Format::Float(float), _) => {
                let slots = [0, 1, 2, 3].map(|i| word_values(self.kb, float, words.extract(i)));
                (0..self.row.per_word()).map(|i| E::compose4([0, 1, 2, 3].map(|slot| slots[slot][i]))).collect()
            }
            (Format::Mxfp4, _) => unreachable!("rows of pages are checked to have a format of pages"),
            (Format::Affine(a), _) => {
                // Two codes at a time become the upper mantissa of two halves of exponent `bits`: 2^bits + code.
                let (bits, all) = (u32::from(a.bits), |n: u32| self.kb.u32(n).splat_to(words));
                let (to, both) = (10 - bits, |half: u32| all(half << 16 | half));
                let (mask, exponent) = (both(((1 << bits) - 1) << to), both((15 + bits) << 10));
                let pairs: Vec<E<'k>> = (0..16 / bits)
                    .map(|i| if i * bits < to { words << all(to - i * bits) } else { words >> all(i * bits - to) })
                    .map(|moved| (moved & mask) | exponent)
                    .collect();
                pairs.iter().map(|p| p.half_low()).chain(pairs.iter().map(|p| p.half_high())).collect()
            }
        }
    }

    /// Scales and biases of [`Self::elements`] of four slots, from the words that hold them.
    pub(super) fn scales(&self, groups: [E<'k>; 4]) -> [E<'k>; 2] {
        let [scale, bias] = [E::half_low, E::half_high].map(|half| E::compose4(groups.map(half)));
        let more = -((1u32 << self.row.bits()) as f32);
        [scale, scale.fma(self.kb.f32(more).splat(4), bias)]
    }

    /// Words that hold scale and bias of a group, of slots `4 · quad ..`.
    pub(super) fn groups(&self, place: Place<'k>, quad: E<'k>, group: E<'k>) -> [E<'k>; 4] {
        let place = Place { slot: quad.times(4 / self.width), ..place };
        let first = self.group_at(place, group);
        let words: Vec<E<'k>> = (0..4 / self.width)
            .map(|i| self.arg.load(first.plus(i)))
            .flat_map(|words| (0..words.ty().width).map(move |i| words.extract(i)))
            .collect();
        [0, 1, 2, 3].map(|i| words[i])
    }

    /// Writes word `word` of a head whose elements `value` gives. The first word of a group writes the group's, too.
    pub(super) fn store(&self, place: Place<'k>, word: E<'k>, value: impl Fn(E<'k>) -> E<'k>) {
        let per = self.row.per_word();
        let first = word.times(per);
        let values: Vec<E<'k>> = (0..per).map(|i| value(first.plus(i))).collect();
        let bits = match self.row.format {
            Format::Float(float) => word_of(self.kb, float, &values),
            Format::Mxfp4 => unreachable!("rows of pages are checked to have a format of pages"),
            Format::Affine(a) => {
                let per_group = self.row.group() / per;
                let (index, start) = (word.over(per_group), word.over(per_group).times(self.row.group()));
                let (low, high) = (self.kb.var(values[0]), self.kb.var(values[0]));
                self.kb.range(self.kb.u32(0), self.kb.dim(self.row.group()), 1, |i| {
                    let x = value(start + i);
                    low.set(low.get().min(x));
                    high.set(high.get().max(x));
                });
                let group = GroupExpr::new(self.kb, low.get(), high.get(), a.bits);
                self.kb.when(word.modulo(per_group).equals(self.kb.u32(0)), || {
                    self.arg.store(self.group_at(place, index), group.word);
                });
                let code = |(i, x): (usize, &E<'k>)| group.code(*x) << self.kb.dim(i * a.bits as usize);
                values.iter().enumerate().map(code).reduce(|a, b| a | b).unwrap_or(self.kb.u32(0))
            }
        };
        self.arg.store(self.at(place, word), bits);
    }
}
