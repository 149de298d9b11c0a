//! Gemma 3: Gemma 2 with normalised query and key heads in place of bounded scores, a sliding window in all but every sixth
//! layer, and another rope base in layers with a window. Of checkpoints that see images the text half is built.

use serde_json::{Value, json};

use super::gemma2;
use crate::blocks::attention::Attention;
use crate::blocks::rope::{Rope, table_of_kind};
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Where the text half may be: in a checkpoint of its own, and beside a vision tower in older and newer files.
const BASES: [&str; 3] = ["model", "language_model.model", "model.language_model"];
/// Where the other half may be.
const VISION: [&str; 4] =
    ["vision_tower", "multi_modal_projector", "model.vision_tower", "model.multi_modal_projector"];

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    let text = text_config(c)?;
    let base = BASES.into_iter().find(|base| tensors.contains_key(&format!("{base}.embed_tokens.weight")));
    let mut d = gemma2::decoder(&text, tensors, base.unwrap_or(BASES[0]))?;
    if base == Some("language_model.model") {
        d.head = "language_model.lm_head".to_owned();
    }
    d.unused = VISION.map(str::to_owned).to_vec();
    d.attention.head_norm = Some(d.norm);
    let dim = d.attention.head_dim;
    d.ropes = vec![
        table_of_kind(&text, dim, "full_attention", ("rope_theta", 1e6), true)?,
        table_of_kind(&text, dim, "sliding_attention", ("rope_local_base_freq", 1e4), false)?,
    ];
    let sliding = d.sliding(&text, text.size("sliding_window_pattern")?.unwrap_or(6))?;
    let full = d.attention.clone();
    let window = text.size("sliding_window")?.unwrap_or(4096);
    let local = Attention { window, rope: Rope { table: 1, ..full.rope }, ..full.clone() };
    d.build(c, tensors, options, |b, x, i| gemma2::layer(b, x, &d, if sliding[i] { &local } else { &full }))
}

/// The text half's configuration; published files leave out what is the reference's default.
fn text_config(c: &Config) -> Result<Config, ModelError> {
    let Some(text) = c.object("text_config")? else { return Ok(c.clone()) };
    let or = |field: &str, default: Value| c.get(field).cloned().unwrap_or(default);
    Ok(text.with_defaults(&[
        ("vocab_size", or("vocab_size", json!(262_208))),
        ("hidden_size", json!(2304)),
        ("intermediate_size", json!(9216)),
        ("num_hidden_layers", json!(26)),
        ("num_attention_heads", json!(8)),
        ("num_key_value_heads", json!(4)),
        ("max_position_embeddings", json!(131_072)),
        ("tie_word_embeddings", or("tie_word_embeddings", json!(true))),
    ]))
}
