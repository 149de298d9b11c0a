//! The memory plan: what a model takes and how many pages and sequences fit beside it. What the plan says is what
//! [`Executable::load`](crate::Executable::load) allocates; a model that does not fit is refused, never swapped.

use std::fmt;

use swiftlm_device::Target;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::{Immediate, Length};
use swiftlm_ir::plan::Program;
use swiftlm_ir::ty::{PAGE_TOKENS, Recurrent, StateType, Window};

#[cfg(doc)]
use crate::experts::layers;
use crate::experts::{passing_bytes, reader_bytes, saved_bytes, streamed};
use crate::state::{page_sets, recurrent_units};

/// Left for the process itself, kernels and staging: with the tokenizer and the server within the 200 MiB that the
/// resident memory may exceed the plan by.
const PROCESS_BYTES: u64 = 64 << 20;

/// Sequences that are planned for unless told, as far as a step can hold them.
const SEQUENCES: usize = 16;

/// Tokens of the pool for each sequence, beyond which a larger pool seldom serves more requests.
const TOKENS_PER_SEQUENCE: usize = 4096;

/// Shortest context that is worth loading a model for, unless the model's own is shorter.
const LEAST_CONTEXT: usize = 512;

/// How long sequences shall be, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextWish {
    /// As long as fits, up to this (the model's own context).
    UpTo(usize),
    /// This long, or the plan fails (the user asked for it).
    Exactly(usize),
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRequest {
    /// Bytes that everything together may take; the device's own memory bounds it too.
    pub limit: u64,
    /// Tokens that one sequence shall be able to hold.
    pub context: ContextWish,
    /// Sequences alive at a time; `None` for as many as are useful.
    pub sequences: Option<usize>,
    /// Of the [layers] that can take turns in memory, those that stay; `None` for all.
    pub layers: Option<usize>,
}

/// What a loaded model takes, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Name of the device.
    pub device: String,
    /// Bound of the whole.
    pub limit: u64,
    /// Weights that are in memory at a time.
    pub weights: u64,
    /// Activations of a step.
    pub arena: u64,
    /// Ids, positions, page tables, rope tables.
    pub inputs: u64,
    /// The process itself, kernels, staging.
    pub process: u64,
    /// Experts or layers on their way from disk, where not all are in memory.
    pub readers: u64,
    /// Of the [layers] that can take turns in memory, those that stay; `None` for all.
    pub layers: Option<usize>,
    /// One page of all states that keep every token.
    pub page_bytes: u64,
    /// Pages of the pool.
    pub kv_pages: usize,
    /// What states with windows take beside it.
    pub rings: Vec<RingPlan>,
    /// What recurrent states take, snapshots included.
    pub recurrent: u64,
    /// Pages that one sequence can hold.
    pub table_stride: usize,
    /// Sequences alive at a time.
    pub max_sequences: usize,
}

/// The pages of all states with one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPlan {
    /// Tokens that they are kept for.
    pub window: Window,
    /// One page of all these states.
    pub page_bytes: u64,
    /// Pages there are, for all sequences together.
    pub pages: usize,
}

/// A model that does not fit, with the plan that would be needed and what would help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model does not fit: {remedy}\n{plan}")]
pub struct DoesNotFit {
    /// The smallest plan that would serve the request; its total exceeds its limit, or its pages what the device binds.
    pub plan: Box<MemoryPlan>,
    /// What would help.
    pub remedy: String,
}

