//! The memory plan: what a model takes and how many pages and sequences fit beside it. What the plan says is what
//! [`Executable::load`](crate::Executable::load) allocates; a model that does not fit is refused, never swapped.

use std::fmt;

use swiftlm_device::Target;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::{Immediate, Length};
use swiftlm_ir::plan::Program;
use swiftlm_ir::ty::PAGE_TOKENS;

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
}

/// What a loaded model takes, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Name of the device.
    pub device: String,
    /// Bound of the whole.
    pub limit: u64,
    /// All weights.
    pub weights: u64,
    /// Activations of a step.
    pub arena: u64,
    /// Ids, positions, page table, rope tables.
    pub inputs: u64,
    /// The process itself, kernels, staging.
    pub process: u64,
    /// One page of all states.
    pub page_bytes: u64,
    /// Pages of the pool.
    pub kv_pages: usize,
    /// Pages that one sequence can hold.
    pub table_stride: usize,
    /// Sequences alive at a time.
    pub max_sequences: usize,
}

/// A model that does not fit, with the plan that would be needed and what would help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model does not fit: {remedy}\n{plan}")]
pub struct DoesNotFit {
    /// The smallest plan that would serve the request; its total exceeds its limit, or its pages what the device binds.
    pub plan: MemoryPlan,
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
        let max_sequences = request.sequences.unwrap_or(SEQUENCES.min(most_sequences)).max(1);
        let (wished, least) = match request.context {
            ContextWish::UpTo(tokens) => (pages(tokens), pages(tokens.min(LEAST_CONTEXT))),
            ContextWish::Exactly(tokens) => (pages(tokens), pages(tokens)),
        };
        let mut plan = Self {
            device: target.name.clone(),
            limit: target.memory.map_or(request.limit, |memory| memory.min(request.limit)),
            weights: (program.weight_bytes() - program.streamed_bytes().min(program.weight_bytes())) as u64,
            arena: program.arena_bytes as u64,
            inputs: input_bytes(program, wished.saturating_mul(max_sequences)),
            process: PROCESS_BYTES,
            page_bytes: (program.kv_bytes_per_token() * PAGE_TOKENS) as u64,
            kv_pages: least,
            table_stride: least,
            max_sequences,
        };
        let kernels = kernel_pages(program);
        let bound = target.max_binding / largest_part(program).max(1);
        let memory = plan.limit.saturating_sub(plan.total() - plan.kv()) / plan.page_bytes.max(1);
        let most = bound.min(usize::try_from(memory).unwrap_or(usize::MAX));
        let fits = most.min(kernels);
        if plan.total() > plan.limit || least > fits {
            let remedy = plan.remedy(fits, bound.min(kernels));
            return Err(DoesNotFit { plan, remedy });
        }
        plan.table_stride = wished.min(fits);
        let shared = plan.table_stride.min(pages(TOKENS_PER_SEQUENCE)).saturating_mul(max_sequences);
        plan.kv_pages = plan.table_stride.max(shared).min(most);
        Ok(plan)
    }

    /// Bytes of the page pool.
    pub fn kv(&self) -> u64 {
        self.page_bytes.saturating_mul(self.kv_pages as u64)
    }

    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        [self.weights, self.arena, self.inputs, self.process, self.kv()].into_iter().fold(0, u64::saturating_add)
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

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = format!("KV pool, {} tokens", self.kv_pages * PAGE_TOKENS);
        let rows = [
            ("weights", self.weights),
            (pool.as_str(), self.kv()),
            ("activations", self.arena),
            ("step inputs", self.inputs),
            ("process", self.process),
            ("total", self.total()),
            ("limit", self.limit),
        ];
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

/// Bytes of a page of the largest buffer of pages.
fn largest_part(program: &Program) -> usize {
    program.module.states.iter().map(|s| s.page_bytes(0).max(s.page_bytes(1))).max().unwrap_or(0)
}

/// Pages per sequence that the kernels were made for.
fn kernel_pages(program: &Program) -> usize {
    let reads_table = program.kernels.iter().filter(|k| k.args.iter().any(|a| a.len == Length::PageTable));
    reads_table.map(|k| k.immediate_max[Immediate::TableStride as usize] as usize).min().unwrap_or(usize::MAX)
}

/// Bytes of a step's inputs with a page table of so many entries.
fn input_bytes(program: &Program, table: usize) -> u64 {
    let rows = ShapeClass::Many.max_rows(program.chunk.max(program.max_rows)) as u64;
    let ropes: usize = program.module.rope_tables.iter().map(|t| 2 * t.inverse_frequencies.len()).sum();
    rows * 4 * (4 + ropes as u64) + 4 * table as u64
}
