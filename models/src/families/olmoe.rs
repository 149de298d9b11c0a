//! OLMoE: Llama whose feed-forward half is a mixture of experts, and whose queries and keys are normalised before they are
//! cut into heads (Muennighoff et al. 2024).

use serde_json::json;
use swiftlm_ir::ops::Routing;

use super::llama;
use crate::blocks::mlp::Gate;
use crate::blocks::moe::{Choice, MATRICES, Moe, ROUTER};
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    if let Some(bound) = c.get("clip_qkv") {
        return Err(ModelError::one(format!("config.json: `clip_qkv` = {bound} is not supported: expected null")));
    }
    // What the reference fills in where a file says nothing.
    let c = c.clone().with_defaults(&[("rms_norm_eps", json!(1e-5))]);
    let mut d = llama::decoder(&c)?;
    d.attention.row_norm = Some(d.norm);
    let moe = Moe {
        experts: c.count("num_experts", 65_536)?,
        top_k: c.count("num_experts_per_tok", 1024)?,
        router: ROUTER,
        bias: false,
        names: MATRICES,
        inner: c.need("intermediate_size")?,
        gate: Gate::Of(d.activation),
        choice: Choice::BEST,
        routing: Routing::Softmax,
        normalize: c.flag("norm_topk_prob", false)?,
    };
    llama::build_with(&d, &c, tensors, options, |b, h| b.moe("mlp", h, &moe))
}