impl MemoryPlan {
    /// The plan of a program on a device.
    ///
    /// # Errors
    /// It does not fit.
    pub fn new(program: &Program, target: &Target, request: MemoryRequest) -> Result<Self, DoesNotFit> {
        let most_sequences = program.chunk.min(program.max_rows).max(1);
        let useful = || SEQUENCES.min(most_sequences).min(affordable(program, target, request.limit));
        let max_sequences = request.sequences.unwrap_or_else(useful).max(1);
        let (wished, least) = match request.context {
            ContextWish::UpTo(tokens) => (pages(tokens), pages(tokens.min(LEAST_CONTEXT))),
            ContextWish::Exactly(tokens) => (pages(tokens), pages(tokens)),
        };
        let streamed = request.layers.map_or(vec![], |stay| streamed(program, stay));
        let outside = program.streamed_bytes() as u64 + saved_bytes(program, &streamed);
        let mut plan = Self {
            device: target.name.clone(),
            limit: target.memory.map_or(request.limit, |memory| memory.min(request.limit)),
            weights: (program.weight_bytes() as u64).saturating_sub(outside),
            arena: program.arena_bytes as u64,
            inputs: input_bytes(program, wished.saturating_mul(max_sequences)),
            process: PROCESS_BYTES,
            readers: reader_bytes(program) + passing_bytes(program, &streamed),
            layers: request.layers,
            page_bytes: page_bytes(program, Window::ALL),
            kv_pages: least,
            rings: rings(program, least, max_sequences),
            recurrent: recurrent(program, max_sequences),
            table_stride: least,
            max_sequences,
        };
        let kernels = kernel_pages(program);
        let bound = most(|kv_pages| binds(program, kv_pages, max_sequences, target));
        let most = bound.min(most(|kv_pages| plan.with_pages(program, kv_pages).total() <= plan.limit));
        let fits = most.min(kernels);
        if plan.total() > plan.limit || least > fits {
            let remedy = plan.remedy(fits, bound.min(kernels));
            return Err(DoesNotFit { plan: Box::new(plan), remedy });
        }
        plan.table_stride = wished.min(fits);
        // Where every state has a window, length costs nothing.
        let longest = if plan.page_bytes == 0 { usize::MAX } else { pages(TOKENS_PER_SEQUENCE) };
        let each = plan.table_stride.min(longest);
        Ok(plan.with_pages(program, plan.table_stride.max(each.saturating_mul(max_sequences)).min(most)))
    }

    /// The plan with another pool.
    fn with_pages(&self, program: &Program, kv_pages: usize) -> Self {
        Self { kv_pages, rings: rings(program, kv_pages, self.max_sequences), ..self.clone() }
    }

    /// The plan with no more pages, and no longer sequences, than another of the same sequences has: where two devices
    /// share the layers, a page is on both.
    #[must_use]
    pub fn at_most(&self, program: &Program, other: &Self) -> Self {
        let stride = self.table_stride.min(other.table_stride);
        let plan = Self { table_stride: stride, ..self.clone() };
        plan.with_pages(program, self.kv_pages.min(other.kv_pages).max(stride))
    }

    /// Bytes of all states.
    pub fn kv(&self) -> u64 {
        let rings = self.rings.iter().map(RingPlan::bytes).fold(0, u64::saturating_add);
        self.pool().saturating_add(rings).saturating_add(self.recurrent)
    }

    /// Bytes of the pages of states that keep every token.
    fn pool(&self) -> u64 {
        self.page_bytes.saturating_mul(self.kv_pages as u64)
    }

    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        let parts = [self.weights, self.arena, self.inputs, self.process, self.readers, self.kv()];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// Tokens that one sequence can hold.
    pub fn context(&self) -> usize {
        self.table_stride * PAGE_TOKENS
    }

    /// What helps when `fits` pages fit and the device and its kernels can use `bound` at most.
    fn remedy(&self, fits: usize, bound: usize) -> String {
        if self.table_stride > bound {
            let most = bound * PAGE_TOKENS;
            return format!(
                "device {} can hold {most} tokens of one sequence: ask for a context of at most that",
                self.device
            );
        }
        let needed = mib(self.total()).ceil();
        let longer = format!("a context of {} tokens needs a memory limit of at least {needed} MiB", self.context());
        match fits * PAGE_TOKENS {
            0 => longer,
            tokens => format!("{longer}, and one of at most {tokens} tokens fits now"),
        }
    }
}

