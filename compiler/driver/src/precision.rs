//! Names under which people choose how activations are rounded and how keys and values are stored: the same in every
//! program.

use clap::ValueEnum;
use swiftlm_ir::quant::{Affine, Archive, Float, Format};
use swiftlm_models::{Activations, ArchivePolicy, BuildOptions};

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
    /// The same of rotated keys and values.
    Q4Rotated,
    /// TurboQuant: older tokens in codes of 4 bits with one scale for a head; the first and the last stay f16.
    K4v4,
    /// TurboQuant with keys of 4 bits and values of 3.
    K4v3,
    /// TurboQuant with 3 bits.
    K3v3,
}

impl Kv {
    /// The format of keys and of values; with TurboQuant, of those that it leaves as they are.
    pub fn format(self) -> Format {
        let affine = |bits| Format::Affine(Affine { bits, group: 64, scale: Float::F16 });
        match self {
            Self::F32 => Format::F32,
            Self::F16 | Self::K4v4 | Self::K4v3 | Self::K3v3 => Format::F16,
            Self::Bf16 => Format::BF16,
            Self::Q8 => affine(8),
            Self::Q4 | Self::Q4Rotated => affine(4),
        }
    }

    /// The name that people choose it by.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }

    /// Whether queries, keys and values are rotated though nothing is archived.
    pub fn rotates(self) -> bool {
        self == Self::Q4Rotated
    }

    /// How older tokens are kept, if otherwise than by the format.
    pub fn archive(self) -> Option<Archive> {
        let (k, v) = match self {
            Self::K4v4 => (4, 4),
            Self::K4v3 => (4, 3),
            Self::K3v3 => (3, 3),
            _ => return None,
        };
        Archive::of_bits(k, v).ok()
    }
}

/// How activations are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// Keys and values are f16. On the CPU, inputs of products with quantised weights are rounded by groups, to 8 bits in
    /// layers and to 16 where logits are made, and those with bfloat16 weights to bfloat16, and to sums of two
    /// (docs/performance.md says what that costs); elsewhere they stay f32.
    #[default]
    Default,
    /// The same with 16 bits everywhere, finer than f16: slower for prompts.
    Fine,
    /// As the reference computes: inputs of products, keys and values are f32.
    Exact,
}

impl Precision {
    /// What a graph for the CPU, or for another device, is built with; `kv` goes before what the precision says of keys and
    /// values.
    pub fn build(self, kv: Option<Kv>, on_cpu: bool) -> BuildOptions {
        let activations = match (self, on_cpu) {
            (Self::Exact, _) | (_, false) => Activations::F32,
            (Self::Default, true) => Activations::Int { bits: 8, head: 16 },
            (Self::Fine, true) => Activations::int(16),
        };
        let exact = (self == Self::Exact).then_some(Format::F32);
        let of_kv = kv;
        let kv = kv.map(Kv::format).or(exact).map(|format| (format, format));
        let default = BuildOptions::default();
        let archive = of_kv.and_then(Kv::archive).map(|archive| ArchivePolicy { archive, boundary: 0, careful: false });
        let rotate = of_kv.is_some_and(Kv::rotates);
        BuildOptions { activations, kv: kv.unwrap_or(default.kv), rotate, archive, ..default }
    }
}
