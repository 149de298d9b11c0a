//! Qwen2: Llama with biases on q, k and v, and optional sliding windows in the upper layers.

use crate::blocks::attention::Attention;
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    let d = Decoder::read(c, false)?;
    let windows = (0..d.layers).map(|i| d.window(c, i)).collect::<Result<Vec<_>, _>>()?;
    d.build(c, tensors, options, |b, x, i| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let attention = Attention { qkv_bias: true, window: windows[i], ..d.attention.clone() };
        let (h, state) = b.attention("self_attn", h, &attention);
        let x = b.add(x, h);
        let h = b.rms_norm("post_attention_layernorm", x, d.norm);
        let h = b.gated("mlp", h, d.inner, d.activation, false);
        (b.add(x, h), state)
    })
}
