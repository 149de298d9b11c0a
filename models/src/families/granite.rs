//! Granite: Llama with multipliers on embeddings, scores, branches and logits (maximal update parametrisation).

use crate::blocks::attention::Attention;
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    let mut d = Decoder::read(c, false)?;
    d.embedding_scale = c.number("embedding_multiplier", 1.0)?;
    d.logit_scale = 1.0 / c.number("logits_scaling", 1.0)?;
    if !d.logit_scale.is_finite() {
        return Err(ModelError::one("config.json: `logits_scaling` must not be 0"));
    }
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let scale = Some(c.number("attention_multiplier", 1.0)?);
    let attention = Attention { qkv_bias: bias, output_bias: bias, scale, ..d.attention.clone() };
    let residual = c.number("residual_multiplier", 1.0)?;
    d.build(c, tensors, options, |b, x, _| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let (h, state) = b.attention("self_attn", h, &attention);
        let h = b.scale(h, residual);
        let x = b.add(x, h);
        let h = b.rms_norm("post_attention_layernorm", x, d.norm);
        let h = b.gated("mlp", h, d.inner, d.activation, mlp_bias);
        let h = b.scale(h, residual);
        (b.add(x, h), state)
    })
}
