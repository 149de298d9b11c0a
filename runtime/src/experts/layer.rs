//! One layer of a store: the weights that its experts have, or that it has as a whole, and where they come from.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use swiftlm_device::{Device, Order, Slice};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::WeightBuffer;

use super::reader::Record;
use super::source::{ExpertSource, Located, Part};
use super::store::StoreError;

/// One weight of a layer's experts: gate and up, or down. Of a layer that is brought as a whole, any of its weights.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    /// All experts of the layer, as the source has them.
    pub(crate) weight: WeightBuffer,
    /// Rows of one expert.
    pub(crate) rows: usize,
    /// The slots.
    pub(crate) slab: Slice,
    /// The order that the device keeps them in.
    pub(crate) order: Order,
}

/// The experts of one call, or all that it computes with as its only one.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) matrices: Vec<Matrix>,
    pub(crate) experts: usize,
    pub(crate) slots: usize,
    /// Checksum of each expert that was read, plus 2³²; 0 of others.
    sums: Vec<AtomicU64>,
    /// Where each expert that was asked for lies.
    located: Vec<OnceLock<Arc<Located>>>,
    /// Of a layer that is brought as a whole.
    scope: Option<String>,
}

impl Matrix {
    fn expert_type(&self) -> WeightType {
        WeightType { rows: self.rows, ..self.weight.ty }
    }
}

impl Layer {
    /// Experts of which so many are in memory, in slots of these matrices.
    pub(crate) fn of_experts(matrices: Vec<Matrix>, experts: usize, slots: usize) -> Self {
        let sums = (0..experts).map(|_| AtomicU64::new(0)).collect();
        Self { matrices, experts, slots, sums, located: vec![OnceLock::new(); experts], scope: None }
    }

    /// A layer with all its weights, and the name of its scope.
    pub(crate) fn whole(matrices: Vec<Matrix>, scope: &str) -> Self {
        Self { scope: Some(scope.to_owned()), ..Self::of_experts(matrices, 1, 1) }
    }

    /// What one is called, for people.
    pub(super) fn name_of(&self, expert: u32) -> String {
        self.scope.clone().unwrap_or_else(|| format!("expert {expert}"))
    }

    /// Where an expert lies.
    ///
    /// # Errors
    /// The source's words.
    pub(super) fn locate(&self, source: &dyn ExpertSource, expert: usize) -> Result<Arc<Located>, String> {
        let place = self.located.get(expert).ok_or_else(|| format!("there is no expert {expert}"))?;
        if let Some(located) = place.get() {
            return Ok(Arc::clone(located));
        }
        let parts = self.matrices.iter().map(|m| Part { weight: &m.weight, rows: m.rows, order: m.order });
        let parts: Vec<Part<'_>> = parts.collect();
        let located = source.locate(&parts, expert)?;
        Ok(Arc::clone(place.get_or_init(|| Arc::new(located))))
    }

    /// Writes a record to a slot.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn put(&self, slot: u32, record: &Record, device: &mut dyn Device) -> Result<(), StoreError> {
        let mut rest = record.bytes.as_ref();
        for (matrix, order) in self.matrices.iter().zip(record.orders.iter()) {
            let (part, behind) = rest.split_at(matrix.expert_type().bytes());
            rest = behind;
            let first = slot as usize * matrix.rows;
            let ty = WeightType { rows: self.slots * matrix.rows, ..matrix.weight.ty };
            device.replace(matrix.slab, ty, first..first + matrix.rows, part, *order)?;
        }
        Ok(())
    }

    /// Bytes of an expert.
    pub(super) fn expert_bytes(&self) -> usize {
        self.matrices.iter().map(|m| m.expert_type().bytes()).sum()
    }

    /// Holds the checksum of an expert that was read against what it should be or, where nobody knows, against what it was
    /// when it was read first.
    ///
    /// # Errors
    /// What is wrong with the expert, in words that follow its number.
    pub(super) fn check(&self, expert: u32, sum: u32, expected: Option<u32>) -> Result<(), String> {
        if let Some(expected) = expected {
            let says = "is not what it was when the package was made: make it again, or see `swiftlmc verify`";
            return if sum == expected { Ok(()) } else { Err(says.to_owned()) };
        }
        let known = &self.sums[expert as usize];
        let sum = 1 << 32 | u64::from(sum);
        // What was first read stays what is right.
        match known.compare_exchange(0, sum, Ordering::Relaxed, Ordering::Relaxed) {
            Err(before) if before != sum => {
                Err("is not what it was when it was read before: the file was changed, or the disk fails".to_owned())
            }
            _ => Ok(()),
        }
    }
}
