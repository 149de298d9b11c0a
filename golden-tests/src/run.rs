//! Running a row on a device: prompt in chunks, logits at every position, greedy continuation.

use std::sync::Arc;

use swiftlm_compiler::CompileOptions;
use swiftlm_cpu::{CpuDevice, CpuOptions, Tier};
use swiftlm_device::Device;
use swiftlm_gpu::GpuDevice;
use swiftlm_ir::plan::Program;
use swiftlm_ir::quant::Format;
use swiftlm_ir::ty::PAGE_TOKENS;
use swiftlm_models::{Activations, BuildOptions};
use swiftlm_runtime::executable::{Rest, Row as WantRow, Want};
use swiftlm_runtime::experts::{ExpertSource, ExpertStats};
use swiftlm_runtime::state::{Mark, Sequence, StatePool, TableRow, TableRows};
use swiftlm_runtime::{Batch, Executable, ExecutableOptions, StepError};

use crate::fixture::Row;

/// Devices that rows run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The interpreter of kernels.
    Interpreter,
    /// Micro-kernels.
    Cpu,
    /// The GPU, or the software adapter.
    Wgpu,
}

impl On {
    /// Opens the device. Without an adapter this fails with the remedy: no test passes by skipping.
    pub fn open(self, threads: usize) -> Box<dyn Device> {
        let cpu = |tier| -> Box<dyn Device> { Box::new(CpuDevice::new(CpuOptions { threads, tier })) };
        match self {
            Self::Interpreter => cpu(Tier::Interpreter),
            Self::Cpu => cpu(Tier::Native),
            Self::Wgpu => Box::new(GpuDevice::open(None).unwrap_or_else(|e| panic!("{e}"))),
        }
    }
}

/// f32 everywhere: what the references are computed with.
pub fn exact() -> BuildOptions {
    BuildOptions { kv: (Format::F32, Format::F32), activations: Activations::F32, ..BuildOptions::default() }
}

/// Compiles a row.
pub fn compile(row: &Row, build: &BuildOptions, chunk: usize) -> Program {
    compile_with(row, build, CompileOptions { chunk, max_rows: chunk, ..CompileOptions::default() })
}

/// Compiles a row in a way of one's own.
pub fn compile_with(row: &Row, build: &BuildOptions, options: CompileOptions) -> Program {
    let model = swiftlm_models::build(&row.config, &row.index, build).unwrap_or_else(|e| panic!("{}: {e}", row.name));
    let compiled = swiftlm_compiler::compile(&model.module, &options, &mut |_, _| {});
    compiled.unwrap_or_else(|e| panic!("{}: {e}", row.name)).program
}

/// What is not on the one device all the time.
#[derive(Default)]
pub struct Placed {
    /// Layers that stay in memory, if not all do.
    pub layers: Option<usize>,
    /// Where experts and layers are read from.
    pub experts: Option<Arc<dyn ExpertSource>>,
    /// Calls on another device.
    pub rest: Option<Rest>,
}

/// A loaded row with room for `sequences` sequences of 512 tokens.
#[derive(Debug)]
pub struct Loaded {
    executable: Executable,
    pool: StatePool,
    sequences: Vec<(Sequence, TableRow)>,
}

const PAGES: usize = 512 / PAGE_TOKENS;

impl Loaded {
    /// Loads onto a device.
    pub fn new(row: &Row, program: Program, device: Box<dyn Device>, sequences: usize) -> Self {
        Self::with_experts(row, program, device, sequences, None)
    }

    /// Loads onto a device a program whose experts may take turns.
    pub fn with_experts(
        row: &Row,
        program: Program,
        device: Box<dyn Device>,
        sequences: usize,
        experts: Option<Arc<dyn ExpertSource>>,
    ) -> Self {
        Self::placed(row, program, device, sequences, Placed { experts, ..Placed::default() })
    }

    /// Loads onto a device what shall be there.
    pub fn placed(
        row: &Row,
        program: Program,
        device: Box<dyn Device>,
        sequences: usize,
        Placed { layers, experts, rest }: Placed,
    ) -> Self {
        let options = ExecutableOptions {
            kv_pages: sequences * PAGES,
            max_sequences: sequences,
            table_stride: PAGES,
            layers,
            experts,
            rest,
            progress: &mut |_| {},
        };
        let executable =
            Executable::load(device, program, row, options).unwrap_or_else(|e| panic!("{}: {e}", row.name));
        let mut pool = executable.state_pool(sequences);
        let mut rows = TableRows::new(sequences);
        let mut open = || {
            let sequence = Sequence::open(&mut pool, PAGES * PAGE_TOKENS).expect("there is a page for every token");
            (sequence, rows.take().expect("there is a row for every sequence"))
        };
        let sequences = (0..sequences).map(|_| open()).collect();
        Self { executable, pool, sequences }
    }

