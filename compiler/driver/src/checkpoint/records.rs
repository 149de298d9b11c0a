//! Experts as records: all that a layer has of an expert in one place of a file, in the order in which kernels read it.
//!
//! A record is an expert's rows of each matrix (gate and up, down), one after another as matrices of their own, each as
//! [`Format::layout`](swiftlm_ir::quant::Format::layout) places it. Records begin at multiples of 4 KiB, and so can be read
//! past the page cache straight into memory. The permutation is lossless: what is read as a tensor is the tensor's bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use swiftlm_cpu::arrange;
use swiftlm_device::Order;
use swiftlm_disk::BLOCK;
use swiftlm_ir::graph::{Piece, WeightType};
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_runtime::experts::Restore;

use super::source::ReadPiece;

/// The records of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordLayer {
    /// First byte of the first record.
    pub(crate) offset: u64,
    /// From a record to the next.
    pub(crate) stride: u64,
    /// What a record has, in order.
    pub(crate) matrices: Vec<RecordMatrix>,
    /// CRC-32 (IEEE 802.3) of each expert's record, without what fills it up to the next.
    pub(crate) crc32: Vec<u32>,
}

/// One weight of a layer's experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordMatrix {
    /// All experts: names and type of the rows one after another, as the program has the weight.
    pub(crate) names: Vec<String>,
    /// Type of the whole.
    #[serde(rename = "type")]
    pub(crate) ty: WeightType,
    /// Whether it lies in blocks of 16 rows, as products of rounded rows read it.
    pub(crate) blocks: bool,
}

impl RecordMatrix {
    /// The type of one expert's rows.
    pub(crate) fn own(&self, experts: usize) -> WeightType {
        WeightType { rows: self.ty.rows / experts.max(1), ..self.ty }
    }

    fn order(&self) -> Order {
        if self.blocks { Order::Blocks } else { Order::Rows }
    }
}

impl RecordLayer {
    pub(crate) fn experts(&self) -> usize {
        self.crc32.len()
    }

    /// Bytes of a record.
    pub(crate) fn bytes(&self) -> usize {
        self.matrices.iter().map(|m| m.own(self.experts()).bytes()).sum()
    }

    /// Where a matrix begins in a record.
    fn matrix_offset(&self, matrix: usize) -> usize {
        self.matrices[..matrix].iter().map(|m| m.own(self.experts()).bytes()).sum()
    }

    /// Brings a record from the order of rows into its own, or back.
    pub(crate) fn turn(&self, record: &mut [u8], back: bool) -> Result<(), String> {
        for (i, matrix) in self.matrices.iter().enumerate().filter(|(_, m)| m.blocks) {
            let (own, start) = (matrix.own(self.experts()), self.matrix_offset(i));
            for (i, part) in own.format.layout(own.rows, own.cols).components.iter().enumerate() {
                let part = &mut record[start + part.offset..][..part.bytes];
                if back { arrange::restore(own, i, part)? } else { arrange::arrange(own, i, part)? }
            }
        }
        Ok(())
    }

    /// What is wrong with it in a file of so many bytes.
    fn problem(&self, file: u64) -> Option<String> {
        let experts = self.experts();
        let sound = |matrix: &RecordMatrix| {
            let WeightType { format, rows, cols } = matrix.ty;
            let known = format.codes().is_none_or(|codes| cols.is_multiple_of(codes.group))
                && (!matrix.blocks || arrange::has_blocks(&matrix.own(experts)));
            // Far more than any file has; products of such numbers do not overflow.
            known && rows > 0 && rows < 1 << 28 && cols > 0 && cols < 1 << 24 && rows.is_multiple_of(experts)
        };
        if experts == 0 || self.matrices.is_empty() || !self.matrices.iter().all(sound) {
            return Some("records of experts that there cannot be".to_owned());
        }
        let end = self.stride.checked_mul(experts as u64).and_then(|all| self.offset.checked_add(all));
        let aligned = self.offset.is_multiple_of(BLOCK as u64) && self.stride.is_multiple_of(BLOCK as u64);
        if !aligned || self.bytes() as u64 > self.stride || end.is_none_or(|end| end > file) {
            return Some(format!("{experts} records at byte {} do not lie in its {file} bytes", self.offset));
        }
        None
    }
}

/// Where rows of a named tensor are among the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InRecords {
    layer: usize,
    matrix: usize,
    /// First row, counted through all experts.
    pub(crate) first: usize,
    /// Rows.
    pub(crate) rows: usize,
}

/// The component of a matrix that was read last, in the order of rows.
#[derive(Default)]
pub(crate) struct Last {
    /// Layer, matrix, component, expert.
    which: Option<[usize; 4]>,
    bytes: Vec<u8>,
}

/// All records of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    /// Number of the file.
    pub(crate) file: usize,
    pub(crate) layers: Arc<[RecordLayer]>,
    names: BTreeMap<String, InRecords>,
}

