//! Dot products of rows of signed bytes with 16 rows of codes: whole numbers within a group, floats from group to group.
//!
//! Whole numbers add up exactly in any order, and a lane is an output: its sum over groups goes from first to last in
//! every tile. So a row's result does not depend on the rows beside it, nor on how the codes were cut.

use std::marker::PhantomData;

use swiftlm_ir::quant::{Scale, mxfp4};

use super::isa::{Isa, LANES};
use super::packed::{SETS, UNIT};
use super::quantize::QuantizedRow;
use super::weights::{load_full, load_units};

/// Bytes of a set.
pub(crate) const SET_BYTES: usize = 4 * LANES;
/// How far ahead memory is asked for.
pub(crate) const AHEAD: usize = 4 << 10;

/// A block of 16 rows of codes with its scales and biases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows16 {
    pub(crate) codes: *const u8,
    pub(crate) scales: *const u8,
    pub(crate) biases: *const u8,
    pub(crate) scale: Scale,
    /// Columns.
    pub(crate) cols: usize,
    /// Columns that share a scale.
    pub(crate) group: usize,
}

impl Rows16 {
    /// Scales and biases of a group.
    #[inline(always)]
    pub(crate) unsafe fn group_scales<I: Isa>(&self, group: usize) -> (I::F, I::F) {
        let at = group * LANES * self.scale.bytes();
        match self.scale {
            Scale::Affine(float) => {
                (load_full::<I>(float, self.scales.add(at)), load_full::<I>(float, self.biases.add(at)))
            }
            Scale::Power => {
                let unit = load_units::<I>(self.scales.add(at), LANES);
                (unit, I::mul(unit, I::splat(-Levels::ZERO)))
            }
        }
    }
}

/// What products of rounded rows with a block are made of.
pub(crate) trait Products<I: Isa> {
    /// Whether tiles of 8 rows are worth their registers.
    const EIGHT: bool;
    /// Dot products of `M` rows with a block, 16 a row, to `out` and every `stride` floats behind.
    ///
    /// # Safety
    /// The rows have the block's columns, rounded for it; `out` is writable for `M` rows.
    unsafe fn tile<const M: usize>(block: &Rows16, x: &[QuantizedRow], out: *mut f32, stride: usize);
}

/// Products of whole numbers, by groups of codes that lie so.
pub(crate) struct Grouped<C>(PhantomData<C>);

impl<I: Isa, C: Codes<I>> Products<I> for Grouped<C> {
    const EIGHT: bool = !C::STREAMS;
    #[inline(always)]
    unsafe fn tile<const M: usize>(block: &Rows16, x: &[QuantizedRow], out: *mut f32, stride: usize) {
        tile::<I, C, M>(block, x, out, stride);
    }
}

/// How sets of codes lie in memory.
pub(crate) trait Codes<I: Isa> {
    /// How many sets add up before a place of [`Isa::Dots`] could overflow; 0 if not even one.
    const AT_ONCE: usize;
    /// Bytes of a unit.
    const UNIT_BYTES: usize;
    /// Whether memory is asked for ahead.
    const STREAMS: bool;
    /// Set `set` of the unit at `unit`.
    unsafe fn set(unit: *const u8, set: usize) -> I::Bytes;
}

/// Planes, as weights lie.
pub(crate) struct Planes<const BITS: usize>;

/// Bytes, as [`unpack`] leaves them, of which so many sets add up at once.
pub(crate) struct Whole<const AT_ONCE: usize>;

impl<I: Isa, const BITS: usize> Codes<I> for Planes<BITS> {
    const AT_ONCE: usize = sets_at_once(BITS, I::DOTS_LIMIT);
    const UNIT_BYTES: usize = BITS * SET_BYTES;
    const STREAMS: bool = true;
    #[inline(always)]
    unsafe fn set(unit: *const u8, set: usize) -> I::Bytes {
        let four = |set: usize| I::bits(I::load_bytes(unit.add(set / 2 * SET_BYTES)), 4 * (set % 2) as u32, 15);
        let two = |vector: usize, set: usize| {
            I::bits(I::load_bytes(unit.add((vector + set / 4) * SET_BYTES)), 2 * (set % 4) as u32, 3)
        };
        let one = |vector: usize, set: usize| I::bits(I::load_bytes(unit.add(vector * SET_BYTES)), set as u32, 1);
        match BITS {
            2 => two(0, set),
            3 => I::join(one(2, set), 2, two(0, set)),
            4 => four(set),
            5 => I::join(one(4, set), 4, four(set)),
            6 => I::join(two(4, set), 4, four(set)),
            _ => I::load_bytes(unit.add(set * SET_BYTES)),
        }
    }
}

/// [`Planes`] of the small floats of [`mxfp4`]: bytes are twice their numbers, and [`Levels::ZERO`].
pub(crate) struct Levels;

