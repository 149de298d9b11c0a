//! Experts as records in a package, and the way back: what the records hold are the checkpoint's tensors, byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use swiftlm_cpu::arrange::order_of;
use swiftlm_device::Order;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::graph::{Piece, WeightType};
use swiftlm_ir::plan::{Operand, Program, WeightBuffer};
use swiftlm_ir::template::Template;
use swiftlm_models::TensorIndex;
use swiftlm_runtime::WeightSource;

use super::manifest::{Listed, hex};
use super::weights::{Tensor, section};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::records::{Last, RecordLayer, RecordMatrix, Records};
use crate::checkpoint::source::{ReadPiece, tensor_name};

/// The file of all other tensors.
pub(super) const DENSE: &str = "model.safetensors";
/// The file of records.
pub(super) const FILE: &str = "experts.bin";
/// Where the first record of a layer begins is a multiple of this: a huge page.
const LAYER_ALIGN: u64 = 2 << 20;
/// Records begin at multiples of this.
const RECORD_ALIGN: usize = swiftlm_disk::BLOCK;

/// What a weight map says of records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordMap {
    /// Where they lie.
    pub(super) file: String,
    /// The tensors that they hold: type, shape and hash of each; its place says nothing.
    pub(super) tensors: Vec<Tensor>,
    /// In the order of layers.
    pub(super) layers: Vec<RecordLayer>,
}

impl RecordMap {
    /// Type and shape of each tensor.
    ///
    /// # Errors
    /// A type that no expert has.
    pub(super) fn index(&self) -> Result<TensorIndex, String> {
        let facts = |t: &Tensor| Ok((t.name.clone(), t.facts()?));
        self.tensors.iter().map(facts).collect()
    }
}

/// The records that a program whose experts take turns reads, without places and checksums.
///
/// # Errors
/// The program has no experts, or such whose tensors could not be made of records again.
pub(super) fn layers(program: &Program) -> Result<Vec<RecordLayer>, String> {
    let mut layers = vec![];
    for (call, weights) in program.module.main.iter().zip(&program.call_weights) {
        let plans = program.plans.get(call.func).map(Vec::as_slice).unwrap_or_default();
        for fetch in plans.iter().filter(|plan| plan.class == ShapeClass::One).flat_map(|plan| &plan.fetches) {
            let matrix = |slot: &usize| -> Option<RecordMatrix> {
                let WeightBuffer { names, ty } = program.weights.get(*weights.get(*slot)?)?.clone();
                let rows = fetch.slots * ty.rows / fetch.experts.max(1);
                let reads = |operand: &Operand| matches!(operand, Operand::Weight { slot: s, .. } if s == slot);
                let launches = plans.iter().flat_map(|plan| &plan.dispatches);
                let readers: Vec<&Template> =
                    launches.filter(|d| d.args.iter().any(reads)).map(|d| &d.template).collect();
                let blocks = order_of(&WeightType { rows, ..ty }, &readers) == Order::Blocks;
                Some(RecordMatrix { names, ty, blocks })
            };
            let matrices: Option<Vec<RecordMatrix>> = fetch.weights.iter().map(matrix).collect();
            let matrices = matrices.ok_or("a fetch names weights that the program lacks")?;
            layers.push(RecordLayer { offset: 0, stride: 0, matrices, crc32: vec![0; fetch.experts] });
        }
    }
    let mut names = layers.iter().flat_map(|layer: &RecordLayer| &layer.matrices).flat_map(|matrix| &matrix.names);
    let turned =
        |name: &&String| matches!(Piece::parse(name), Piece { transposed, dealt, .. } if transposed || dealt > 1);
    if let Some(name) = names.find(turned) {
        let tensor = Piece::parse(name).tensor;
        return Err(format!("`{tensor}` has its rows in another order than records: leave --repack out"));
    }
    if layers.is_empty() { Err("the model has no experts: leave --repack out".to_owned()) } else { Ok(layers) }
}

