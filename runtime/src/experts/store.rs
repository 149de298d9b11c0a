//! The store: slots of every layer, readers, and the account of what they did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use swiftlm_device::{Device, DeviceError, Slice};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::WeightBuffer;

use super::reader::{Job, Reader, Record};
use super::{ExpertSource, ExpertStats, Residency, Trace};
use crate::weights::WeightSource;

/// One weight of a layer's experts: gate and up, or down.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    /// All experts of the layer, as the source has them.
    pub(crate) weight: WeightBuffer,
    /// Rows of one expert.
    pub(crate) rows: usize,
    /// The slots.
    pub(crate) slab: Slice,
}

/// The experts of one call.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) matrices: Vec<Matrix>,
    pub(crate) experts: usize,
    pub(crate) slots: usize,
    /// Checksum of each expert that was read, plus 2³²; 0 of others.
    pub(crate) sums: Vec<AtomicU64>,
}

impl Matrix {
    fn expert_type(&self) -> WeightType {
        WeightType { rows: self.rows, ..self.weight.ty }
    }
}

impl Layer {
    /// Experts of which so many are in memory, in slots of these matrices.
    pub(crate) fn new(matrices: Vec<Matrix>, experts: usize, slots: usize) -> Self {
        Self { matrices, experts, slots, sums: (0..experts).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Bytes of an expert.
    fn expert_bytes(&self) -> usize {
        self.matrices.iter().map(|m| m.expert_type().bytes()).sum()
    }

    /// Reads an expert: of each matrix its rows, laid out as a matrix of their own.
    ///
    /// # Errors
    /// The source's words, or that it gave other bytes before.
    pub(super) fn read(&self, source: &dyn WeightSource, expert: u32, into: &mut Vec<u8>) -> Result<(), String> {
        into.resize(self.expert_bytes(), 0);
        let mut rest = into.as_mut_slice();
        for matrix in &self.matrices {
            let (ty, own) = (matrix.weight.ty, matrix.expert_type());
            let (whole, own) = (ty.format.layout(ty.rows, ty.cols), own.format.layout(own.rows, own.cols));
            let (part, behind) = rest.split_at_mut(own.bytes);
            rest = behind;
            for (from, to) in whole.components.iter().zip(&own.components) {
                let start = from.offset + expert as usize * matrix.rows * from.row_bytes;
                source.read(&matrix.weight, start, &mut part[to.offset..to.offset + to.bytes])?;
            }
        }
        let sum = 1 << 32 | u64::from(crc32fast::hash(into));
        let before = self.sums[expert as usize].swap(sum, Ordering::Relaxed);
        if before != 0 && before != sum {
            // What was first read stays what is right.
            self.sums[expert as usize].store(before, Ordering::Relaxed);
            let place = self.matrices.first().map_or(String::new(), |m| {
                let row =
                    expert as usize * m.rows * m.weight.ty.format.layout(1, m.weight.ty.cols).components[0].row_bytes;
                source.place(&m.weight, row)
            });
            return Err(format!(
                "{place}: expert {expert} is not what it was when it was read before: the file was changed, or the disk fails"
            ));
        }
        Ok(())
    }
}

/// Experts of all layers.
#[derive(Debug)]
pub(crate) struct Store {
    layers: Arc<[Layer]>,
    residency: Vec<Residency>,
    reader: Reader,
    stats: ExpertStats,
    step: u64,
    /// Experts that the step waits for.
    awaited: usize,
    /// What was chosen since it was asked to be written down.
    trace: Option<Trace>,
}

impl Store {
    /// Starts the readers of a program's layers whose slots hold the first experts.
    ///
    /// # Errors
    /// The system has no thread.
    pub(crate) fn start(source: &ExpertSource, layers: Vec<Layer>) -> std::io::Result<Self> {
        let layers: Arc<[Layer]> = layers.into();
        let residency = layers.iter().map(|l| Residency::new(l.experts, l.slots)).collect();
        let most = |of: fn(&Layer) -> usize| layers.iter().map(of).max().unwrap_or(0);
        let stats = ExpertStats { slots: most(|l| l.slots), experts: most(|l| l.experts), ..ExpertStats::default() };
        Ok(Self { reader: Reader::start(source, &layers)?, layers, residency, stats, step: 0, awaited: 0, trace: None })
    }

    /// What it did so far.
    pub(crate) fn stats(&self) -> ExpertStats {
        self.stats
    }

    /// Writes down what is chosen from now on.
    pub(crate) fn record(&mut self) {
        self.trace = Some(Trace { experts: self.stats.experts, choices: vec![] });
    }

    /// What was chosen since [`Self::record`].
    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// The slot of an expert, if it is in memory.
    pub(crate) fn slot(&self, layer: usize, expert: u32) -> Option<u32> {
        self.residency[layer].slot(expert)
    }

    /// Begins with a choice of distinct experts: gives those in memory, and asks for the others.
    pub(crate) fn begin(&mut self, layer: usize, chosen: &[u32]) -> Vec<u32> {
        self.step += 1;
        if let Some(trace) = &mut self.trace {
            trace.choices.push((layer, chosen.to_vec()));
        }
        let (residency, step) = (&mut self.residency[layer], self.step);
        let (present, absent): (Vec<u32>, Vec<u32>) = chosen.iter().partition(|e| residency.use_slot(**e).is_some());
        self.stats.hits += present.len() as u64;
        self.stats.misses += absent.len() as u64;
        self.awaited = absent.len();
        self.reader.ask(absent.into_iter().map(|expert| Job { layer, expert, step }));
        present
    }

    /// Experts that came since, now in slots; waits for `least` if so many are awaited and slots last. None once all came.
    /// To be called when those that came before were computed with: they may make room.
    ///
    /// # Errors
    /// An expert could not be read, or the device failed; the step is over then.
    pub(crate) fn arrivals(
        &mut self,
        layer: usize,
        least: usize,
        device: &mut dyn Device,
    ) -> Result<Vec<u32>, StoreError> {
        let mut arrived: Vec<u32> = vec![];
        while self.awaited > 0 {
            let Some(slot) = self.residency[layer].make_room(|expert| !arrived.contains(&expert)) else { break };
            let wait = arrived.len() < least.max(1);
            let start = Instant::now();
            let record = self.reader.next(wait);
            if wait {
                self.stats.stalled += start.elapsed();
            }
            let Some(record) = record else {
                if wait {
                    return Err(StoreError::Read("the threads that read experts are gone".to_owned()));
                }
                break;
            };
            let (job, taken) = (record.job, self.take(layer, slot, &record, device));
            self.reader.give_back(record.bytes);
            if job.step != self.step {
                continue;
            }
            taken.inspect_err(|_| self.reader.forget())?;
            self.residency[layer].fill(slot, job.expert);
            self.awaited -= 1;
            arrived.push(job.expert);
        }
        Ok(arrived)
    }

    fn take(&mut self, layer: usize, slot: u32, record: &Record, device: &mut dyn Device) -> Result<(), StoreError> {
        if record.job.step != self.step {
            return Ok(());
        }
        record.result.as_ref().map_err(|reason| StoreError::Read(reason.clone()))?;
        self.stats.bytes += record.bytes.len() as u64;
        self.stats.reading += record.time;
        let (of, mut rest) = (&self.layers[layer], record.bytes.as_slice());
        for matrix in &of.matrices {
            let (part, behind) = rest.split_at(matrix.expert_type().bytes());
            rest = behind;
            let first = slot as usize * matrix.rows;
            let ty = WeightType { rows: of.slots * matrix.rows, ..matrix.weight.ty };
            device.replace(matrix.slab, ty, first..first + matrix.rows, part)?;
        }
        Ok(())
    }
}

/// Why an expert is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// It could not be read.
    #[error("{0}")]
    Read(String),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
