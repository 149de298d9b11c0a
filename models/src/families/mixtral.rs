//! Mixtral: Mistral whose feed-forward half is a mixture of experts, weighted by a softmax over the chosen ones (Jiang et
//! al. 2024).

use serde_json::json;
use swiftlm_ir::ops::Routing;

use super::llama;
use crate::blocks::mlp::Gate;
use crate::blocks::moe::{Choice, Moe, ROUTER};
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    // What the reference fills in where a file says nothing.
    let c = c.clone().with_defaults(&[("rms_norm_eps", json!(1e-5)), ("rope_theta", json!(1e6))]);
    let mut d = llama::decoder(&c)?;
    d.attention.window = c.size("sliding_window")?.unwrap_or(0);
    let moe = Moe {
        experts: c.count("num_local_experts", 65_536)?,
        top_k: c.count("num_experts_per_tok", 1024)?,
        router: ROUTER,
        bias: false,
        names: ["w1", "w3", "w2"],
        inner: c.need("intermediate_size")?,
        gate: Gate::Of(d.activation),
        choice: Choice::BEST,
        routing: Routing::Softmax,
        // A softmax over the chosen scores is that over all scores, divided by the sum of the chosen.
        normalize: true,
    };
    llama::build_with(&d, &c, tensors, options, |b, h| b.moe("block_sparse_moe", h, &moe))
}
