//! Which layers run on the GPU and which on the CPU: the last ones and the head on the GPU, where not all fit it.

use std::str::FromStr;

use swiftlm_device::Target;
use swiftlm_ir::plan::Program;
use swiftlm_runtime::budget::{ContextWish, MemoryRequest};
use swiftlm_runtime::{DoesNotFit, MemoryPlan};

/// What of a GPU's memory is planned with, in percent: others draw on it, too.
const GPU_SHARE: u64 = 90;

/// How many layers shall run on the GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// All, or as many as fit.
    #[default]
    Auto,
    /// So many.
    Count(usize),
}

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Count).map_err(|_| "expected `auto` or a number of layers".to_owned()),
        }
    }
}

/// The memory plans of both devices, for the same sequences.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    /// Layers on the GPU.
    pub(crate) layers: usize,
    /// The first call that the GPU runs.
    pub(crate) first: usize,
    /// What the CPU holds.
    pub(crate) cpu: MemoryPlan,
    /// What the GPU holds.
    pub(crate) gpu: MemoryPlan,
}

/// Layers of a program: its calls but for the embedding and the head.
pub(crate) fn layers(program: &Program) -> usize {
    program.module.main.len().saturating_sub(2)
}

impl Split {
    /// What was asked for of a program that fits the GPU, or does not; `None` where all layers go there.
    ///
    /// # Errors
    /// So many layers do not fit the GPU, or the others the CPU.
    pub(crate) fn wanted(
        wish: GpuLayers,
        program: &Program,
        fits: bool,
        cpu: &Target,
        gpu: &Target,
        request: MemoryRequest,
    ) -> Result<Option<Self>, DoesNotFit> {
        match wish {
            GpuLayers::Count(n) if n >= layers(program) => Ok(None),
            GpuLayers::Count(n) => Self::new(program, n, (cpu, gpu), request).map(Some),
            GpuLayers::Auto if fits => Ok(None),
            GpuLayers::Auto => Ok(Self::largest(program, (cpu, gpu), request)),
        }
    }

    /// With so many layers on the GPU, at least one and not all.
    ///
    /// # Errors
    /// One of the two does not fit.
    fn new(
        program: &Program,
        on_gpu: usize,
        (cpu, gpu): (&Target, &Target),
        request: MemoryRequest,
    ) -> Result<Self, DoesNotFit> {
        let (calls, first) = (program.module.main.len(), 1 + layers(program) - on_gpu);
        let (below, above) = (program.only(0..first), program.only(first..calls));
        let on_cpu = MemoryPlan::new(&below, cpu, request)?;
        let same = MemoryRequest {
            limit: gpu.memory.map_or(u64::MAX, |memory| memory / 100 * GPU_SHARE),
            context: match request.context {
                ContextWish::UpTo(_) => ContextWish::UpTo(on_cpu.context()),
                exactly => exactly,
            },
            sequences: Some(on_cpu.max_sequences),
            layers: None,
        };
        let on_gpu_plan = MemoryPlan::new(&above, gpu, same)?;
        Ok(Self {
            layers: on_gpu,
            first,
            cpu: on_cpu.at_most(&below, &on_gpu_plan),
            gpu: on_gpu_plan.at_most(&above, &on_cpu),
        })
    }

    /// With as many layers on the GPU as fit; `None` where not even one does, or the CPU cannot take the others.
    fn largest(program: &Program, targets: (&Target, &Target), request: MemoryRequest) -> Option<Self> {
        (1..layers(program)).rev().find_map(|on_gpu| Self::new(program, on_gpu, targets, request).ok())
    }
}
