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
    let scaling = scaling(config)?;
    let theta = match &nested {
        Some(n) if n.get("rope_theta").is_some() => n.number("rope_theta", 10_000.0)?,
        _ => config.number("rope_theta", 10_000.0)?,
    };
    scaled(theta, scaling.as_ref(), dim)
}

/// What a configuration says of scaling: `rope_scaling` or, in newer files, `rope_parameters`.
fn scaling(config: &Config) -> Result<Option<Config>, ModelError> {
    match config.object("rope_scaling")? {
        Some(s) => Ok(Some(s)),
        None => config.object("rope_parameters"),
    }
}

fn kind(scaling: &Config) -> Result<&str, ModelError> {
    let kind = match scaling.text("rope_type")? {
        Some(kind) => Some(kind),
        None => scaling.text("type")?,
    };
    Ok(kind.unwrap_or("default"))
}

/// What yarn multiplies by so that attention keeps its temperature (Peng et al. 2023, YaRN, §3.4): `0.1 m ln s + 1` for
/// frequencies stretched by `s`.
fn mscale(stretch: f64, m: f64) -> f64 {
    if stretch <= 1.0 { 1.0 } else { 0.1 * m * stretch.ln() + 1.0 }
}

/// What scores are multiplied by where a configuration's `mscale_all_dim` asks for it, queries and keys alike.
///
/// # Errors
/// A field of the wrong kind.
pub fn score_scale(config: &Config) -> Result<f64, ModelError> {
    let Some(scaling) = scaling(config)? else { return Ok(1.0) };
    let all = scaling.number("mscale_all_dim", 0.0)?;
    if kind(&scaling)? == "default" || all == 0.0 {
        return Ok(1.0);
    }
    Ok(mscale(scaling.number("factor", 1.0)?, all).powi(2))
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
    let factor = scaling.number("factor", 1.0)?;
    let inverse_frequencies = match kind(scaling)? {
        "default" => plain.collect(),
        "linear" => plain.map(|f| f / factor).collect(),
        "llama3" => {
            let low = scaling.number("low_freq_factor", 1.0)?;
            let high = scaling.number("high_freq_factor", 4.0)?;
            let original = scaling.need("original_max_position_embeddings")? as f64;
            plain.map(|f| llama3(f, factor, low, high, original)).collect()
        }
        "yarn" => return yarn(theta, scaling, dim),
        other => {
            let expected = "expected default, linear, llama3 or yarn";
            return Err(ModelError::one(format!("config.json: rope scaling `{other}` is not supported: {expected}")));
        }
    };
    Ok(RopeTable { inverse_frequencies, magnitude: 1.0 })
}

/// YaRN (Peng et al. 2023, §3.2): pairs that turn more than `beta_fast` times within the trained length keep their
/// frequency, those that turn less than `beta_slow` times are stretched by `factor`, those between are blended along a
/// ramp over the pair's number. Its ends are whole numbers unless `truncate` is false.
fn yarn(theta: f64, scaling: &Config, dim: usize) -> Result<RopeTable, ModelError> {
    let original = scaling.need("original_max_position_embeddings")? as f64;
    let factor = scaling.number("factor", 1.0)?;
    let turning = |turns: f64| dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (turning(scaling.number("beta_fast", 32.0)?), turning(scaling.number("beta_slow", 1.0)?));
    if scaling.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let blended = |i: usize| {
        let frequency = theta.powf(-2.0 * i as f64 / dim as f64);
        let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency * (stretched / factor + (1.0 - stretched))
    };
    let (m, all) = (scaling.number("mscale", 0.0)?, scaling.number("mscale_all_dim", 0.0)?);
    let default = if m != 0.0 && all != 0.0 { mscale(factor, m) / mscale(factor, all) } else { mscale(factor, 1.0) };
    let magnitude = scaling.number("attention_factor", default)?;
    Ok(RopeTable { inverse_frequencies: (0..dim / 2).map(blended).collect(), magnitude })
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
    /// Rotates the first elements of the heads `x: f32[T, H, D]`.
    pub fn rope(&mut self, x: Value, r: Rope) -> Value {
        self.rope_from(x, 0, r)
    }

    /// Rotates elements from `start` on of the heads `x: f32[T, H, D]`.
    pub fn rope_from(&mut self, x: Value, start: usize, r: Rope) -> Value {
        let known = self.tables.iter().find(|(table, _)| *table == r.table).map(|(_, v)| *v);
        let table = known.unwrap_or_else(|| {
            let ty = TensorType::new(DType::F32, [Sym::Tokens.into(), r.dim.into()]);
            let v = self.param(ParamKind::RopeTable(r.table), Type::Tensor(ty));
            self.tables.push((r.table, v));
            v
        });
        self.op(Op::Rope { start, dim: r.dim, layout: r.layout }, [x.into(), table.into()])
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

    /// What `transformers` 5.23 computes for the same numbers.
    #[test]
    fn yarn_blends_frequencies_along_a_ramp() {
        let scaling = |more: &str| {
            let text = format!(
                r#"{{"rope_theta": 1e4, "rope_scaling": {{"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
                "original_max_position_embeddings": 4096, "mscale": 0.707, "mscale_all_dim": 1.0{more}}}}}"#
            );
            Config::parse(&text).expect("the text is a configuration")
        };
        let whole = [1.0, 3.162278e-1, 1e-1, 2.391472e-2, 5.125e-3, 8.498622e-4, 2.5e-5, 7.905694e-6];
        let exact = [1.0, 3.162278e-1, 1e-1, 2.771086e-2, 5.524063e-3, 7.226382e-4, 2.5e-5, 7.905694e-6];
        for (more, expected) in [("", whole), (r#", "truncate": false"#, exact)] {
            let table = table(&scaling(more), 16).expect("a table");
            let close = |(a, b): (&f64, f64)| (a - b).abs() < 1e-6 * b;
            assert!(table.inverse_frequencies.iter().zip(expected).all(close), "{more}: {table:?}");
            assert!((table.magnitude - 0.921_042_355).abs() < 1e-8, "{table:?}");
        }
        let score = score_scale(&scaling("")).expect("a number");
        assert!((score - (0.1 * 40f64.ln() + 1.0).powi(2)).abs() < 1e-12, "{score}");
        let plain = Config::parse(r#"{"rope_theta": 1e4}"#).expect("the text is a configuration");
        assert_eq!(score_scale(&plain), Ok(1.0));
    }
}