/// Names of the tensors that records of these layers hold.
pub(super) fn recorded(layers: &[RecordLayer]) -> std::collections::BTreeSet<String> {
    let matrices = layers.iter().flat_map(|layer| &layer.matrices);
    let names = matrices.flat_map(|matrix| {
        let components = matrix.ty.format.layout(1, matrix.ty.cols).components;
        matrix.names.iter().flat_map(move |name| {
            let primary = Piece::parse(name).tensor;
            components.clone().into_iter().map(move |c| tensor_name(primary, c.name).into_owned())
        })
    });
    names.collect()
}

/// A file that is written and hashed at the same time.
struct Hashed {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Hashed {
    fn create(path: &Path) -> Result<Self, String> {
        let file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new(), bytes: 0 })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), String> {
        self.hash.update(piece);
        self.bytes += piece.len() as u64;
        self.file.write_all(piece).map_err(|e| format!("the package cannot be written: {e}"))
    }

    fn fill(&mut self, to: u64) -> Result<(), String> {
        let zeros = [0; RECORD_ALIGN];
        while self.bytes < to {
            let now = (to - self.bytes).min(zeros.len() as u64) as usize;
            self.write(&zeros[..now])?;
        }
        Ok(())
    }

    fn finish(mut self, path: &str) -> Result<Listed, String> {
        self.file.flush().map_err(|e| format!("{path}: {e}"))?;
        Ok(Listed { path: path.to_owned(), bytes: self.bytes, sha256: hex(self.hash.finalize()) })
    }
}

/// Writes the records of `layers` into `directory` and says where they are.
///
/// # Errors
/// A tensor cannot be read, the file not written, or a format has no such order.
pub(super) fn write(checkpoint: &Checkpoint, layers: &mut [RecordLayer], directory: &Path) -> Result<Listed, String> {
    let mut file = Hashed::create(&directory.join(FILE))?;
    for layer in layers {
        let (size, experts) = (layer.bytes(), layer.experts());
        file.fill(file.bytes.next_multiple_of(LAYER_ALIGN))?;
        (layer.offset, layer.stride) = (file.bytes, size.next_multiple_of(RECORD_ALIGN) as u64);
        let mut record = vec![0; size];
        for expert in 0..experts {
            let mut start = 0;
            for matrix in &layer.matrices {
                let (ty, own) = (matrix.ty, matrix.own(experts));
                let weight = WeightBuffer { names: matrix.names.clone(), ty };
                let (whole, parts) = (ty.format.layout(ty.rows, ty.cols), own.format.layout(own.rows, own.cols));
                for (from, to) in whole.components.iter().zip(&parts.components) {
                    let first = from.offset + expert * own.rows * from.row_bytes;
                    checkpoint.read(&weight, first, &mut record[start + to.offset..][..to.bytes])?;
                }
                start += parts.bytes;
            }
            layer.turn(&mut record, false)?;
            layer.crc32[expert] = crc32fast::hash(&record);
            file.write(&record)?;
            file.fill(layer.offset + (expert as u64 + 1) * layer.stride)?;
        }
    }
    file.finish(FILE)
}

/// Writes the tensors of a checkpoint that `keep` names into one file, the widest elements first so that each is aligned.
/// Gives their places and the file.
///
/// # Errors
/// A tensor cannot be read, or the file not written.
pub(super) fn write_dense(
    checkpoint: &Checkpoint,
    tensors: &[Tensor],
    directory: &Path,
) -> Result<(Vec<Tensor>, Listed), String> {
    let contents = checkpoint.contents();
    let places: BTreeMap<&str, _> = contents
        .iter()
        .flat_map(|(blob, placed)| placed.iter().map(move |(name, place)| (*name, (*blob, *place))))
        .collect();
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    let width = |t: &Tensor| t.bytes / t.shape.iter().product::<usize>().max(1) as u64;
    order.sort_by(|a, b| width(b).cmp(&width(a)).then_with(|| a.name.cmp(&b.name)));
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for tensor in &order {
        let (from, to) = (end, end + tensor.bytes);
        let entry =
            serde_json::json!({"dtype": tensor.ty.to_uppercase(), "shape": tensor.shape, "data_offsets": [from, to]});
        header.insert(tensor.name.clone(), entry);
        end = to;
    }
    let mut text = serde_json::Value::Object(header).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    let mut file = Hashed::create(&directory.join(DENSE))?;
    file.write(&(text.len() as u64).to_le_bytes())?;
    file.write(text.as_bytes())?;
    let mut placed = vec![];
    for tensor in order {
        let (blob, place) = places.get(tensor.name.as_str()).ok_or_else(|| format!("`{}` is missing", tensor.name))?;
        placed.push(Tensor { file: DENSE.to_owned(), offset: file.bytes, ..tensor.clone() });
        section(blob, place.start, place.bytes, &mut |piece| file.write(piece))?;
    }
    Ok((placed, file.finish(DENSE)?))
}

