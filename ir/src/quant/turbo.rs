//! TurboQuant codes of vectors (Zandieh et al. 2025, arXiv 2504.19874): a vector that a random rotation went before has
//! elements that are nearly independent and normal, so each is coded on its own by the best quantiser of the normal
//! distribution (Lloyd 1982, Max 1960), and one scale is kept for the vector.
//!
//! What a code means is a whole number of 8 bits times the scale: the best levels rounded to 1/127 of the outermost,
//! which costs at most 0.15 % of the error and makes products with codes products of bytes.

use std::fmt;

use half::f16;
use serde::{Deserialize, Serialize};

/// Positive levels of 1 to 4 bits, outermost 127.
const LEVELS: [&[i8]; 4] = [&[127], &[38, 127], &[14, 45, 79, 127], &[6, 18, 31, 44, 58, 75, 97, 127]];
/// The outermost level in standard deviations.
const OUTERMOST: [f32; 4] = [0.797_88, 1.510_42, 2.151_95, 2.732_59];

/// What the scale of a vector makes right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scale {
    /// The length of the decoded vector.
    Matched,
    /// The product with any other vector, on average over rotations (Vargaftik et al. 2021, arXiv 2105.08339, §4.2):
    /// `|x|² / <x, c>`.
    Unbiased,
}

/// Parameters of a TurboQuant format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Turbo {
    /// Bits of a code: 1 to 4.
    pub bits: u8,
    /// What the scale makes right.
    pub scale: Scale,
}

impl Turbo {
    /// Checked constructor.
    ///
    /// # Errors
    /// A sentence naming what is not supported.
    pub fn new(bits: u8, scale: Scale) -> Result<Self, String> {
        if !(1..=4).contains(&bits) {
            return Err(format!("TurboQuant codes of {bits} bits are not supported: expected 1 to 4"));
        }
        Ok(Self { bits, scale })
    }

    /// The bits of the planes that codes are stored in, low bits first: no field of a plane crosses a byte.
    pub fn planes(self) -> &'static [u8] {
        match self.bits {
            4 => &[4],
            3 => &[2, 1],
            2 => &[2],
            _ => &[1],
        }
    }

    /// Positive levels, inner first.
    pub fn levels(self) -> &'static [i8] {
        LEVELS[self.bits as usize - 1]
    }

    /// What a code means, in units of the vector's scale: codes count up from the lowest level.
    pub fn level(self, code: u32) -> i8 {
        let (levels, code) = (self.levels(), code as usize);
        if code < levels.len() { -levels[levels.len() - 1 - code] } else { levels[code - levels.len()] }
    }

    /// Borders between neighbouring positive levels, in levels; 0 is the border in the middle.
    pub fn borders(self) -> impl DoubleEndedIterator<Item = f32> {
        self.levels().windows(2).map(|pair| (f32::from(pair[0]) + f32::from(pair[1])) / 2.0)
    }

    /// Levels of one standard deviation: what an element of a vector of length `√dim` is multiplied by to be coded.
    pub fn levels_per_deviation(self) -> f32 {
        127.0 / OUTERMOST[self.bits as usize - 1]
    }

    /// The code of a number in levels: the nearest.
    pub fn code(self, levels: f32) -> u32 {
        let beyond = self.borders().filter(|border| levels.abs() >= *border).count() as u32;
        let half = self.levels().len() as u32;
        if levels >= 0.0 { half + beyond } else { half - 1 - beyond }
    }

    /// Codes and scale of a vector.
    pub fn encode(self, x: &[f32]) -> (Vec<u32>, f16) {
        let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
        if !(length > 0.0 && length.is_finite()) {
            return (vec![0; x.len()], f16::ZERO);
        }
        let factor = self.levels_per_deviation() * (x.len() as f32).sqrt() / length;
        let codes: Vec<u32> = x.iter().map(|x| self.code(x * factor)).collect();
        let levels = || codes.iter().map(|code| f32::from(self.level(*code)));
        let scale = match self.scale {
            Scale::Matched => length / levels().map(|c| c * c).sum::<f32>().sqrt(),
            Scale::Unbiased => length * length / levels().zip(x).map(|(c, x)| c * x).sum::<f32>(),
        };
        (codes, f16::from_f32(scale.min(f16::MAX.to_f32())))
    }

    /// A vector as it reads back.
    pub fn rounded(self, x: &[f32]) -> Vec<f32> {
        let (codes, scale) = self.encode(x);
        codes.iter().map(|code| f32::from(self.level(*code)) * scale.to_f32()).collect()
    }
}

impl fmt::Display for Turbo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = if self.scale == Scale::Unbiased { "_unbiased" } else { "" };
        write!(f, "turbo{}{scale}", self.bits)
    }
}

impl From<Turbo> for String {
    fn from(format: Turbo) -> Self {
        format.to_string()
    }
}

impl TryFrom<String> for Turbo {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl std::str::FromStr for Turbo {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let rest = s.strip_prefix("turbo").ok_or("a TurboQuant format begins with `turbo`")?;
        let (bits, scale) = match rest.strip_suffix("_unbiased") {
            Some(bits) => (bits, Scale::Unbiased),
            None => (rest, Scale::Matched),
        };
        let bits =
            bits.parse().map_err(|_| format!("unknown format `{s}`: expected turbo<bits> or turbo<bits>_unbiased"))?;
        Self::new(bits, scale)
    }
}

/// The paper's two-stage form (Zandieh et al. 2025, algorithm 2), for study: one bit less for the codes, and one bit for
/// the sign of each of `dim` random projections of what they leave. Its products are unbiased, as those of
/// [`Scale::Unbiased`] are, at more than five times their variance; nothing is stored so.
#[derive(Clone, Debug)]
pub struct Product {
    codes: Turbo,
    dim: usize,
    /// Random directions, rows of `dim` standard normal numbers.
    projections: Vec<f32>,
}

impl Product {
    /// The form of `bits` bits in all; `normals` gives so many standard normal numbers.
    ///
    /// # Errors
    /// A sentence naming what is not supported.
    pub fn new(bits: u8, dim: usize, mut normals: impl FnMut(usize) -> Vec<f32>) -> Result<Self, String> {
        let codes = Turbo::new(bits.saturating_sub(1), Scale::Matched)?;
        Ok(Self { codes, dim, projections: normals(dim * dim) })
    }

    /// A vector as it reads back: `x̃₀ + √(π/2)/dim · |r| · Sᵀ sign(S r)` with `r = x - x̃₀`.
    pub fn rounded(&self, x: &[f32]) -> Vec<f32> {
        let unit =
            x.iter().map(|x| x * x).sum::<f32>().sqrt() / (self.dim as f32).sqrt() / self.codes.levels_per_deviation();
        let mut decoded: Vec<f32> =
            self.codes.encode(x).0.into_iter().map(|code| f32::from(self.codes.level(code)) * unit).collect();
        let left: Vec<f32> = x.iter().zip(&decoded).map(|(x, y)| x - y).collect();
        let length = left.iter().map(|x| x * x).sum::<f32>().sqrt();
        let factor = std::f32::consts::FRAC_PI_2.sqrt() / self.dim as f32 * length;
        for row in self.projections.chunks_exact(self.dim) {
            let product: f32 = row.iter().zip(&left).map(|(s, r)| s * r).sum();
            let signed = if product < 0.0 { -factor } else { factor };
            decoded.iter_mut().zip(row).for_each(|(y, s)| *y += signed * s);
        }
        decoded
    }
}
