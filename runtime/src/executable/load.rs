//! Loading: checks a program against its options and device, uploads weights, loads kernels, records launches.

use std::ops::Range;
use std::sync::Arc;

use indexmap::IndexMap;
use swiftlm_device::{Device, DeviceError, Target};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::{Immediate, Kernel, Length};
use swiftlm_ir::plan::Program;
use swiftlm_ir::template::Template;
use swiftlm_ir::ty::{Recurrent, StateType};

use super::bindings::{Bindings, segment};
use super::next::Next;
use super::recordings::{Recorder, plan};
use super::recurrent::Recurrences;
use super::stores::{passing, rooms, store};
use super::{Executable, PageTable, RopeRows, StepOutput};
use crate::experts::{ExpertSource, streamed};
use crate::state::{PageSet, page_sets, recurrent_units};
use crate::weights::{Segment, WeightSource, upload};

/// Sizes that are chosen when a model is loaded.
pub struct ExecutableOptions<'a> {
    /// Pages of the KV pool, for states that keep every token; how many others need follows.
    pub kv_pages: usize,
    /// Sequences that can be alive at a time.
    pub max_sequences: usize,
    /// Pages that one sequence can hold.
    pub table_stride: usize,
    /// Of the [layers](crate::experts::layers) that can take turns in memory, those that stay; `None` for all.
    pub layers: Option<usize>,
    /// Where experts and layers are read from while the engine runs; needed where they take turns in memory.
    pub experts: Option<Arc<dyn ExpertSource>>,
    /// Where the last calls run, if not on the device of all.
    pub rest: Option<Rest>,
    /// Told how far loading is.
    pub progress: &'a mut dyn FnMut(Progress),
}

/// The last calls of a program, on a device of their own.
pub struct Rest {
    /// The first of them, in the module's main sequence: neither the first of all nor behind the last.
    pub first: usize,
    /// The device.
    pub device: Box<dyn Device>,
}

impl std::fmt::Debug for ExecutableOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kv_pages, max_sequences, table_stride, .. } = self;
        write!(f, "ExecutableOptions {{ {kv_pages} pages, {max_sequences} sequences of {table_stride} }}")
    }
}

/// How far loading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Weight bytes on the device.
    Weights {
        /// So far.
        done: usize,
        /// Of all.
        total: usize,
    },
    /// Recorded classes; their kernels are compiled.
    Kernels {
        /// So far.
        done: usize,
        /// Of all.
        total: usize,
    },
}

/// Why a program could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The device refused or failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A weight could not be read.
    #[error("weight {name}: {reason}")]
    Weight {
        /// Its full names.
        name: String,
        /// The source's words.
        reason: String,
    },
    /// The program does not hold together.
    #[error("the program is inconsistent: {0}")]
    Program(String),
    /// The sizes asked for cannot be had.
    #[error("{0}")]
    Options(String),
}

impl Executable {
    /// Loads a program onto a device.
    ///
    /// # Errors
    /// The device refuses, a weight cannot be read, or program and options do not fit each other.
    pub fn load(
        device: Box<dyn Device>,
        program: Program,
        source: &dyn WeightSource,
        mut options: ExecutableOptions<'_>,
    ) -> Result<Self, LoadError> {
        let calls = program.module.main.len();
        let Some(Rest { first, device: other }) = options.rest.take() else {
            return Self::load_calls(device, &program, source, &mut options, 0..calls);
        };
        if first == 0 || first >= calls {
            return Err(LoadError::Options(format!("call {first} begins what another device does: there are {calls}")));
        }
        let rest = Self::load_calls(other, &program, source, &mut options, first..calls)?;
        let executable = Self::load_calls(device, &program, source, &mut options, 0..first)?;
        Ok(Self { next: Some(Box::new(Next::new(&program, first, rest)?)), ..executable })
    }

