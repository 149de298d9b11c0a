//! Qwen2-MoE: Qwen2 whose feed-forward half is a mixture of experts beside one that every token takes, weighted by a gate
//! of its own, but for the layers the configuration excepts.

use super::qwen3_moe::{mixture, sparse};
use crate::blocks::attention::Attention;
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    if c.flag("use_sliding_window", false)? {
        return Err(ModelError::one("config.json: `use_sliding_window` = true is not supported: expected false"));
    }
    let (moe, sparse) = (mixture(c)?, sparse(c)?);
    let shared = c.need("shared_expert_intermediate_size")?;
    let d = Decoder::read(c, false)?;
    let attention = Attention { qkv_bias: c.flag("qkv_bias", true)?, ..d.attention.clone() };
    d.build(c, tensors, options, |b, x, i| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let (h, state) = b.attention("self_attn", h, &attention);
        let x = b.add(x, h);
        let h = b.rms_norm("post_attention_layernorm", x, d.norm);
        let h = if sparse(i) {
            let routed = b.moe("mlp", h, &moe);
            let always = b.gated("mlp.shared_expert", h, shared, d.activation, false);
            let always = b.gate_rows("mlp.shared_expert_gate", h, always);
            b.add(routed, always)
        } else {
            b.gated("mlp", h, d.inner, d.activation, false)
        };
        (b.add(x, h), state)
    })
}