impl Levels {
    /// What stands for 0.
    pub(crate) const ZERO: f32 = 12.0;
    const TABLE: [u8; 16] = {
        let mut table = [0; 16];
        let mut code = 0;
        while code < 16 {
            table[code] = (mxfp4::TWICE[code] + Self::ZERO) as u8;
            code += 1;
        }
        table
    };
}

impl<I: Isa> Codes<I> for Levels {
    const AT_ONCE: usize = sets_at_once(5, I::DOTS_LIMIT);
    const UNIT_BYTES: usize = 4 * SET_BYTES;
    const STREAMS: bool = true;
    #[inline(always)]
    unsafe fn set(unit: *const u8, set: usize) -> I::Bytes {
        I::look_up(<Planes<4> as Codes<I>>::set(unit, set), &Self::TABLE)
    }
}

impl<I: Isa, const AT_ONCE: usize> Codes<I> for Whole<AT_ONCE> {
    const AT_ONCE: usize = AT_ONCE;
    const UNIT_BYTES: usize = SETS * SET_BYTES;
    const STREAMS: bool = false;
    #[inline(always)]
    unsafe fn set(unit: *const u8, set: usize) -> I::Bytes {
        I::load_bytes(unit.add(set * SET_BYTES))
    }
}

/// How many sets of codes of so many bits add up before a place of [`Isa::Dots`] could overflow; 0 if not even one.
const fn sets_at_once(bits: usize, limit: u32) -> usize {
    // Two neighbouring products share a place at least; activations go to 127.
    let most = limit / (2 * 127 * ((1 << bits) - 1));
    if most >= SETS as u32 { SETS } else { most as usize }
}

/// [`Products::tile`] of whole numbers, by groups.
#[inline(always)]
unsafe fn tile<I: Isa, C: Codes<I>, const M: usize>(block: &Rows16, x: &[QuantizedRow], out: *mut f32, stride: usize) {
    let mut codes = [std::ptr::null::<i8>(); M];
    for m in 0..M {
        codes[m] = x[m].codes;
    }
    let (units, groups) = (block.group / UNIT, block.cols / block.group);
    let mut sums = [I::splat(0.0); M];
    let mut unit = block.codes;
    for g in 0..groups {
        let mut whole = [I::zeros(); M];
        for u in 0..units {
            let k = (g * units + u) * UNIT;
            if C::STREAMS && M <= 2 {
                for line in 0..C::UNIT_BYTES / 64 {
                    I::prefetch(unit.wrapping_add(AHEAD + 64 * line));
                }
            }
            if C::AT_ONCE == 0 {
                let (mut low, mut high) = ([I::no_dots(); M], [I::no_dots(); M]);
                for set in 0..SETS {
                    let bytes = C::set(unit, set);
                    let (lower, upper) = (I::bits(bytes, 0, 15), I::bits(bytes, 4, 15));
                    for m in 0..M {
                        low[m] = I::dot(low[m], lower, codes[m].add(k + 4 * set));
                        high[m] = I::dot(high[m], upper, codes[m].add(k + 4 * set));
                    }
                }
                for m in 0..M {
                    whole[m] = I::add_dots(I::add_dots(whole[m], low[m], 1), high[m], 16);
                }
            } else {
                let mut dots = [I::no_dots(); M];
                for set in 0..SETS {
                    let bytes = C::set(unit, set);
                    for m in 0..M {
                        dots[m] = I::dot(dots[m], bytes, codes[m].add(k + 4 * set));
                    }
                    if (set + 1) % C::AT_ONCE.max(1) == 0 || set + 1 == SETS {
                        for m in 0..M {
                            whole[m] = I::add_dots(whole[m], dots[m], 1);
                            dots[m] = I::no_dots();
                        }
                    }
                }
            }
            unit = unit.add(C::UNIT_BYTES);
        }
        let (scale, bias) = block.group_scales::<I>(g);
        for m in 0..M {
            let scale = I::mul(scale, I::splat(*x[m].scales.add(g)));
            sums[m] = I::fma(I::to_float(whole[m]), scale, sums[m]);
            sums[m] = I::fma(bias, I::splat(*x[m].sums.add(g)), sums[m]);
        }
    }
    for m in 0..M {
        I::store(out.add(m * stride), sums[m]);
    }
}

/// Writes a block's codes as bytes, set after set.
#[inline(always)]
pub(crate) unsafe fn unpack<I: Isa, C: Codes<I>>(codes: *const u8, cols: usize, to: *mut u8) {
    for unit in 0..cols / UNIT {
        let from = codes.add(unit * C::UNIT_BYTES);
        for set in 0..SETS {
            let bytes = C::set(from, set);
            I::store_bytes(to.add((unit * SETS + set) * SET_BYTES), bytes);
        }
    }
}
