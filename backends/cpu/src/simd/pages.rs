//! KV pages: where a token's page is, and the heads in it, encoded and decoded.

use swiftlm_ir::quant::head::Group;
use swiftlm_ir::quant::{Affine, Float, Format, HeadRow};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::context::{Context, Ids};
use super::isa::{Isa, LANES};
use super::weights::{load_floats, load_full, load_some};

/// Where the tokens of a step are kept.
#[derive(Clone, Copy)]
pub(crate) struct PageTable {
    positions: Ids,
    sequences: Ids,
    table: Ids,
    stride: usize,
    /// Index of the positions' argument; sequences and table follow.
    arg: usize,
}

/// Which half of a state pages hold: [`HeadRow`] says how each lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Keys,
    Values,
}

/// Keys or values of a state.
#[derive(Clone, Copy)]
pub(crate) struct Pages {
    base: *mut u8,
    /// Pages that the argument holds.
    count: usize,
    part: Part,
    pub(crate) row: HeadRow,
    heads: usize,
}

// SAFETY: addresses; a token's own slot is written by one task only.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl PageTable {
    /// The table whose positions are argument `arg`.
    pub(crate) fn new(ctx: &Context<'_>, arg: usize) -> Result<Self, String> {
        let tokens = ctx.sizes.tokens as usize;
        Ok(Self {
            positions: ctx.ids(arg, "positions", tokens)?,
            sequences: ctx.ids(arg + 1, "sequences", tokens)?,
            table: ctx.all_ids(arg + 2)?,
            stride: ctx.sizes.table_stride as usize,
            arg,
        })
    }

    /// Another table for the same tokens, argument `arg`.
    pub(crate) fn second(&self, ctx: &Context<'_>, arg: usize) -> Result<Self, String> {
        Ok(Self { table: ctx.all_ids(arg)?, ..*self })
    }

    /// Position of a token in its sequence.
    #[inline(always)]
    pub(crate) fn position(&self, token: usize) -> usize {
        self.positions.get(token)
    }

    /// Row of the page table that a token's sequence has.
    #[inline(always)]
    pub(crate) fn sequence(&self, token: usize) -> usize {
        self.sequences.get(token)
    }

    /// Page of block `block` of a token's sequence, below `pages`; what is out of range is reported.
    #[inline(always)]
    pub(crate) fn page(&self, ctx: &Context<'_>, token: usize, block: usize, pages: usize) -> Option<usize> {
        if block >= self.stride {
            ctx.faults.report(self.arg, self.position(token));
            return None;
        }
        let sequence = self.sequences.get(token);
        let Some(page) = self.table.checked(sequence.saturating_mul(self.stride).saturating_add(block)) else {
            ctx.faults.report(self.arg + 1, sequence);
            return None;
        };
        if page >= pages {
            ctx.faults.report(self.arg + 2, page);
            return None;
        }
        Some(page)
    }
}

impl Pages {
    /// The pages of argument `arg`.
    pub(crate) fn new(
        ctx: &Context<'_>,
        arg: usize,
        part: Part,
        format: Format,
        heads: usize,
        dim: usize,
    ) -> Result<Self, String> {
        let row = HeadRow::new(format, dim)?;
        if !(dim * row.bits()).is_multiple_of(32) {
            return Err(format!("heads of {dim} elements do not fill whole words of {format}"));
        }
        let span = ctx.span(arg)?;
        let count = span.bytes / (heads * row.page_bytes()).max(1);
        Ok(Self { base: span.base, count, part, row, heads })
    }

    /// Pages there are.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// A head of a page.
    #[inline(always)]
    pub(crate) unsafe fn head(&self, page: usize, head: usize) -> *mut u32 {
        self.base.add((page * self.heads + head) * self.row.page_bytes()).cast()
    }

    /// Word of a slot of a head.
    #[inline(always)]
    unsafe fn word(&self, head: *mut u32, slot: usize, word: usize) -> *mut u32 {
        match self.part {
            Part::Keys => head.add(word * PAGE_TOKENS + slot),
            Part::Values => head.add(slot * self.row.words() + word),
        }
    }

