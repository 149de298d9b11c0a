//! Qwen3-MoE: Qwen3 whose feed-forward half is a mixture of experts, but for the layers the configuration excepts.

use serde_json::Value;
use swiftlm_ir::ops::Routing;

use super::qwen3::build_with;
use crate::blocks::mlp::{Activation, Gate};
use crate::blocks::moe::{Choice, MATRICES, Moe, ROUTER};
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    let (moe, sparse) = (mixture(c)?, sparse(c)?);
    build_with(c, tensors, options, |b, d, h, i| {
        if sparse(i) { b.moe("mlp", h, &moe) } else { b.gated("mlp", h, d.inner, d.activation, false) }
    })
}

/// The mixture.
pub(super) fn mixture(c: &Config) -> Result<Moe, ModelError> {
    Ok(Moe {
        experts: c.count("num_experts", 65_536)?,
        top_k: c.count("num_experts_per_tok", 1024)?,
        router: ROUTER,
        bias: false,
        names: MATRICES,
        inner: c.need("moe_intermediate_size")?,
        gate: Gate::Of(Activation::read(c)?),
        choice: Choice::BEST,
        routing: Routing::Softmax,
        normalize: c.flag("norm_topk_prob", false)?,
    })
}

/// Which layers have it.
pub(super) fn sparse(c: &Config) -> Result<impl Fn(usize) -> bool + use<>, ModelError> {
    let step = c.size("decoder_sparse_step")?.unwrap_or(1);
    let dense: Vec<u64> = match c.get("mlp_only_layers").map(|v| v.as_array()) {
        None => vec![],
        Some(Some(layers)) => layers.iter().filter_map(Value::as_u64).collect(),
        Some(None) => return Err(ModelError::one("config.json: `mlp_only_layers`: expected a list of layers")),
    };
    Ok(move |i: usize| step > 0 && (i + 1).is_multiple_of(step) && !dense.contains(&(i as u64)))
}
