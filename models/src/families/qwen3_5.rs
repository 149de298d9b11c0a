//! Qwen3.5: three layers of gated delta net to one of gated attention with partial rotation. Of checkpoints that see images
//! the text half is built; the layers that draft several tokens at once (`mtp`) are not.

use serde_json::json;

use crate::blocks::Norm;
use crate::blocks::attention::Attention;
use crate::blocks::delta_net::DeltaNet;
use crate::blocks::rope::{self, Rope};
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Where embeddings, layers and final norm may be, and the head: beside a vision tower in published files and in those of
/// MLX, and in a checkpoint of its own.
const BASES: [(&str, &str); 3] =
    [("model.language_model", "lm_head"), ("language_model.model", "language_model.lm_head"), ("model", "lm_head")];
/// What is not computed: the vision tower, and the layers that draft.
const UNUSED: [&str; 4] = ["model.visual", "vision_tower", "mtp", "language_model.mtp"];

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    let text = text_config(c)?;
    let held = |base: &str| tensors.contains_key(&format!("{base}.embed_tokens.weight"));
    let (base, head) = BASES.into_iter().find(|(base, _)| held(base)).unwrap_or(BASES[0]);
    let mut d = Decoder::read(&text, false)?;
    (d.base, d.head, d.unused) = (base.to_owned(), head.to_owned(), UNUSED.map(str::to_owned).to_vec());
    let full = full_attention(&text, &d)?;
    let delta = delta_net(&text, &d)?;
    d.norm.offset = if stored_whole(base, &full, tensors) { 0.0 } else { 1.0 };
    let rotated = rotated(&text, d.attention.head_dim)?;
    d.ropes = vec![rope::table(&text, rotated)?];
    let bias = text.flag("attention_bias", false)?;
    d.attention = Attention {
        qkv_bias: bias,
        output_bias: bias,
        gate: text.flag("attn_output_gate", true)?,
        head_norm: Some(d.norm),
        rope: Rope { dim: rotated, ..d.attention.rope },
        ..d.attention
    };
    d.build(c, tensors, options, |b, x, i| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let (h, state) =
            if full[i] { b.attention("self_attn", h, &d.attention) } else { b.delta_net("linear_attn", h, &delta) };
        let x = b.add(x, h);
        let h = b.rms_norm("post_attention_layernorm", x, d.norm);
        let h = b.gated("mlp", h, d.inner, d.activation, false);
        (b.add(x, h), state)
    })
}

/// The text half's configuration, with the reference's defaults where a file leaves them out.
fn text_config(c: &Config) -> Result<Config, ModelError> {
    let text = c.object("text_config")?.unwrap_or_else(|| c.clone());
    let tied = c.get("tie_word_embeddings").cloned().unwrap_or(json!(false));
    Ok(text.with_defaults(&[
        ("head_dim", json!(256)),
        ("tie_word_embeddings", tied),
        ("linear_conv_kernel_dim", json!(4)),
        ("linear_num_key_heads", json!(16)),
        ("linear_num_value_heads", json!(32)),
        ("linear_key_head_dim", json!(128)),
        ("linear_value_head_dim", json!(128)),
    ]))
}

/// Which layers attend to every token: `layer_types` says so for each; without it every `full_attention_interval`-th does.
fn full_attention(c: &Config, d: &Decoder) -> Result<Vec<bool>, ModelError> {
    let interval = c.size("full_attention_interval")?.unwrap_or(4);
    let every = || (1..=d.layers).map(|i| interval > 0 && i.is_multiple_of(interval)).collect();
    Ok(d.kinds(c, ["full_attention", "linear_attention"])?.unwrap_or_else(every))
}

/// The delta nets.
fn delta_net(c: &Config, d: &Decoder) -> Result<DeltaNet, ModelError> {
    let limit = 65_536;
    let (key_heads, heads) = (c.count("linear_num_key_heads", limit)?, c.count("linear_num_value_heads", limit)?);
    if !heads.is_multiple_of(key_heads) {
        let message = format!("config.json: {heads} linear value heads do not divide over {key_heads} key heads");
        return Err(ModelError::one(message));
    }
    let taps = c.count("linear_conv_kernel_dim", 64)?;
    if taps < 2 {
        return Err(ModelError::one("config.json: `linear_conv_kernel_dim`: expected 2 to 64, got 1"));
    }
    let (key, value) = (c.count("linear_key_head_dim", limit)?, c.count("linear_value_head_dim", limit)?);
    let norm = Norm { offset: 0.0, ..d.norm };
    Ok(DeltaNet { key_heads, heads, key, value, taps, activation: d.activation, norm })
}

/// Elements of a head that are rotated.
fn rotated(c: &Config, head_dim: usize) -> Result<usize, ModelError> {
    let nested = c.object("rope_parameters")?;
    let part =
        nested.as_ref().unwrap_or(c).number("partial_rotary_factor", c.number("partial_rotary_factor", 0.25)?)?;
    let rotated = (head_dim as f64 * part) as usize;
    if part > 1.0 || rotated == 0 || !rotated.is_multiple_of(2) {
        let message = format!("config.json: `partial_rotary_factor` = {part} rotates {rotated} of {head_dim} elements");
        return Err(ModelError::one(format!("{message}: expected an even number of them")));
    }
    Ok(rotated)
}

/// Whether norm weights are stored as they are used and not less 1: files in MLX's layout, which the kernels of their
/// convolutions tell.
fn stored_whole(base: &str, full: &[bool], tensors: &TensorIndex) -> bool {
    let linear = full.iter().position(|full| !full).unwrap_or(0);
    let kernel = tensors.get(&format!("{base}.layers.{linear}.linear_attn.conv1d.weight"));
    kernel.is_some_and(|facts| facts.shape.last() == Some(&1))
}
