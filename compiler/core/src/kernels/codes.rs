//! TurboQuant codes in kernels: pages of an archive as operands, and the coding of numbers.

use std::cmp::Ordering;

use swiftlm_ir::kernel::builder::{A, E, Kb, S};
use swiftlm_ir::kernel::{Access, DataBound, KType, Length};
use swiftlm_ir::quant::{ArchiveRow, Turbo};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::pages::Part;

/// Columns (slots of keys, elements of values) that are read together: a vector of their words.
pub(super) const COLUMNS: usize = 4;

/// Keys or values of an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArchivePages<'k> {
    kb: &'k Kb,
    arg: A<'k>,
    pub(super) row: ArchiveRow,
    part: Part,
    heads: usize,
    /// Words of an element of the argument: [`COLUMNS`] of what is only read, else 1.
    width: usize,
}

/// Codes of a plane: so many bits of each.
#[derive(Clone, Copy, Debug)]
struct Plane {
    bits: usize,
    /// Bits of a code below these.
    below: usize,
    /// The plane's first word beside a column, and how many it has there.
    first: usize,
    words: usize,
}

impl Plane {
    /// Codes of a word.
    fn per_word(self) -> usize {
        32 / self.bits
    }
}

/// Some codes beside [`COLUMNS`] columns, from a multiple of their count on: whole words of each plane, or an even part
/// of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes<'k> {
    /// The first.
    pub(super) start: E<'k>,
    /// How many; a multiple of 4.
    pub(super) count: usize,
}

impl<'k> ArchivePages<'k> {
    /// Declares the next argument.
    pub(super) fn declare(kb: &'k Kb, part: Part, access: Access, format: Turbo, (heads, dim): (usize, usize)) -> Self {
        let row = ArchiveRow { format, dim };
        let name = if part == Part::Keys { "archived_keys" } else { "archived_values" };
        let (elem, width) = if access == Access::Read { (KType::U32X4, COLUMNS) } else { (KType::U32, 1) };
        let unit = (heads * row.page_bytes() / 4 / width) as u64;
        Self { kb, arg: kb.arg(name, access, elem, Length::Units(unit)), row, part, heads, width }
    }

