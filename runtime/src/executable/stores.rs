//! What brings weights while the engine runs: stores of experts and of layers that take turns, made of what is bound.

use std::ops::Range;
use std::sync::Arc;

use indexmap::IndexMap;
use swiftlm_device::Device;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::plan::Program;

use super::LoadError;
use super::bindings::Bindings;
use super::recordings::plan;
use crate::experts::{self, ExpertSource, Layer, Matrix, PassingLayers, Store, StreamedCall};
use crate::weights::Segment;

/// The store of a program whose experts take turns; `None` for any other.
pub(super) fn store(
    device: &dyn Device,
    program: &Program,
    bindings: &Bindings,
    calls: Range<usize>,
    source: Option<&Arc<dyn ExpertSource>>,
) -> Result<Option<Store>, LoadError> {
    let mut layers = vec![];
    for call in calls {
        for fetch in &plan(program, call, ShapeClass::One)?.fetches {
            let matrix = |slot: &usize| {
                let missing = || LoadError::Program(format!("call {call} has no weight {slot}"));
                let index = *program.call_weights.get(call).and_then(|w| w.get(*slot)).ok_or_else(missing)?;
                let rows = program.weights.get(index).ok_or_else(missing)?.ty.rows / fetch.experts.max(1);
                matrix(device, program, bindings, index, rows, fetch.slots)
            };
            let matrices = fetch.weights.iter().map(matrix).collect::<Result<_, LoadError>>()?;
            layers.push(Layer::of_experts(matrices, fetch.experts, fetch.slots));
        }
    }
    if layers.is_empty() {
        return Ok(None);
    }
    let guess = program.plans.iter().flatten().flat_map(|plan| &plan.fetches).any(|fetch| fetch.ahead.is_some());
    let started = Store::start(given(source)?, layers, guess);
    started.map(Some).map_err(|e| LoadError::Options(format!("experts cannot be read: {e}")))
}

/// The store of layers that take turns; `None` where all are in memory.
pub(super) fn passing(
    device: &dyn Device,
    program: &Program,
    bindings: &Bindings,
    streamed: &[StreamedCall],
    source: Option<&Arc<dyn ExpertSource>>,
) -> Result<Option<PassingLayers>, LoadError> {
    if streamed.is_empty() {
        return Ok(None);
    }
    let all = experts::layers(program).len();
    let mut rooms: Vec<usize> = vec![];
    let (mut layers, mut room_of) = (vec![], vec![]);
    for StreamedCall { call, room, slots } in streamed {
        let matrix = |slot: &usize| {
            let index = program.call_weights[*call][*slot];
            matrix(device, program, bindings, index, program.weights[index].ty.rows, 1)
        };
        let matrices = slots.iter().map(matrix).collect::<Result<_, LoadError>>()?;
        layers.push(Layer::whole(matrices, &program.module.main[*call].scope));
        room_of.push(rooms.iter().position(|known| known == room).unwrap_or_else(|| {
            rooms.push(*room);
            rooms.len() - 1
        }));
    }
    let in_memory = all - streamed.len() + rooms.len();
    let started = PassingLayers::start(given(source)?, layers, room_of, (in_memory, all));
    started.map(Some).map_err(|e| LoadError::Options(format!("layers cannot be read: {e}")))
}

fn given(source: Option<&Arc<dyn ExpertSource>>) -> Result<&Arc<dyn ExpertSource>, LoadError> {
    let missing = "weights take turns in memory, but nothing was given to read them from";
    source.ok_or_else(|| LoadError::Program(missing.to_owned()))
}

/// A weight that is brought in pieces of `rows` rows, to as many slots.
fn matrix(
    device: &dyn Device,
    program: &Program,
    bindings: &Bindings,
    index: usize,
    rows: usize,
    slots: usize,
) -> Result<Matrix, LoadError> {
    let missing = || LoadError::Program(format!("weight {index} is brought, but not bound"));
    let weight = program.weights.get(index).ok_or_else(missing)?.clone();
    let segment = Segment { weight: index, first: 0, count: slots * rows };
    let slab = *bindings.weights.get(&segment).ok_or_else(missing)?;
    Ok(Matrix { weight, rows, slab, order: device.order(slab) })
}

/// Of every weight of a layer that takes turns, the one in whose buffer it comes.
pub(super) fn rooms(program: &Program, streamed: &[StreamedCall]) -> Result<IndexMap<usize, usize>, LoadError> {
    let mut rooms = IndexMap::new();
    for StreamedCall { call, room, slots } in streamed.iter().filter(|streamed| streamed.call != streamed.room) {
        for slot in slots {
            let (own, first) = (program.call_weights[*call][*slot], program.call_weights[*room][*slot]);
            if program.weights[own].ty != program.weights[first].ty {
                let what = format!("weights {slot} of calls {room} and {call} differ, and their function is the same");
                return Err(LoadError::Program(what));
            }
            rooms.insert(own, first);
        }
    }
    Ok(rooms)
}
