//! Dot products of rows of bfloat16 with 16 rows of a weight in bfloat16, two columns at a time.
//!
//! A lane is an output: it adds even pairs in turn, and odd ones, so that two sums are under way at once; then both.

use super::isa::Isa;
use super::packed::{PAIRS, UNIT};
use super::quantize::QuantizedRow;
use super::whole::{AHEAD, Products, Rows16, SET_BYTES};

/// Pairs of columns, as weights lie.
pub(crate) struct Pairs;

impl<I: Isa> Products<I> for Pairs {
    const EIGHT: bool = true;
    #[inline(always)]
    unsafe fn tile<const M: usize>(block: &Rows16, x: &[QuantizedRow], out: *mut f32, stride: usize) {
        let mut rows = [std::ptr::null::<u8>(); M];
        for m in 0..M {
            rows[m] = x[m].codes.cast_const().cast();
        }
        let mut sums = [[I::splat(0.0); 2]; M];
        for unit in 0..block.cols / UNIT {
            let from = block.codes.add(unit * PAIRS * SET_BYTES);
            for pair in 0..PAIRS {
                if M <= 2 {
                    I::prefetch(from.wrapping_add(AHEAD + pair * SET_BYTES));
                }
                let weights = I::load_bytes(from.add(pair * SET_BYTES));
                for m in 0..M {
                    let terms = rows[m].add((unit * UNIT + 2 * pair) * I::TERM_BYTES);
                    sums[m][pair % 2] = I::dot_pairs(sums[m][pair % 2], weights, terms);
                }
            }
        }
        for m in 0..M {
            I::store(out.add(m * stride), I::add(sums[m][0], sums[m][1]));
        }
    }
}
