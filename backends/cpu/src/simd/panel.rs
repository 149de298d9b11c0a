//! Dot products of many rows with a panel of weights decoded once: the tiles of a matrix product.
//!
//! A sum's order is that of [`direct`](super::direct), so a row's result does not depend on which path ran.

use super::isa::{self, Isa, LANES};

/// Decoded weight rows, each of `padded` floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    pub(crate) base: *const f32,
    /// Floats of a row: the columns, rounded up to 16.
    pub(crate) padded: usize,
    /// Rows.
    pub(crate) rows: usize,
}

/// Dot products of rows `x` with all rows of a panel, to `out[m][n]`.
///
/// # Safety
/// `x` are readable for the padded columns, `out[m]` writable for the panel's rows; there are as many of both.
#[inline(always)]
pub(crate) unsafe fn dots<I: Isa>(panel: Panel, x: &[*const f32], out: &[*mut f32]) {
    match I::TILE {
        (6, 4) => rows::<I, 6, 4>(panel, x, out),
        _ => rows::<I, 3, 2>(panel, x, out),
    }
}

#[inline(always)]
unsafe fn rows<I: Isa, const M: usize, const N: usize>(panel: Panel, x: &[*const f32], out: &[*mut f32]) {
    let mut m = 0;
    while m + M <= x.len() {
        columns::<I, M, N>(panel, x.as_ptr().add(m), out.as_ptr().add(m));
        m += M;
    }
    while m + 2 <= x.len() {
        columns::<I, 2, N>(panel, x.as_ptr().add(m), out.as_ptr().add(m));
        m += 2;
    }
    if m < x.len() {
        columns::<I, 1, N>(panel, x.as_ptr().add(m), out.as_ptr().add(m));
    }
}

#[inline(always)]
unsafe fn columns<I: Isa, const M: usize, const N: usize>(panel: Panel, x: *const *const f32, out: *const *mut f32) {
    let mut n = 0;
    while n + N <= panel.rows {
        tile::<I, M, N>(panel, x, out, n);
        n += N;
    }
    while n < panel.rows {
        tile::<I, M, 1>(panel, x, out, n);
        n += 1;
    }
}

#[inline(always)]
unsafe fn tile<I: Isa, const M: usize, const N: usize>(
    panel: Panel,
    x: *const *const f32,
    out: *const *mut f32,
    first: usize,
) {
    let mut rows = [std::ptr::null::<f32>(); M];
    for m in 0..M {
        rows[m] = *x.add(m);
    }
    let weights = panel.base.add(first * panel.padded);
    let mut sums = [[I::splat(0.0); N]; M];
    let mut k = 0;
    while k < panel.padded {
        let mut columns = [I::splat(0.0); N];
        for n in 0..N {
            columns[n] = I::load(weights.add(n * panel.padded + k));
        }
        for m in 0..M {
            let input = I::load(rows[m].add(k));
            for n in 0..N {
                sums[m][n] = I::fma(input, columns[n], sums[m][n]);
            }
        }
        k += LANES;
    }
    for m in 0..M {
        (*out.add(m)).add(first).cast::<[f32; N]>().write_unaligned(isa::sums::<I, N>(&sums[m]));
    }
}
