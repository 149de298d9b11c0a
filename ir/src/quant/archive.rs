//! Archives: where the older pages of a state are kept in TurboQuant codes. Which tokens are read from there, and how
//! codes lie in a page.
//!
//! A page holds, for each head, the codes of [`PAGE_TOKENS`] slots in planes and behind them the slots' scales, two
//! binary16 to a word. Keys lie `[word][slot]`: a word has codes of one slot. Values lie `[word][element]`: a word has
//! codes of one element for several slots. Field `f` of byte `b` in word `w` of a plane of `n` bits is code
//! `w · 32/n + 4 f + b`, so that each shift of a word leaves four neighbours in its four bytes.

use serde::{Deserialize, Serialize};

use super::Turbo;
use super::rotation;
use super::turbo::Scale;
use crate::ty::PAGE_TOKENS;

/// First token that the mean of keys counts: those before often stand out.
pub const MEAN_FROM: usize = 4;

/// Which tokens of a state are archived, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Archive {
    /// How keys are stored.
    pub k: Turbo,
    /// How values are stored.
    pub v: Turbo,
    /// Tokens at the start of a sequence that are not read from the archive; whole pages.
    pub first: usize,
    /// Tokens before a query that are not; whole pages.
    pub last: usize,
    /// Whether keys are stored less the mean of the first tokens' keys, from [`MEAN_FROM`] on.
    pub centered: bool,
}

impl Archive {
    /// The archive that is used unless told otherwise: keys and values of so many bits, without the first page and the last
    /// eight.
    ///
    /// # Errors
    /// A width that is not supported.
    pub fn of_bits(k: u8, v: u8) -> Result<Self, String> {
        let codes = |bits| Turbo::new(bits, Scale::Matched);
        Ok(Self { k: codes(k)?, v: codes(v)?, first: PAGE_TOKENS, last: 8 * PAGE_TOKENS, centered: false })
    }

    /// Whether a query in block `of` of its sequence reads block `block` from the archive.
    pub fn holds(&self, block: usize, of: usize) -> bool {
        block >= self.first / PAGE_TOKENS && block + self.last / PAGE_TOKENS < of
    }

    /// Tokens back from a query, itself included, that are not read from the archive at most.
    pub fn recent(&self) -> usize {
        self.last + PAGE_TOKENS
    }

    /// Checks it for heads of `dim` elements.
    ///
    /// # Errors
    /// A sentence naming what is not possible.
    pub fn check(&self, dim: usize) -> Result<(), String> {
        if !self.first.is_multiple_of(PAGE_TOKENS) || !self.last.is_multiple_of(PAGE_TOKENS) || self.last == 0 {
            return Err(format!(
                "an archive without the first {} and the last {} tokens: expected multiples of {PAGE_TOKENS}, the last not 0",
                self.first, self.last
            ));
        }
        if self.centered && self.first == 0 {
            return Err("keys less the mean of the first tokens, but no first tokens are kept".to_owned());
        }
        ArchiveRow::new(self.k, dim)?;
        ArchiveRow::new(self.v, dim).map(|_| ())
    }
}

/// One head of one token in a page of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveRow {
    /// How its elements are stored.
    pub format: Turbo,
    /// Elements.
    pub dim: usize,
}

impl ArchiveRow {
    /// A checked row.
    ///
    /// # Errors
    /// A sentence naming what pages cannot hold.
    pub fn new(format: Turbo, dim: usize) -> Result<Self, String> {
        rotation::parts(dim)?;
        if !dim.is_multiple_of(16) {
            return Err(format!("heads of {dim} elements have no archive: expected a multiple of 16"));
        }
        Ok(Self { format, dim })
    }

    /// Words of a slot's codes of keys.
    pub fn key_words(&self) -> usize {
        self.format.planes().iter().map(|bits| (self.dim * *bits as usize).div_ceil(32)).sum()
    }

    /// Words of an element's codes of values.
    pub fn value_words(&self) -> usize {
        self.format.bits as usize * PAGE_TOKENS / 32
    }

    /// Words of the codes of a head of a page: as many as the larger of keys and values take.
    pub fn code_words(&self) -> usize {
        (self.key_words() * PAGE_TOKENS).max(self.value_words() * self.dim)
    }

    /// Bytes of one head of a page.
    pub fn page_bytes(&self) -> usize {
        4 * (self.code_words() + PAGE_TOKENS / 2)
    }

    /// Where code `i` of `count` lies: for each plane its word, the bit in it, and the bits it has.
    pub fn fields(self, count: usize, i: usize) -> impl Iterator<Item = (usize, u32, u32)> {
        let mut first = 0;
        self.format.planes().iter().map(move |bits| {
            let per = 32 / *bits as usize;
            let (word, within) = (first + i / per, i % per);
            first += (count * *bits as usize).div_ceil(32);
            (word, (8 * (within % 4) + *bits as usize * (within / 4)) as u32, u32::from(*bits))
        })
    }

    /// Encodes the keys (or values) of a page: `x` has a row of `dim` elements for each slot. The page's words.
    pub fn encode(&self, x: &[f32], keys: bool) -> Vec<u32> {
        let mut words = vec![0u32; self.page_bytes() / 4];
        for (slot, x) in x.chunks_exact(self.dim).enumerate() {
            let (codes, scale) = self.format.encode(x);
            for (d, code) in codes.into_iter().enumerate() {
                let (count, i) = if keys { (self.dim, d) } else { (PAGE_TOKENS, slot) };
                let mut below = 0;
                for (word, shift, bits) in self.fields(count, i) {
                    let at = if keys { word * PAGE_TOKENS + slot } else { word * self.dim + d };
                    words[at] |= (code >> below & ((1 << bits) - 1)) << shift;
                    below += bits;
                }
            }
            words[self.code_words() + slot / 2] |= u32::from(scale.to_bits()) << (16 * (slot % 2));
        }
        words
    }

    /// What [`Self::encode`] made, read back: rows of `dim` elements, one for each slot.
    pub fn decode(&self, words: &[u32], keys: bool) -> Vec<f32> {
        let element = |slot: usize, d: usize| {
            let (count, i) = if keys { (self.dim, d) } else { (PAGE_TOKENS, slot) };
            let (mut code, mut below) = (0, 0);
            for (word, shift, bits) in self.fields(count, i) {
                let at = if keys { word * PAGE_TOKENS + slot } else { word * self.dim + d };
                code |= (words[at] >> shift & ((1 << bits) - 1)) << below;
                below += bits;
            }
            let scale = words[self.code_words() + slot / 2] >> (16 * (slot % 2));
            f32::from(self.format.level(code)) * half::f16::from_bits(scale as u16).to_f32()
        };
        (0..PAGE_TOKENS)
            .flat_map(|slot| (0..self.dim).map(move |d| (slot, d)))
            .map(|(slot, d)| element(slot, d))
            .collect()
    }
}
