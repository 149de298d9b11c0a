//! The order in which products read a weight of codes or of bfloat16, and the way there from the order of rows.
//!
//! 16 rows are a block. In the place of a block's codes lie, for 32 columns at a time (a unit), the codes of all its rows:
//! eight sets of four columns, a set being 64 bytes with the four codes of row `r` in bytes `4r .. 4r + 4`. Codes of
//! fewer than 8 bits are cut into planes of 4, 2 and 1 bits, lowest bits first; a plane's 64 bytes hold as many sets as
//! fit, the first in the lowest bits. In the place of a block's scales lie those of its rows, group by group, and so for
//! biases. A unit of bfloat16 is 16 sets of two columns. A block's bytes stay where they were, so weights are rearranged
//! in place, and the bytes read are the file's.

use std::ops::Range;

use swiftlm_device::Order;
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::quant::{Codes, Float, Format, Scale, mxfp4};
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::Template;

use super::isa::LANES;
use crate::memory::Span;
use crate::pool::Pool;

/// Columns of a unit.
pub(crate) const UNIT: usize = 32;
/// Sets of a unit of codes.
pub(crate) const SETS: usize = 8;
/// Sets of a unit of bfloat16.
pub(crate) const PAIRS: usize = UNIT / 2;
/// Blocks that are rearranged at a time.
const TASK_BLOCKS: usize = 16;

/// Widths of the planes of a code, lowest bits first.
pub(crate) const fn planes(bits: usize) -> &'static [usize] {
    match bits {
        2 => &[2],
        3 => &[2, 1],
        4 => &[4],
        5 => &[4, 1],
        6 => &[4, 2],
        _ => &[8],
    }
}

/// A weight in this order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    pub(crate) ty: WeightType,
    /// `None` for bfloat16.
    pub(crate) form: Option<Codes>,
    codes: *mut u8,
    scales: *mut u8,
    biases: *mut u8,
}

// SAFETY: addresses; only `rearrange` writes, each block by one task.
unsafe impl Send for Packed {}
// SAFETY: as above.
unsafe impl Sync for Packed {}

/// Whether all that reads a weight can read it in this order.
pub(crate) fn suits(ty: &WeightType, readers: &[&Template]) -> bool {
    let Some(form) = form_of(ty) else { return false };
    let whole = |rows: usize, pair: bool, round: Option<Rounding>| {
        let rounded = match (round, form) {
            (Some(Rounding::Int { group, .. }), Some(form)) => group as usize == form.group,
            (Some(Rounding::Bf16 { .. }), None) => true,
            _ => false,
        };
        rounded && rows.is_multiple_of(LANES * if pair { 2 } else { 1 })
    };
    let mut products = 0;
    let suits = |template: &&Template| {
        let product = match template {
            Template::Embed(t) => return t.weight == *ty,
            Template::Linear(t) => t.weight == *ty && whole(ty.rows, t.pair, t.round),
            Template::ExpertLinear(t) => {
                let rows = ty.rows / t.experts.max(1);
                t.weight == *ty && whole(rows, t.pair, t.round)
            }
            _ => false,
        };
        products += 1;
        product && super::micro(template).is_some()
    };
    readers.iter().all(suits) && products > 0
}

/// The codes of a weight that has blocks, `None` within for bfloat16.
fn form_of(ty: &WeightType) -> Option<Option<Codes>> {
    match ty.format {
        Format::Float(Float::Bf16) => ty.cols.is_multiple_of(UNIT).then_some(None),
        format => format.codes().map(Some),
    }
}

/// Whether a weight's rows and columns make whole blocks, and its format has them.
pub(crate) fn has_blocks(ty: &WeightType) -> bool {
    form_of(ty).is_some() && ty.rows.is_multiple_of(LANES) && ty.cols.is_multiple_of(UNIT)
}

