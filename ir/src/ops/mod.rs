//! The op table: the one place where an op's name, attributes and purity stand.
//!
//! The macro below makes the enum [`Op`], its printer half ([`Op::name`], [`Op::attributes`]) and its parser half
//! ([`Op::from_attributes`]). Type inference is in [`infer`](crate::ops::infer).

pub mod infer;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rounding::Rounding;
use crate::ty::DType;

/// Value of an attribute, as it is printed and parsed.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A number; printed so that it parses back to the same bits.
    Number(f64),
    /// `true` or `false`.
    Bool(bool),
    /// One of an enumeration's names.
    Word(String),
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(x) => write!(f, "{x:?}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Word(w) => f.write_str(w),
        }
    }
}

/// A Rust type that can be an attribute.
pub trait AttributeValue: Sized {
    /// To text.
    fn to_attribute(&self) -> Attribute;
    /// From text; `None` if it is of another kind.
    fn from_attribute(a: &Attribute) -> Option<Self>;
}

impl AttributeValue for f64 {
    fn to_attribute(&self) -> Attribute {
        Attribute::Number(*self)
    }
    fn from_attribute(a: &Attribute) -> Option<Self> {
        match a {
            Attribute::Number(x) => Some(*x),
            _ => None,
        }
    }
}

impl AttributeValue for usize {
    fn to_attribute(&self) -> Attribute {
        Attribute::Number(*self as f64)
    }
    fn from_attribute(a: &Attribute) -> Option<Self> {
        match a {
            Attribute::Number(x) if *x >= 0.0 && *x < 9e15 && x.fract() == 0.0 => Some(*x as Self),
            _ => None,
        }
    }
}

impl AttributeValue for bool {
    fn to_attribute(&self) -> Attribute {
        Attribute::Bool(*self)
    }
    fn from_attribute(a: &Attribute) -> Option<Self> {
        match a {
            Attribute::Bool(b) => Some(*b),
            _ => None,
        }
    }
}

impl AttributeValue for DType {
    fn to_attribute(&self) -> Attribute {
        Attribute::Word(self.name().to_owned())
    }
    fn from_attribute(a: &Attribute) -> Option<Self> {
        match a {
            Attribute::Word(w) => [Self::F32, Self::F16, Self::U32].into_iter().find(|d| d.name() == w),
            _ => None,
        }
    }
}

/// How the two halves of a rotated pair are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RopeLayout {
    /// Element `i` pairs with `i + dim/2` (GPT-NeoX, Llama on the Hub).
    Half,
    /// Element `2i` pairs with `2i + 1` (GPT-J).
    Interleaved,
}

/// Scores to routing weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Routing {
    /// Softmax over all experts, then the `top_k` largest.
    Softmax,
    /// Sigmoid of each, then the `top_k` largest.
    Sigmoid,
}

