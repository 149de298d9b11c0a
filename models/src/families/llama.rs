//! Llama: dense decoder with grouped heads and SwiGLU (Touvron et al. 2023; Llama 3's rope scaling is in the table).

use crate::blocks::attention::Attention;
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    build_with(c, tensors, options, 0)
}

/// Llama layers that attend in a window, or with 0 to everything.
pub(super) fn build_with(
    c: &Config,
    tensors: &TensorIndex,
    options: &BuildOptions,
    window: usize,
) -> Result<Model, ModelError> {
    let d = Decoder::read(c, false)?;
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let attention = Attention { qkv_bias: bias, output_bias: bias, window, ..d.attention.clone() };
    d.build(c, tensors, options, |b, x, _| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let (h, state) = b.attention("self_attn", h, &attention);
        let x = b.add(x, h);
        let h = b.rms_norm("post_attention_layernorm", x, d.norm);
        let h = b.gated("mlp", h, d.inner, d.activation, mlp_bias);
        (b.add(x, h), state)
    })
}
