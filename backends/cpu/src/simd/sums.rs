//! Weighted values of one page, added to a tile's rows: a chain over slots for each row and element.

use std::ops::Range;

use swiftlm_ir::ty::PAGE_TOKENS;

use super::ahead::{Ahead, Steps};
use super::attend::SPAN;
use super::isa::{Isa, LANES};
use super::share::Share;
use super::tile::{BRAINS, BYTES, HALVES, NIBBLES, PLAIN, Source, Stored, Tile, read, width_of};

impl Tile<'_> {
    /// Sums where values are codes: weights take the scales of a group, and the biases are added at once.
    #[inline(always)]
    unsafe fn code_sums<I: Isa, const S: u8>(
        &self,
        head: *const u32,
        values: *const u8,
        rows: Range<usize>,
        (at, slots): (usize, Range<usize>),
        share: Share,
        ahead: &mut Ahead,
    ) {
        let (width, layout) = (self.attention.template.value_dim().next_multiple_of(LANES), self.attention.values.row);
        let mut row = rows.start;
        while row < rows.end {
            let (count, part) = ((rows.end - row).min(4), ahead.part(width / LANES, PAGE_TOKENS));
            for g in 0..layout.groups() {
                let (mut scales, mut biases) = ([0f32; PAGE_TOKENS], [0f32; PAGE_TOKENS]);
                for s in (0..PAGE_TOKENS).step_by(LANES) {
                    let [scale, bias] = I::halves_f16(head.add((layout.words() + g) * PAGE_TOKENS + s));
                    I::store(scales.as_mut_ptr().add(s), scale);
                    I::store(biases.as_mut_ptr().add(s), bias);
                }
                // What lies in slots that are not seen may be anything.
                for s in (0..slots.start).chain(slots.end..PAGE_TOKENS) {
                    (scales[s], biases[s]) = (0.0, 0.0);
                }
                let columns = g * layout.group()..((g + 1) * layout.group()).next_multiple_of(LANES);
                for n in 0..count {
                    let weights = self.scores.add((row + n) * SPAN + at);
                    let mut sum = I::splat(0.0);
                    for s in (0..PAGE_TOKENS).step_by(LANES) {
                        // Weights of vectors that nobody sees were never computed.
                        if s + LANES <= slots.start || s >= slots.end {
                            continue;
                        }
                        let weight = I::load(weights.add(s));
                        sum = I::fma(weight, I::load(biases.as_ptr().add(s)), sum);
                        I::store(self.scaled.add(n * SPAN + s), I::mul(weight, I::load(scales.as_ptr().add(s))));
                    }
                    let sum = I::splat(I::sum(sum));
                    for d in columns.clone().step_by(LANES) {
                        let to = share.sums(row + n).add(d);
                        I::store(to, I::add(I::load(to), sum));
                    }
                }
                for d in columns.step_by(LANES) {
                    let (from, place) = (values.add(d * width_of(S) / 2), (share, row, d));
                    let (weights, slots, part) = (self.scaled.cast_const(), slots.clone(), part.of(d / LANES));
                    match count {
                        1 => weighted::<I, S, 1, 1>(from, width, weights, slots, place, part),
                        2 => weighted::<I, S, 2, 1>(from, width, weights, slots, place, part),
                        3 => weighted::<I, S, 3, 1>(from, width, weights, slots, place, part),
                        _ => weighted::<I, S, 4, 1>(from, width, weights, slots, place, part),
                    }
                }
            }
            row += 4;
        }
    }

    /// Adds the weighted values of slots to rows' sums, in the order of slots.
    #[inline(always)]
    pub(super) unsafe fn sums<I: Isa>(
        &self,
        values: Stored,
        rows: Range<usize>,
        at: usize,
        slots: Range<usize>,
        share: Share,
        ahead: &mut Ahead,
    ) {
        let Stored { head, source, from } = values;
        match source {
            Source::Plain | Source::Pairs => self.sums_of::<I, PLAIN>(from, rows, at, slots, share, ahead),
            Source::HalfPairs => self.sums_of::<I, HALVES>(from, rows, at, slots, share, ahead),
            Source::BrainPairs => self.sums_of::<I, BRAINS>(from, rows, at, slots, share, ahead),
            Source::Codes => self.code_sums::<I, PLAIN>(head, from, rows, (at, slots), share, ahead),
            Source::Bytes => self.code_sums::<I, BYTES>(head, from, rows, (at, slots), share, ahead),
            Source::Nibbles => self.code_sums::<I, NIBBLES>(head, from, rows, (at, slots), share, ahead),
        }
    }

    #[inline(always)]
    unsafe fn sums_of<I: Isa, const S: u8>(
        &self,
        values: *const u8,
        rows: Range<usize>,
        at: usize,
        slots: Range<usize>,
        share: Share,
        ahead: &mut Ahead,
    ) {
        let mut row = rows.start;
        while row + 4 <= rows.end {
            self.columns::<I, S, 4>(values, row, at, slots.clone(), share, ahead);
            row += 4;
        }
        match rows.end - row {
            1 => self.columns::<I, S, 1>(values, row, at, slots, share, ahead),
            2 => self.columns::<I, S, 2>(values, row, at, slots, share, ahead),
            3 => self.columns::<I, S, 3>(values, row, at, slots, share, ahead),
            _ => {}
        }
    }

    #[inline(always)]
    unsafe fn columns<I: Isa, const S: u8, const N: usize>(
        &self,
        values: *const u8,
        row: usize,
        at: usize,
        slots: Range<usize>,
        share: Share,
        ahead: &mut Ahead,
    ) {
        let (mut d, width) = (0, self.attention.template.value_dim().next_multiple_of(LANES));
        let part = ahead.part(width / LANES, PAGE_TOKENS);
        let weights = self.scores.add(row * SPAN + at).cast_const();
        while (I::WIDE || N <= 2) && d + 2 * LANES <= width {
            let from = values.add(d * width_of(S) / 2);
            weighted::<I, S, N, 2>(from, width, weights, slots.clone(), (share, row, d), part.of(d / LANES));
            d += 2 * LANES;
        }
        while d < width {
            let from = values.add(d * width_of(S) / 2);
            weighted::<I, S, N, 1>(from, width, weights, slots.clone(), (share, row, d), part.of(d / LANES));
            d += LANES;
        }
    }
}

