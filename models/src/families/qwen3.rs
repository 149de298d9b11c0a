//! Qwen3: dense decoder with an RMS norm on each query and key head.

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
    build_with(c, tensors, options, |b, d, h, _| b.gated("mlp", h, d.inner, d.activation, false))
}

/// Qwen3 layers around any feed-forward half.
pub(super) fn build_with(
    c: &Config,
    tensors: &TensorIndex,
    options: &BuildOptions,
    feed_forward: impl Fn(&mut Block<'_>, &Decoder, Value, usize) -> Value,
) -> Result<Model, ModelError> {
    let mut d = Decoder::read(c, false)?;
    let bias = c.flag("attention_bias", false)?;
    d.attention = Attention { qkv_bias: bias, output_bias: bias, head_norm: Some(d.norm), ..d.attention };
    let windows = (0..d.layers).map(|i| d.window(c, i)).collect::<Result<Vec<_>, _>>()?;
    d.build(c, tensors, options, |b, x, i| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let attention = Attention { window: windows[i], ..d.attention.clone() };
        let (h, state) = b.attention("self_attn", h, &attention);
        let x = b.add(x, h);
        let h = b.rms_norm("post_attention_layernorm", x, d.norm);
        let h = feed_forward(b, &d, h, i);
        (b.add(x, h), state)
    })
}
