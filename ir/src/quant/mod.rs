//! Storage formats of weights and KV states. A weight is a matrix of rows; a row is encoded on its own.
//!
//! One weight lies in one buffer: its components (packed codes, scales, biases) follow one another at the offsets that
//! [`Format::layout`] gives. Formats differ only here: kernels call [`Format::decode_host`]'s twin on the kernel builder.

pub mod affine;
pub mod archive;
pub mod decode;
pub mod encode;
pub mod head;
pub mod mxfp4;
pub mod rotation;
pub mod turbo;

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

pub use affine::Affine;
pub use archive::{Archive, ArchiveRow};
pub use head::HeadRow;
pub use turbo::Turbo;

/// Floating-point storage of an element, a scale or a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Float {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl Float {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The name's inverse.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16].into_iter().find(|f| f.name() == name)
    }

    /// The nearest number that it holds, ties to even.
    pub fn rounded(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }

    /// Element `i` of little-endian `bytes`.
    pub fn get(self, bytes: &[u8], i: usize) -> f32 {
        match self {
            Self::F32 => f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]),
            Self::F16 => f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32(),
            Self::Bf16 => bf16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32(),
        }
    }
}

/// How a weight or a KV state is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Format {
    /// Plain floating point.
    Float(Float),
    /// Groups of codes with a scale and a bias (MLX affine).
    Affine(Affine),
    /// Blocks of small floats that share a power of two ([`mxfp4`]).
    Mxfp4,
}

/// What the scales of groups of codes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Floats, and as many biases: `scale · code + bias`.
    Affine(Float),
    /// The powers of two of [`mxfp4`], a byte each, of the numbers that codes stand for.
    Power,
}

impl Scale {
    /// Bytes of a scale.
    pub fn bytes(self) -> usize {
        match self {
            Self::Affine(float) => float.bytes(),
            Self::Power => 1,
        }
    }
}

/// How a format groups codes, for what takes them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// Bits of a code.
    pub bits: usize,
    /// Columns that share a scale.
    pub group: usize,
    /// What scales are.
    pub scale: Scale,
}

/// Where the components of a matrix lie in its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name (as MLX spells it: `weight`, `scales`, `biases`), byte offset, byte length, all offsets 4-byte aligned.
    pub components: Vec<Component>,
    /// Size of the whole, a multiple of 4.
    pub bytes: usize,
}

/// One component of a [`Layout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// `weight`, `scales` or `biases`.
    pub name: &'static str,
    /// Byte offset in the buffer.
    pub offset: usize,
    /// Bytes of one row.
    pub row_bytes: usize,
    /// Bytes of all rows.
    pub bytes: usize,
}

impl Format {
    /// Plain f32.
    pub const F32: Self = Self::Float(Float::F32);
    /// Plain f16.
    pub const F16: Self = Self::Float(Float::F16);
    /// Plain bf16.
    pub const BF16: Self = Self::Float(Float::Bf16);

    /// How codes are grouped; plain floats are not.
    pub fn codes(&self) -> Option<Codes> {
        match self {
            Self::Float(_) => None,
            Self::Affine(a) => {
                Some(Codes { bits: a.bits.into(), group: a.group.into(), scale: Scale::Affine(a.scale) })
            }
            Self::Mxfp4 => Some(Codes { bits: 4, group: mxfp4::BLOCK, scale: Scale::Power }),
        }
    }

    /// The component layout of a `rows` × `cols` matrix.
    pub fn layout(&self, rows: usize, cols: usize) -> Layout {
        let parts: Vec<(&'static str, usize)> = match self {
            Self::Float(f) => vec![("weight", cols * f.bytes())],
            Self::Affine(a) => vec![
                ("weight", cols * a.bits as usize / 8),
                ("scales", cols / a.group as usize * a.scale.bytes()),
                ("biases", cols / a.group as usize * a.scale.bytes()),
            ],
            Self::Mxfp4 => vec![("weight", cols / 2), ("scales", cols / mxfp4::BLOCK)],
        };
        let mut components = Vec::with_capacity(parts.len());
        let mut end = 0usize;
        for (name, row_bytes) in parts {
            components.push(Component { name, offset: end, row_bytes, bytes: rows * row_bytes });
            end = (end + rows * row_bytes).next_multiple_of(4);
        }
        Layout { components, bytes: end }
    }

    /// Decodes element (`row`, `col`) of a `rows` × `cols` matrix stored in `bytes` as [`Self::layout`] says.
    pub fn decode_host(&self, bytes: &[u8], rows: usize, cols: usize, row: usize, col: usize) -> f32 {
        match self {
            Self::Float(f) => f.get(bytes, row * cols + col),
            Self::Affine(a) => a.decode_host(&self.layout(rows, cols), bytes, cols, row, col),
            Self::Mxfp4 => mxfp4::decode_host(&self.layout(rows, cols), bytes, cols, row, col),
        }
    }

    /// Decodes a whole matrix, row after row, each element as [`Self::decode_host`] does.
    pub fn decode_matrix(&self, bytes: &[u8], rows: usize, cols: usize) -> Vec<f32> {
        let layout = self.layout(rows, cols);
        let element = |(row, col): (usize, usize)| match self {
            Self::Float(f) => f.get(bytes, row * cols + col),
            Self::Affine(a) => a.decode_host(&layout, bytes, cols, row, col),
            Self::Mxfp4 => mxfp4::decode_host(&layout, bytes, cols, row, col),
        };
        (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))).map(element).collect()
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(x) => f.write_str(x.name()),
            Self::Mxfp4 => f.write_str("mxfp4"),
            Self::Affine(a) => write!(f, "affine{}_g{}_{}", a.bits, a.group, a.scale.name()),
        }
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.to_string()
    }
}

impl TryFrom<String> for Format {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Some(f) = Float::parse(s) {
            return Ok(Self::Float(f));
        }
        if s == "mxfp4" {
            return Ok(Self::Mxfp4);
        }
        let unknown =
            || format!("unknown format `{s}`: expected f32, f16, bf16, mxfp4 or affine<bits>_g<group>_<float>");
        let mut parts = s.strip_prefix("affine").ok_or_else(unknown)?.split('_');
        let bits = parts.next().and_then(|b| b.parse().ok()).ok_or_else(unknown)?;
        let group = parts.next().and_then(|g| g.strip_prefix('g')).and_then(|g| g.parse().ok()).ok_or_else(unknown)?;
        let scale = parts.next().and_then(Float::parse).ok_or_else(unknown)?;
        Affine::new(bits, group, scale).map(Self::Affine)
    }
}
