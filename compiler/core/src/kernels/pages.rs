//! KV pages as operands: where a token's page is, and heads in a page, encoded or decoded.

use swiftlm_ir::kernel::builder::{A, E, Kb};
use swiftlm_ir::kernel::{Access, DataBound, Immediate, KType, Length};
use swiftlm_ir::quant::decode::{pack_width, word_of, word_values};
use swiftlm_ir::quant::encode::GroupExpr;
use swiftlm_ir::quant::{Format, HeadRow};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::Bounds;
use super::operand::per_token;

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
}

/// A head of a token in a page: the head's first word, and the slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'k> {
    first: E<'k>,
    slot: E<'k>,
}

impl<'k> Pages<'k> {
    /// Declares the next argument.
    pub(super) fn declare(kb: &'k Kb, part: Part, access: Access, format: Format, heads: usize, dim: usize) -> Self {
        let row = HeadRow { format, dim };
        let name = if part == Part::Keys { "key_pages" } else { "value_pages" };
        let unit = (heads * row.page_bytes() / 4) as u64;
        Self { kb, arg: kb.arg(name, access, KType::U32, Length::Units(unit)), row, part, heads }
    }

    /// How a head is stored.
    pub(super) fn row(&self) -> HeadRow {
        self.row
    }

    /// Where a head of a token is.
    pub(super) fn place(&self, page: E<'k>, head: E<'k>, slot: E<'k>) -> Place<'k> {
        let words = self.row.page_bytes() / 4;
        let page = page.trust(DataBound::BelowUnits(self.arg.index)).times(self.heads * words);
        Place { first: page + head.times(words), slot }
    }

    fn at(&self, place: Place<'k>, word: E<'k>) -> E<'k> {
        match self.part {
            Part::Keys => place.first + word.times(PAGE_TOKENS) + place.slot,
            Part::Values => place.first + place.slot.times(self.row.words()) + word,
        }
    }

    fn group_at(&self, place: Place<'k>, group: E<'k>) -> E<'k> {
        place.first + group.times(PAGE_TOKENS).plus(self.row.words() * PAGE_TOKENS) + place.slot
    }

    /// The elements of word `word` of a head.
    pub(super) fn word(&self, place: Place<'k>, word: E<'k>) -> Vec<E<'k>> {
        let bits = self.arg.load(self.at(place, word));
        let a = match self.row.format {
            Format::Float(float) => return word_values(self.kb, float, bits),
            Format::Affine(a) => u32::from(a.bits),
        };
        let group = self.arg.load(self.group_at(place, word.over(self.row.group() / self.row.per_word())));
        let (scale, bias, mask) = (group.half_low(), group.half_high(), self.kb.u32((1 << a) - 1));
        let code = |i: u32| (bits >> self.kb.u32(i * a)) & mask;
        (0..32 / a).map(|i| scale * code(i).to_f32() + bias).collect()
    }

    /// Pack `pack` of a head: vectors of 4, or one element.
    pub(super) fn pack(&self, place: Place<'k>, pack: E<'k>) -> Vec<E<'k>> {
        let (n, per) = (pack_width(self.row.dim), self.row.per_word());
        if n == 1 {
            let values = self.word(place, pack.over(per));
            return match values[..] {
                [low, high] => vec![pack.modulo(2).equals(self.kb.u32(0)).select(low, high)],
                _ => values,
            };
        }
        let first = pack.times(n / per);
        let values: Vec<E<'k>> = (0..n / per).flat_map(|i| self.word(place, first.plus(i))).collect();
        values.chunks_exact(4).map(|q| E::compose4([q[0], q[1], q[2], q[3]])).collect()
    }

    /// Writes word `word` of a head whose elements `value` gives. The first word of a group writes the group's, too.
    pub(super) fn store(&self, place: Place<'k>, word: E<'k>, value: impl Fn(E<'k>) -> E<'k>) {
        let per = self.row.per_word();
        let first = word.times(per);
        let values: Vec<E<'k>> = (0..per).map(|i| value(first.plus(i))).collect();
        let bits = match self.row.format {
            Format::Float(float) => word_of(self.kb, float, &values),
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