    /// Encodes `dim` floats into a slot of a head; `padded` floats may be read, nothing else is written.
    #[inline(always)]
    pub(crate) unsafe fn store<I: Isa>(&self, head: *mut u32, slot: usize, from: *const f32) {
        match self.row.format {
            Format::Float(float) => {
                let per = LANES * float.bytes() / 4;
                for (i, first) in (0..self.row.dim).step_by(LANES).zip((0..).step_by(per)) {
                    let x = load_some::<I>(from.add(i), self.row.dim - i);
                    let mut words = [0u32; LANES];
                    match float {
                        Float::F32 => I::store(words.as_mut_ptr().cast(), x),
                        Float::F16 => I::store_f16(words.as_mut_ptr().cast(), x),
                        Float::Bf16 => I::store_bf16(words.as_mut_ptr().cast(), x),
                    }
                    for w in 0..per.min(self.row.words() - first) {
                        *self.word(head, slot, first + w) = words[w];
                    }
                }
            }
            Format::Affine(a) => self.store_codes(a, head, slot, from),
            Format::Mxfp4 => unreachable!("rows of pages are checked to have a format of pages"),
        }
    }

    #[inline(always)]
    unsafe fn store_codes(&self, a: Affine, head: *mut u32, slot: usize, from: *const f32) {
        let (size, per) = (self.row.group(), self.row.per_word());
        let groups = head.add(self.row.words() * PAGE_TOKENS);
        for g in 0..self.row.groups() {
            let x = std::slice::from_raw_parts(from.add(g * size), size);
            let group = Group::of(x, a.bits);
            *groups.add(g * PAGE_TOKENS + slot) = group.word();
            for (w, x) in x.chunks_exact(per).enumerate() {
                let place = |bits, (i, x): (usize, &f32)| bits | group.code(*x) << (i * a.bits as usize);
                *self.word(head, slot, g * size / per + w) = x.iter().enumerate().fold(0, place);
            }
        }
    }

    /// Decodes a head of keys of two bytes each to floats, in the order of the page: two elements of a slot side by side.
    #[inline(always)]
    pub(crate) unsafe fn key_pairs<I: Isa>(&self, head: *const u32, to: *mut f32) {
        let elements = self.row.dim * PAGE_TOKENS;
        match self.row.format {
            Format::Float(Float::Bf16) => decode_dense::<I, 2>(head.cast(), elements, to),
            _ => decode_dense::<I, 1>(head.cast(), elements, to),
        }
    }

    /// A head of floats as they read back: a row for each slot.
    #[inline(always)]
    pub(crate) unsafe fn floats<I: Isa>(&self, head: *const u32, to: *mut f32) {
        let dim = self.row.dim;
        let Format::Float(float) = self.row.format else { return };
        if self.part == Part::Values {
            let which = dim * PAGE_TOKENS;
            return match float {
                Float::F32 => decode_dense::<I, 0>(head.cast(), which, to),
                Float::F16 => decode_dense::<I, 1>(head.cast(), which, to),
                Float::Bf16 => decode_dense::<I, 2>(head.cast(), which, to),
            };
        }
        let per = self.row.per_word();
        for word in 0..self.row.words() {
            for slot in 0..PAGE_TOKENS {
                let bytes = (*head.add(word * PAGE_TOKENS + slot)).to_le_bytes();
                for i in 0..per {
                    *to.add(slot * dim + word * per + i) = float.get(&bytes, i);
                }
            }
        }
    }

    /// The codes of a head of keys as floats `[element][slot]`.
    #[inline(always)]
    pub(crate) unsafe fn key_codes<I: Isa>(&self, head: *const u32, to: *mut f32) {
        let (per, bits) = (self.row.per_word(), self.row.bits());
        for word in 0..self.row.words() {
            for i in 0..per {
                for s in (0..PAGE_TOKENS).step_by(LANES) {
                    let code = I::code(head.add(word * PAGE_TOKENS + s), (i * bits) as i32, (1 << bits) - 1);
                    I::store(to.add((word * per + i) * PAGE_TOKENS + s), code);
                }
            }
        }
    }

