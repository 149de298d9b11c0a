//! The certificate: logits at several depths of a fixed prompt, with which anyone can see that a package still computes
//! what it did, and what the model does.
//!
//! It holds two sets. The *reference* is made apart from the package's program: exact, and with nothing decided for
//! speed. *Own* are the program's. Both are made by micro-kernels without any machine's own instructions, so that they
//! depend neither on the machine that makes them nor on threads.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use swiftlm_compiler::{Choices, CompileOptions};
use swiftlm_cpu::{CpuDevice, CpuOptions, IsaKind, Tier};
use swiftlm_device::Device;
use swiftlm_ir::plan::Program;
use swiftlm_ir::quant::{Affine, Format};
use swiftlm_ir::ty::PAGE_TOKENS;
use swiftlm_models::Config;
use swiftlm_runtime::executable::{Row, Want};
use swiftlm_runtime::{Batch, Executable, ExecutableOptions};

use super::PackageError;
use super::manifest::Made;
use crate::checkpoint::Checkpoint;
use crate::compile::DriverError;
use crate::precision::Precision;

/// Name of the file.
pub(super) const FILE: &str = "certificate.safetensors";
/// Tokens of the prompt, unless the model's context is shorter: five pages.
const PROMPT: usize = 160;
/// Depths at which logits are kept: the first token, the last of a page, the first of one, and far inside.
const DEPTHS: [usize; 5] = [0, 31, 32, 100, 159];
/// Tokens of the steps that the prompt is computed in, over and over: one of each class.
const STEPS: [usize; 4] = [1, 5, 40, 70];

/// Logits of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Certificate {
    prompt: Vec<u32>,
    /// Positions whose logits are kept.
    depths: Vec<u32>,
    /// `[depths, vocabulary]` of the model.
    reference: Vec<f32>,
    /// `[depths, vocabulary]` of the package's program.
    own: Vec<f32>,
}

/// How far logits of the package's program are from the certificate's at one depth: `‖a − b‖ / ‖b‖`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    /// Position in the prompt.
    pub depth: u32,
    /// From what the program gave when the package was made.
    pub own: f64,
    /// From what the model gives when it is computed exactly.
    pub reference: f64,
}

fn run(reason: impl ToString) -> PackageError {
    PackageError::Run(reason.to_string())
}

impl Certificate {
    /// Computes the certificate of a program made of a checkpoint.
    ///
    /// # Errors
    /// The model cannot be built, or does not fit in memory.
    pub(super) fn make(program: Program, checkpoint: &Checkpoint, threads: usize) -> Result<Self, PackageError> {
        let config = Config::parse(checkpoint.config()).map_err(DriverError::from)?;
        let build = Precision::Exact.build(None, true);
        let model = swiftlm_models::build(&config, &checkpoint.tensors(), &build).map_err(DriverError::from)?;
        let options = CompileOptions {
            chunk: STEPS[3],
            max_rows: DEPTHS.len(),
            max_binding: usize::MAX / 2,
            choices: Choices::Plain,
            ..CompileOptions::default()
        };
        let plain = swiftlm_compiler::compile(&model.module, &options, &mut |_, _| {}).map_err(DriverError::from)?;
        let tokens = PROMPT.min(model.context.max(1));
        let prompt = prompt(tokens, model.module.vocabulary);
        let depths: Vec<u32> = DEPTHS.iter().filter(|d| **d < tokens).map(|d| *d as u32).collect();
        let portable = || -> Result<Box<dyn Device>, PackageError> {
            let options = CpuOptions { threads, tier: Tier::Native };
            Ok(Box::new(CpuDevice::with_isa(options, IsaKind::Portable).map_err(run)?))
        };
        let reference = logits(plain.program, checkpoint, portable()?, &prompt, &depths)?;
        let own = logits(program, checkpoint, portable()?, &prompt, &depths)?;
        Ok(Self { prompt, depths, reference, own })
    }

