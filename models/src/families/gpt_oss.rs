//! gpt-oss: mixtures in every layer, every product with a bias, attention with sinks and in a sliding window in every second
//! layer (OpenAI 2025, gpt-oss model card, §2).

use serde_json::json;
use swiftlm_ir::ops::Routing;

use crate::blocks::attention::Attention;
use crate::blocks::mlp::Gate;
use crate::blocks::moe::{Choice, MATRICES, Moe};
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    // What the reference fills in where a file says nothing.
    let c = &c.clone().with_defaults(&[
        ("head_dim", json!(64)),
        ("rms_norm_eps", json!(1e-5)),
        ("rope_theta", json!(150_000.0)),
        ("num_key_value_heads", json!(8)),
        ("swiglu_limit", json!(7.0)),
    ]);
    let mut d = Decoder::read(c, false)?;
    let bias = c.flag("attention_bias", true)?;
    d.attention = Attention { qkv_bias: bias, output_bias: bias, sinks: true, ..d.attention };
    let (sliding, window) = (d.sliding(c, 2)?, c.size("sliding_window")?.unwrap_or(128));
    let moe = mixture(c)?;
    d.build(c, tensors, options, |b, x, i| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let window = if sliding[i] { window } else { 0 };
        let (h, state) = b.attention("self_attn", h, &Attention { window, ..d.attention.clone() });
        let x = b.add(x, h);
        let h = b.rms_norm("post_attention_layernorm", x, d.norm);
        let h = b.moe("mlp", h, &moe);
        (b.add(x, h), state)
    })
}

fn mixture(c: &Config) -> Result<Moe, ModelError> {
    let limit = c.positive("swiglu_limit")?.ok_or_else(|| ModelError::one("config.json: `swiglu_limit` is missing"))?;
    Ok(Moe {
        experts: c.count("num_local_experts", 65_536)?,
        top_k: c.count("num_experts_per_tok", 1024)?,
        router: "router",
        bias: true,
        names: MATRICES,
        inner: c.need("intermediate_size")?,
        gate: Gate::Clamped { limit, slope: c.number("swiglu_alpha", 1.702)? },
        choice: Choice::BEST,
        routing: Routing::Softmax,
        // A softmax over the chosen scores is that over all scores, divided by the sum of the chosen.
        normalize: true,
    })
}