    /// Loads some calls; what comes before and behind is done elsewhere.
    fn load_calls(
        mut device: Box<dyn Device>,
        program: &Program,
        source: &dyn WeightSource,
        options: &mut ExecutableOptions<'_>,
        calls: Range<usize>,
    ) -> Result<Self, LoadError> {
        let sets = page_sets(program, options.kv_pages, options.max_sequences);
        check(program, options, &sets, device.target())?;
        let mut bindings = Bindings::new(device.as_mut(), program, options, &sets, &calls)?;
        let token_classes = reachable(program.chunk);
        let last = program.module.main.len() - 1;
        let row_classes = if calls.contains(&last) { reachable(program.max_rows) } else { vec![] };
        let segments = segments(program, calls.clone(), &token_classes, &row_classes)?;
        let mut streamed = options.layers.map_or(vec![], |stay| streamed(program, stay));
        streamed.retain(|streamed| calls.contains(&streamed.call));
        let rooms = rooms(program, &streamed)?;
        let weight_bytes =
            upload_all(device.as_mut(), program, source, segments, &rooms, &mut bindings, options.progress)?;
        let body = calls.start..calls.end.min(last);
        let experts = store(device.as_ref(), program, &bindings, body.clone(), options.experts.as_ref())?;
        let layers = passing(device.as_ref(), program, &bindings, &streamed, options.experts.as_ref())?;
        let (mut bodies, mut heads) = (vec![], vec![]);
        let total_classes = token_classes.len() + row_classes.len();
        let mut recorder = Recorder {
            device: device.as_mut(),
            program,
            bindings: &bindings,
            streamed: &streamed,
            kernels: Default::default(),
        };
        for class in token_classes {
            bodies.push(recorder.body(body.clone(), class)?);
            (options.progress)(Progress::Kernels { done: bodies.len(), total: total_classes });
        }
        for class in row_classes {
            heads.push(recorder.head(class)?);
            (options.progress)(Progress::Kernels { done: bodies.len() + heads.len(), total: total_classes });
        }
        let recurrent = program.module.states.iter().any(|state| state.recurrent().is_some());
        let units = recurrent_units(options.max_sequences);
        let recurrences = recurrent.then(|| Recurrences::new(bindings.recurrent(program), units));
        Ok(Self {
            paged: bindings.paged(program),
            device,
            bindings,
            bodies,
            heads,
            recurrences,
            ropes: program.module.rope_tables.iter().cloned().map(RopeRows::new).collect(),
            tables: sets.into_iter().map(|set| PageTable { set, held: vec![0; options.max_sequences] }).collect(),
            max_sequences: options.max_sequences,
            experts,
            layers,
            chosen: vec![],
            slots: vec![],
            output: StepOutput::default(),
            vocabulary: program.module.vocabulary,
            chunk: program.chunk,
            max_rows: program.max_rows,
            kv_pages: options.kv_pages,
            table_stride: options.table_stride,
            weight_bytes,
            next: None,
        })
    }
}

/// Classes that steps of 1 to `most` rows can have.
fn reachable(most: usize) -> Vec<ShapeClass> {
    ShapeClass::ALL.into_iter().filter(|class| *class <= ShapeClass::of(most)).collect()
}

/// Weight rows that are bound together, with what reads them.
type Segments<'p> = IndexMap<Segment, Vec<&'p Template>>;

