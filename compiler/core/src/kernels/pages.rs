//! KV pages as operands: where a token's page is, and rows of a page in their float format.

use swiftlm_ir::kernel::builder::{A, E, Kb};
use swiftlm_ir::kernel::{Access, DataBound, Immediate, KType, Length};
use swiftlm_ir::quant::decode::{floats, pack_width, word_of, word_values};
use swiftlm_ir::quant::{Float, Format};
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

/// Keys or values: pages of `[head][slot][dim]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages<'k> {
    kb: &'k Kb,
    arg: A<'k>,
    float: Float,
    heads: usize,
    dim: usize,
    /// Words of an element of the argument: 1 or 4.
    step: usize,
}

impl<'k> Pages<'k> {
    /// Declares the next argument as pages that are accessed word by word.
    pub(super) fn declare(kb: &'k Kb, name: &str, access: Access, format: Format, heads: usize, dim: usize) -> Self {
        Self::declare_as(kb, name, access, format, heads, dim, KType::U32)
    }

    /// Declares the next argument as pages that are read by packs.
    pub(super) fn declare_packs(kb: &'k Kb, name: &str, format: Format, heads: usize, dim: usize) -> Self {
        let words = pack_width(dim) * float(format).bytes() / 4;
        let elem = if words > 0 && words.is_multiple_of(4) { KType::U32X4 } else { KType::U32 };
        Self::declare_as(kb, name, Access::Read, format, heads, dim, elem)
    }

    fn declare_as(
        kb: &'k Kb,
        name: &str,
        access: Access,
        format: Format,
        heads: usize,
        dim: usize,
        elem: KType,
    ) -> Self {
        let (float, step) = (float(format), elem.width as usize);
        let unit = heads * PAGE_TOKENS * dim * float.bytes() / elem.bytes();
        Self { kb, arg: kb.arg(name, access, elem, Length::Units(unit as u64)), float, heads, dim, step }
    }

    /// Elements of a word.
    pub(super) fn per_word(&self) -> usize {
        4 / self.float.bytes()
    }

    /// Words of a row.
    pub(super) fn words(&self) -> usize {
        self.dim / self.per_word()
    }

    /// First argument element of a row.
    fn row(&self, page: E<'k>, head: E<'k>, slot: E<'k>) -> E<'k> {
        let words = self.words() / self.step;
        let page = page.trust(DataBound::BelowUnits(self.arg.index)).times(self.heads * PAGE_TOKENS * words);
        page + (head.times(PAGE_TOKENS) + slot).times(words)
    }

    /// Pack `pack` of a row.
    pub(super) fn pack(&self, page: E<'k>, head: E<'k>, slot: E<'k>, pack: E<'k>) -> Vec<E<'k>> {
        let (row, n) = (self.row(page, head, slot), pack_width(self.dim));
        let words = n * self.float.bytes() / 4;
        if self.step == 4 {
            let first = row + pack.times(words / 4);
            let words = (0..words / 4).flat_map(|i| {
                let four = self.arg.load(first.plus(i));
                (0..4).map(move |i| four.extract(i))
            });
            let values: Vec<E<'k>> = words.flat_map(|word| word_values(self.kb, self.float, word)).collect();
            return values.chunks_exact(4).map(|q| E::compose4([q[0], q[1], q[2], q[3]])).collect();
        }
        if n > 1 {
            return floats(self.kb, self.arg, self.float, row + pack.times(words), n);
        }
        let values = word_values(self.kb, self.float, self.arg.load(row + pack.over(self.per_word())));
        match values[..] {
            [low, high] => vec![pack.modulo(2).equals(self.kb.u32(0)).select(low, high)],
            _ => values,
        }
    }

    /// The values of word `word` of a row.
    pub(super) fn word(&self, page: E<'k>, head: E<'k>, slot: E<'k>, word: E<'k>) -> Vec<E<'k>> {
        word_values(self.kb, self.float, self.arg.load(self.row(page, head, slot) + word))
    }

    /// Writes word `word` of a row: `value` gives its elements.
    pub(super) fn store(&self, page: E<'k>, head: E<'k>, slot: E<'k>, word: E<'k>, value: impl Fn(E<'k>) -> E<'k>) {
        let first = word.times(self.per_word());
        let values: Vec<E<'k>> = (0..self.per_word()).map(|i| value(first.plus(i))).collect();
        self.arg.store(self.row(page, head, slot) + word, word_of(self.kb, self.float, &values));
    }
}

fn float(format: Format) -> Float {
    match format {
        Format::Float(float) => float,
        Format::Affine(_) => unreachable!("keys and values of these templates are floats"),
    }
}
