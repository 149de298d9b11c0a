//! Element types, tensor types and state types.

use std::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::dim::Dim;
use crate::quant::{Archive, ArchiveRow, Format, HeadRow};

/// What an element of an activation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// Unsigned 32-bit: token ids, positions, expert ids.
    U32,
}

impl DType {
    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 => "u32",
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Extents, outermost first.
pub type Shape = SmallVec<[Dim; 4]>;

/// Type of an activation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; never empty.
    #[serde(with = "extents")]
    pub shape: Shape,
}

impl TensorType {
    /// A tensor type.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> Self {
        Self { dtype, shape: shape.into_iter().collect() }
    }

    /// The innermost extent if it is constant.
    pub fn width(&self) -> Option<usize> {
        self.shape.last().and_then(|d| d.constant())
    }

    /// Elements of one row of the outermost extent.
    pub fn row_elements(&self) -> Option<usize> {
        self.shape.iter().skip(1).try_fold(1usize, |n, d| n.checked_mul(d.constant()?))
    }
}

/// A shape as data: a list of extents.
mod extents {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Dim, Shape};

    pub(super) fn serialize<S: Serializer>(shape: &Shape, serializer: S) -> Result<S::Ok, S::Error> {
        shape.as_slice().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        Vec::<Dim>::deserialize(deserializer).map(Shape::from_vec)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype.name())?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}

/// How a sequence's history is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StateType {
    /// Keys and values of tokens, in pages of [`PAGE_TOKENS`] tokens.
    Paged {
        /// Tokens back from a query, itself included, that stay readable: the pages of older ones are used again. 0 for
        /// all. Printed as `ring`, and as `paged` where it is 0.
        window: usize,
        /// KV heads.
        heads: usize,
        /// Elements of one head.
        dim: usize,
        /// How keys are stored.
        k: Format,
        /// How values are stored; as keys are, where they are part of them.
        v: Format,
        /// Elements from a key's first on that are the value, where one stored vector is both: a latent (DeepSeek-AI
        /// 2024, DeepSeek-V2, §2.1). What lies behind them is the part of the key that positions rotate.
        latent: Option<usize>,
        /// Where older tokens are read from instead; the pages of keys and values above are kept for recent ones only.
        archive: Option<Archive>,
    },
    /// What is left of all tokens together: as large for a long sequence as for a short one.
    Recurrent(Recurrent),
}

/// Sizes of a recurrent state, all of it f32: the last inputs of a short convolution, and a matrix for each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recurrent {
    /// Inputs before a token that its convolution looks at: taps less one. 0 where there is no convolution.
    pub columns: usize,
    /// Channels of the convolution.
    pub channels: usize,
    /// Heads of the memory; 0 where there is none.
    pub heads: usize,
    /// Elements of a key: columns of a head's matrix.
    pub key: usize,
    /// Elements of a value: rows of a head's matrix.
    pub value: usize,
}

impl Recurrent {
    /// Its parts: the last inputs, `f32[columns, channels]`, and the memory, `f32[heads, value, key]`.
    pub const PARTS: [usize; 2] = [0, 1];

    /// Elements of a part for one sequence. 0 for a part that there is not.
    pub fn elements(&self, part: usize) -> usize {
        match part {
            0 => self.columns * self.channels,
            1 => self.heads * self.value * self.key,
            _ => 0,
        }
    }

    /// Bytes of one sequence.
    pub fn bytes(&self) -> usize {
        Self::PARTS.map(|part| self.elements(part)).iter().sum::<usize>() * DType::F32.bytes()
    }
}

impl fmt::Display for Recurrent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { columns, channels, heads, key, value } = self;
        write!(f, "recurrent(columns={columns}, channels={channels}, heads={heads}, key={key}, value={value})")
    }
}

/// Which tokens of a sequence pages are kept for, as seen from a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Window {
    /// Tokens at the sequence's start that stay beside the last; whole pages.
    pub first: usize,
    /// Tokens back from the query, itself included; 0 for all.
    pub last: usize,
}

impl Window {
    /// Every token.
    pub const ALL: Self = Self { first: 0, last: 0 };

    /// The last tokens, or all for 0.
    pub fn last(last: usize) -> Self {
        Self { first: 0, last }
    }

    /// Whether every token is kept.
    pub fn is_all(self) -> bool {
        self.last == 0
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            0 => write!(f, "{}", self.last),
            first => write!(f, "{first}+{}", self.last),
        }
    }
}

/// Tokens of one KV page.
pub const PAGE_TOKENS: usize = 32;

