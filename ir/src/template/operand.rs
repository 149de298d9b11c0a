//! What operands of launches look like: rows through views, normalised rows, and the further inputs of an epilogue.

use serde::{Deserialize, Serialize};

use crate::quant::Format;

/// Rows of a buffer: element (`row`, `col`) is at `row · stride + offset + col`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct View {
    /// Elements before the first column.
    pub offset: usize,
    /// Elements from row to row.
    pub stride: usize,
}

impl View {
    /// Rows of `width` elements, one after another.
    pub fn dense(width: usize) -> Self {
        Self { offset: 0, stride: width }
    }
}

/// RMS normalisation of a row: `x / sqrt(mean(x²) + eps) · (w + offset)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// Added to the mean square.
    pub eps: f64,
    /// Added to the weight.
    pub offset: f64,
    /// How the weight vector is stored.
    pub weight: Format,
}

/// A further input of an epilogue, after the accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Extra {
    /// A weight vector indexed by the output column.
    Column(Format),
    /// An activation indexed like the output.
    Element(View),
    /// No argument: `factor` at the columns `start .. start + len`, 1 at all others.
    Part {
        /// First column.
        start: usize,
        /// How many.
        len: usize,
        /// What stands there.
        factor: f32,
    },
}

impl Extra {
    /// Whether an argument of the launch holds it.
    pub fn is_argument(&self) -> bool {
        !matches!(self, Self::Part { .. })
    }
}