impl RingPlan {
    /// Bytes of all pages.
    pub fn bytes(&self) -> u64 {
        self.page_bytes.saturating_mul(self.pages as u64)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = format!("KV pool, {} tokens", self.kv_pages * PAGE_TOKENS);
        let ring = |ring: &RingPlan| {
            let name = match ring.window {
                Window { first: 0, last } => format!("KV of the last {last} tokens"),
                Window { first, last } => format!("KV of {first} first, {last} last"),
            };
            (name, ring.bytes())
        };
        let reading = if self.layers.is_some() { "layers being read" } else { "experts being read" };
        let mut rows = vec![("weights".to_owned(), self.weights), (pool, self.pool())];
        rows.extend(self.rings.iter().map(ring));
        rows.extend((self.recurrent > 0).then(|| ("recurrent states".to_owned(), self.recurrent)));
        rows.extend((self.readers > 0).then(|| (reading.to_owned(), self.readers)));
        rows.extend([
            ("activations".to_owned(), self.arena),
            ("step inputs".to_owned(), self.inputs),
            ("process".to_owned(), self.process),
            ("total".to_owned(), self.total()),
            ("limit".to_owned(), self.limit),
        ]);
        writeln!(f, "{:<28} {:>12}", format!("memory on {}", self.device), "MiB")?;
        for (name, bytes) in rows {
            writeln!(f, "{name:<28} {:>12.1}", mib(bytes))?;
        }
        write!(f, "up to {} sequences of up to {} tokens", self.max_sequences, self.context())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Pages that hold so many tokens; at least one.
fn pages(tokens: usize) -> usize {
    tokens.div_ceil(PAGE_TOKENS).max(1)
}

/// Bytes of a page of each part with a window, of all states.
fn parts(program: &Program, window: Window) -> impl Iterator<Item = usize> + '_ {
    let of = move |state: &StateType| state.parts().into_iter().filter(move |(of, _)| *of == window);
    let bytes = |state: &StateType, parts: [usize; 2]| parts.map(|part| state.page_bytes(part));
    let states = program.module.states.iter();
    states.flat_map(move |state| of(state).flat_map(|(_, parts)| bytes(state, parts)).collect::<Vec<_>>())
}

/// Bytes of a page of all parts with a window.
fn page_bytes(program: &Program, window: Window) -> u64 {
    parts(program, window).map(|bytes| bytes as u64).sum()
}

/// What states with windows take where others have `kv_pages` pages.
fn rings(program: &Program, kv_pages: usize, max_sequences: usize) -> Vec<RingPlan> {
    let sets = page_sets(program, kv_pages, max_sequences).into_iter().filter(|set| !set.window.is_all());
    sets.map(|set| RingPlan { window: set.window, page_bytes: page_bytes(program, set.window), pages: set.pages })
        .collect()
}

/// Bytes of recurrent states and their snapshots.
fn recurrent(program: &Program, max_sequences: usize) -> u64 {
    (program.recurrent_bytes() as u64).saturating_mul(recurrent_units(max_sequences) as u64)
}

/// Sequences whose recurrent states take a quarter of what weights leave, and that the device can bind at once.
fn affordable(program: &Program, target: &Target, limit: u64) -> usize {
    let left = target.memory.map_or(limit, |memory| memory.min(limit)).saturating_sub(program.weight_bytes() as u64);
    let by_memory = (left / 4).checked_div(recurrent(program, 1));
    let units = program.module.states.iter().filter(|state| state.recurrent().is_some());
    let largest = units.flat_map(|state| Recurrent::PARTS.map(|part| state.unit_bytes(part))).max().unwrap_or(0);
    let by_binding = target.max_binding.checked_div(largest.saturating_mul(recurrent_units(1)));
    let by_memory = by_memory.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    by_memory.min(by_binding.unwrap_or(usize::MAX))
}

/// Whether the device can bind all pages of each state.
fn binds(program: &Program, kv_pages: usize, max_sequences: usize, target: &Target) -> bool {
    page_sets(program, kv_pages, max_sequences).iter().all(|set| {
        let part = parts(program, set.window).max();
        part.unwrap_or(0).saturating_mul(set.pages) <= target.max_binding
    })
}

/// The most pages for which `fits` holds, as it does for all fewer; 0 if it holds for none.
fn most(fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, u32::MAX as usize);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

/// Pages per sequence that the kernels were made for.
fn kernel_pages(program: &Program) -> usize {
    let reads_table = program.kernels.iter().filter(|k| k.args.iter().any(|a| a.len == Length::PageTable));
    reads_table.map(|k| k.immediate_max[Immediate::TableStride as usize] as usize).min().unwrap_or(usize::MAX)
}

/// Bytes of a step's inputs with page tables of so many entries.
fn input_bytes(program: &Program, table: usize) -> u64 {
    let rows = ShapeClass::Many.max_rows(program.chunk.max(program.max_rows)) as u64;
    let ropes: usize = program.module.rope_tables.iter().map(|t| 2 * t.inverse_frequencies.len()).sum();
    let tables = page_sets(program, 1, 1).len();
    // A token's unit, and three numbers for its run.
    let recurrent = if program.recurrent_bytes() > 0 { 4 } else { 0 };
    rows * 4 * (4 + recurrent + ropes as u64) + 4 * (table * tables) as u64
}
