//! Llama: dense decoder with grouped heads and SwiGLU (Touvron et al. 2023; Llama 3's rope scaling is in the table).

use swiftlm_ir::graph::Value;

use crate::blocks::Block;
use crate::blocks::attention::Attention;
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    dense(&decoder(c)?, c, tensors, options)
}

/// The decoder with its attention as Llama has it.
pub(super) fn decoder(c: &Config) -> Result<Decoder, ModelError> {
    let mut d = Decoder::read(c, false)?;
    let bias = c.flag("attention_bias", false)?;
    d.attention = Attention { qkv_bias: bias, output_bias: bias, ..d.attention };
    Ok(d)
}

/// Llama layers with the decoder's attention.
pub(super) fn dense(
    d: &Decoder,
    c: &Config,
    tensors: &TensorIndex,
    options: &BuildOptions,
) -> Result<Model, ModelError> {
    let bias = c.flag("mlp_bias", false)?;
    build_with(d, c, tensors, options, |b, h| b.gated("mlp", h, d.inner, d.activation, bias))
}

/// Llama layers with the decoder's attention around any feed-forward half.
pub(super) fn build_with(
    d: &Decoder,
    c: &Config,
    tensors: &TensorIndex,
    options: &BuildOptions,
    feed_forward: impl Fn(&mut Block<'_>, Value) -> Value,
) -> Result<Model, ModelError> {
    d.build(c, tensors, options, |b, x, _| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let (h, state) = b.attention("self_attn", h, &d.attention);
        let x = b.add(x, h);
        let h = b.rms_norm("post_attention_layernorm", x, d.norm);
        let h = feed_forward(b, h);
        (b.add(x, h), state)
    })
}
