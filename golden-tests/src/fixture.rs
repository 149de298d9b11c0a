//! A row: a tiny checkpoint with the logits that another program computed for it.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use swiftlm_ir::graph::{Piece, WeightType};
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_ir::quant::{Affine, Float};
use swiftlm_ir::reference::WeightBytes;
use swiftlm_models::{Config, StoredType, TensorFacts, TensorIndex};
use swiftlm_runtime::WeightSource;

/// A checkpoint with its reference.
#[derive(Debug)]
pub struct Row {
    /// Directory name.
    pub name: String,
    /// `config.json`.
    pub config: Config,
    /// Names, types and shapes.
    pub index: TensorIndex,
    /// Prompt of the reference.
    pub prompt: Vec<u32>,
    /// Logits at every prompt position, `[prompt, vocabulary]`.
    pub logits: Vec<f32>,
    /// Greedy continuation.
    pub greedy: Vec<u32>,
    data: Vec<(String, Vec<u8>)>,
}

/// The directory of rows.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("families")
}

/// Names of all rows, sorted.
pub fn names() -> Vec<String> {
    let entries = std::fs::read_dir(directory()).expect("golden-tests/families can be read").flatten();
    let rows = entries.filter(|e| e.path().join("reference.safetensors").exists());
    let mut names: Vec<String> = rows.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(!names.is_empty(), "golden-tests/families holds no row");
    names
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{} can be read: {e}", path.display()))
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

impl Row {
    /// Reads a row.
    pub fn open(name: &str) -> Self {
        let dir = directory().join(name);
        let reference = read(&dir.join("reference.safetensors"));
        let reference = SafeTensors::deserialize(&reference).expect("a reference is a safetensors file");
        let tensor =
            |name: &str| reference.tensor(name).expect("a reference has prompt, logits and greedy").data().to_vec();
        Self {
            prompt: words(&tensor("prompt")),
            logits: words(&tensor("logits")).into_iter().map(f32::from_bits).collect(),
            greedy: words(&tensor("greedy")),
            ..Self::checkpoint(name, &dir)
        }
    }

    /// Reads a checkpoint that has no reference.
    pub fn checkpoint(name: &str, dir: &Path) -> Self {
        let config = std::fs::read_to_string(dir.join("config.json")).expect("a row has a configuration");
        let mut row = Self {
            name: name.to_owned(),
            config: Config::parse(&config).expect("a row's configuration parses"),
            index: TensorIndex::new(),
            prompt: vec![],
            logits: vec![],
            greedy: vec![],
            data: vec![],
        };
        let mut shards: Vec<PathBuf> = std::fs::read_dir(dir)
            .expect("a row can be listed")
            .flatten()
            .map(|e| e.path())
            .filter(|p| {
                p.file_name().is_some_and(|n| {
                    n.to_string_lossy().starts_with("model") && p.extension().is_some_and(|e| e == "safetensors")
                })
            })
            .collect();
        shards.sort();
        for shard in shards {
            let bytes = read(&shard);
            let tensors = SafeTensors::deserialize(&bytes).expect("a shard is a safetensors file");
            for (name, view) in tensors.tensors() {
                let dtype = match view.dtype() {
                    Dtype::F32 => StoredType::Float(Float::F32),
                    Dtype::F16 => StoredType::Float(Float::F16),
                    Dtype::BF16 => StoredType::Float(Float::Bf16),
                    Dtype::U32 => StoredType::U32,
                    Dtype::U8 => StoredType::U8,
                    _ => StoredType::Other("other"),
                };
                row.index.insert(name.clone(), TensorFacts { dtype, shape: view.shape().to_vec() });
                row.data.push((name, view.data().to_vec()));
            }
        }
        row.index.sort_keys();
        row
    }

    /// So many ids: prompt and continuation, over and over.
    pub fn endless(&self, count: usize) -> Vec<u32> {
        self.prompt.iter().chain(&self.greedy).copied().cycle().take(count).collect()
    }

    /// The same model with its groups of codes decoded to bfloat16.
    pub fn in_bfloat16(mut self) -> Self {
        let modules: Vec<String> =
            self.index.keys().filter_map(|name| name.strip_suffix(".scales")).map(str::to_owned).collect();
        for module in modules {
            let mut take = |part: &str| {
                let name = format!("{module}.{part}");
                let at = self.data.iter().position(|(n, _)| *n == name).expect("a module of codes has all parts");
                (self.index.shift_remove(&name).expect("what is held has facts"), self.data.swap_remove(at).1)
            };
            let [(codes, words), (scales, scale), (_, bias)] = ["weight", "scales", "biases"].map(&mut take);
            let StoredType::Float(float) = scales.dtype else { panic!("{module}: scales are floats") };
            let (words_of_row, groups) = (codes.shape[codes.shape.len() - 1], scales.shape[scales.shape.len() - 1]);
            // Every group of these models has 64 columns.
            let (cols, rows) = (64 * groups, words.len() / words_of_row / 4);
            let affine = Affine::new((32 * words_of_row / cols) as u8, 64, float).expect("MLX has such codes");
            let mut decoded = Vec::with_capacity(2 * rows * cols);
            for row in 0..rows {
                let codes = &words[4 * row * words_of_row..][..4 * words_of_row];
                for col in 0..cols {
                    let group = row * groups + col / 64;
                    let x = float.get(&scale, group) * affine.code(codes, col) as f32 + float.get(&bias, group);
                    decoded.extend(half::bf16::from_f32(x).to_le_bytes());
                }
            }
            let shape = [&codes.shape[..codes.shape.len() - 1], &[cols]].concat();
            let name = format!("{module}.weight");
            self.index.insert(name.clone(), TensorFacts { dtype: StoredType::Float(Float::Bf16), shape });
            self.data.push((name, decoded));
        }
        self.index.sort_keys();
        self
    }

    /// Whether its feed-forward halves are mixtures of experts, some or all of them.
    pub fn has_experts(&self) -> bool {
        self.index.keys().any(|name| name.contains(".experts.") || name.contains(".switch_mlp."))
    }

    /// Replaces a field of the configuration: a mutation that a test must notice.
    pub fn with_config(mut self, field: &str, value: serde_json::Value) -> Self {
        self.config = self.config.with(field, value);
        self
    }

    /// Fills a tensor with two bytes over and over: a mutation that a test must notice.
    pub fn with_tensor(mut self, ending: &str, bytes: [u8; 2]) -> Self {
        let held = self.data.iter_mut().find(|(name, _)| name.ends_with(ending));
        let (_, data) = held.unwrap_or_else(|| panic!("row {} holds {ending}", self.name));
        data.chunks_exact_mut(2).for_each(|x| x.copy_from_slice(&bytes));
        self
    }

    fn component(&self, primary: &str, component: &str, cell: usize, cols: usize) -> Vec<u8> {
        let Piece { tensor: name, slice, transposed, dealt } = Piece::parse(primary);
        let name = match (component, name.strip_suffix(".weight"), name.strip_suffix("_blocks")) {
            ("scales", None, Some(module)) => format!("{module}_scales"),
            ("weight", ..) | (_, None, _) => name.to_owned(),
            (other, Some(module), _) => format!("{module}.{other}"),
        };
        let at = self.data.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("row {} holds {name}", self.name));
        let shape = &self.index[&name].shape;
        let stored = match slice {
            None => &at.1[..],
            Some((i, count)) => {
                let bytes = at.1.len() / count.unwrap_or(shape[0]);
                &at.1[i * bytes..(i + 1) * bytes]
            }
        };
        if !transposed && dealt == 1 {
            return stored.to_vec();
        }
        let mut rows: Vec<Vec<u8>> = stored.chunks_exact(cell).map(<[u8]>::to_vec).collect();
        if transposed {
            let inputs: Vec<Vec<&[u8]>> =
                stored.chunks_exact(stored.len() / cols).map(|row| row.chunks_exact(cell / cols).collect()).collect();
            rows = (0..inputs[0].len()).map(|o| inputs.iter().flat_map(|row| row[o]).copied().collect()).collect();
        }
        (0..dealt).flat_map(|first| rows.iter().skip(first).step_by(dealt).flatten().copied()).collect()
    }

    /// The whole weight in its layout.
    pub fn weight_bytes(&self, weight: &WeightBuffer) -> Vec<u8> {
        let layout = weight.ty.format.layout(weight.ty.rows, weight.ty.cols);
        let mut bytes = vec![0; layout.bytes];
        for component in &layout.components {
            let (cell, cols) = (component.row_bytes, weight.ty.cols);
            let of = |n: &String| self.component(n, component.name, cell, cols);
            let joined: Vec<u8> = weight.names.iter().flat_map(of).collect();
            assert_eq!(joined.len(), component.bytes, "{:?} {}", weight.names, component.name);
            bytes[component.offset..][..component.bytes].copy_from_slice(&joined);
        }
        bytes
    }
}

impl WeightSource for Row {
    fn read(&self, weight: &WeightBuffer, offset: usize, into: &mut [u8]) -> Result<(), String> {
        into.copy_from_slice(&self.weight_bytes(weight)[offset..][..into.len()]);
        Ok(())
    }
}

impl WeightBytes for Row {
    fn bytes(&self, names: &[String], ty: &WeightType) -> Result<Vec<u8>, String> {
        Ok(self.weight_bytes(&WeightBuffer { names: names.to_vec(), ty: *ty }))
    }
}
