//! Gemma 2: a norm before and behind each half of a layer, norm weights stored less 1, embeddings scaled by the root of the
//! width, a GELU gate, bounded scores and logits, and a sliding window in every second layer.

use serde_json::json;
use swiftlm_ir::graph::Value;
use swiftlm_ir::quant::Float;

use crate::blocks::Block;
use crate::blocks::attention::Attention;
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, StoredType, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    let c =
        &c.clone().with_defaults(&[("attn_logit_softcapping", json!(50.0)), ("final_logit_softcapping", json!(30.0))]);
    let d = decoder(c, tensors, "model")?;
    let (sliding, window) = (d.sliding(c, 2)?, c.size("sliding_window")?.unwrap_or(4096));
    d.build(c, tensors, options, |b, x, i| {
        let window = if sliding[i] { window } else { 0 };
        layer(b, x, &d, &Attention { window, ..d.attention.clone() })
    })
}

/// What the Gemma families have in common; embeddings and layers are below `base`.
pub(super) fn decoder(c: &Config, tensors: &TensorIndex, base: &str) -> Result<Decoder, ModelError> {
    if c.flag("use_bidirectional_attention", false)? {
        return Err(ModelError::one("config.json: `use_bidirectional_attention` is not supported: expected false"));
    }
    let mut d = Decoder::read(
        &c.clone().with_defaults(&[("hidden_activation", json!("gelu_pytorch_tanh")), ("head_dim", json!(256))]),
        true,
    )?;
    d.base = base.to_owned();
    d.norm.offset = 1.0;
    d.embedding_scale = embedding_scale(tensors, base, d.width);
    d.logit_cap = c.positive("final_logit_softcapping")?;
    let bias = c.flag("attention_bias", false)?;
    d.attention = Attention {
        qkv_bias: bias,
        output_bias: bias,
        scale: Some(c.positive("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5)),
        cap: c.positive("attn_logit_softcapping")?,
        ..d.attention
    };
    Ok(d)
}

/// One layer: `x + norm(half(norm x))` for either half.
pub(super) fn layer(b: &mut Block<'_>, x: Value, d: &Decoder, attention: &Attention) -> (Value, Value) {
    let h = b.rms_norm("input_layernorm", x, d.norm);
    let (h, state) = b.attention("self_attn", h, attention);
    let h = b.rms_norm("post_attention_layernorm", h, d.norm);
    let x = b.add(x, h);
    let h = b.rms_norm("pre_feedforward_layernorm", x, d.norm);
    let h = b.gated("mlp", h, d.inner, d.activation, false);
    let h = b.rms_norm("post_feedforward_layernorm", h, d.norm);
    (b.add(x, h), state)
}

/// The root of the width, rounded to the type that embeddings are stored in, as `transformers` rounds it when it computes
/// in that type; where they are stored in groups of codes, to bfloat16, as `mlx-lm` always does.
fn embedding_scale(tensors: &TensorIndex, base: &str, width: usize) -> f64 {
    let stored = tensors.get(&format!("{base}.embed_tokens.weight")).map(|t| t.dtype);
    let root = (width as f64).sqrt() as f32;
    let rounded = match stored {
        Some(StoredType::Float(float)) => float.rounded(root),
        _ => Float::Bf16.rounded(root),
    };
    f64::from(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorFacts;

    #[test]
    fn the_embedding_scale_is_rounded_as_embeddings_are_stored() {
        let scale = |dtype| {
            let facts = TensorFacts { dtype, shape: vec![8, 1152] };
            let tensors = TensorIndex::from_iter([("model.embed_tokens.weight".to_owned(), facts)]);
            embedding_scale(&tensors, "model", 1152)
        };
        assert_eq!(scale(StoredType::Float(Float::F32)), f64::from(1152f32.sqrt()));
        assert_eq!(scale(StoredType::Float(Float::F16)), 33.9375);
        assert_eq!(scale(StoredType::Float(Float::Bf16)), 34.0);
        assert_eq!(scale(StoredType::U32), 34.0);
    }
}
