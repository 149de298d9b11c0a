//! The weight map: where each tensor lies, of what type it is, and its hash.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use swiftlm_models::StoredType;

use super::listed;
use super::manifest::{Listed, Manifest, hex};
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
    pub(super) tensors: Vec<Tensor>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tensor {
    name: String,
    file: String,
    offset: u64,
    bytes: u64,
    #[serde(rename = "type")]
    ty: String,
    shape: Vec<usize>,
    sha256: String,
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

    /// Whether tensors lie in a file.
    pub(super) fn holds(&self, file: &str) -> bool {
        self.tensors.iter().any(|t| t.file == file)
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
        Ok((Self { tensors }, files))
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

    /// Tensors of a newer reading whose contents differ from the map's.
    pub(super) fn changed(&self, now: &Self) -> Vec<String> {
        let pairs = self.tensors.iter().zip(&now.tensors).filter(|(a, b)| a != b);
        pairs
            .map(|(a, _)| format!("{}: tensor `{}` is not what it was when the package was made", a.file, a.name))
            .collect()
    }
}

impl Tensor {
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
fn section(
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