impl Packed {
    /// The weight of type `ty` that begins at `base`; `None` if its format has no blocks.
    pub(crate) fn new(ty: WeightType, base: *mut u8) -> Option<Self> {
        let form = form_of(&ty)?;
        let layout = ty.format.layout(ty.rows, ty.cols);
        // Of a format without biases nothing asks for them.
        let part = |i: usize| layout.components.get(i).map_or(base, |c| base.wrapping_add(c.offset));
        Some(Self { ty, form, codes: part(0), scales: part(1), biases: part(2) })
    }

    fn bits(&self) -> usize {
        self.form.map_or(16, |form| form.bits)
    }

    fn groups(&self) -> usize {
        self.form.map_or(0, |form| self.ty.cols / form.group)
    }

    fn scale_bytes(&self) -> usize {
        self.form.map_or(0, |form| form.scale.bytes())
    }

    /// Bytes of a block's codes.
    pub(crate) fn block_bytes(&self) -> usize {
        LANES * self.ty.cols * self.bits() / 8
    }

    /// Codes of a block.
    pub(crate) fn codes(&self, block: usize) -> *mut u8 {
        self.codes.wrapping_add(block * self.block_bytes())
    }

    fn scale_block(&self, block: usize) -> usize {
        block * LANES * self.groups() * self.scale_bytes()
    }

    /// Scales of a block: 16 for each group.
    pub(crate) fn scales(&self, block: usize) -> *mut u8 {
        self.scales.wrapping_add(self.scale_block(block))
    }

    /// Biases of a block, where the format has them: 16 for each group.
    pub(crate) fn biases(&self, block: usize) -> *mut u8 {
        self.biases.wrapping_add(self.scale_block(block))
    }

    /// Decodes a row to floats.
    pub(crate) unsafe fn decode(&self, row: usize, to: *mut f32) {
        let (block, lane) = (row / LANES, row % LANES);
        let Some(form) = self.form else {
            let words = self.codes(block).cast::<u32>();
            for pair in 0..self.ty.cols / 2 {
                let word = words.add(pair * LANES + lane).read_unaligned();
                to.add(2 * pair).write(f32::from_bits(word << 16));
                to.add(2 * pair + 1).write(f32::from_bits(word & 0xffff_0000));
            }
            return;
        };
        for unit in 0..self.ty.cols / UNIT {
            let at = unit * UNIT / form.group * LANES + lane;
            let number = |code: u8| match form.scale {
                Scale::Affine(float) => {
                    let one = |base: *mut u8| {
                        let bytes = std::slice::from_raw_parts(base.add(at * float.bytes()), float.bytes());
                        float.get(bytes, 0)
                    };
                    one(self.scales(block)).mul_add(f32::from(code), one(self.biases(block)))
                }
                Scale::Power => mxfp4::unit(*self.scales(block).add(at)) * mxfp4::TWICE[usize::from(code & 15)],
            };
            let words = self.codes(block).cast::<u32>().add(unit * LANES * self.bits());
            let sets = join_planes(self.bits(), |vector| words.add(vector * LANES + lane).read_unaligned());
            for (set, word) in sets.iter().enumerate() {
                for (i, code) in word.to_le_bytes().into_iter().enumerate() {
                    to.add(unit * UNIT + 4 * set + i).write(number(code));
                }
            }
        }
    }

    /// Brings the weight from MLX's order into this one; the threads share the blocks.
    pub(crate) fn rearrange(&self, pool: &Pool) {
        let blocks = self.ty.rows / LANES;
        pool.run(blocks.div_ceil(TASK_BLOCKS), &|_, task| {
            let mut copy = vec![0u8; self.block_bytes()];
            for block in task * TASK_BLOCKS..((task + 1) * TASK_BLOCKS).min(blocks) {
                // SAFETY: the blocks of a task are its own, and lie in the weight.
                unsafe { self.rearrange_block(block, &mut copy) }
            }
        });
    }

    unsafe fn rearrange_block(&self, block: usize, copy: &mut [u8]) {
        std::ptr::copy_nonoverlapping(self.codes(block), copy.as_mut_ptr(), copy.len());
        self.place_codes(block, copy);
        for part in self.scale_parts(block) {
            let copy = &mut copy[..self.scale_block(1)];
            std::ptr::copy_nonoverlapping(part, copy.as_mut_ptr(), copy.len());
            self.place_scales(part, copy);
        }
    }

