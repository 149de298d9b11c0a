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
            // A limit that somebody set is not made wider by a second device.
            GpuLayers::Auto if fits || gpu.memory.is_none_or(|memory| memory >= request.limit) => Ok(None),
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
            limit: gpu.memory.map_or(u64::MAX, |memory| memory / 100 * GPU_SHARE).min(request.limit),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use swiftlm_driver::checkpoint::Checkpoint;
    use swiftlm_driver::compile::{Options, compile};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn target(name: &str, memory: Option<u64>) -> Target {
        Target { name: name.to_owned(), max_binding: 1 << 30, subgroup: (1, 1), shared_bytes: 0, memory }
    }

    #[test]
    fn as_many_layers_as_the_gpu_has_memory_for() {
        let demo = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model")).expect("it is whole");
        let program = compile(&demo, &Options::default()).expect("it compiles").program;
        let request = |limit: u64| MemoryRequest {
            limit: limit * MIB,
            context: ContextWish::Exactly(8192),
            sequences: Some(4),
            layers: None,
        };
        let (cpu, all) = (target("cpu", None), layers(&program));
        let whole = MemoryPlan::new(&program, &cpu, request(4000)).expect("it fits");
        let wanted = |wish, memory: Option<u64>, limit| {
            let fits = memory.is_none_or(|memory| memory >= whole.total()) && limit * MIB >= whole.total();
            Split::wanted(wish, &program, fits, &cpu, &target("gpu", memory), request(limit))
        };
        let auto = |memory, limit| wanted(GpuLayers::Auto, memory, limit).expect("auto takes what there is");
        let mut before = all;
        // Less and less memory: fewer and fewer layers, until not even one fits.
        for share in (1..10).rev() {
            let memory = whole.total() / 10 * share;
            let Some(split) = auto(Some(memory), 4000) else { continue };
            assert!(split.layers <= before && split.layers < all, "{} of {all} in {memory}", split.layers);
            assert_eq!(split.first, 1 + all - split.layers);
            assert!(split.gpu.total() <= memory / 100 * GPU_SHARE, "{}", split.gpu);
            let [a, b] = [&split.cpu, &split.gpu].map(|p| (p.kv_pages, p.table_stride, p.max_sequences));
            assert_eq!(a, b, "the same sequences on both");
            let more = Split::new(&program, split.layers + 1, (&cpu, &target("gpu", Some(memory))), request(4000));
            assert!(split.layers + 1 == all || more.is_err(), "one layer more would have fitted {memory}");
            before = split.layers;
        }
        assert!(before < all - 1, "{before} of {all}");
        assert!(auto(None, 4000).is_none(), "nobody knows how much would fit");
        assert!(auto(Some(8000 * MIB), 4000).is_none(), "all of it fits");
        assert!(auto(Some(8000 * MIB), 100).is_none(), "a limit is not what a second device is for");
        let count = |n| wanted(GpuLayers::Count(n), None, 4000).expect("it fits").map(|split| split.layers);
        assert_eq!([count(1), count(all), count(all + 5)], [Some(1), None, None]);
        assert!(wanted(GpuLayers::Count(2), Some(MIB), 4000).is_err(), "what was asked for does not fit");
    }
}