/// Distinct weight rows that any recorded launch binds, in order of first use.
fn segments<'p>(
    program: &'p Program,
    calls: Range<usize>,
    tokens: &[ShapeClass],
    rows: &[ShapeClass],
) -> Result<Segments<'p>, LoadError> {
    let mut found = Segments::new();
    let all = program.module.main.len();
    for call in calls {
        for class in if call + 1 == all { rows } else { tokens } {
            for dispatch in &plan(program, call, *class)?.dispatches {
                for segment in dispatch.args.iter().filter_map(|operand| segment(program, call, operand)) {
                    let readers = found.entry(segment).or_default();
                    if !readers.contains(&&dispatch.template) {
                        readers.push(&dispatch.template);
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Uploads every segment and gives the bytes of all.
fn upload_all(
    device: &mut dyn Device,
    program: &Program,
    source: &dyn WeightSource,
    segments: Segments<'_>,
    rooms: &IndexMap<usize, usize>,
    bindings: &mut Bindings,
    progress: &mut dyn FnMut(Progress),
) -> Result<usize, LoadError> {
    let held = segments.keys().filter(|segment| !rooms.contains_key(&segment.weight));
    let total: usize = held.map(|segment| segment_bytes(program, segment)).sum();
    if total > program.weight_bytes() {
        let once = program.weight_bytes();
        tracing::warn!(total, once, "weights are bound in overlapping segments and held more than once");
    }
    let mut done = 0;
    for (segment, readers) in segments {
        let missing = || LoadError::Program(format!("weight {}: there are {}", segment.weight, program.weights.len()));
        let weight = program.weights.get(segment.weight).ok_or_else(missing)?;
        if let Some(first) = rooms.get(&segment.weight) {
            let slice = *bindings.weights.get(&Segment { weight: *first, ..segment }).ok_or_else(missing)?;
            bindings.weights.insert(segment, slice);
            continue;
        }
        let slice = upload(device, source, weight, segment, &mut |piece| {
            done += piece;
            progress(Progress::Weights { done, total });
        })?;
        let ty = WeightType { rows: segment.count, ..weight.ty };
        device.settle(slice, ty, &readers)?;
        bindings.weights.insert(segment, slice);
    }
    Ok(total)
}

/// Bytes of a segment without the padding between its components.
fn segment_bytes(program: &Program, segment: &Segment) -> usize {
    let layout = program.weights.get(segment.weight).map(|w| w.ty.format.layout(segment.count, w.ty.cols));
    layout.map_or(0, |layout| layout.components.iter().map(|c| c.bytes).sum())
}

fn check(
    program: &Program,
    options: &ExecutableOptions<'_>,
    sets: &[PageSet],
    target: &Target,
) -> Result<(), LoadError> {
    let ExecutableOptions { kv_pages, max_sequences, table_stride, .. } = options;
    if program.module.main.is_empty() || program.chunk == 0 || program.max_rows == 0 || program.module.vocabulary == 0 {
        return Err(LoadError::Program("it has no calls, no vocabulary, or steps of no tokens".to_owned()));
    }
    if *kv_pages == 0 || *max_sequences == 0 || *table_stride == 0 {
        return Err(LoadError::Options(format!(
            "{kv_pages} KV pages, {max_sequences} sequences of {table_stride} pages: each must be at least 1"
        )));
    }
    let parts = program.module.states.iter().flat_map(|state| state.parts().into_iter().map(move |part| (state, part)));
    for (state, (window, halves)) in parts {
        let pages = sets.iter().find(|set| set.window == window).map_or(0, |set| set.pages);
        let page = halves.map(|part| state.page_bytes(part)).into_iter().max().unwrap_or(0);
        let largest = page.saturating_mul(pages);
        if largest > target.max_binding {
            let fits = target.max_binding / page.max(1);
            return Err(LoadError::Options(format!(
                "{pages} pages of {state} are {largest} bytes, more than device {} can bind at once: at most {fits} pages fit",
                target.name
            )));
        }
    }
    let units = recurrent_units(*max_sequences);
    let unit_bytes = |state: &StateType| Recurrent::PARTS.map(|part| state.unit_bytes(part)).into_iter().max();
    let recurrent = program.module.states.iter().filter(|state| state.recurrent().is_some());
    for (state, unit) in recurrent.filter_map(|state| Some((state, unit_bytes(state)?))) {
        let largest = unit.saturating_mul(units);
        if largest > target.max_binding {
            let each = recurrent_units(1).saturating_mul(unit).max(1);
            return Err(LoadError::Options(format!(
                "{units} units of {state} are {largest} bytes, more than device {} can bind at once: at most {} sequences fit",
                target.name,
                target.max_binding / each
            )));
        }
    }
    let table = table_stride.saturating_mul(*max_sequences).saturating_mul(4);
    if table > target.max_binding {
        return Err(LoadError::Options(format!(
            "a page table of {table} bytes is more than the device can bind at once"
        )));
    }
    let pages_of = |k: &Kernel| k.immediate_max[Immediate::TableStride as usize] as usize;
    let reads_table = |k: &&Kernel| k.args.iter().any(|a| a.len == Length::PageTable);
    if let Some(kernel) = program.kernels.iter().filter(reads_table).find(|k| *table_stride > pages_of(k)) {
        return Err(LoadError::Options(format!(
            "kernel {} was made for at most {} pages per sequence, not {table_stride}: compile for a longer context",
            kernel.name,
            pages_of(kernel)
        )));
    }
    Ok(())
}