    /// What scales a block has, then biases.
    fn scale_parts(&self, block: usize) -> impl Iterator<Item = *mut u8> {
        let scales = self.form.map(|_| self.scales(block));
        let affine = self.form.is_some_and(|form| matches!(form.scale, Scale::Affine(_)));
        scales.into_iter().chain(affine.then(|| self.biases(block)))
    }

    /// Writes a block's codes from rows in their own order.
    unsafe fn place_codes(&self, block: usize, from: &[u8]) {
        let (bits, cols) = (self.bits(), self.ty.cols);
        let row_bytes = cols * bits / 8;
        let codes = self.codes(block);
        match bits {
            4 => return place_nibbles(codes, from, cols),
            16 => return place_pairs(codes, from, cols),
            _ => {}
        }
        for unit in 0..cols / UNIT {
            let words = codes.cast::<u32>().add(unit * LANES * bits);
            for lane in 0..LANES {
                let row = &from[lane * row_bytes + unit * UNIT * bits / 8..][..UNIT * bits / 8];
                cut_planes(bits, sets_of(bits, row), |vector, word| {
                    words.add(vector * LANES + lane).write_unaligned(word);
                });
            }
        }
    }

    /// Writes a block's codes in the order of rows to `to`.
    unsafe fn fetch_codes(&self, block: usize, to: &mut [u8]) {
        let (bits, cols) = (self.bits(), self.ty.cols);
        let row_bytes = cols * bits / 8;
        if bits == 16 {
            let pairs = self.codes(block).cast::<[u8; 4]>();
            for (i, pair) in to.chunks_exact_mut(4).enumerate() {
                pair.copy_from_slice(&pairs.add(i % (cols / 2) * LANES + i / (cols / 2)).read_unaligned());
            }
            return;
        }
        for unit in 0..cols / UNIT {
            let words = self.codes(block).cast::<u32>().add(unit * LANES * bits);
            for lane in 0..LANES {
                let sets = join_planes(bits, |vector| words.add(vector * LANES + lane).read_unaligned());
                row_of(bits, sets, &mut to[lane * row_bytes + unit * UNIT * bits / 8..][..UNIT * bits / 8]);
            }
        }
    }

    /// Writes a block's scales, or biases, in MLX's order to `to`.
    unsafe fn fetch_scales(&self, from: *const u8, to: &mut [u8]) {
        let (groups, bytes) = (self.groups(), self.scale_bytes());
        for (i, scale) in to.chunks_exact_mut(bytes).enumerate() {
            let at = i % groups * LANES + i / groups;
            std::ptr::copy_nonoverlapping(from.add(at * bytes), scale.as_mut_ptr(), bytes);
        }
    }

    /// Writes a block's scales, or biases, from rows in MLX's order.
    unsafe fn place_scales(&self, to: *mut u8, from: &[u8]) {
        let (groups, bytes) = (self.groups(), self.scale_bytes());
        for (i, scale) in from.chunks_exact(bytes).enumerate() {
            let at = i % groups * LANES + i / groups;
            std::ptr::copy_nonoverlapping(scale.as_ptr(), to.add(at * bytes), bytes);
        }
    }
}

/// The codes of a unit of a row, four to a word, from MLX's bit stream.
fn sets_of(bits: usize, row: &[u8]) -> [u32; SETS] {
    let mut sets = [0; SETS];
    for (pair, bytes) in row.chunks_exact(bits).enumerate() {
        let mut word = [0u8; 8];
        word[..bits].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        let codes: [u8; 8] = std::array::from_fn(|i| (word >> (bits * i)) as u8 & (255 >> (8 - bits)));
        let four = |i: usize| u32::from_le_bytes([codes[i], codes[i + 1], codes[i + 2], codes[i + 3]]);
        (sets[2 * pair], sets[2 * pair + 1]) = (four(0), four(4));
    }
    sets
}

