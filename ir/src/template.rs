//! Templates: what one launch computes, as data.
//!
//! The compiler turns a fused group of ops into a template; from the template it builds the kernel that GPUs and the
//! interpreter run, and the CPU backend picks a micro-kernel by it. Each variant lists its arguments in binding order.
//! Activations are f32 rows addressed by a [`View`]; ids are u32.

mod latent;
mod operand;
mod recurrent;

use serde::{Deserialize, Serialize};

pub use latent::{HeadLinear, LatentAppend};
pub use operand::{Extra, Norm, View};
pub use recurrent::{Delta, ShortConv, Ssm};

use crate::dim::{ShapeClass, Sym};
use crate::graph::WeightType;
use crate::map::Map;
use crate::ops::{RopeLayout, Routing};
use crate::quant::{Archive, Float, Format};
use crate::rounding::Rounding;

/// What one launch computes. Of its extras only those stand among the arguments that [are some](Extra::is_argument).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Template {
    /// Arguments: ids `u32[rows]`, weight, y.
    Embed(Embed),
    /// Arguments: x, weight, extras in order, y.
    RmsNorm(RmsNorm),
    /// Arguments: x, norm weight if `norm`, weight, extras in order, y.
    Linear(Linear),
    /// Arguments: x, norm weight if `norm`, table, y.
    Rope(Rope),
    /// Arguments: x, weight, y.
    HeadLinear(HeadLinear),
    /// Arguments: x, y.
    Rotate(Rotate),
    /// Arguments: k, v, positions, sequences, page table, key pages, value pages.
    Append(Append),
    /// Arguments: qkv, q norm weight if `q_norm`, k norm weight if `k_norm`, table, positions, sequences, page table,
    /// q out, key pages, value pages.
    RopeAppend(RopeAppend),
    /// Arguments: latents, norm weight if `norm`, rotated keys, table if `rotation`, positions, sequences, page table,
    /// pages.
    LatentAppend(LatentAppend),
    /// Arguments: positions, sequences, page table, key pages, value pages, the archive's page table, key pages and value
    /// pages.
    Archive(Archiving),
    /// Arguments: q, positions, sequences, page table, key pages, value pages unless `latent`, the archive's page table,
    /// key pages and value pages if `archive`, sinks if `sinks`, y; scratch, unless there are many tokens.
    Attend(Attend),
    /// Arguments: x, weight, segments, units, the state's last inputs, extras in order, y.
    ShortConv(ShortConv),
    /// Arguments: qkv, decay inputs, beta inputs, decay weights a and b, segments, units, the state's memory, y.
    Delta(Delta),
    /// Arguments: the row of C, B and x, time step inputs, weights a, b and d, segments, units, the state's memory, extras
    /// in order, y.
    Ssm(Ssm),
    /// Arguments: scores, bias if `bias`, ids out `u32[rows, top_k]`, weights out `f32[rows, top_k]`.
    Route(Route),
    /// Arguments: x, ids, weight, bias if `bias`, y.
    ExpertLinear(ExpertLinear),
    /// Arguments: y, weights, extras in order, out.
    Combine(Combine),
    /// Arguments: x, row indices `u32[R]`, y.
    Rows(Rows),
    /// Arguments: x, y `u32[rows]`.
    ArgMax(ArgMax),
    /// Arguments: extras in order, y.
    Map(Elementwise),
}

/// Id of an expert that is not in memory.
pub const ABSENT: u32 = u32::MAX;

/// Rows of a weight matrix picked by id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embed {
    /// Symbol that counts the rows.
    pub rows: Sym,
    /// The table, or a segment of it.
    pub weight: WeightType,
    /// Id of the segment's first row; ids outside the segment leave y alone.
    pub first_row: usize,
    /// Factor on the row.
    pub scale: f32,
    /// Output rows.
    pub y: View,
}

/// `y = epilogue(norm(x), extras)` of rows or, with `heads` > 1, of each head of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Symbol that counts the rows.
    pub rows: Sym,
    /// Groups normalised one by one in each row.
    pub heads: usize,
    /// Elements of a group.
    pub dim: usize,
    /// The normalisation.
    pub norm: Norm,
    /// Whether each group has a weight of its own, one behind the other, in place of one for all.
    pub grouped: bool,
    /// What is stored: input 0 is the normalised element, extras follow.
    pub epilogue: Map,
    /// Its further inputs; a column is one of the row, not of a head.
    pub extras: Vec<Extra>,
    /// Input rows.
    pub x: View,
    /// Output rows.
    pub y: View,
}

impl RmsNorm {
    /// Elements of the weight.
    pub fn weights(&self) -> usize {
        if self.grouped { self.heads * self.dim } else { self.dim }
    }
}

