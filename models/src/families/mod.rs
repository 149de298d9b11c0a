//! The list of families: one line each, `model_type` → how to build it.

pub mod deepseek_v2;
pub mod deepseek_v3;
pub mod falcon_h1;
pub mod gemma2;
pub mod gemma3;
pub mod gpt_oss;
pub mod granite;
pub mod llama;
pub mod mistral;
pub mod mixtral;
pub mod olmoe;
pub mod qwen2;
pub mod qwen2_moe;
pub mod qwen3;
pub mod qwen3_5;
pub mod qwen3_moe;

use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds a model of one family.
pub type Build = fn(&Config, &TensorIndex, &BuildOptions) -> Result<Model, ModelError>;

/// Every `model_type` this build knows.
pub const FAMILIES: &[(&str, Build)] = &[
    ("deepseek_v2", deepseek_v2::build),
    ("deepseek_v3", deepseek_v3::build),
    ("falcon_h1", falcon_h1::build),
    ("gemma2", gemma2::build),
    ("gemma3", gemma3::build),
    ("gemma3_text", gemma3::build),
    ("gpt_oss", gpt_oss::build),
    ("granite", granite::build),
    ("llama", llama::build),
    ("mistral", mistral::build),
    ("mixtral", mixtral::build),
    ("olmoe", olmoe::build),
    ("qwen2", qwen2::build),
    ("qwen2_moe", qwen2_moe::build),
    ("qwen3", qwen3::build),
    ("qwen3_5", qwen3_5::build),
    ("qwen3_5_text", qwen3_5::build),
    ("qwen3_moe", qwen3_moe::build),
];

/// The builder of a `model_type`.
pub fn find(model_type: &str) -> Option<Build> {
    FAMILIES.iter().find(|f| f.0 == model_type).map(|f| f.1)
}
