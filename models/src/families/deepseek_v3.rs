//! DeepSeek-V3: latent attention; behind some dense layers, mixtures whose experts are chosen among the best groups by the
//! sigmoid of their scores and a bias, beside experts that every token takes (DeepSeek-AI 2024, DeepSeek-V3).

use serde_json::json;
use swiftlm_ir::ops::{RopeLayout, Routing};

use crate::blocks::Norm;
use crate::blocks::latent::LatentAttention;
use crate::blocks::mlp::{Activation, Gate};
use crate::blocks::moe::{Choice, MATRICES, Moe, ROUTER};
use crate::blocks::rope::{Rope, score_scale};
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    c.only("scoring_func", &["sigmoid"])?;
    c.only("topk_method", &["noaux_tc"])?;
    let moe = Moe {
        choice: Choice {
            groups: c.size("n_group")?.unwrap_or(1),
            kept: c.size("topk_group")?.unwrap_or(1),
            bias: Some("e_score_correction_bias"),
        },
        routing: Routing::Sigmoid,
        normalize: c.flag("norm_topk_prob", true)?,
        ..mixture(c)?
    };
    let c = c.clone().with_defaults(&[("first_k_dense_replace", json!(3)), ("routed_scaling_factor", json!(2.5))]);
    build_with(&c, tensors, options, &moe)
}

/// Layers of latent attention around dense halves, then around any mixture beside experts that every token takes.
pub(super) fn build_with(
    c: &Config,
    tensors: &TensorIndex,
    options: &BuildOptions,
    moe: &Moe,
) -> Result<Model, ModelError> {
    if c.size("moe_layer_freq")?.unwrap_or(1) != 1 {
        return Err(ModelError::one("config.json: `moe_layer_freq` is not supported: expected 1"));
    }
    // What the reference fills in where a file says nothing, as against `null`.
    let c = &c.clone().with_defaults(&[("q_lora_rank", json!(1536))]);
    let mut d = Decoder::read(&c.clone().with("head_dim", json!(c.need("qk_rope_head_dim")?)), false)?;
    // Layers behind the last foretell further tokens, in training and for drafts.
    let further = c.size("num_nextn_predict_layers")?.unwrap_or(0).min(d.layers);
    d.unused = (d.layers..d.layers + further).map(|i| format!("{}.layers.{i}", d.base)).collect();
    let attention = attention(c, &d)?;
    let (shared, scale) = (c.need("n_shared_experts")?, c.number("routed_scaling_factor", 1.0)?);
    let dense = c.size("first_k_dense_replace")?.unwrap_or(0);
    d.build(c, tensors, options, |b, x, i| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let (h, state) = b.latent_attention("self_attn", h, &attention);
        let x = b.add(x, h);
        let h = b.rms_norm("post_attention_layernorm", x, d.norm);
        let h = if i < dense {
            b.gated("mlp", h, d.inner, d.activation, false)
        } else {
            let routed = b.moe("mlp", h, moe);
            let routed = b.scale(routed, scale);
            let always = b.gated("mlp.shared_experts", h, moe.inner * shared, d.activation, false);
            b.add(routed, always)
        };
        (b.add(x, h), state)
    })
}

fn attention(c: &Config, d: &Decoder) -> Result<LatentAttention, ModelError> {
    let (plain, dim) = (c.need("qk_nope_head_dim")?, d.attention.head_dim);
    let layout = if c.flag("rope_interleave", true)? { RopeLayout::Interleaved } else { RopeLayout::Half };
    Ok(LatentAttention {
        heads: d.attention.heads,
        query_rank: c.size("q_lora_rank")?,
        latent: c.need("kv_lora_rank")?,
        plain,
        value: c.need("v_head_dim")?,
        rope: Rope { table: 0, dim, layout },
        // Whatever `rms_norm_eps` says of the norms of rows.
        norm: Norm { eps: 1e-6, offset: 0.0 },
        scale: ((plain + dim) as f64).powf(-0.5) * score_scale(c)?,
        bias: c.flag("attention_bias", false)?,
    })
}

/// The mixture, its experts chosen and weighted by the softmax of their scores alone.
pub(super) fn mixture(c: &Config) -> Result<Moe, ModelError> {
    Ok(Moe {
        experts: c.count("n_routed_experts", 65_536)?,
        top_k: c.count("num_experts_per_tok", 1024)?,
        router: ROUTER,
        bias: false,
        names: MATRICES,
        inner: c.need("moe_intermediate_size")?,
        gate: Gate::Of(Activation::read(c)?),
        choice: Choice::BEST,
        routing: Routing::Softmax,
        normalize: false,
    })
}