macro_rules! words {
    ($ty:ty { $($variant:ident = $name:literal),+ }) => {
        impl AttributeValue for $ty {
            fn to_attribute(&self) -> Attribute {
                Attribute::Word(match self { $(Self::$variant => $name),+ }.to_owned())
            }
            fn from_attribute(a: &Attribute) -> Option<Self> {
                match a {
                    $(Attribute::Word(w) if w == $name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
words!(RopeLayout { Half = "half", Interleaved = "interleaved" });
words!(Routing { Softmax = "softmax", Sigmoid = "sigmoid" });

macro_rules! ops {
    ($($(#[$doc:meta])* $variant:ident = $name:literal ($args:literal) $({ $($(#[$adoc:meta])* $attr:ident: $ty:ty),+ $(,)? })? $(=> $effect:ident)?;)+) => {
        /// An operation with its attributes. Arguments are listed in the order in which they are passed.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub enum Op {
            $($(#[$doc])* $variant $({ $($(#[$adoc])* $attr: $ty),+ })?,)+
        }

        impl Op {
            /// Every op name, in table order.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name in texts; an effect ends in `!`.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name),+ }
            }

            /// The argument list as the table documents it; those at the end with `?` may be left out.
            pub fn arguments(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $args),+ }
            }

            /// Attributes in printing order.
            pub fn attributes(&self) -> Vec<(&'static str, Attribute)> {
                match self {
                    $(Self::$variant $({ $($attr),+ })? => vec![$($((stringify!($attr), $attr.to_attribute())),+)?],)+
                }
            }

            /// Rebuilds an op from its name and attributes.
            ///
            /// # Errors
            /// A sentence naming the unknown op, or the attribute that is missing or of the wrong kind.
            pub fn from_attributes(name: &str, get: &dyn Fn(&str) -> Option<Attribute>) -> Result<Self, String> {
                let need = |attr: &str| get(attr).ok_or_else(|| format!("`{name}` needs the attribute `{attr}`"));
                match name {
                    $($name => Ok(Self::$variant $({ $($attr: {
                        let a = need(stringify!($attr))?;
                        <$ty>::from_attribute(&a)
                            .ok_or_else(|| format!("attribute `{}` of `{name}` cannot be `{a}`", stringify!($attr)))?
                    }),+ })?),)+
                    _ => Err(format!("unknown op `{name}`")),
                }
            }

            /// Whether the op is an effect: it stays in program order and outside the e-graph.
            pub fn is_effect(&self) -> bool {
                self.name().ends_with('!')
            }
        }
    };
}

ops! {
    /// Rows of a table, times `scale`: `ids: u32[T]`, weight `[V, D]` → `f32[T, D]`.
    Embed = "embed" ("ids, w") {
        /// Factor on the row.
        scale: f64,
    };
    /// `x / sqrt(mean(x²) + eps) · (w + offset)` over the last extent (Zhang & Sennrich 2019). Weight `[D]` or, where each
    /// head of `f32[T, H, D]` has one of its own, `[H·D]`.
    RmsNorm = "rms_norm" ("x, w") {
        /// Added to the mean square.
        eps: f64,
        /// Added to the weight (1 in the Gemma families).
        offset: f64,
    };
    /// `y = x Wᵀ` over the last extent. Weight `[N, K]`.
    Linear = "linear" ("x, w");
    /// Adds a vector along the last extent. Weight `[N]`.
    Bias = "bias" ("x, w");
    /// `a + b`, equal shapes.
    Add = "add" ("a, b");
    /// `a · b`, equal shapes.
    Mul = "mul" ("a, b");
    /// `x · factor`.
    Scale = "scale" ("x") {
        /// The factor.
        factor: f64,
    };
    /// `x · factor` of elements `start .. start + len` of the last extent; the others are kept.
    ScalePart = "scale_part" ("x") {
        /// First element.
        start: usize,
        /// How many.
        len: usize,
        /// The factor.
        factor: f64,
    };
    /// `x · sigmoid(x)`.
    Silu = "silu" ("x");
    /// `x / 2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))`.
    GeluTanh = "gelu_tanh" ("x");
    /// `1 / (1 + e^-x)`.
    Sigmoid = "sigmoid" ("x");
    /// `tanh x`.
    Tanh = "tanh" ("x");
    /// The lesser of `x` and `bound`.
    Min = "min" ("x") {
        /// What results are at most.
        bound: f64,
    };
    /// The greater of `x` and `bound`.
    Max = "max" ("x") {
        /// What results are at least.
        bound: f64,
    };
    /// Rounds to the nearest of fewer values, element by element or by groups of the last extent; the declared activation
    /// rounding.
    Round = "round" ("x") {
        /// The values rounded to.
        to: Rounding,
    };
    /// Elements `start .. start + len` of the last extent.
    Slice = "slice" ("x") {
        /// First element.
        start: usize,
        /// How many.
        len: usize,
    };
    /// `[T, H·D]` → `[T, H, D]`.
    SplitHeads = "split_heads" ("x") {
        /// Heads.
        heads: usize,
    };
    /// `[T, H, D]` → `[T, H·D]`.
    MergeHeads = "merge_heads" ("x");
    /// Rotates elements `start .. start + dim` of each head by the step's table (Su et al. 2021): `x: f32[T, H, D]`,
    /// table `f32[T, dim]` holding `dim/2` cosines, then `dim/2` sines.
    Rope = "rope" ("x, table") {
        /// First rotated element of a head.
        start: usize,
        /// Rotated elements of a head.
        dim: usize,
        /// Which elements pair up.
        layout: RopeLayout,
    };
    /// Multiplies each head by a matrix of its own. Weight `[heads·B, C]`, of which head `h` has rows `h·B .. (h+1)·B`,
    /// and `W_h` those `first .. first + len` of them. Of `x: f32[T, heads, D]` the first elements are replaced by
    /// `W_h x`, or by `W_hᵀ x` if transposed; what lies behind them is kept. A history of one head gives one of `heads`.
    HeadLinear = "head_linear" ("x, w") {
        /// Heads of the result.
        heads: usize,
        /// First row of a head's matrix among the head's rows.
        first: usize,
        /// Rows of a head's matrix.
        len: usize,
        /// Whether rows are inputs and columns outputs.
        transposed: bool,
    };
    /// Appends keys and values `[T, H, D]` of the step's tokens to their sequences; gives the next version of the state.
    /// To a state of latents, these and behind them the rotated part of keys.
    KvAppend = "kv.append!" ("state, k, v");
    /// Encodes the pages of a state that are full by now into its archive; gives the next version of the state.
    KvArchive = "kv.archive!" ("state");
    /// Rotates each head by the fixed rotation that goes before quantisation ([`rotation`](crate::quant::rotation)), or
    /// back: `[T, H, D]`, or keys or values of a state as they are read.
    Rotate = "rotate" ("x") {
        /// Back.
        inverse: bool,
    };
    /// Keys of a state as sequences see them.
    KvK = "kv.k" ("state");
    /// Values of a state as sequences see them.
    KvV = "kv.v" ("state");
    /// Softmax attention of `q: f32[T, H, D]` over its own sequence's history up to its own position
    /// (Vaswani et al. 2017, grouped heads as in Ainslie et al. 2023). With sinks `[H]` the softmax of a head has one
    /// score more, which no value belongs to (Xiao et al. 2024, "Efficient Streaming Language Models with Attention
    /// Sinks", §3.3; OpenAI 2025, gpt-oss model card, §2.2).
    Attend = "attend" ("q, k, v, sinks?") {
        /// Factor on the scores.
        scale: f64,
        /// Keys a query sees, itself included; 0 for all.
        window: usize,
        /// Bound that scores `s` approach as `cap · tanh(s / cap)`; 0 for none.
        cap: f64,
    };
    /// Appends inputs `f32[T, C]` of a short convolution to their sequences; gives the next version of the state.
    ConvAppend = "conv.append!" ("state, x");
    /// Causal convolution of each channel over its own sequence's inputs up to the token's own, weight `[C, taps]`:
    /// `y_c[p] = Σ_j w[c, j] · x_c[p - taps + 1 + j]` → `f32[T, C]`.
    ConvCausal = "conv.causal" ("state, w");
    /// Takes tokens into the memory by the gated delta rule (Yang et al. 2024, "Gated Delta Networks", eq. 10), one after
    /// another: `S ← α S (I − β k kᵀ) + β v kᵀ`. Keys `f32[T, G, K]`, of which head `h` of `H` has key `h / (H / G)`,
    /// values `f32[T, H, V]`, α and β `f32[T, H]`; gives the next version of the state.
    DeltaAppend = "delta.append!" ("state, k, v, decay, beta");
    /// `scale · S q` by the memory after each token: `q: f32[T, G, K]` → `f32[T, H, V]`.
    DeltaRead = "delta.read" ("state, q") {
        /// Factor on the result.
        scale: f64,
    };
    /// `x / √(Σ x² + eps)` along the last extent.
    L2Norm = "l2_norm" ("x") {
        /// Added to the sum of squares.
        eps: f64,
    };
    /// What is left of a memory after a token, `exp(−e^a · ln(1 + e^(x + b)))` (Gu & Dao 2023, "Mamba", with the step of
    /// its eq. 4 a softplus): `x: f32[T, H]`, weights a and b `[H]`.
    Decay = "decay" ("x, a, b");
    /// Time steps `ln(1 + e^(x + b))` between two bounds (Dao & Gu 2024, "Transformers are SSMs", §7.1): `x: f32[T, H]`,
    /// weight `[H]`.
    TimeStep = "time_step" ("x, b") {
        /// What steps are at least.
        least: f64,
        /// What steps are at most.
        most: f64,
    };
    /// Takes tokens into the memory of a selective state space (Dao & Gu 2024, "Transformers are SSMs", eq. 1 with §7.1:
    /// A a number for each head), one after another: `S ← e^(−e^a · Δ) S + Δ x Bᵀ`. B `f32[T, G, K]`, of which head `h` of
    /// `H` has number `h / (H / G)`, x `f32[T, H, V]`, time steps Δ `f32[T, H]`, weight a `[H]`; gives the next version of
    /// the state.
    SsmAppend = "ssm.append!" ("state, b, x, dt, a");
    /// `S C + d x` by the memory after each token: C `f32[T, G, K]`, x `f32[T, H, V]`, weight d `[H]` → `f32[T, H, V]`.
    SsmRead = "ssm.read" ("state, c, x, d");
    /// Rows of `x: f32[T, D]` that want logits: → `f32[R, D]`.
    Rows = "rows" ("x");
    /// Index of the largest element of the last extent, ties to the lowest: `f32[R, V]` → `u32[R]`.
    ArgMax = "arg_max" ("x");
    /// Expert ids of each token, best first, ties to the lowest id: scores `f32[T, E]` → `u32[T, K]`. Experts lie in
    /// `groups` of equal size, and only the best `kept` groups of a token are looked at: those whose two best scores
    /// have the largest sums, ties to the lowest (DeepSeek-AI 2024, DeepSeek-V3, §2.1.2).
    RouteIds = "moe.route_ids" ("scores") {
        /// Experts per token.
        top_k: usize,
        /// Groups of experts.
        groups: usize,
        /// Groups that a token's experts are chosen from.
        kept: usize,
    };
    /// Weights of the chosen experts: scores `f32[T, E]`, ids `u32[T, K]` → `f32[T, K]`.
    RouteWeights = "moe.route_weights" ("scores, ids") {
        /// Scores to weights.
        routing: Routing,
        /// Whether the weights of a token are divided by their sum.
        normalize: bool,
    };
    /// Where the experts of `ids: u32[T, K]` lie among so many slots → `u32[T, K]`. The host brings those that lie in
    /// none. A plan's affair: as mathematics it is the identity. `ahead: u32[T, K]`, a choice with its weights, is a guess of
    /// what the next call that fetches will choose: the host may bring some of it meanwhile.
    ExpertFetch = "expert.fetch!" ("ids, ahead?, weights?") {
        /// Experts that are in memory at a time.
        slots: usize,
    };
    /// `y[t, r] = x[t, r] W[ids[t, r]]ᵀ`: x `f32[T, D]` (shared by the ranks) or `f32[T, K, D]`, ids `u32[T, K]`,
    /// weight `[E·N, D]` with expert `e` in rows `e·N .. (e+1)·N` → `f32[T, K, N]`.
    ExpertLinear = "moe.linear" ("x, ids, w") {
        /// Experts.
        experts: usize,
    };
    /// Adds to each row of an expert that expert's vector: y `f32[T, K, N]`, ids `u32[T, K]`, weight `[E·N, 1]` with that
    /// of expert `e` in rows `e·N .. (e+1)·N`.
    ExpertBias = "moe.bias" ("y, ids, w") {
        /// Experts.
        experts: usize,
    };
    /// Sum over ranks in rank order: y `f32[T, K, D]`, weights `f32[T, K]` → `f32[T, D]`.
    Combine = "moe.combine" ("y, weights");
}