/// `y = epilogue(norm(x) Wᵀ, extras)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Symbol that counts the rows.
    pub rows: Sym,
    /// Bound of the rows for this schedule. It never changes a row's reduction order.
    pub class: ShapeClass,
    /// The matrix: `cols` inputs, `rows` accumulators.
    pub weight: WeightType,
    /// Prologue: normalise each input row.
    pub norm: Option<Norm>,
    /// Prologue: round activations before the product.
    pub round: Option<Rounding>,
    /// Output `j` combines accumulators `j` and `j + rows/2` (gate and up): epilogue inputs 0 and 1, extras follow.
    /// Without it, input 0 is the accumulator and extras follow.
    pub pair: bool,
    /// What is stored.
    pub epilogue: Map,
    /// Its further inputs.
    pub extras: Vec<Extra>,
    /// Input rows.
    pub x: View,
    /// Output rows.
    pub y: View,
}

impl Linear {
    /// Output columns.
    pub fn outputs(&self) -> usize {
        if self.pair { self.weight.rows / 2 } else { self.weight.rows }
    }
}

/// Rotation of heads by the step's table; optional normalisation of each head first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Heads of a row.
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// First element rotated.
    pub start: usize,
    /// Elements rotated; the rest is copied.
    pub rotated: usize,
    /// Which elements pair up.
    pub layout: RopeLayout,
    /// Normalisation of each head before.
    pub norm: Option<Norm>,
    /// Input rows.
    pub x: View,
    /// Output rows.
    pub y: View,
}

/// The fixed rotation of each head ([`rotation`](crate::quant::rotation)), or back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotate {
    /// Heads of a row.
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Back.
    pub inverse: bool,
    /// Input rows.
    pub x: View,
    /// Output rows.
    pub y: View,
}

/// Writing of keys and values to the pages of their sequences.
///
/// Token `t` of sequence `s = sequences[t]` at position `p = positions[t]` goes to slot `p % PAGE_TOKENS` of page
/// `page_table[s · table_stride + p / PAGE_TOKENS]`; a page is laid out `[head][slot][dim]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Append {
    /// KV heads.
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// How keys are stored; a float format.
    pub k_format: Format,
    /// How values are stored; a float format.
    pub v_format: Format,
    /// Key rows.
    pub k: View,
    /// Value rows.
    pub v: View,
}

/// `q = rope(norm(q))` to an activation, `k = rope(norm(k))` and `v` to the pages, from one merged row `q | k | v`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeAppend {
    /// Query heads.
    pub heads: usize,
    /// Elements rotated in each query and key head; 0 for none (no table argument use).
    pub rotated: usize,
    /// Which elements pair up.
    pub layout: RopeLayout,
    /// Normalisation of each query head.
    pub q_norm: Option<Norm>,
    /// Normalisation of each key head.
    pub k_norm: Option<Norm>,
    /// Whether queries, keys and values are all rotated as [`Rotate`] does, behind everything else.
    pub rotate: bool,
    /// Where queries come from.
    pub q: View,
    /// Where queries go.
    pub q_out: View,
    /// Keys, values and their pages.
    pub append: Append,
}

/// Encoding of full pages into an archive: of the tokens in the last slot of a page, all keys and values of that page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Archiving {
    /// KV heads.
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// How recent keys are stored; a float format.
    pub k_format: Format,
    /// How recent values are stored; a float format.
    pub v_format: Format,
    /// Where they go.
    pub archive: Archive,
}

/// Causal softmax attention of each token over its sequence's pages.
///
/// The order of every sum follows from a token's position, so its result does not depend on the batch around it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attend {
    /// Bound of the tokens for this schedule.
    pub class: ShapeClass,
    /// Query heads.
    pub heads: usize,
    /// KV heads; query head `h` reads KV head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Keys a query sees, itself included; 0 for all.
    pub window: usize,
    /// Bound that scores `s` approach as `cap · tanh(s / cap)`; 0 for none.
    pub cap: f32,
    /// How keys are stored; a float format.
    pub k_format: Format,
    /// How values are stored; a float format.
    pub v_format: Format,
    /// Elements from a key's first on that are the value, where it is not stored on its own.
    pub latent: Option<usize>,
    /// Where older tokens are read from.
    pub archive: Option<Archive>,
    /// Whether the result is rotated back; only with an archive.
    pub rotate_back: bool,
    /// How sinks are stored, if there are any: of each query head a score that no value belongs to.
    pub sinks: Option<Float>,
    /// Query rows.
    pub q: View,
    /// Output rows.
    pub y: View,
}

impl Attend {
    /// Elements of a value and of a result.
    pub fn value_dim(&self) -> usize {
        self.latent.unwrap_or(self.dim)
    }
}

/// Choice of experts and their weights: the best by their chances, to which a bias may be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Groups of experts, of equal size.
    pub groups: usize,
    /// Groups that a token's experts are chosen from: those whose two best have the largest sums.
    pub kept: usize,
    /// What is added to an expert's chance when experts are chosen, as it is stored; else they are chosen by score.
    pub bias: Option<Format>,
    /// Scores to weights.
    pub routing: Routing,
    /// Whether a token's weights are divided by their sum.
    pub normalize: bool,
    /// Score rows.
    pub scores: View,
}

