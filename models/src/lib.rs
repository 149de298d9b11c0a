//! Model families: short functions that build a graph from a configuration.
//!
//! A family file says what makes the family different; [`blocks`] hold what families share and never see a family name.
//! This crate reads no file: it gets the configuration's text and the names, types and shapes of the tensors, and gives
//! back a [`Module`](swiftlm_ir::graph::Module). It knows nothing of kernels or devices.

mod archive;
pub mod blocks;
pub mod config;
pub mod decoder;
pub mod families;
pub mod tensors;

use swiftlm_ir::graph::Module;
use swiftlm_ir::quant::Format;
use swiftlm_ir::rounding::Rounding;

pub use archive::ArchivePolicy;
pub use config::Config;
pub use tensors::{StoredType, TensorFacts, TensorIndex};

/// Everything that is wrong with a checkpoint, all at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ModelError(pub Vec<String>);

impl ModelError {
    /// One sentence.
    pub fn one(message: impl Into<String>) -> Self {
        Self(vec![message.into()])
    }
}

/// What the caller decides about a model.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildOptions {
    /// How keys and values are stored.
    pub kv: (Format, Format),
    /// How the inputs of products are rounded; a router's never are.
    pub activations: Activations,
    /// Whether queries, keys and values are rotated as TurboQuant does, whatever they are stored as: codes of any kind lie
    /// closer to a rotated vector.
    pub rotate: bool,
    /// Where keys and values of older tokens are kept, in every layer that can keep them so.
    pub archive: Option<ArchivePolicy>,
    /// Experts of a token at most, fewer than the model was trained with: another, lesser model.
    pub experts_per_token: Option<usize>,
    /// From this layer on, the head included, inputs of products are f32 whatever [`Self::activations`] says: those that
    /// another device computes with.
    pub f32_from: Option<usize>,
}

/// How the inputs of products are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Not at all: f32.
    #[default]
    F32,
    /// To f16, as an engine with f16 activations does.
    F16,
    /// To whole numbers in the groups of the weight's scales, where it has scales, so that products are made of these; to
    /// sums of bfloat16 of as many bits where the weight is stored so.
    Int {
        /// Of the inputs of products in layers: 8 or 16.
        bits: u8,
        /// Of the input of the product that makes logits, where what is lost falls on close decisions at once.
        head: u8,
    },
}

impl Activations {
    /// To whole numbers of so many bits everywhere.
    pub const fn int(bits: u8) -> Self {
        Self::Int { bits, head: bits }
    }

    /// What they are in front of the product that makes logits.
    pub fn of_head(self) -> Self {
        match self {
            Self::Int { head, .. } => Self::int(head),
            other => other,
        }
    }

    /// The rounding of an input that meets a weight of this format.
    pub fn rounding(self, weight: Format) -> Option<Rounding> {
        match self {
            Self::F32 => None,
            Self::F16 => Some(Rounding::F16),
            Self::Int { bits, .. } => Rounding::of_weight(weight, bits),
        }
    }

    /// Whether inputs that meet some weight are rounded so.
    pub fn rounds_to(self, to: Rounding) -> bool {
        match (self, to) {
            (Self::F16, Rounding::F16) => true,
            (Self::Int { bits, .. }, Rounding::Int { bits: own, .. }) => bits == own,
            (Self::Int { bits, .. }, Rounding::Bf16 { terms }) => bits == 8 * terms,
            _ => false,
        }
    }
}

impl BuildOptions {
    /// The options of layer `i`; of the head, where there are no more layers.
    pub(crate) fn of_layer(&self, i: usize) -> Self {
        let f32 = self.f32_from.is_some_and(|first| i >= first);
        let activations = if f32 { Activations::F32 } else { self.activations };
        Self { activations, ..self.clone() }
    }
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            kv: (Format::F16, Format::F16),
            activations: Activations::F32,
            rotate: false,
            archive: None,
            experts_per_token: None,
            f32_from: None,
        }
    }
}

/// A model as the compiler takes it.
#[derive(Clone, Debug)]
pub struct Model {
    /// The `model_type` it was built for.
    pub family: String,
    /// The graph.
    pub module: Module,
    /// Positions the model was made for.
    pub context: usize,
    /// First parts of the names of tensors that the checkpoint holds for what is not computed: a vision tower.
    pub unused: Vec<String>,
    /// What is otherwise than the options asked for, because the model does not stand that: a sentence.
    pub note: Option<String>,
}

/// Builds the model that `config` describes from the tensors that a checkpoint holds.
///
/// # Errors
/// Everything wrong with the configuration or the tensors: missing, misshapen and unused ones are all named.
pub fn build(config: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    let family = config.text("model_type")?.ok_or_else(|| ModelError::one("config.json: `model_type` is missing"))?;
    let build = families::find(family).ok_or_else(|| {
        let known: Vec<&str> = families::FAMILIES.iter().map(|f| f.0).collect();
        ModelError::one(format!("architecture `{family}` is not supported: this build knows {}", known.join(", ")))
    })?;
    build(config, tensors, options)
}