/// Adds weighted values to the sums of `N` rows from `row` on, `C` vectors of columns from `d` on.
#[inline(always)]
unsafe fn weighted<I: Isa, const S: u8, const N: usize, const C: usize>(
    values: *const u8,
    width: usize,
    weights: *const f32,
    slots: Range<usize>,
    (share, row, d): (Share, usize, usize),
    ahead: Steps,
) {
    let mut sums = [[I::splat(0.0); C]; N];
    for n in 0..N {
        for c in 0..C {
            sums[n][c] = I::load(share.sums(row + n).add(d + c * LANES));
        }
    }
    let mut line = ahead.from;
    for slot in slots {
        for c in 0..C {
            I::prefetch(line.wrapping_add(c * ahead.loop_bytes));
        }
        line = line.wrapping_add(ahead.step);
        let mut value = [I::splat(0.0); C];
        for c in 0..C {
            value[c] = read::<I, S>(values.add((slot * width + c * LANES) * width_of(S) / 2));
        }
        for n in 0..N {
            let weight = I::splat(*weights.add(n * SPAN + slot));
            for c in 0..C {
                sums[n][c] = I::fma(weight, value[c], sums[n][c]);
            }
        }
    }
    for n in 0..N {
        for c in 0..C {
            I::store(share.sums(row + n).add(d + c * LANES), sums[n][c]);
        }
    }
}
