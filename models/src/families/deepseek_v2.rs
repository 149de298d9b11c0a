//! DeepSeek-V2: as DeepSeek-V3, but experts are chosen and weighted by the softmax of their scores, not renormalised
//! (DeepSeek-AI 2024, DeepSeek-V2).

use super::deepseek_v3::{build_with, mixture};
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    c.only("scoring_func", &["softmax"])?;
    c.only("topk_method", &["greedy"])?;
    build_with(c, tensors, options, &mixture(c)?)
}
