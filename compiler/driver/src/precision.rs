//! Names under which people choose how activations are rounded and how keys and values are stored: the same in every
//! program.

use clap::ValueEnum;
use swiftlm_ir::quant::{Affine, Float, Format};
use swiftlm_models::{Activations, BuildOptions};

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    /// Full precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of f32.
    Bf16,
    /// Codes of 8 bits with a scale and a bias for 64 elements.
    Q8,
    /// Codes of 4 bits with a scale and a bias for 64 elements.
    Q4,
}

impl Kv {
    /// The format of keys and of values.
    pub fn format(self) -> Format {
        let affine = |bits| Format::Affine(Affine { bits, group: 64, scale: Float::F16 });
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::Bf16 => Format::BF16,
            Self::Q8 => affine(8),
            Self::Q4 => affine(4),
        }
    }
}

/// How activations are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// Keys and values are f16. On the CPU, inputs of products with quantised weights are rounded to 16 bits by groups,
    /// finer than f16; elsewhere they stay f32.
    #[default]
    Default,
    /// As the reference computes: inputs of products, keys and values are f32.
    Exact,
    /// On the CPU, inputs of products with quantised weights are rounded to 8 bits by groups: faster, and close
    /// decisions may fall otherwise (docs/performance.md has the figures). Other backends compute as by default.
    Fast,
}

impl Precision {
    /// What a graph for the CPU, or for another device, is built with; `kv` goes before what the precision says of keys and
    /// values.
    pub fn build(self, kv: Option<Kv>, on_cpu: bool) -> BuildOptions {
        let activations = match (self, on_cpu) {
            (Self::Exact, _) | (_, false) => Activations::F32,
            (Self::Default, true) => Activations::Int { bits: 16 },
            (Self::Fast, true) => Activations::Int { bits: 8 },
        };
        let exact = (self == Self::Exact).then_some(Format::F32);
        let kv = kv.map(Kv::format).or(exact).map(|format| (format, format));
        let default = BuildOptions::default();
        BuildOptions { activations, kv: kv.unwrap_or(default.kv), ..default }
    }
}
