//! Declared rounding of activations: what an input of a product is rounded to, as data. One node of the graph, shared by
//! the products that read it.

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::ops::{Attribute, AttributeValue};
use crate::quant::Format;

/// Least magnitude that a group of whole numbers is scaled by: its inverse is finite.
pub const LEAST_MAGNITUDE: f32 = 1e-30;

/// The values that an activation is rounded to, to nearest even.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rounding {
    /// IEEE 754 binary16, element by element.
    F16,
    /// The sum of so many bfloat16, element by element: each is the nearest to what those before it leave.
    Bf16 {
        /// 1, or 2 for 16 bits of mantissa.
        terms: u8,
    },
    /// `scale · q` with whole `q` from `-m` to `m`, and `scale = max|x| / m` of each group of so many columns.
    Int {
        /// 8 (`m` = 127) or 16 (`m` = [`INT16`]).
        bits: u8,
        /// Columns that share a scale: 32, 64 or 128.
        group: u16,
    },
}

/// Largest of int16: `q = 255 h + l` with `h` and `l` from -127 to 127, so that products of bytes make its products.
pub const INT16: u16 = 255 * 127 + 127;

impl Rounding {
    /// Every rounding there is.
    pub const ALL: [Self; 9] = [
        Self::F16,
        Self::Bf16 { terms: 1 },
        Self::Bf16 { terms: 2 },
        Self::Int { bits: 8, group: 32 },
        Self::Int { bits: 8, group: 64 },
        Self::Int { bits: 8, group: 128 },
        Self::Int { bits: 16, group: 32 },
        Self::Int { bits: 16, group: 64 },
        Self::Int { bits: 16, group: 128 },
    ];

    /// The rounding to numbers of `bits` (8 or 16) bits that a weight's products are made of: whole ones in the groups of
    /// its scales, or bfloat16 where it is stored so; `None` for other weights.
    pub fn of_weight(format: Format, bits: u8) -> Option<Self> {
        match (format, format.codes()) {
            (Format::BF16, _) => Some(Self::Bf16 { terms: bits / 8 }),
            (_, codes) => codes.map(|codes| Self::Int { bits, group: codes.group as u16 }),
        }
    }

    /// The largest whole number of so many bits.
    pub fn largest(bits: u8) -> f32 {
        if bits == 8 { 127.0 } else { f32::from(INT16) }
    }

    /// Columns that are rounded together; 1 where each is on its own.
    pub fn group(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 { .. } => 1,
            Self::Int { group, .. } => group as usize,
        }
    }

    /// Rounds one row in place; its length is a multiple of [`Self::group`].
    pub fn apply(self, row: &mut [f32]) {
        match self {
            Self::F16 => row.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
            Self::Bf16 { terms } => row.iter_mut().for_each(|x| {
                let next = |sum: f32| sum + bf16::from_f32(*x - sum).to_f32();
                *x = (0..terms).fold(0.0, |sum, _| next(sum));
            }),
            Self::Int { bits, group } => row.chunks_mut(group as usize).for_each(|part| {
                let largest = part.iter().fold(0.0f64, |max, x| max.max(f64::from(x.abs())));
                let scale = largest.max(f64::from(LEAST_MAGNITUDE)) / f64::from(Self::largest(bits));
                part.iter_mut().for_each(|x| *x = ((f64::from(*x) / scale).round_ties_even() * scale) as f32);
            }),
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F16 => f.write_str("f16"),
            Self::Bf16 { terms: 1 } => f.write_str("bf16"),
            Self::Bf16 { terms } => write!(f, "bf16x{terms}"),
            Self::Int { bits, group } => write!(f, "int{bits}_g{group}"),
        }
    }
}

impl From<Rounding> for String {
    fn from(rounding: Rounding) -> Self {
        rounding.to_string()
    }
}

impl TryFrom<String> for Rounding {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.to_string() == name).ok_or_else(|| format!("there is no rounding `{name}`"))
    }
}

impl AttributeValue for Rounding {
    fn to_attribute(&self) -> Attribute {
        Attribute::Word(self.to_string())
    }
    fn from_attribute(a: &Attribute) -> Option<Self> {
        match a {
            Attribute::Word(w) => Self::try_from(w.clone()).ok(),
            _ => None,
        }
    }
}