/// What is wrong with the records of a package: each is held against its checksum, and what they hold against the hashes of
/// the tensors that they were made of.
///
/// # Errors
/// A record cannot be read.
pub(super) fn problems(directory: &Path, map: &RecordMap, records: &Records) -> Result<Vec<String>, String> {
    let path = directory.join(&map.file);
    let file = File::open(&path).map_err(|e| format!("{}: {e}", map.file))?;
    let size = fs::metadata(&path).map_err(|e| format!("{}: {e}", map.file))?.len();
    let read = |_: usize, start: u64, into: &mut [u8]| {
        let bytes = into.len();
        let whole = start.checked_add(bytes as u64).is_some_and(|end| end <= size);
        let done = if whole { fill(&file, start, into) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) };
        done.map_err(|e| format!("{}: byte {start} cannot be read: {e}", map.file))
    };
    let mut problems = vec![];
    for (l, layer) in map.layers.iter().enumerate() {
        let mut record = vec![0; layer.bytes()];
        for (expert, expected) in layer.crc32.iter().enumerate() {
            let start = layer.offset + expert as u64 * layer.stride;
            read(0, start, &mut record)?;
            if crc32fast::hash(&record) != *expected {
                let file = &map.file;
                problems.push(format!(
                    "{file}: the record of expert {expert} of layer {l}, byte {start}, is not what it was"
                ));
            }
        }
    }
    let mut found = hashes(records, &read)?;
    for Tensor { name, bytes, sha256, .. } in &map.tensors {
        if found.remove(name) != Some((*bytes, sha256.clone())) {
            problems.push(format!("{}: tensor `{name}` is not what it was when the package was made", map.file));
        }
    }
    problems.extend(found.keys().map(|name| format!("{}: tensor `{name}` is in no map", map.file)));
    Ok(problems)
}

fn fill(file: &File, mut at: u64, mut into: &mut [u8]) -> std::io::Result<()> {
    while !into.is_empty() {
        match swiftlm_disk::read_at(file, into, at)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => (at, into) = (at + n as u64, &mut into[n..]),
        }
    }
    Ok(())
}

/// Size and hash of every tensor in records, in the order that files have it.
fn hashes(records: &Records, read: &ReadPiece<'_>) -> Result<BTreeMap<String, (u64, String)>, String> {
    let mut all = BTreeMap::new();
    for matrix in records.layers.iter().flat_map(|layer| &layer.matrices) {
        let mut tensors: BTreeMap<&str, Vec<(usize, &String)>> = BTreeMap::new();
        for name in &matrix.names {
            let Piece { tensor: primary, slice, .. } = Piece::parse(name);
            tensors.entry(primary).or_default().push((slice.map_or(0, |(i, _)| i), name));
        }
        for (primary, mut pieces) in tensors {
            pieces.sort_unstable();
            for (i, component) in matrix.ty.format.layout(1, matrix.ty.cols).components.iter().enumerate() {
                let (mut hash, mut bytes, mut last) = (Sha256::new(), 0, Last::default());
                for (_, name) in &pieces {
                    let (place, _) = records.find(name).ok_or_else(|| format!("`{name}` is in no record"))?;
                    let mut content = vec![0; place.rows * component.row_bytes];
                    records.read(place, i, place.first * component.row_bytes, &mut content, read, &mut last)?;
                    hash.update(&content);
                    bytes += content.len() as u64;
                }
                all.insert(tensor_name(primary, component.name).into_owned(), (bytes, hex(hash.finalize())));
            }
        }
    }
    Ok(all)
}
