//! Checkpoints in the Hugging Face form: `config.json` and safetensors files, opened and checked, weights not yet read.
//! Knows names, types and places of tensors; what they mean is the models' business.

pub(crate) mod direct;
pub(crate) mod files;
pub(crate) mod header;
pub(crate) mod records;
pub(crate) mod shards;
pub(crate) mod source;
mod turned;

use std::borrow::Cow;
use std::path::Path;
use std::time::SystemTime;

use indexmap::IndexMap;
use swiftlm_ir::graph::{Piece, WeightType};
use swiftlm_ir::quant::Format;
use swiftlm_models::{TensorFacts, TensorIndex};

pub use direct::Uncached;
use files::{Blob, Folder};
use header::Placed;
use records::{RecordLayer, Records};
pub use swiftlm_disk::Wish as ReadBy;

/// Everything that is wrong with the files of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {}", .problems.join("\n"))]
pub struct CheckpointError {
    /// The checkpoint.
    pub place: String,
    /// A sentence for each problem, naming file and tensor.
    pub problems: Vec<String>,
}

/// Files that a directory lacks to be a checkpoint, by name; nothing is opened but the index.
pub(crate) fn lacking(dir: &Path) -> Vec<String> {
    let mut files = vec!["config.json".to_owned()];
    match shards::find(&Folder::Disk(dir.to_path_buf())) {
        Ok(shards) => files.extend(shards.files),
        Err(problems) => return problems,
    }
    files.retain(|f| !dir.join(f).is_file());
    files
}

/// A file of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Path below the checkpoint's directory.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// When it was last written, where that is known.
    pub modified: Option<SystemTime>,
}

/// An open checkpoint. It holds the files open and reads weights from them on demand.
#[derive(Debug)]
pub struct Checkpoint {
    config: String,
    generation_config: Option<String>,
    blobs: Vec<Blob>,
    /// Index into `blobs` and place, in name order.
    tensors: IndexMap<String, (usize, Placed)>,
    /// What lies in records.
    records: Option<Records>,
    /// Types and shapes of the tensors in records.
    recorded: TensorIndex,
}

impl Checkpoint {
    /// Adds records to a checkpoint: the tensors `recorded` lie in the file `name` below `dir`.
    ///
    /// # Errors
    /// Sentences that name the file: it is missing, or the records do not lie in it.
    pub(crate) fn with_records(
        mut self,
        dir: &Path,
        name: &str,
        recorded: TensorIndex,
        layers: Vec<RecordLayer>,
    ) -> Result<Self, String> {
        let blob = Blob::open(&dir.join(name), name)?.ok_or_else(|| format!("{name} is missing"))?;
        let named = |problem: String| format!("{name}: {problem}");
        if let Some(twice) = recorded.keys().find(|tensor| self.tensors.contains_key(*tensor)) {
            return Err(named(format!("tensor `{twice}` is in records and in a file of tensors")));
        }
        // Of a stacked tensor a piece has the rows of one slice; the innermost extent are columns, in whatever words codes lie.
        let rows = |piece_name: &str, ty: &WeightType| {
            let Piece { tensor, slice, .. } = Piece::parse(piece_name);
            let (last, outer) = recorded.get(tensor)?.shape.split_last()?;
            let all = outer.iter().try_fold(1usize, |n, extent| n.checked_mul(*extent))?;
            let all = match ty.format {
                Format::Float(_) => all.checked_mul(*last)?.checked_div(ty.cols)?,
                Format::Affine(_) | Format::Mxfp4 => all,
            };
            match slice {
                None => Some(all),
                Some((_, count)) => all.checked_div(count.or(outer.first().copied())?),
            }
        };
        let records = Records::new((self.blobs.len(), blob.bytes), layers, &rows).map_err(named)?;
        self.blobs.push(blob);
        self.recorded = recorded;
        self.records = Some(records);
        Ok(self)
    }