/// MLX's bit stream of the codes of a unit of a row: what [`sets_of`] reads.
fn row_of(bits: usize, sets: [u32; SETS], row: &mut [u8]) {
    for (pair, bytes) in row.chunks_exact_mut(bits).enumerate() {
        let codes = u64::from(sets[2 * pair + 1]) << 32 | u64::from(sets[2 * pair]);
        let stream = codes.to_le_bytes().iter().rev().fold(0u64, |all, code| all << bits | u64::from(*code));
        bytes.copy_from_slice(&stream.to_le_bytes()[..bits]);
    }
}

/// A component of a matrix of its own, as bytes: brings it into this order, or back into MLX's. What it is not possible
/// for is refused in words.
pub(crate) fn turn(ty: WeightType, component: usize, bytes: &mut [u8], back: bool) -> Result<(), String> {
    let layout = ty.format.layout(ty.rows, ty.cols);
    let part = layout.components.get(component).filter(|part| part.bytes == bytes.len() && has_blocks(&ty));
    // All components begin where this one does: no other is touched.
    let packed = Packed::new(ty, bytes.as_mut_ptr()).map(|p| Packed { scales: p.codes, biases: p.codes, ..p });
    let (Some(packed), Some(_)) = (packed, part) else {
        return Err(format!("{} bytes of a weight {ty} have no order of blocks", bytes.len()));
    };
    let size = if component == 0 { packed.block_bytes() } else { packed.scale_block(1) };
    let mut copy = vec![0u8; size];
    for block in 0..ty.rows / LANES {
        // SAFETY: the component has `size` bytes for each block, as its layout says; nobody else holds them.
        unsafe {
            let at = packed.codes.add(block * size);
            match (back, component) {
                (true, 0) => packed.fetch_codes(block, &mut copy),
                (true, _) => packed.fetch_scales(at, &mut copy),
                (false, _) => std::ptr::copy_nonoverlapping(at, copy.as_mut_ptr(), size),
            }
            match (back, component) {
                (true, _) => std::ptr::copy_nonoverlapping(copy.as_ptr(), at, size),
                (false, 0) => packed.place_codes(block, &copy),
                (false, _) => packed.place_scales(at, &copy),
            }
        }
    }
    Ok(())
}

/// The codes of 4 bits of a block: a word of MLX's order has the codes of two sets, which meet in a word of a plane.
unsafe fn place_nibbles(codes: *mut u8, from: &[u8], cols: usize) {
    let row_bytes = cols / 2;
    for unit in 0..cols / UNIT {
        let words = codes.cast::<[u32; LANES]>().add(4 * unit);
        for lane in 0..LANES {
            let row = from.as_ptr().add(lane * row_bytes + unit * UNIT / 2).cast::<[u32; 4]>().read_unaligned();
            let plane = row.map(|word| spread(word & 0xffff) | spread(word >> 16) << 4);
            for (vector, word) in plane.into_iter().enumerate() {
                words.add(vector).cast::<u32>().add(lane).write_unaligned(word);
            }
        }
    }
}

/// The bfloat16 of a block: of a line of each row, pair by pair.
unsafe fn place_pairs(codes: *mut u8, from: &[u8], cols: usize) {
    for unit in 0..cols / UNIT {
        let sets = codes.cast::<[u32; LANES]>().add(unit * PAIRS);
        for lane in 0..LANES {
            let row = from.as_ptr().add(2 * (lane * cols + unit * UNIT)).cast::<[u32; PAIRS]>().read_unaligned();
            for (set, pair) in row.into_iter().enumerate() {
                sets.add(set).cast::<u32>().add(lane).write_unaligned(pair);
            }
        }
    }
}

/// Four nibbles to four bytes.
fn spread(nibbles: u32) -> u32 {
    let x = (nibbles | nibbles << 8) & 0x00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f
}

fn mask(width: usize) -> u32 {
    0x0101_0101 * (255 >> (8 - width))
}