    /// What runs it.
    pub fn executable(&self) -> &Executable {
        &self.executable
    }

    /// What runs it, to be asked for more than steps.
    pub fn executable_mut(&mut self) -> &mut Executable {
        &mut self.executable
    }

    /// Takes a sequence back to a mark and gives the length from which its tokens must come again.
    pub fn rewind(&mut self, sequence: usize, mark: Mark) -> usize {
        self.sequences[sequence].0.rewind(&mut self.pool, mark).expect("a mark lies behind")
    }

    /// Keeps what recurrent states of a sequence hold now; whether there was room for it.
    pub fn snapshot(&mut self, sequence: usize) -> bool {
        self.sequences[sequence].0.snapshot(&mut self.pool)
    }

    /// The length of a sequence, to come back to.
    pub fn mark(&self, sequence: usize) -> Mark {
        self.sequences[sequence].0.mark()
    }

    /// What was read of experts.
    pub fn expert_stats(&self) -> Option<ExpertStats> {
        self.executable.expert_stats()
    }

    /// One step of (sequence, position, id) tokens; logits of all of them.
    pub fn step(&mut self, tokens: &[(u32, u32, u32)]) -> Vec<Vec<f32>> {
        self.try_step(tokens).unwrap_or_else(|e| panic!("{e}"))
    }

    /// As [`Self::step`].
    ///
    /// # Errors
    /// The step failed; its tokens may come again.
    pub fn try_step(&mut self, tokens: &[(u32, u32, u32)]) -> Result<Vec<Vec<f32>>, StepError> {
        let mut batch = Batch::default();
        let marks: Vec<Mark> = self.sequences.iter().map(|(sequence, _)| sequence.mark()).collect();
        for (s, (sequence, row)) in self.sequences.iter_mut().enumerate() {
            let own = tokens.iter().filter(|token| token.0 as usize == s).map(|token| token.1 as usize);
            assert!(own.clone().eq(sequence.length()..sequence.length() + own.clone().count()), "tokens follow on");
            sequence.append(&mut self.pool, own.count()).expect("there is room");
            batch.table.extend(row.update(sequence));
        }
        for (s, p, id) in tokens {
            batch.ids.push(*id);
            batch.positions.push(*p);
            let (sequence, row) = &self.sequences[*s as usize];
            batch.sequences.push(row.row());
            batch.units.extend(sequence.unit());
        }
        batch.transfers = self.pool.take_transfers();
        batch.rows = (0..tokens.len()).map(|t| WantRow { token: t as u32, want: Want::Logits }).collect();
        match self.executable.step(&batch) {
            Ok(output) => {
                let logits = (0..tokens.len()).map(|r| output.logits(r).expect("every row wants logits").to_vec());
                Ok(logits.collect())
            }
            Err(e) => {
                for (s, mark) in marks.into_iter().enumerate() {
                    self.rewind(s, mark);
                }
                Err(e)
            }
        }
    }

    /// Logits at every position of a prompt, in chunks.
    pub fn prompt(&mut self, sequence: u32, prompt: &[u32], chunk: usize) -> Vec<Vec<f32>> {
        assert_eq!(self.sequences[sequence as usize].0.length(), 0, "a prompt comes first");
        self.feed(sequence, prompt, chunk)
    }

    /// Logits of further tokens of a sequence, in chunks.
    pub fn feed(&mut self, sequence: u32, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
        let mut logits = vec![];
        for ids in ids.chunks(chunk) {
            let start = self.sequences[sequence as usize].0.length() as u32;
            logits.extend(self.step(&(start..).zip(ids).map(|(p, id)| (sequence, p, *id)).collect::<Vec<_>>()));
        }
        logits
    }

    /// Greedy continuation after a prompt whose last logits are `last`.
    pub fn greedy(&mut self, sequence: u32, start: usize, last: &[f32], count: usize) -> Vec<u32> {
        let mut last = last.to_vec();
        let mut ids = vec![];
        for n in 0..count {
            let id = arg_max(&last);
            ids.push(id);
            last = self.step(&[(sequence, (start + n) as u32, id)]).remove(0);
        }
        ids
    }
}

/// Index of the largest element, ties to the lowest.
pub fn arg_max(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().fold(0, |best, (i, x)| if *x > row[best] { i } else { best });
    best as u32
}

/// `‖a − b‖ / ‖b‖` over all elements.
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "equal sizes");
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    (difference / norm).sqrt()
}
