//! Falcon-H1 (Zuo et al. 2025, "Falcon-H1"): in each layer attention and a Mamba-2 mixer side by side, both of the same
//! normed values, with multipliers throughout (maximal update parametrisation).

use serde_json::{Value, json};

use crate::blocks::attention::Attention;
use crate::blocks::mamba2::{GatedNorm, Mamba2};
use crate::blocks::mlp::Gate;
use crate::decoder::Decoder;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Builds the model.
///
/// # Errors
/// Everything wrong with configuration or tensors.
pub fn build(c: &Config, tensors: &TensorIndex, options: &BuildOptions) -> Result<Model, ModelError> {
    let c = c.clone().with_defaults(&[("rms_norm_eps", json!(1e-5)), ("mamba_d_conv", json!(4))]);
    let mut d = Decoder::read(&c, false)?;
    d.final_norm = "final_layernorm".to_owned();
    let folded = folded(tensors);
    let by = |field: &str| if folded { Ok(1.0) } else { c.number(field, 1.0) };
    let (attention_by, attended_by) = (by("attention_in_multiplier")?, by("attention_out_multiplier")?);
    let (ssm_by, mixed_by) = (by("ssm_in_multiplier")?, by("ssm_out_multiplier")?);
    let (parts_by, mlp_by) = match folded {
        true => ([1.0; 5], [1.0; 2]),
        false => (list(&c, "ssm_multipliers", [1.0; 5])?, list(&c, "mlp_multipliers", [1.0; 2])?),
    };
    let (embedding, head) = (c.positive("embedding_multiplier")?.unwrap_or(1.0), c.number("lm_head_multiplier", 1.0)?);
    // A head that is the embedding has the embedding's factor in its weights.
    let in_head = if d.tied { head / embedding } else { 1.0 };
    (d.embedding_scale, d.logit_scale) = if folded { (1.0, in_head) } else { (embedding, head) };
    let keys_by = c.number("key_multiplier", 1.0)?;
    if folded && (keys_by, c.number("attention_in_multiplier", 1.0)?) != (1.0, 1.0) {
        let what = "config.json: `key_multiplier` and `attention_in_multiplier` of a checkpoint in MLX's layout";
        return Err(ModelError::one(format!("{what}: expected 1: mlx-lm leaves them out of some of its weights")));
    }
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    // Without a bias, what multiplies the input of a product may as well multiply the result: of queries and keys the
    // scores, where a factor on keys ends in any case, and of values what is made of them.
    let input = |biased: bool, factor: f64| if biased { (factor, 1.0) } else { (1.0, factor) };
    let (attention_in, on_values) = input(bias, attention_by);
    let scale = Some(keys_by * on_values * on_values / (d.attention.head_dim as f64).sqrt());
    let attention = Attention { qkv_bias: bias, output_bias: bias, scale, ..d.attention.clone() };
    let mut mamba = mamba(&c, &d, parts_by)?;
    let (ssm_in, on_parts) = input(mamba.input_bias, ssm_by);
    mamba.factors = mamba.factors.map(|factor| factor * on_parts);
    d.build(&c, tensors, options, |b, x, _| {
        let h = b.rms_norm("input_layernorm", x, d.norm);
        let input = b.scale(h, attention_in);
        let (attended, kv) = b.attention("self_attn", input, &attention);
        let input = b.scale(h, ssm_in);
        let (mixed, memory) = b.mamba2("mamba", input, &mamba);
        let (attended, mixed) = (b.scale(attended, on_values * attended_by), b.scale(mixed, mixed_by));
        let x = b.add(x, attended);
        let x = b.add(x, mixed);
        let h = b.rms_norm("pre_ff_layernorm", x, d.norm);
        let h = b.within("feed_forward", |b| {
            let gate = b.linear("gate_proj", h, d.inner, mlp_bias);
            let gate = b.scale(gate, mlp_by[0]);
            let up = b.linear("up_proj", h, d.inner, mlp_bias);
            let h = b.gate(Gate::Of(d.activation), gate, up);
            b.linear("down_proj", h, d.width, mlp_bias)
        });
        let h = b.scale(h, mlp_by[1]);
        (b.add(x, h), [kv, memory])
    })
}

/// The mixers.
fn mamba(c: &Config, d: &Decoder, factors: [f64; 5]) -> Result<Mamba2, ModelError> {
    let heads = c.count("mamba_n_heads", 65_536)?;
    let groups = c.size("mamba_n_groups")?.unwrap_or(1);
    let inner = c.size("mamba_d_ssm")?.unwrap_or(c.size("mamba_expand")?.unwrap_or(2) * d.width);
    let value = if c.get("mamba_d_head").is_some_and(Value::is_u64) { c.need("mamba_d_head")? } else { inner / heads };
    let (key, taps) = (c.count("mamba_d_state", 65_536)?, c.count("mamba_d_conv", 64)?);
    if groups == 0 || !heads.is_multiple_of(groups) || value == 0 || heads.checked_mul(value) != Some(inner) || taps < 2
    {
        let sizes = format!("{heads} heads of {value} elements in {groups} groups, {inner} in all, {taps} taps");
        return Err(ModelError::one(format!("config.json: no mixer has {sizes}")));
    }
    let before_gate = c.flag("mamba_norm_before_gate", true)?;
    let norm = c.flag("mamba_rms_norm", false)?.then_some(GatedNorm { norm: d.norm, before_gate });
    let (input_bias, output_bias) = (c.flag("mamba_proj_bias", false)?, c.flag("projectors_bias", false)?);
    let (conv_bias, activation) = (c.flag("mamba_conv_bias", true)?, d.activation);
    let bounds = list(c, "time_step_limit", [0.0, f64::INFINITY])?.map(|x| x.clamp(0.0, f64::from(f32::MAX)));
    Ok(Mamba2 {
        heads,
        groups,
        key,
        value,
        taps,
        input_bias,
        conv_bias,
        output_bias,
        activation,
        factors,
        bounds,
        norm,
    })
}

/// A list of numbers, or what it is by default. What JSON has no number for is written as an object.
fn list<const N: usize>(c: &Config, field: &str, default: [f64; N]) -> Result<[f64; N], ModelError> {
    let Some(given) = c.get(field) else { return Ok(default) };
    let infinite = |x: &Value| x.get("__float__").is_some_and(|x| x == "Infinity");
    let number = |x: &Value| if infinite(x) { Some(f64::INFINITY) } else { x.as_f64() };
    let numbers = given.as_array().and_then(|all| all.iter().map(number).collect::<Option<Vec<f64>>>());
    let wrong = || ModelError::one(format!("config.json: `{field}`: expected {N} numbers, got {given}"));
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(wrong)
}

/// Whether the weights hold the multipliers: files in MLX's layout, which the kernels of their convolutions tell.
fn folded(tensors: &TensorIndex) -> bool {
    tensors.get("model.layers.0.mamba.conv1d.weight").is_some_and(|facts| facts.shape.last() == Some(&1))
}