/// Cuts a row's sets into the words of its planes.
fn cut_planes(bits: usize, sets: [u32; SETS], mut store: impl FnMut(usize, u32)) {
    let (mut shift, mut vector) = (0, 0);
    for width in planes(bits) {
        for some in sets.chunks_exact(8 / width) {
            let words = some.iter().enumerate().map(|(i, set)| (set >> shift & mask(*width)) << (i * width));
            store(vector, words.fold(0, |all, word| all | word));
            vector += 1;
        }
        shift += width;
    }
}

/// Puts a row's sets together from the words of its planes.
fn join_planes(bits: usize, load: impl Fn(usize) -> u32) -> [u32; SETS] {
    let mut sets = [0; SETS];
    let (mut shift, mut vector) = (0, 0);
    for width in planes(bits) {
        for some in sets.chunks_exact_mut(8 / width) {
            let word = load(vector);
            for (i, set) in some.iter_mut().enumerate() {
                *set |= (word >> (i * width) & mask(*width)) << shift;
            }
            vector += 1;
        }
        shift += width;
    }
    sets
}

/// Rearranges a weight in memory if all that reads it can read it so; says whether.
pub(crate) fn settle(ty: WeightType, memory: Span, readers: &[&Template], pool: &Pool) -> bool {
    match Packed::new(ty, memory.base) {
        Some(packed) if suits(&ty, readers) && memory.bytes >= ty.bytes() => {
            packed.rearrange(pool);
            true
        }
        _ => false,
    }
}

/// Writes rows of a weight that was rearranged from the same rows, in MLX's order or in this one.
pub(crate) fn replace(
    ty: WeightType,
    memory: Span,
    rows: Range<usize>,
    bytes: &[u8],
    order: Order,
    pool: &Pool,
) -> Result<(), String> {
    let whole = rows.start.is_multiple_of(LANES) && rows.len().is_multiple_of(LANES);
    let packed = Packed::new(ty, memory.base).filter(|_| whole);
    let packed = packed.ok_or_else(|| format!("rows {rows:?} are no blocks of a weight that was rearranged"))?;
    let layout = ty.format.layout(rows.len(), ty.cols);
    let (first, blocks) = (rows.start / LANES, rows.len() / LANES);
    pool.run(blocks.div_ceil(TASK_BLOCKS), &|_, task| {
        for block in task * TASK_BLOCKS..((task + 1) * TASK_BLOCKS).min(blocks) {
            let from = |part: usize, size: usize| &bytes[layout.components[part].offset + block * size..][..size];
            // SAFETY: the caller saw that the rows lie in the weight; the blocks of a task are its own.
            unsafe {
                let (codes, block) = (from(0, packed.block_bytes()), first + block);
                match order {
                    Order::Blocks => std::ptr::copy_nonoverlapping(codes.as_ptr(), packed.codes(block), codes.len()),
                    Order::Rows => packed.place_codes(block, codes),
                }
                for (i, part) in packed.scale_parts(block).enumerate() {
                    let scales = from(1 + i, packed.scale_block(1));
                    match order {
                        Order::Blocks => std::ptr::copy_nonoverlapping(scales.as_ptr(), part, scales.len()),
                        Order::Rows => packed.place_scales(part, scales),
                    }
                }
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_again_in_its_planes() {
        for bits in [2usize, 3, 4, 5, 6, 8] {
            let row: Vec<u8> = (0..UNIT * bits / 8).map(|i| (i * 73 + 41) as u8).collect();
            let affine = swiftlm_ir::quant::Affine::new(bits as u8, 32, Float::F16).expect("a width of codes");
            let sets = sets_of(bits, &row);
            for col in 0..UNIT {
                assert_eq!(u32::from(sets[col / 4].to_le_bytes()[col % 4]), affine.code(&row, col), "{bits} bits");
            }
            let mut words = vec![];
            cut_planes(bits, sets, |vector, word| {
                assert_eq!(vector, words.len());
                words.push(word);
            });
            assert_eq!(words.len(), bits, "the planes of a unit have as many words as a code has bits");
            assert_eq!(join_planes(bits, |vector| words[vector]), sets);
            let mut again = vec![0; row.len()];
            row_of(bits, sets, &mut again);
            assert_eq!(again, row, "{bits} bits");
        }
    }
}
