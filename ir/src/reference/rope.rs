//! Rotary position embedding.

use super::tensor::{HostTensor, Step};
use crate::graph::RopeTable;
use crate::ops::RopeLayout;

/// The step's rows of a table, `f32[T, dim]`: `m·cos(p·f_0) … m·cos(p·f_last), m·sin(p·f_0) … m·sin(p·f_last)` for a
/// token at position `p`, computed in f64.
pub fn table(table: &RopeTable, step: &Step<'_>) -> HostTensor {
    let half = table.inverse_frequencies.len();
    let mut rows = Vec::with_capacity(step.tokens.len() * 2 * half);
    for token in step.tokens {
        let angles = || table.inverse_frequencies.iter().map(|f| f64::from(token.position) * f);
        rows.extend(angles().map(|a| (table.magnitude * a.cos()) as f32));
        rows.extend(angles().map(|a| (table.magnitude * a.sin()) as f32));
    }
    HostTensor::f32(&[step.tokens.len(), 2 * half], rows)
}

/// Op `rope`: of each head the `dim` elements from `start` on are pairs `(a, b)` that become `(a·cos - b·sin, b·cos + a·sin)` with
/// the cosine and sine of the pair's index; the rest is copied. Counted from there, pair `i` is `(x_i, x_{i + dim/2})` in layout `half` and
/// `(x_{2i}, x_{2i+1})` in layout `interleaved`. `x` is `[T, heads, size]`, `table` `[T, dim]`.
pub fn rope(
    x: &[f32],
    (heads, size): (usize, usize),
    table: &[f32],
    (start, dim): (usize, usize),
    layout: RopeLayout,
) -> Vec<f32> {
    let mut y = x.to_vec();
    for (row, table) in y.chunks_exact_mut(heads * size).zip(table.chunks_exact(dim)) {
        let (cosines, sines) = table.split_at(dim / 2);
        for head in row.chunks_exact_mut(size).map(|head| &mut head[start..start + dim]) {
            for (i, (cos, sin)) in cosines.iter().zip(sines).enumerate() {
                let (first, second) = match layout {
                    RopeLayout::Half => (i, i + dim / 2),
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                };
                let (a, b) = (f64::from(head[first]), f64::from(head[second]));
                let (cos, sin) = (f64::from(*cos), f64::from(*sin));
                head[first] = (a * cos - b * sin) as f32;
                head[second] = (b * cos + a * sin) as f32;
            }
        }
    }
    y
}
