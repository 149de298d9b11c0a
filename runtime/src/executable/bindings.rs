//! Which buffer each operand of a plan names.

use std::ops::Range;

use indexmap::IndexMap;
use swiftlm_device::{BufferId, Device, DeviceError, Slice, Usage};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::plan::{Input, Operand, Program};
use swiftlm_ir::ty::Recurrent;

use super::saved::PagedPart;
use super::{ExecutableOptions, LoadError};
use crate::state::{PageSet, recurrent_units};
use crate::weights::Segment;

/// Every buffer of an executable.
#[derive(Debug)]
pub(super) struct Bindings {
    arena: Slice,
    inputs: IndexMap<Input, Slice>,
    states: Vec<Vec<Slice>>,
    pub(super) weights: IndexMap<Segment, Slice>,
}

impl Bindings {
    /// The pages of every part of every state.
    pub(super) fn states(&self) -> impl Iterator<Item = Slice> + '_ {
        self.states.iter().flatten().copied()
    }

    /// Every part of every state that is made of pages; parts that a state does not have are left out.
    pub(super) fn paged(&self, program: &Program) -> Vec<PagedPart> {
        let mut paged = vec![];
        for (ty, slices) in program.module.states.iter().zip(&self.states) {
            let parts = ty.parts().into_iter().flat_map(|(window, parts)| parts.map(|part| (window, part)));
            for ((window, part), slice) in parts.zip(slices) {
                paged.push(PagedPart { window, slice: *slice, page: ty.page_bytes(part) });
            }
        }
        paged.retain(|part| part.page > 0);
        paged
    }

    /// Every part of every recurrent state with the bytes of one unit; parts that a state does not have are empty.
    pub(super) fn recurrent(&self, program: &Program) -> Vec<(Slice, usize)> {
        let states = program.module.states.iter().zip(&self.states).filter(|(ty, _)| ty.recurrent().is_some());
        let parts = states
            .flat_map(|(ty, parts)| parts.iter().zip(Recurrent::PARTS).map(|(s, part)| (*s, ty.unit_bytes(part))));
        parts.filter(|(_, unit)| *unit > 0).collect()
    }

    /// Allocates everything but weights; of states all but those of other calls.
    pub(super) fn new(
        device: &mut dyn Device,
        program: &Program,
        options: &ExecutableOptions<'_>,
        sets: &[PageSet],
        calls: &Range<usize>,
    ) -> Result<Self, LoadError> {
        let mut alloc = |bytes: usize, usage: Usage, what: &str| -> Result<Slice, DeviceError> {
            let bytes = bytes.next_multiple_of(4).max(4);
            Ok(Slice { buffer: device.alloc(bytes, usage, what)?, offset: 0, bytes })
        };
        // Kernels of a class are made for its bound, which may exceed the largest step.
        let bound = |rows: usize| ShapeClass::of(rows).max_rows(program.chunk.max(program.max_rows));
        let (tokens, rows) = (bound(program.chunk), bound(program.max_rows));
        let words = [
            (Input::Ids, tokens, "token ids"),
            (Input::Positions, tokens, "positions"),
            (Input::Sequences, tokens, "sequences"),
            (Input::Rows, rows, "rows that want logits"),
        ];
        let mut inputs = IndexMap::new();
        for (input, count, what) in words {
            inputs.insert(input, alloc(count * 4, Usage::Input, what)?);
        }
        for set in sets {
            let what = if set.window.is_all() { "the page table" } else { "the page table of a window" };
            let words = options.max_sequences * options.table_stride;
            inputs.insert(Input::PageTable(set.window), alloc(words * 4, Usage::Input, what)?);
        }
        for (i, table) in program.module.rope_tables.iter().enumerate() {
            let bytes = tokens * table.inverse_frequencies.len() * 8;
            inputs.insert(Input::RopeTable(i), alloc(bytes, Usage::Input, "a rope table")?);
        }
        let fetches = program.plans.iter().flatten().flat_map(|plan| &plan.fetches);
        if let Some(top_k) = fetches.map(|fetch| fetch.top_k).max() {
            inputs.insert(Input::Slots, alloc(tokens * top_k * 4, Usage::Input, "slots of experts")?);
        }
        let recurrent = program.module.states.iter().any(|state| state.recurrent().is_some());
        if recurrent {
            inputs.insert(Input::Units, alloc(tokens * 4, Usage::Input, "units of recurrent states")?);
            inputs.insert(Input::Segments, alloc(tokens * 12, Usage::Input, "runs of tokens")?);
        }
        let arena = alloc(program.arena_bytes, Usage::ReadWrite, "the arena")?;
        let mut states = vec![];
        let units = recurrent_units(options.max_sequences);
        for (i, state) in program.module.states.iter().enumerate() {
            let mut parts = vec![];
            let mut others = program.module.main.iter().enumerate().filter(|(call, _)| !calls.contains(call));
            if others.any(|(_, call)| call.states.contains(&i)) {
                states.push(parts);
                continue;
            }
            for part in state.recurrent().map(|_| Recurrent::PARTS).into_iter().flatten() {
                parts.push(alloc(units * state.unit_bytes(part), Usage::ReadWrite, "recurrent states")?);
            }
            for (window, halves) in state.parts() {
                let pages = sets.iter().find(|set| set.window == window).map_or(0, |set| set.pages);
                for (part, what) in halves.into_iter().zip(["key pages", "value pages"]) {
                    parts.push(alloc(pages * state.page_bytes(part), Usage::ReadWrite, what)?);
                }
            }
            states.push(parts);
        }
        Ok(Self { arena, inputs, states, weights: IndexMap::new() })
    }

    /// The activations of a step; values between calls are at its start.
    pub(super) fn arena(&self) -> Slice {
        self.arena
    }

    /// The buffer of an input of the step.
    pub(super) fn input(&self, input: Input) -> BufferId {
        self.inputs[&input].buffer
    }

    /// The range that `operand` names in call `call` of main.
    pub(super) fn resolve(&self, program: &Program, call: usize, operand: &Operand) -> Result<Slice, LoadError> {
        let found = match operand {
            Operand::Arena { offset, bytes } => offset
                .checked_add(*bytes)
                .filter(|end| *end <= self.arena.bytes)
                .map(|_| Slice { offset: *offset, bytes: *bytes, ..self.arena }),
            Operand::Weight { .. } => {
                segment(program, call, operand).and_then(|segment| self.weights.get(&segment)).copied()
            }
            Operand::State { state, part } => {
                let state = program.module.main[call].states.get(*state);
                state.and_then(|state| self.states.get(*state)?.get(*part)).copied()
            }
            Operand::Input(input) => self.inputs.get(input).copied(),
        };
        let scope = &program.module.main[call].scope;
        found
            .ok_or_else(|| LoadError::Program(format!("call {call} ({scope}) names {operand:?}, which does not exist")))
    }
}

/// The weight rows that an operand names, if it names any.
pub(super) fn segment(program: &Program, call: usize, operand: &Operand) -> Option<Segment> {
    let Operand::Weight { slot, first, count } = operand else { return None };
    let weight = *program.call_weights.get(call)?.get(*slot)?;
    Some(Segment { weight, first: *first, count: *count })
}