impl Records {
    /// Finds what is where; `rows` says how many rows of a type a named piece has.
    ///
    /// # Errors
    /// The records do not lie in a file of so many bytes, or are not of these tensors.
    pub(crate) fn new(
        (file, bytes): (usize, u64),
        layers: Vec<RecordLayer>,
        rows: &dyn Fn(&str, &WeightType) -> Option<usize>,
    ) -> Result<Self, String> {
        let mut names = BTreeMap::new();
        for (l, layer) in layers.iter().enumerate() {
            if let Some(problem) = layer.problem(bytes) {
                return Err(problem);
            }
            for (m, matrix) in layer.matrices.iter().enumerate() {
                let mut first = 0usize;
                for name in &matrix.names {
                    let rows = rows(name, &matrix.ty).ok_or_else(|| format!("`{name}` is no tensor in records"))?;
                    names.insert(name.clone(), InRecords { layer: l, matrix: m, first, rows });
                    first = first.saturating_add(rows);
                }
                if first != matrix.ty.rows {
                    let name = matrix.names.first().map_or("", |name| Piece::parse(name).tensor);
                    return Err(format!("`{name}` and others have {first} rows, their records {}", matrix.ty.rows));
                }
            }
        }
        Ok(Self { file, layers: layers.into(), names })
    }

    /// Where the named piece is, with the components of its type: names and bytes of a row.
    pub(crate) fn find(&self, name: &str) -> Option<(InRecords, Vec<(&'static str, usize)>)> {
        let place = *self.names.get(name)?;
        let ty = self.layers[place.layer].matrices[place.matrix].ty;
        let components = ty.format.layout(1, ty.cols).components;
        Some((place, components.iter().map(|c| (c.name, c.row_bytes)).collect()))
    }

    /// File and byte of a place in a component, the order of rows within it apart.
    pub(crate) fn position(&self, place: InRecords, component: usize, start: usize) -> (usize, u64) {
        let layer = &self.layers[place.layer];
        let own = layer.matrices[place.matrix].own(layer.experts());
        let part = &own.format.layout(own.rows, own.cols).components[component];
        let (expert, within) = (start / part.bytes.max(1), start % part.bytes.max(1));
        let record = layer.offset + expert as u64 * layer.stride;
        (self.file, record + (layer.matrix_offset(place.matrix) + part.offset + within) as u64)
    }

    /// Fills `into` from byte `start` of a component on, counted through all experts in the order of rows.
    pub(crate) fn read(
        &self,
        place: InRecords,
        component: usize,
        start: usize,
        into: &mut [u8],
        read: &ReadPiece<'_>,
        last: &mut Last,
    ) -> Result<(), String> {
        let layer = &self.layers[place.layer];
        let matrix = &layer.matrices[place.matrix];
        let own = matrix.own(layer.experts());
        let size = own.format.layout(own.rows, own.cols).components[component].bytes;
        let mut done = 0;
        while done < into.len() {
            let (expert, within) = ((start + done) / size, (start + done) % size);
            let bytes = (size - within).min(into.len() - done);
            let piece = &mut into[done..done + bytes];
            if matrix.blocks {
                let which = [place.layer, place.matrix, component, expert];
                if last.which != Some(which) {
                    last.which = None;
                    last.bytes.resize(size, 0);
                    let (file, at) = self.position(place, component, expert * size);
                    read(file, at, &mut last.bytes)?;
                    arrange::restore(own, component, &mut last.bytes)?;
                    last.which = Some(which);
                }
                piece.copy_from_slice(&last.bytes[within..within + bytes]);
            } else {
                let (file, at) = self.position(place, component, start + done);
                read(file, at, piece)?;
            }
            done += bytes;
        }
        Ok(())
    }

    /// The layer whose records have exactly these weights, in this order.
    pub(crate) fn layer_of<'a>(&self, mut weights: impl Iterator<Item = &'a WeightBuffer>) -> Option<usize> {
        let first = weights.next()?;
        let at = self.names.get(first.names.first()?)?.layer;
        let mut matrices = self.layers[at].matrices.iter();
        let same = |m: Option<&RecordMatrix>, w: &WeightBuffer| m.is_some_and(|m| m.ty == w.ty && m.names == w.names);
        let all = same(matrices.next(), first) && weights.all(|weight| same(matrices.next(), weight));
        (all && matrices.next().is_none()).then_some(at)
    }

    /// The orders in which a layer's records have their matrices.
    pub(crate) fn orders(&self, layer: usize) -> Arc<[Order]> {
        self.layers[layer].matrices.iter().map(RecordMatrix::order).collect()
    }

    /// Brings records of a layer into the order of rows.
    pub(crate) fn restore(&self, layer: usize) -> Restore {
        let layers = Arc::clone(&self.layers);
        Arc::new(move |record| layers[layer].turn(record, true))
    }
}
