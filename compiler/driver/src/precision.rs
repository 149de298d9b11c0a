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
    /// Inputs of products stay f32, keys and values are f16.
    #[default]
    Default,
    /// As the reference computes: keys and values are f32, too.
    Exact,
    /// On the CPU, inputs of products with quantised weights are rounded to 8 bits by groups: faster, and close
    /// decisions may fall otherwise (docs/performance.md has the figures). Other backends compute as by default.
    Fast,
}

impl Precision {
    /// What a graph is built with; `kv` goes before what the precision says of keys and values.
    pub fn build(self, kv: Option<Kv>) -> BuildOptions {
        let mut build = BuildOptions::default();
        if self == Self::Fast {
            build.activations = Activations::Int8;
        }
        let exact = (self == Self::Exact).then_some(Format::F32);
        if let Some(format) = kv.map(Kv::format).or(exact) {
            build.kv = (format, format);
        }
        build
    }
}
