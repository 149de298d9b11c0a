//! Experts that take turns in memory: where they come from, which of them are in which slot, and who goes next. In models
//! without experts whole [`layers`](layers()) take turns.
//!
//! The host of a plan's [`Fetch`](swiftlm_ir::plan::Fetch) asks a [`Store`] for the experts that a step chose. What is in
//! a slot is computed with at once, while the others are read; what a row computes does not depend on when.

mod ahead;
mod layer;
mod layers;
mod passing;
mod reader;
mod residency;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod trace;
mod trial;

use std::time::Duration;

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::Program;

pub(crate) use layer::{Layer, Matrix};
pub use layers::{StreamedCall, layer_bytes, layers, streamed};
pub(crate) use layers::{passing_bytes, saved_bytes};
pub(crate) use passing::PassingLayers;
pub use residency::Residency;
pub use source::{Done, ExpertSource, Extent, Located, Part, Piece, Place, Read, Reads, Restore, extent_bytes};
pub(crate) use store::{Store, StoreError};
pub use trace::{Policy, Replayed, Trace};

/// Bytes that experts take on their way into the slots of a program, at most; 0 where all are in memory.
pub fn reader_bytes(program: &Program) -> u64 {
    let plans = program.plans.iter().filter_map(|classes| classes.first());
    let calls = program.module.main.iter().zip(&program.call_weights);
    let record = |weights: &Vec<usize>, of: &[usize], experts: usize| -> usize {
        let types = of.iter().filter_map(|slot| program.weights.get(*weights.get(*slot)?)).map(|w| w.ty);
        types.map(|ty| WeightType { rows: ty.rows / experts.max(1), ..ty }.bytes()).sum()
    };
    let records = calls.flat_map(|(call, weights)| {
        let fetches = plans.clone().filter(|plan| plan.func == call.func).flat_map(|plan| &plan.fetches);
        fetches.map(|fetch| record(weights, &fetch.weights, fetch.experts))
    });
    let guesses = plans.clone().flat_map(|plan| &plan.fetches).any(|fetch| fetch.ahead.is_some());
    let most = reader::RECORDS + if guesses { reader::GUESSED } else { 0 };
    records.max().map_or(0, |largest| (most * extent_bytes(largest)) as u64)
}

/// What became of experts that were guessed before they were chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AheadStats {
    /// Guesses that were asked for.
    pub guessed: u64,
    /// Those that were chosen when their reading had begun.
    pub useful: u64,
    /// Those that were read and not chosen. The others were never begun with.
    pub wasted: u64,
    /// Whether experts are read ahead; `None` while it is measured whether that pays.
    pub on: Option<bool>,
    /// Median times of a step without and with it, once that was measured.
    pub measured: Option<[Duration; 2]>,
}

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
    /// How they are read, for people.
    pub read_by: &'static str,
    /// Where experts can be read before they are chosen: what that did.
    pub ahead: Option<AheadStats>,
}
