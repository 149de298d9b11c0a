//! Published models as `../published` has them: configurations with the names and shapes of tensors, no weights.

use std::path::PathBuf;

use serde_json::Value;
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_ir::quant::Float;
use swiftlm_models::{Config, StoredType, TensorFacts, TensorIndex};
use swiftlm_runtime::WeightSource;

use crate::generated::workspace;

/// A published model.
#[derive(Debug)]
pub struct Published {
    /// Name of its file.
    pub name: String,
    /// `config.json`.
    pub config: Config,
    /// Names and shapes, bf16 but for bytes.
    pub index: TensorIndex,
}

/// All of them, sorted by name.
pub fn all() -> Vec<Published> {
    let directory: PathBuf = workspace().join("golden-tests/published");
    let entries = std::fs::read_dir(&directory).expect("golden-tests/published can be read").flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    paths.sort();
    assert!(!paths.is_empty(), "golden-tests/published holds models");
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &std::path::Path) -> Published {
    let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{name}: {e}"));
    let file: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let config = Config::parse(&file["config"].to_string()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut index = TensorIndex::new();
    for tensor in file["tensors"].as_array().expect("a list of tensors") {
        let shape = tensor[1].as_array().expect("a shape").iter();
        let shape: Vec<usize> = shape.map(|n| n.as_u64().expect("an extent") as usize).collect();
        let dtype = match tensor.get(2).and_then(Value::as_str) {
            None => StoredType::Float(Float::Bf16),
            Some("U8") => StoredType::U8,
            Some(other) => panic!("{name}: tensors of {other}"),
        };
        for name in unfolded(tensor[0].as_str().expect("a name")) {
            index.insert(name, TensorFacts { dtype, shape: shape.clone() });
        }
    }
    index.sort_keys();
    Published { name, config, index }
}

/// The names that `{a..b}` stands for.
fn unfolded(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else { return vec![name.to_owned()] };
    let (span, after) = rest.split_once('}').expect("a brace closes");
    let (first, end) = span.split_once("..").expect("a span of numbers");
    let number = |text: &str| text.parse::<usize>().expect("a number");
    (number(first)..number(end)).flat_map(|n| unfolded(&format!("{before}{n}{after}"))).collect()
}

/// Weights that nobody looks at.
#[derive(Clone, Copy, Debug)]
pub struct NoWeights;

impl WeightSource for NoWeights {
    fn read(&self, _weight: &WeightBuffer, _offset: usize, _into: &mut [u8]) -> Result<(), String> {
        Ok(())
    }
}
