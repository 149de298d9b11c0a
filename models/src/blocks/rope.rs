//! Rotary position embeddings: which frequencies a configuration asks for, and their use.

use std::f64::consts::PI;

use swiftlm_ir::dim::Sym;
use swiftlm_ir::graph::{ParamKind, RopeTable, Value};
use swiftlm_ir::ops::{Op, RopeLayout};
use swiftlm_ir::ty::{DType, TensorType, Type};

use super::Block;
use crate::{Config, ModelError};

/// A rotation as a block uses it.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Index of its table in the module.
    pub table: usize,
    /// Elements rotated.
    pub dim: usize,
    /// Which elements pair up.
    pub layout: RopeLayout,
}

/// Frequencies of `dim` rotated elements as the configuration asks for, with its scaling.
///
/// `rope_theta` and `rope_scaling` stand at the top level or, in newer files, together in `rope_parameters`.
///
/// # Errors
/// A scaling that is not implemented, or one with a field missing.
pub fn table(config: &Config, dim: usize) -> Result<RopeTable, ModelError> {
    let nested = config.object("rope_parameters")?;
    let theta = match &nested {
        Some(n) if n.get("rope_theta").is_some() => n.number("rope_theta", 10_000.0)?,
        _ => config.number("rope_theta", 10_000.0)?,
    };
    let scaling = match config.object("rope_scaling")? {
        Some(s) => Some(s),
        None => nested,
    };
    scaled(theta, scaling.as_ref(), dim)
}

/// Frequencies where layers of one `kind` rotate in their own way: `rope_parameters.<kind>` has all of it in newer files;
/// in others the base is the field `base.0`, by default `base.1`, and `rope_scaling` applies if `scales`.
///
/// # Errors
/// As [`table`].
pub fn table_of_kind(
    config: &Config,
    dim: usize,
    kind: &str,
    base: (&str, f64),
    scales: bool,
) -> Result<RopeTable, ModelError> {
    let own = match config.object("rope_parameters")? {
        Some(kinds) => kinds.object(kind)?,
        None => None,
    };
    if let Some(own) = own {
        return scaled(own.number("rope_theta", base.1)?, Some(&own), dim);
    }
    let scaling = if scales { config.object("rope_scaling")? } else { None };
    scaled(config.number(base.0, base.1)?, scaling.as_ref(), dim)
}

/// Frequencies of base `theta`, scaled as `scaling` says.
fn scaled(theta: f64, scaling: Option<&Config>, dim: usize) -> Result<RopeTable, ModelError> {
    let plain = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
    let Some(scaling) = scaling else { return Ok(RopeTable { inverse_frequencies: plain.collect(), magnitude: 1.0 }) };
    let kind = match scaling.text("rope_type")? {
        Some(kind) => Some(kind),
        None => scaling.text("type")?,
    };
    let factor = scaling.number("factor", 1.0)?;
    let inverse_frequencies = match kind.unwrap_or("default") {
        "default" => plain.collect(),
        "linear" => plain.map(|f| f / factor).collect(),
        "llama3" => {
            let low = scaling.number("low_freq_factor", 1.0)?;
            let high = scaling.number("high_freq_factor", 4.0)?;
            let original = scaling.need("original_max_position_embeddings")? as f64;
            plain.map(|f| llama3(f, factor, low, high, original)).collect()
        }
        other => {
            let message =
                format!("config.json: rope scaling `{other}` is not supported: expected default, linear or llama3");
            return Err(ModelError::one(message));
        }
    };
    Ok(RopeTable { inverse_frequencies, magnitude: 1.0 })
}

/// Llama 3's three bands (Llama 3.1 model card): wavelengths beyond `original / low` are stretched by `factor`, those below
/// `original / high` are kept, those between are blended.
fn llama3(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let turns = original * frequency / (2.0 * PI);
    if turns < low {
        frequency / factor
    } else if turns > high {
        frequency
    } else {
        let keep = (turns - low) / (high - low);
        frequency * ((1.0 - keep) / factor + keep)
    }
}

impl Block<'_> {
    /// Rotates the heads `x: f32[T, H, D]`.
    pub fn rope(&mut self, x: Value, r: Rope) -> Value {
        let known = self.tables.iter().find(|(table, _)| *table == r.table).map(|(_, v)| *v);
        let table = known.unwrap_or_else(|| {
            let ty = TensorType::new(DType::F32, [Sym::Tokens.into(), r.dim.into()]);
            let v = self.param(ParamKind::RopeTable(r.table), Type::Tensor(ty));
            self.tables.push((r.table, v));
            v
        });
        self.op(Op::Rope { dim: r.dim, layout: r.layout }, [x.into(), table.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both spellings of one configuration, and what the kinds of layers do not share.
    #[test]
    fn kinds_of_layers_have_their_own_frequencies_in_old_and_new_files() {
        let old = r#"{"rope_theta": 1e6, "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}}"#;
        let new = r#"{"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}}}"#;
        let expected = |base: f64, factor: f64| [1.0 / factor, 1.0 / base.sqrt() / factor];
        for text in [old, new] {
            let config = Config::parse(text).expect("the text is a configuration");
            for (kind, field, scales, expected) in [
                ("full_attention", "rope_theta", true, expected(1e6, 8.0)),
                ("sliding_attention", "rope_local_base_freq", false, expected(2e4, 1.0)),
            ] {
                let table = table_of_kind(&config, 4, kind, (field, 1.0), scales).expect("a table");
                let close = |(a, b): (&f64, f64)| (a - b).abs() < 1e-12;
                assert!(table.inverse_frequencies.iter().zip(expected).all(close), "{kind}: {table:?}");
            }
        }
    }
}
