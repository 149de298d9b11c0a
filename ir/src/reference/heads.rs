//! Matrices of heads, one for each.

use super::dense::dot;
use super::eval::Matrix;

/// What multiplies the heads of a `head_linear`.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadMatrices {
    /// The rows of all heads.
    pub weight: Matrix,
    /// Elements of a row.
    pub cols: usize,
    /// Heads.
    pub heads: usize,
    /// First row of a head's matrix among the head's rows.
    pub first: usize,
    /// Rows of a head's matrix.
    pub len: usize,
    /// Whether rows are inputs and columns outputs.
    pub transposed: bool,
}

impl HeadMatrices {
    fn inputs(&self) -> usize {
        if self.transposed { self.len } else { self.cols }
    }

    /// Elements of what a head of `dim` elements becomes.
    pub fn width(&self, dim: usize) -> usize {
        dim - self.inputs() + if self.transposed { self.cols } else { self.len }
    }

    /// `W_h x`, or `W_hᵀ x` if transposed, of the first elements of `x`, then those behind them.
    pub fn apply(&self, x: &[f32], head: usize) -> Vec<f32> {
        let own = self.weight.len() / self.cols / self.heads;
        let start = head * own + self.first;
        let rows = || self.weight[start * self.cols..(start + self.len) * self.cols].chunks_exact(self.cols);
        let (x, rest) = x.split_at(self.inputs());
        let mut y: Vec<f32> = match self.transposed {
            false => rows().map(|row| dot(row, x) as f32).collect(),
            true => (0..self.cols)
                .map(|j| rows().zip(x).map(|(row, x)| f64::from(row[j]) * f64::from(*x)).sum::<f64>() as f32)
                .collect(),
        };
        y.extend(rest);
        y
    }
}

/// Op `head_linear` of activations: heads of `dim` elements, those of a token one after another.
pub fn head_linear(x: &[f32], dim: usize, matrices: &HeadMatrices) -> Vec<f32> {
    x.chunks_exact(dim).enumerate().flat_map(|(i, x)| matrices.apply(x, i % matrices.heads)).collect()
}
