//! Mistral: Llama with a sliding window in every layer, where the configuration has one (Jiang et al. 2023).

use serde_json::json;

use super::llama;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    // Later models say `null`, which is no window; a file that says nothing means the first one's.
    let c = c.clone().with_defaults(&[("sliding_window", json!(4096))]);
    let mut d = llama::decoder(&c)?;
    d.attention.window = c.size("sliding_window")?.unwrap_or(0);
    llama::dense(&d, &c, tensors, options)
}