    /// A head's first element in a page.
    pub(super) fn place(&self, page: E<'k>, head: E<'k>) -> E<'k> {
        let elements = self.row.page_bytes() / 4 / self.width;
        page.trust(DataBound::BelowUnits(self.arg.index)).times(self.heads * elements) + head.times(elements)
    }

    /// Elements (of keys) or slots (of values) that codes are counted by, and the words between two of theirs.
    fn counts(&self) -> (usize, usize) {
        match self.part {
            Part::Keys => (self.row.dim, PAGE_TOKENS),
            Part::Values => (PAGE_TOKENS, self.row.dim),
        }
    }

    fn planes(&self) -> Vec<Plane> {
        let (all, _) = self.counts();
        let (mut first, mut below) = (0, 0);
        let plane = |bits: &u8| {
            let bits = *bits as usize;
            let plane = Plane { bits, below, first, words: (all * bits).div_ceil(32) };
            (first, below) = (first + plane.words, below + bits);
            plane
        };
        self.row.format.planes().iter().map(plane).collect()
    }

    /// The fewest codes, at least `count`, that are whole words of each plane or an even part of one.
    pub(super) fn even(&self, count: usize) -> usize {
        let planes = self.planes();
        let fits =
            |n: &usize| planes.iter().map(|p| p.per_word()).all(|per| n.is_multiple_of(per) || per.is_multiple_of(*n));
        (count.next_multiple_of(4)..).step_by(4).find(fits).expect("a multiple of 32 is whole words")
    }

    /// The words that hold some codes beside columns `4 · columns ..`, by plane. In place of those behind the last word
    /// of a plane, it is read.
    pub(super) fn load(&self, place: E<'k>, columns: E<'k>, codes: Codes<'k>) -> Vec<E<'k>> {
        let (_, stride) = self.counts();
        let plane = |plane: Plane| {
            let first = codes.start.over(plane.per_word());
            (0..codes.count.div_ceil(plane.per_word())).map(move |w| {
                let word = first.plus(w).min(self.kb.dim(plane.words - 1)).plus(plane.first);
                self.arg.load(place + word.times(stride / self.width) + columns)
            })
        };
        self.planes().into_iter().flat_map(plane).collect()
    }

    /// What [`Self::load`] gave, moved so that the first code is the first of its word.
    pub(super) fn aligned(&self, loaded: &[E<'k>], codes: Codes<'k>) -> Vec<E<'k>> {
        let mut loaded = loaded.iter();
        let mut aligned = vec![];
        for plane in self.planes() {
            let per = plane.per_word();
            for word in loaded.by_ref().take(codes.count.div_ceil(per)) {
                // Fields of four codes lie beside one another, one in each byte.
                aligned.push(match codes.count.is_multiple_of(per) {
                    true => *word,
                    false => *word >> codes.start.modulo(per).over(4).times(plane.bits).splat(COLUMNS as u8),
                });
            }
        }
        aligned
    }

    /// Codes `4 · i ..` of `count` in what [`Self::aligned`] gave, vectors over its columns.
    pub(super) fn four(&self, aligned: &[E<'k>], count: usize, i: usize) -> [E<'k>; 4] {
        let planes = self.planes();
        let all = |n: usize| self.kb.dim(n).splat(COLUMNS as u8);
        let moved = |word: E<'k>, left: usize, right: usize| match left.cmp(&right) {
            Ordering::Less => word >> all(right - left),
            Ordering::Equal => word,
            Ordering::Greater => word << all(left - right),
        };
        let codes = all((1 << self.row.format.bits) - 1);
        // The word of a plane that holds the four, and by how much the first is shifted there.
        let mut rest = aligned;
        let mut place = |plane: Plane| {
            let (words, behind) = rest.split_at(count.div_ceil(plane.per_word()));
            rest = behind;
            let first = 4 * i % plane.per_word();
            (words[4 * i / plane.per_word()], plane.bits * first / 4)
        };
        if let [plane] = planes[..] {
            let (word, shift) = place(plane);
            return [0, 1, 2, 3].map(|byte| moved(word, 0, shift + 8 * byte) & codes);
        }
        // Planes meet while the four codes are the bytes of a word.
        let field = |plane: Plane| {
            let (word, shift) = place(plane);
            moved(word, plane.below, shift) & all((((1 << plane.bits) - 1) << plane.below) * 0x0101_0101)
        };
        let word = planes.into_iter().map(field).reduce(|a, b| a | b).expect("there is a plane");
        [0, 1, 2, 3].map(|byte| if byte == 3 { word >> all(24) } else { moved(word, 0, 8 * byte) & codes })
    }

    /// The element that holds the scales of slots `4 · quad ..`.
    pub(super) fn load_scales(&self, place: E<'k>, quad: E<'k>) -> E<'k> {
        self.arg.load(place + quad.over(2).plus(self.row.code_words() / self.width))
    }

    /// The scales of slots `4 · quad ..` in what [`Self::load_scales`] gave.
    pub(super) fn scales(&self, loaded: E<'k>, quad: E<'k>) -> E<'k> {
        let even = quad.modulo(2).equals(self.kb.u32(0));
        let [low, high] = [0, 1].map(|i| even.select(loaded.extract(i), loaded.extract(i + 2)));
        E::compose4([low.half_low(), low.half_high(), high.half_low(), high.half_high()])
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

    /// What each code of a vector means, in units of its vector's scale.
    pub(super) fn get(&self, codes: E<'k>) -> E<'k> {
        E::compose4([0, 1, 2, 3].map(|i| self.table.get(codes.extract(i))))
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
