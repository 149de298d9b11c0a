//! What latent attention launches: matrices of heads, and latents to pages.

use serde::{Deserialize, Serialize};

use super::{Norm, View};
use crate::dim::ShapeClass;
use crate::graph::WeightType;
use crate::ops::RopeLayout;
use crate::quant::Format;

/// `y = W_h x` or `W_hᵀ x` of the first elements of each head, what lies behind them copied.
///
/// Of the weight head `h` has rows `h·n .. (h+1)·n`, `n = weight.rows / heads`, and its matrix are `len` of these from
/// `first` on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadLinear {
    /// Bound of the tokens for this schedule.
    pub class: ShapeClass,
    /// The rows of all heads.
    pub weight: WeightType,
    /// Heads of a row.
    pub heads: usize,
    /// Elements of a head of x.
    pub dim: usize,
    /// First row of a head's matrix among the head's rows.
    pub first: usize,
    /// Rows of a head's matrix.
    pub len: usize,
    /// Whether rows are inputs and columns outputs.
    pub transposed: bool,
    /// Input rows.
    pub x: View,
    /// Output rows.
    pub y: View,
}

impl HeadLinear {
    /// Elements of a head that are multiplied.
    pub fn inputs(&self) -> usize {
        if self.transposed { self.len } else { self.weight.cols }
    }

    /// Elements that they become.
    pub fn outputs(&self) -> usize {
        if self.transposed { self.weight.cols } else { self.len }
    }

    /// Elements of a head behind them.
    pub fn rest(&self) -> usize {
        self.dim.saturating_sub(self.inputs())
    }

    /// First row of a head's matrix.
    pub fn first_row(&self, head: usize) -> usize {
        head * (self.weight.rows / self.heads.max(1)) + self.first
    }
}

/// Writing of latents, and behind each of them the rotated part of the key, to the pages of their sequences; places are
/// those of [`Append`](super::Append)'s keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatentAppend {
    /// Elements of a latent.
    pub latent: usize,
    /// Elements behind it.
    pub rest: usize,
    /// How both are stored.
    pub format: Format,
    /// Normalisation of latents.
    pub norm: Option<Norm>,
    /// Rotation of all that lies behind them.
    pub rotation: Option<RopeLayout>,
    /// Rows of latents.
    pub x: View,
    /// Rows of what lies behind them.
    pub r: View,
}
