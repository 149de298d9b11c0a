//! The weight map: where each tensor lies, of what type it is, and its hash.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use swiftlm_ir::quant::Float;
use swiftlm_models::{StoredType, TensorFacts};

use super::listed;
use super::manifest::{Listed, Manifest, hex};
use super::repack::{self, RecordMap};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::files::Blob;
use crate::checkpoint::header::Placed;

/// Name of the file.
pub(super) const FILE: &str = "weights.json";
/// Bytes read at a time.
const PIECE: usize = 4 << 20;

/// Takes the next piece of a file.
type Sink<'a> = dyn FnMut(&str, &[u8]) -> Result<(), String> + 'a;

/// All tensors, by file and place.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WeightMap {
    /// In files of tensors.
    pub(super) tensors: Vec<Tensor>,
    /// What lies in records, if anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) records: Option<RecordMap>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    #[serde(rename = "type")]
    pub(super) ty: String,
    pub(super) shape: Vec<usize>,
    pub(super) sha256: String,
}

fn type_name(ty: StoredType) -> String {
    match ty {
        StoredType::Float(float) => float.name().to_owned(),
        StoredType::U32 => "u32".to_owned(),
        StoredType::U8 => "u8".to_owned(),
        StoredType::Other(name) => name.to_lowercase(),
    }
}

impl WeightMap {
    /// The map of a package.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub(super) fn read(directory: &Path, manifest: &Manifest) -> Result<Self, String> {
        let bytes = listed(directory, manifest, FILE)?;
        serde_json::from_slice(&bytes).map_err(|e| format!("{FILE}: {e}"))
    }

    /// Whether tensors or records lie in a file.
    pub(super) fn holds(&self, file: &str) -> bool {
        self.tensors.iter().any(|t| t.file == file) || self.records.as_ref().is_some_and(|r| r.file == file)
    }

    /// Reads all files of a checkpoint once, giving every piece to `write`.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(super) fn scan(checkpoint: &Checkpoint, write: &mut Sink<'_>) -> Result<(Self, Vec<Listed>), String> {
        let (mut tensors, mut files) = (vec![], vec![]);
        for (blob, placed) in checkpoint.contents() {
            let mut whole = Sha256::new();
            let mut at = placed.first().map_or(blob.bytes, |(_, p)| p.start);
            section(blob, 0, at, &mut |piece| {
                whole.update(piece);
                write(&blob.name, piece)
            })?;
            for (name, place) in placed {
                let mut own = Sha256::new();
                section(blob, place.start, place.bytes, &mut |piece| {
                    whole.update(piece);
                    own.update(piece);
                    write(&blob.name, piece)
                })?;
                at += place.bytes;
                tensors.push(Tensor::new(name, &blob.name, place, hex(own.finalize())));
            }
            // Tensors fill a file without gap: what the header's reader has checked.
            if at != blob.bytes {
                return Err(format!("{}: {} bytes of {at} are tensors'", blob.name, blob.bytes));
            }
            files.push(Listed { path: blob.name.clone(), bytes: blob.bytes, sha256: hex(whole.finalize()) });
        }
        Ok((Self { tensors, records: None }, files))
    }

    /// Where a checkpoint's headers differ from the map; nothing but headers is compared.
    pub(super) fn misfits(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let found = checkpoint.contents();
        let found = found.iter().flat_map(|(blob, placed)| placed.iter().map(move |(name, p)| (blob, name, p)));
        let found: Vec<Tensor> = found.map(|(blob, name, p)| Tensor::new(name, &blob.name, p, String::new())).collect();
        let differs =
            |(mapped, found): &(&Tensor, &Tensor)| **found != Tensor { sha256: String::new(), ..(*mapped).clone() };
        let pairs = self.tensors.iter().zip(&found).filter(differs);
        let mut problems: Vec<String> =
            pairs.map(|(t, _)| format!("{}: tensor `{}` is not where {FILE} has it", t.file, t.name)).collect();
        if self.tensors.len() != found.len() {
            problems.push(format!("{FILE}: {} tensors, the files have {}", self.tensors.len(), found.len()));
        }
        problems
    }

    /// The checkpoint with what lies in records.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(super) fn with_records(&self, checkpoint: Checkpoint, directory: &Path) -> Result<Checkpoint, String> {
        match &self.records {
            None => Ok(checkpoint),
            Some(map) => checkpoint.with_records(directory, &map.file, map.index()?, map.layers.clone()),
        }
    }

    /// What is wrong with the records of a checkpoint that has them.
    ///
    /// # Errors
    /// One cannot be read.
    pub(super) fn damaged_records(&self, checkpoint: &Checkpoint, directory: &Path) -> Result<Vec<String>, String> {
        match (&self.records, checkpoint.records()) {
            (Some(map), Some(records)) => repack::problems(directory, map, records),
            _ => Ok(vec![]),
        }
    }

    /// Tensors of a newer reading whose contents differ from the map's.
    pub(super) fn changed(&self, now: &Self) -> Vec<String> {
        let pairs = self.tensors.iter().zip(&now.tensors).filter(|(a, b)| a != b);
        pairs
            .map(|(a, _)| format!("{}: tensor `{}` is not what it was when the package was made", a.file, a.name))
            .collect()
    }
}

impl Tensor {
    /// Type and shape of a tensor of experts.
    ///
    /// # Errors
    /// Its type is none that experts have.
    pub(super) fn facts(&self) -> Result<TensorFacts, String> {
        let types = [Float::F32, Float::F16, Float::Bf16].map(StoredType::Float);
        let known = types.into_iter().chain([StoredType::U32, StoredType::U8]).find(|ty| type_name(*ty) == self.ty);
        let dtype = known.ok_or_else(|| format!("{FILE}: tensor `{}` of {} in records", self.name, self.ty))?;
        Ok(TensorFacts { dtype, shape: self.shape.clone() })
    }

    fn new(name: &str, file: &str, place: &Placed, sha256: String) -> Self {
        let Placed { dtype, shape, start, bytes } = place;
        Self {
            name: name.to_owned(),
            file: file.to_owned(),
            offset: *start,
            bytes: *bytes,
            ty: type_name(*dtype),
            shape: shape.clone(),
            sha256,
        }
    }
}

/// Reads `bytes` bytes from `start` on in pieces.
pub(super) fn section(
    blob: &Blob,
    start: u64,
    bytes: u64,
    each: &mut dyn FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut piece = vec![0; PIECE.min(usize::try_from(bytes).unwrap_or(PIECE))];
    let mut done = 0;
    while done < bytes {
        let now = (bytes - done).min(PIECE as u64) as usize;
        blob.read(start + done, &mut piece[..now])?;
        each(&piece[..now])?;
        done += now as u64;
    }
    Ok(())
}