impl StateType {
    /// Bytes of one page of keys (`part` 0) or values (1), head after head as [`HeadRow`] says; or of the archive's keys
    /// (2) or values (3), as [`ArchiveRow`] says. 0 for a part that there is not.
    pub fn page_bytes(&self, part: usize) -> usize {
        let Self::Paged { heads, dim, k, v, latent, archive, .. } = self else { return 0 };
        let (heads, dim) = (*heads, *dim);
        let plain = |format: Format| heads * HeadRow { format, dim }.page_bytes();
        match (part, archive) {
            (0, _) => plain(*k),
            (1, _) if latent.is_some() => 0,
            (1, _) => plain(*v),
            (2, Some(a)) => heads * ArchiveRow { format: a.k, dim }.page_bytes(),
            (3, Some(a)) => heads * ArchiveRow { format: a.v, dim }.page_bytes(),
            _ => 0,
        }
    }

    /// Bytes of one of the equal pieces that a part is made of: of a page, or of what a recurrent state keeps of one
    /// sequence. 0 for a part that there is not.
    pub fn unit_bytes(&self, part: usize) -> usize {
        match self {
            Self::Paged { .. } => self.page_bytes(part),
            Self::Recurrent(r) => r.elements(part) * DType::F32.bytes(),
        }
    }

    /// The recurrent state, if it is one.
    pub fn recurrent(&self) -> Option<&Recurrent> {
        match self {
            Self::Recurrent(r) => Some(r),
            Self::Paged { .. } => None,
        }
    }

    /// The parts made of pages, two by two, with the tokens that their pages are kept for.
    /// Elements of a value of one head.
    pub fn value_dim(&self) -> usize {
        let Self::Paged { dim, latent, .. } = self else { return 0 };
        latent.unwrap_or(*dim)
    }

    /// The parts that there are, two by two, with the tokens that their pages are kept for.
    pub fn parts(&self) -> Vec<(Window, [usize; 2])> {
        let Self::Paged { window, archive, .. } = self else { return vec![] };
        let all = Window::last(*window);
        match archive {
            None => vec![(all, [0, 1])],
            Some(a) => vec![(Window { first: a.first, last: a.recent() }, [0, 1]), (all, [2, 3])],
        }
    }

    /// The tokens that pages of a part are kept for.
    pub fn window(&self, part: usize) -> Option<Window> {
        self.parts().into_iter().find(|(_, parts)| parts.contains(&part)).map(|(window, _)| window)
    }

    /// Bytes that one more token of a long sequence adds, keys and values together.
    pub fn bytes_per_token(&self) -> usize {
        self.parts().last().map_or(0, |(_, parts)| self.token_bytes(*parts))
    }

    fn token_bytes(&self, parts: [usize; 2]) -> usize {
        parts.map(|part| self.page_bytes(part)).iter().sum::<usize>() / PAGE_TOKENS
    }

    /// Bytes that a query reads which follows on `depth` tokens.
    pub fn bytes_read(&self, depth: usize) -> usize {
        let (window, archive) = match self {
            Self::Paged { window, archive, .. } => (window, archive),
            Self::Recurrent(r) => return r.bytes(),
        };
        let seen = if *window == 0 { depth } else { depth.min(*window) };
        match archive {
            None => self.token_bytes([0, 1]) * seen,
            Some(a) => {
                let recent = seen.min(a.first + a.recent());
                self.token_bytes([0, 1]) * recent + self.token_bytes([2, 3]) * (seen - recent)
            }
        }
    }
}

impl fmt::Display for StateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (window, heads, dim, k, v, latent, archive) = match self {
            Self::Paged { window, heads, dim, k, v, latent, archive } => (window, heads, dim, k, v, latent, archive),
            Self::Recurrent(r) => return r.fmt(f),
        };
        match window {
            0 => f.write_str("paged(")?,
            _ => write!(f, "ring(window={window}, ")?,
        }
        write!(f, "heads={heads}, dim={dim}, k={k}, v={v}")?;
        if let Some(latent) = latent {
            write!(f, ", latent={latent}")?;
        }
        if let Some(Archive { k, v, first, last, centered }) = archive {
            write!(f, ", archive(k={k}, v={v}, first={first}, last={last}, centered={centered})")?;
        }
        f.write_str(")")
    }
}

/// Type of any value of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Type {
    /// An activation.
    Tensor(TensorType),
    /// A version of a state; consumed at most once.
    State(StateType),
    /// Keys or values of a state as a sequence sees them: `[token, heads, dim]`.
    History {
        /// Tokens back from a query that can be read; 0 for all.
        window: usize,
        /// KV heads.
        heads: usize,
        /// Elements of one head.
        dim: usize,
    },
}

impl Type {
    /// The tensor type, if it is one.
    pub fn tensor(&self) -> Option<&TensorType> {
        match self {
            Self::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(t) => t.fmt(f),
            Self::State(s) => s.fmt(f),
            Self::History { window: 0, heads, dim } => write!(f, "history(heads={heads}, dim={dim})"),
            Self::History { window, heads, dim } => write!(f, "history(window={window}, heads={heads}, dim={dim})"),
        }
    }
}
