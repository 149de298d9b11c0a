//! Layers that take turns in memory, where not all weights of a model without experts fit: which ones do, and what that
//! leaves to be held.

use std::collections::BTreeMap;

use swiftlm_ir::plan::{Operand, Program};
use swiftlm_ir::template::Template;

use super::source::extent_bytes;

/// Layers that are read ahead of the one that is computed.
pub(super) const AHEAD: usize = 2;

/// Memory of the reads themselves, at most: sixteen of the largest pieces.
pub(super) const READING: usize = 128 << 20;

/// A call whose weights are brought before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamedCall {
    /// Index in the module's main sequence.
    pub call: usize,
    /// The streamed call whose buffers it uses: the first one of its function.
    pub room: usize,
    /// Slots of its weights that are brought, of [`Program::call_weights`].
    pub slots: Vec<usize>,
}

/// The calls that can take turns, in order: those of functions that are called more than once. Weights of experts have a
/// way of their own.
pub fn layers(program: &Program) -> Vec<usize> {
    let body = program.module.main.len().saturating_sub(1);
    let calls = &program.module.main[..body];
    let again = |func: usize| calls.iter().filter(|call| call.func == func).count() > 1;
    (0..body).filter(|i| again(calls[*i].func) && !slots(program, *i).is_empty()).collect()
}

/// The calls that take turns where so many of [`layers`] stay in memory. They are spread evenly, so that reads and
/// computation go on at the same time.
pub fn streamed(program: &Program, in_memory: usize) -> Vec<StreamedCall> {
    let all = layers(program);
    let away = all.len().saturating_sub(in_memory);
    let passes = |i: usize| i * away / all.len().max(1);
    let mut rooms = BTreeMap::new();
    let chosen = all.iter().enumerate().filter(|(i, _)| passes(i + 1) > passes(*i)).map(|(_, call)| *call);
    let streamed = |call: usize| {
        let room = *rooms.entry(program.module.main[call].func).or_insert(call);
        StreamedCall { call, room, slots: slots(program, call) }
    };
    chosen.map(streamed).collect()
}

/// Bytes of the weights that a call brings.
pub fn layer_bytes(program: &Program, call: usize) -> usize {
    let bytes = |slot: &usize| program.weights[program.call_weights[call][*slot]].ty.bytes();
    slots(program, call).iter().map(bytes).sum()
}

/// Bytes that need not be held where these calls take turns: of those with one room all but one.
pub(crate) fn saved_bytes(program: &Program, calls: &[StreamedCall]) -> u64 {
    let outside = calls.iter().filter(|streamed| streamed.room != streamed.call);
    outside.map(|streamed| layer_bytes(program, streamed.call) as u64).sum()
}

/// Bytes that layers take on their way into memory, at most.
pub(crate) fn passing_bytes(program: &Program, calls: &[StreamedCall]) -> u64 {
    let record = calls.iter().map(|streamed| extent_bytes(layer_bytes(program, streamed.call))).max();
    record.map_or(0, |record| (AHEAD * record + READING.min(AHEAD * record)) as u64)
}

/// Slots of a call whose weights are its own and always bound as a whole; none where it computes with experts.
fn slots(program: &Program, call: usize) -> Vec<usize> {
    let plans = program.plans.get(program.module.main[call].func).map_or(&[][..], Vec::as_slice);
    let dispatches = || plans.iter().flat_map(|plan| &plan.dispatches);
    if dispatches().any(|dispatch| matches!(dispatch.template, Template::ExpertLinear(_))) {
        return vec![];
    }
    let Some(weights) = program.call_weights.get(call) else { return vec![] };
    let own = |weight: &usize| program.call_weights.iter().flatten().filter(|other| *other == weight).count() == 1;
    let whole = |slot: usize, rows: usize| {
        let mut operands = dispatches().flat_map(|dispatch| &dispatch.args);
        operands.all(|operand| match operand {
            Operand::Weight { slot: bound, first, count } if *bound == slot => (*first, *count) == (0, rows),
            _ => true,
        })
    };
    let rows = |weight: &usize| program.weights.get(*weight).map(|weight| weight.ty.rows);
    let slots = weights.iter().enumerate().filter(|(_, weight)| own(weight));
    slots.filter(|(slot, weight)| rows(weight).is_some_and(|rows| whole(*slot, rows))).map(|(slot, _)| slot).collect()
}
