//! Experts that take turns in memory: where they come from, which of them are in which slot, and who goes next.
//!
//! The host of a plan's [`Fetch`](swiftlm_ir::plan::Fetch) asks a [`Store`] for the experts that a step chose. What is in
//! a slot is computed with at once, while the others are read; what a row computes does not depend on when.

mod reader;
mod residency;
mod store;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use crate::weights::WeightSource;

pub use residency::Residency;
pub(crate) use store::{Layer, Matrix, Store, StoreError};
pub use trace::{Policy, Replayed, Trace};

/// Where threads read experts from while the engine computes.
pub type ExpertSource = Arc<dyn WeightSource + Send + Sync>;

/// What the store did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertStats {
    /// Experts that a step chose and that were in memory.
    pub hits: u64,
    /// Experts that a step chose and that were read.
    pub misses: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Time from the begin of each read to its end, added up: reads overlap.
    pub reading: Duration,
    /// Time that steps waited with nothing to compute.
    pub stalled: Duration,
    /// Slots of a layer.
    pub slots: usize,
    /// Experts of a layer.
    pub experts: usize,
}