    /// The first `latent` elements of a head of keys as they read back: a row of floats for each slot, padded to a multiple
    /// of 16.
    #[inline(always)]
    pub(crate) unsafe fn latents<I: Isa>(&self, head: *const u32, latent: usize, to: *mut f32) {
        let (width, per, bits) = (latent.next_multiple_of(LANES), self.row.per_word(), self.row.bits());
        let mut lanes = [0f32; LANES];
        for word in 0..latent / per {
            let from = head.add(word * PAGE_TOKENS);
            match self.row.format {
                Format::Float(float) => {
                    // Elements of a word are neighbours, and words of neighbouring slots.
                    for first in (0..PAGE_TOKENS * per).step_by(LANES) {
                        let loaded = load_full::<I>(float, from.cast::<u8>().add(first * float.bytes()));
                        I::store(lanes.as_mut_ptr(), loaded);
                        for (i, x) in lanes.iter().enumerate() {
                            let (slot, d) = ((first + i) / per, word * per + (first + i) % per);
                            *to.add(slot * width + d) = *x;
                        }
                    }
                }
                Format::Affine(_) | Format::Mxfp4 => {
                    let groups = head.add((self.row.words() + word * per / self.row.group()) * PAGE_TOKENS);
                    for (s, i) in (0..PAGE_TOKENS).step_by(LANES).flat_map(|s| (0..per).map(move |i| (s, i))) {
                        let code = I::code(from.add(s), (i * bits) as i32, (1 << bits) - 1);
                        let [scale, bias] = I::halves_f16(groups.add(s));
                        I::store(lanes.as_mut_ptr(), I::fma(scale, code, bias));
                        for (slot, x) in lanes.iter().enumerate() {
                            *to.add((s + slot) * width + word * per + i) = *x;
                        }
                    }
                }
            }
        }
        // Behind the last element lies nothing that a weight could be multiplied by.
        for slot in 0..PAGE_TOKENS {
            for d in latent..width {
                *to.add(slot * width + d) = 0.0;
            }
        }
    }

    /// Decodes slots `from .. until` of a head of values to floats `[slot][element]`, groups of codes to codes; rows padded to a multiple of 16.
    #[inline(always)]
    pub(crate) unsafe fn values<I: Isa>(&self, head: *const u32, (from, until): (usize, usize), to: *mut f32) {
        let (dim, width, words) = (self.row.dim, self.row.dim.next_multiple_of(LANES), self.row.words());
        let bits = self.row.bits();
        if let Format::Float(float) = self.row.format {
            let (first, to) = (head.add(from * words).cast::<u8>(), to.add(from * width));
            if dim == width {
                let elements = (until - from) * dim;
                match float {
                    Float::F32 => decode_dense::<I, 0>(first, elements, to),
                    Float::F16 => decode_dense::<I, 1>(first, elements, to),
                    Float::Bf16 => decode_dense::<I, 2>(first, elements, to),
                }
                return;
            }
            for slot in 0..until - from {
                let row = first.add(4 * slot * words);
                for d in (0..dim).step_by(LANES) {
                    I::store(to.add(slot * width + d), load_floats::<I>(float, row.add(d * float.bytes()), dim - d));
                }
            }
            return;
        }
        for slot in from..until {
            let (row, to) = (head.add(slot * words).cast::<u8>(), to.add(slot * width));
            for d in (0..dim).step_by(LANES) {
                let mut codes = row.add(d * bits / 8);
                let mut padded = [0u8; LANES];
                if d + LANES > dim {
                    std::ptr::copy_nonoverlapping(codes, padded.as_mut_ptr(), (dim - d) * bits / 8);
                    codes = padded.as_ptr();
                }
                I::store(to.add(d), if bits == 8 { I::load_u8(codes) } else { I::load_u4(codes) });
            }
        }
    }
}

/// Decodes floats that lie side by side, a multiple of 16. Which: f32, f16, bf16.
#[inline(always)]
unsafe fn decode_dense<I: Isa, const WHICH: usize>(from: *const u8, elements: usize, to: *mut f32) {
    const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];
    for i in (0..elements).step_by(LANES) {
        I::store(to.add(i), load_full::<I>(FLOATS[WHICH], from.add(i * FLOATS[WHICH].bytes())));
    }
}