    /// Opens the checkpoint in a directory: reads its texts and headers, checks them, and holds its files open.
    ///
    /// # Errors
    /// Everything missing or wrong, all at once.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let place = dir.display().to_string();
        if !dir.is_dir() {
            return Err(CheckpointError { place, problems: vec!["there is no such directory".to_owned()] });
        }
        Self::read(&Folder::Disk(dir.to_path_buf())).map_err(|problems| CheckpointError { place, problems })
    }

    /// Opens a checkpoint whose files are in memory, such as the one inside the program; `place` names it in errors.
    ///
    /// # Errors
    /// Everything missing or wrong, all at once.
    pub fn embedded(
        place: &str,
        files: impl IntoIterator<Item = (String, Cow<'static, [u8]>)>,
    ) -> Result<Self, CheckpointError> {
        Self::read(&Folder::Memory(files.into_iter().collect()))
            .map_err(|problems| CheckpointError { place: place.to_owned(), problems })
    }

    fn read(folder: &Folder) -> Result<Self, Vec<String>> {
        let mut problems = vec![];
        let config = match folder.text("config.json") {
            Ok(Some(text)) => text,
            Ok(None) => {
                problems.push("config.json is missing".to_owned());
                String::new()
            }
            Err(e) => {
                problems.push(e);
                String::new()
            }
        };
        let generation_config = folder.text("generation_config.json").unwrap_or_else(|e| {
            problems.push(e);
            None
        });
        let shards = shards::find(folder).unwrap_or_else(|e| {
            problems.extend(e);
            shards::Shards::default()
        });
        let mut blobs = vec![];
        let mut tensors: IndexMap<String, (usize, Placed)> = IndexMap::new();
        let mut sound: Vec<String> = vec![];
        for name in &shards.files {
            let blob = match folder.blob(name) {
                Ok(Some(blob)) => blob,
                Ok(None) => {
                    problems.push(format!("{name} is missing"));
                    continue;
                }
                Err(e) => {
                    problems.push(e);
                    continue;
                }
            };
            match header::read(&blob) {
                Ok(found) => {
                    sound.push(name.clone());
                    for (tensor, placed) in found {
                        if let Some((other, _)) = tensors.get(&tensor) {
                            let other: &Blob = &blobs[*other];
                            problems.push(format!("tensor `{tensor}` is both in {} and in {name}", other.name));
                        } else {
                            tensors.insert(tensor, (blobs.len(), placed));
                        }
                    }
                    blobs.push(blob);
                }
                Err(e) => problems.extend(e),
            }
        }
        for (tensor, file) in &shards.promised {
            let there = tensors.get(tensor).is_some_and(|(blob, _)| blobs[*blob].name == *file);
            // What a broken or missing file lacks has been said once.
            if !there && sound.binary_search(file).is_ok() {
                problems.push(format!("tensor `{tensor}` is not in {file}, where the index has it"));
            }
        }
        tensors.sort_unstable_keys();
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self { config, generation_config, blobs, tensors, records: None, recorded: TensorIndex::new() })
    }

    /// What lies in records.
    pub(crate) fn records(&self) -> Option<&Records> {
        self.records.as_ref()
    }

    /// Text of `config.json`.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Text of `generation_config.json`, if there is one.
    pub fn generation_config(&self) -> Option<&str> {
        self.generation_config.as_deref()
    }

    /// Names, types and shapes of all tensors, in name order.
    pub fn tensors(&self) -> TensorIndex {
        let facts = |p: &Placed| TensorFacts { dtype: p.dtype, shape: p.shape.clone() };
        let own = self.tensors.iter().map(|(name, (_, placed))| (name.clone(), facts(placed)));
        let mut all: TensorIndex = own.chain(self.recorded.clone()).collect();
        all.sort_unstable_keys();
        all
    }

    /// The open files of weights, in name order, each with its tensors by place.
    pub(crate) fn contents(&self) -> Vec<(&Blob, Vec<(&str, &Placed)>)> {
        let mut contents: Vec<(&Blob, Vec<(&str, &Placed)>)> = self.blobs.iter().map(|blob| (blob, vec![])).collect();
        for (name, (blob, placed)) in &self.tensors {
            contents[*blob].1.push((name, placed));
        }
        contents.iter_mut().for_each(|(_, tensors)| tensors.sort_by_key(|(_, placed)| placed.start));
        contents
    }

    /// The files of weights, in name order.
    pub fn files(&self) -> Vec<FileFacts> {
        let facts = |b: &Blob| FileFacts { name: b.name.clone(), bytes: b.bytes, modified: b.modified };
        self.blobs.iter().map(facts).collect()
    }
}