    /// Runs a program and says how far its logits are from the certificate.
    ///
    /// # Errors
    /// The program has another vocabulary, or cannot be run.
    pub(super) fn deviations(
        &self,
        program: Program,
        checkpoint: &Checkpoint,
        threads: usize,
    ) -> Result<Vec<Deviation>, PackageError> {
        if self.prompt.iter().any(|id| *id as usize >= program.module.vocabulary) {
            return Err(run("its certificate has ids beyond its vocabulary"));
        }
        let device = CpuDevice::new(CpuOptions { threads, tier: Tier::Native });
        let got = logits(program, checkpoint, Box::new(device), &self.prompt, &self.depths)?;
        if got.len() != self.own.len() {
            return Err(run(format!("it gives {} logits, its certificate has {}", got.len(), self.own.len())));
        }
        let width = (got.len() / self.depths.len().max(1)).max(1);
        let error = |of: &[f32], i: usize| relative_error(&got[i * width..][..width], &of[i * width..][..width]);
        let deviation = |(i, depth): (usize, &u32)| Deviation {
            depth: *depth,
            own: error(&self.own, i),
            reference: error(&self.reference, i),
        };
        Ok(self.depths.iter().enumerate().map(deviation).collect())
    }

    /// As a safetensors file.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, PackageError> {
        let words = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let (prompt, depths) = (words(&self.prompt), words(&self.depths));
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let (reference, own) = (floats(&self.reference), floats(&self.own));
        let shape = vec![self.depths.len(), self.own.len() / self.depths.len().max(1)];
        let view = |ty, shape: Vec<usize>, bytes| TensorView::new(ty, shape, bytes).map_err(run);
        let tensors = BTreeMap::from([
            ("depths", view(Dtype::U32, vec![self.depths.len()], &depths)?),
            ("own", view(Dtype::F32, shape.clone(), &own)?),
            ("reference", view(Dtype::F32, shape, &reference)?),
            ("prompt", view(Dtype::U32, vec![self.prompt.len()], &prompt)?),
        ]);
        safetensors::serialize(tensors, None).map_err(run)
    }

    /// From a safetensors file.
    ///
    /// # Errors
    /// A sentence saying what is wrong with it.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let words = |name: &str, ty: Dtype| -> Result<Vec<u32>, String> {
            let tensor = file.tensor(name).map_err(|e| e.to_string())?;
            if tensor.dtype() != ty {
                return Err(format!("`{name}`: expected {ty:?}, got {:?}", tensor.dtype()));
            }
            Ok(tensor.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let (prompt, depths) = (words("prompt", Dtype::U32)?, words("depths", Dtype::U32)?);
        let floats = |name| words(name, Dtype::F32).map(|w| w.into_iter().map(f32::from_bits).collect::<Vec<f32>>());
        let (reference, own) = (floats("reference")?, floats("own")?);
        let inside = depths.windows(2).all(|pair| pair[0] < pair[1])
            && depths.last().is_some_and(|last| (*last as usize) < prompt.len());
        let whole = !own.is_empty() && own.len() == reference.len() && own.len().is_multiple_of(depths.len());
        if prompt.len() > PROMPT || !inside || !whole {
            return Err("prompt, depths and logits do not belong together".to_owned());
        }
        Ok(Self { prompt, depths, reference, own })
    }
}

/// What [`Deviation`]s may be: `own` at every depth, `reference` at half of the depths or more, since experts that are
/// nearly as good as one another change places where values are rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Of the program on another machine: sums are in the same order, but terms are rounded once or twice, and what is
    /// rounded to codes may fall otherwise for it.
    pub own: f64,
    /// Of the program against the model.
    pub reference: f64,
}

