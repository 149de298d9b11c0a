//! What a launch computes over recurrent states.

use serde::{Deserialize, Serialize};

use super::{Extra, View};
use crate::map::Map;
use crate::quant::Format;

/// Causal convolution of each channel over the inputs of its own sequence, those of earlier steps included:
/// `y_c[p] = epilogue(Σ_j w[c, j] · x_c[p - taps + 1 + j], extras)`, taps in order.
///
/// A segment is the tokens of one sequence in a step, which follow one another: `segments[i] = (first, end, carried)`, the
/// tokens `first .. end` behind `carried` earlier ones. With none carried what the state holds is not read. Of the state,
/// unit `units[first]` is the sequence's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShortConv {
    /// Channels.
    pub channels: usize,
    /// Inputs that an output is made of.
    pub taps: usize,
    /// How the weight, `[channels, taps]`, is stored.
    pub weight: Format,
    /// What is stored: input 0 is the sum, extras follow.
    pub epilogue: Map,
    /// Its further inputs.
    pub extras: Vec<Extra>,
    /// Input rows.
    pub x: View,
    /// Output rows.
    pub y: View,
}

/// The gated delta rule (Yang et al. 2024, eq. 10) over the segments of a step, described at [`ShortConv`], token after
/// token: `S ← α S (I − β k kᵀ) + β v kᵀ`, then `y = scale · S q`, for each head.
///
/// `α = exp(−e^a · ln(1 + e^(x + b)))` and `β = sigmoid(x')` of a token's decay and beta inputs `x` and `x'`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Heads of values, decays and betas.
    pub heads: usize,
    /// Heads of queries and keys; head `h` has those of number `h / (heads / key_heads)`.
    pub key_heads: usize,
    /// Elements of a query or key.
    pub key: usize,
    /// Elements of a value.
    pub value: usize,
    /// Factor on the result.
    pub scale: f32,
    /// Added to the sum of squares by which queries and keys are normalised, `x / √(Σ x² + eps)`; `None` if they are not.
    pub norm: Option<f64>,
    /// How the decay's weights a and b are stored.
    pub decay: [Format; 2],
    /// Where queries come from.
    pub q: View,
    /// Where keys come from.
    pub k: View,
    /// Where values come from.
    pub v: View,
    /// Where decays come from.
    pub alpha: View,
    /// Where betas come from.
    pub beta: View,
    /// Output rows.
    pub y: View,
}

/// A selective state space (Dao & Gu 2024, "Transformers are SSMs", eq. 1 with §7.1) over the segments of a step, described
/// at [`ShortConv`], token after token: `S ← e^(−e^a · Δ) S + Δ x Bᵀ`, then `y = epilogue(S C + d x, extras)`, for each head.
///
/// `Δ = ln(1 + e^(x' + b))` between two bounds, of a token's time step input `x'`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ssm {
    /// Heads of x, time steps and results.
    pub heads: usize,
    /// Groups of heads that share B and C; head `h` has those of number `h / (heads / groups)`.
    pub groups: usize,
    /// Elements of B or C.
    pub key: usize,
    /// Elements of x.
    pub value: usize,
    /// What time steps are at least and at most.
    pub bounds: [f32; 2],
    /// How the weights a, b and d are stored.
    pub weights: [Format; 3],
    /// What is stored: input 0 is the result, extras follow.
    pub epilogue: Map,
    /// Its further inputs.
    pub extras: Vec<Extra>,
    /// Where C comes from.
    pub c: View,
    /// Where B comes from.
    pub b: View,
    /// Where x comes from.
    pub x: View,
    /// Where time steps come from.
    pub dt: View,
    /// Output rows.
    pub y: View,
}