/// `y[t, r] = epilogue(x[t, r] W[ids[t, r]]ᵀ + b[ids[t, r]])`; row `t · top_k + r` of y. Rows whose id is [`ABSENT`] stay as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertLinear {
    /// Bound of the tokens for this schedule.
    pub class: ShapeClass,
    /// The rows of all experts in memory: expert `e` has rows `e·n .. (e+1)·n`, `n = weight.rows / experts`.
    pub weight: WeightType,
    /// Experts in memory: all of the layer, or the slots that they take turns in.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Whether x has a row per (token, rank), `x row = t · top_k + r`; else a row per token.
    pub x_per_rank: bool,
    /// Round activations before the product.
    pub round: Option<Rounding>,
    /// How vectors are stored that are added to the accumulators, as a column of `weight.rows` rows.
    pub bias: Option<Float>,
    /// Output `j` combines accumulators `j` and `j + n/2`, as in [`Linear`].
    pub pair: bool,
    /// What is stored; inputs are the accumulators only.
    pub epilogue: Map,
    /// Input rows.
    pub x: View,
    /// Output rows.
    pub y: View,
}

impl ExpertLinear {
    /// Bytes of one expert.
    pub fn expert_bytes(&self) -> usize {
        let biases = self.bias.map_or(0, |float| self.bias_type(float).bytes());
        (self.weight.bytes() + biases) / self.experts.max(1)
    }

    /// Type of the vectors of all experts in memory.
    pub fn bias_type(&self, float: Float) -> WeightType {
        WeightType { format: Format::Float(float), rows: self.weight.rows, cols: 1 }
    }
}

/// `out[t] = epilogue(Σ_r weights[t, r] · y[t, r], extras)`, ranks in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Combine {
    /// Elements of a row.
    pub dim: usize,
    /// Experts per token.
    pub top_k: usize,
    /// What is stored: input 0 is the sum, extras follow.
    pub epilogue: Map,
    /// Its further inputs.
    pub extras: Vec<Extra>,
    /// Output rows.
    pub out: View,
}

/// Rows that want logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// Elements of a row.
    pub dim: usize,
    /// Input rows.
    pub x: View,
    /// Output rows.
    pub y: View,
}

/// Index of a row's largest element, ties to the lowest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArgMax {
    /// Symbol that counts the rows.
    pub rows: Sym,
    /// Elements of a row.
    pub dim: usize,
    /// Input rows.
    pub x: View,
}

/// A map over rows on its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Elementwise {
    /// Symbol that counts the rows.
    pub rows: Sym,
    /// Elements of a row.
    pub dim: usize,
    /// What is stored; inputs are the extras.
    pub map: Map,
    /// The inputs.
    pub extras: Vec<Extra>,
    /// Output rows.
    pub y: View,
}

impl Template {
    /// The name in plans, logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embed(_) => "embed",
            Self::RmsNorm(_) => "rms_norm",
            Self::Linear(l) if l.norm.is_some() => "norm_linear",
            Self::Linear(_) => "linear",
            Self::Rope(_) => "rope",
            Self::HeadLinear(_) => "head_linear",
            Self::LatentAppend(_) => "latent_append",
            Self::Rotate(_) => "rotate",
            Self::Archive(_) => "archive",
            Self::Append(_) => "append",
            Self::RopeAppend(_) => "rope_append",
            Self::Attend(_) => "attend",
            Self::ShortConv(_) => "short_conv",
            Self::Delta(_) => "delta",
            Self::Ssm(_) => "ssm",
            Self::Route(_) => "route",
            Self::ExpertLinear(_) => "expert_linear",
            Self::Combine(_) => "combine",
            Self::Rows(_) => "rows",
            Self::ArgMax(_) => "arg_max",
            Self::Map(_) => "map",
        }
    }

    /// Weight bytes that this launch streams for one row.
    pub fn decode_bytes(&self) -> usize {
        match self {
            Self::Embed(t) => t.weight.bytes() / t.weight.rows.max(1),
            Self::Linear(t) => t.weight.bytes(),
            Self::HeadLinear(t) => t.weight.bytes() / t.weight.rows.max(1) * t.len * t.heads,
            Self::ExpertLinear(t) => t.expert_bytes() * t.top_k,
            _ => 0,
        }
    }

    /// The symbol that counts this launch's rows.
    pub fn rows(&self) -> Sym {
        match self {
            Self::Embed(t) => t.rows,
            Self::RmsNorm(t) => t.rows,
            Self::Linear(t) => t.rows,
            Self::ArgMax(t) => t.rows,
            Self::Map(t) => t.rows,
            Self::Rows(_) => Sym::Rows,
            Self::Rope(_)
            | Self::HeadLinear(_)
            | Self::LatentAppend(_)
            | Self::Rotate(_)
            | Self::Archive(_)
            | Self::Append(_)
            | Self::RopeAppend(_)
            | Self::Attend(_)
            | Self::ShortConv(_)
            | Self::Delta(_)
            | Self::Ssm(_)
            | Self::Route(_)
            | Self::ExpertLinear(_)
            | Self::Combine(_) => Sym::Tokens,
        }
    }
}