impl Tolerance {
    /// For a program made so. The figures are several times what the demo model and the golden rows show.
    pub(super) fn of(made: &Made) -> Self {
        let kv = |format: Format| match format {
            Format::F32 => Self { own: 1e-4, reference: 1e-4 },
            Format::F16 => Self { own: 1e-3, reference: 4e-3 },
            Format::BF16 => Self { own: 1e-2, reference: 2e-2 },
            Format::Affine(Affine { bits: 8, .. }) => Self { own: 1e-2, reference: 3e-2 },
            Format::Affine(_) | Format::Mxfp4 => Self { own: 1e-1, reference: 4e-1 },
        };
        let activations = match made.activations.as_str() {
            "f32" => Self { own: 0.0, reference: 0.0 },
            "int16" => Self { own: 1e-3, reference: 1e-3 },
            "f16" => Self { own: 1e-3, reference: 4e-3 },
            _ => Self { own: 5e-2, reference: 1e-1 },
        };
        // Codes of an archive are as coarse as those of 4 bits, or coarser.
        let archive = match made.archive {
            Some(_) => Self { own: 1e-1, reference: 5e-1 },
            None => Self { own: 0.0, reference: 0.0 },
        };
        let all = [kv(made.keys), kv(made.values), archive];
        Self {
            own: all.iter().map(|kv| kv.own).fold(activations.own, |sum, own| sum.max(activations.own + own)),
            reference: (all.iter().map(|kv| kv.reference))
                .fold(activations.reference, |sum, own| sum.max(activations.reference + own)),
        }
    }

    /// Sentences about what exceeds it.
    pub(super) fn exceeded(&self, deviations: &[Deviation]) -> Vec<String> {
        let Self { own, reference } = self;
        let mut problems: Vec<String> = (deviations.iter().filter(|d| d.own > *own))
            .map(|d| {
                format!("logits at depth {} are off by {:.1e} from when it was made, {own:.0e} may be", d.depth, d.own)
            })
            .collect();
        let far = deviations.iter().filter(|d| d.reference > *reference).count();
        if 2 * far > deviations.len() {
            let worst = deviations.iter().map(|d| d.reference).fold(0.0, f64::max);
            problems.push(format!("logits are off by up to {worst:.1e} from the model's, {reference:.0e} may be"));
        }
        problems
    }
}

/// Token ids that look like none in particular: SplitMix64 (Steele, Lea & Flood 2014) below the vocabulary.
fn prompt(tokens: usize, vocabulary: usize) -> Vec<u32> {
    let mut state = 0u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % vocabulary as u64) as u32
    };
    (0..tokens).map(|_| next()).collect()
}

/// Logits after each of the wished positions of a prompt, one after another.
fn logits(
    program: Program,
    checkpoint: &Checkpoint,
    device: Box<dyn Device>,
    prompt: &[u32],
    depths: &[u32],
) -> Result<Vec<f32>, PackageError> {
    let pages = prompt.len().div_ceil(PAGE_TOKENS).max(1);
    let most_rows = program.max_rows;
    let options = ExecutableOptions {
        kv_pages: pages,
        max_sequences: 1,
        table_stride: pages,
        layers: None,
        experts: None,
        rest: None,
        progress: &mut |_| {},
    };
    let mut executable = Executable::load(device, program, checkpoint, options).map_err(run)?;
    let mut logits = vec![];
    let mut table = executable.alone(prompt.len());
    let mut at = 0;
    for step in STEPS.iter().cycle() {
        let mut count = (*step).min(executable.chunk()).min(prompt.len() - at);
        if count == 0 {
            break;
        }
        let wanted = |count: usize| depths.iter().map(|d| *d as usize).filter(move |d| (at..at + count).contains(d));
        // A program of few rows takes the depths one after another.
        if let Some(next) = wanted(count).nth(most_rows) {
            count = next - at;
        }
        let row = |depth: usize| Row { token: (depth - at) as u32, want: Want::Logits };
        let batch = Batch {
            ids: prompt[at..at + count].to_vec(),
            positions: (at..at + count).map(|p| p as u32).collect(),
            sequences: vec![0; count],
            rows: wanted(count).map(row).collect(),
            table: std::mem::take(&mut table),
            ..Batch::default()
        };
        let output = executable.step(&batch).map_err(run)?;
        for row in 0..batch.rows.len() {
            logits.extend_from_slice(output.logits(row).unwrap_or_default());
        }
        at += count;
    }
    Ok(logits)
}

/// `‖a − b‖ / ‖b‖`; infinite where a number is none.
fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    let error = (difference / norm).sqrt();
    if error.is_finite() { error } else { f64::INFINITY }
}
