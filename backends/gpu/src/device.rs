//! The device: its state, its facts, and the trait that runtimes drive it by.

use indexmap::IndexMap;
use swiftlm_device::{BufferId, Device, DeviceError, KernelId, Launch, LaunchTime, RecordingId, Slice, Target, Usage};
use swiftlm_ir::kernel::{Kernel, KernelKey};
use swiftlm_ir::plan::StepSizes;
use swiftlm_shader::LowerOptions;

use crate::adapter::{self, Opened};
use crate::pipeline::Pipeline;
use crate::record::Recorded;

/// A GPU, or a CPU behind a software driver, through wgpu.
#[derive(Debug)]
pub struct GpuDevice {
    pub(crate) gpu: Gpu,
    pub(crate) limits: wgpu::Limits,
    pub(crate) target: Target,
    /// What kernels may take for granted here.
    pub(crate) options: LowerOptions,
    /// Whether shaders check every index, as the environment asked.
    pub(crate) checked: bool,
    pub(crate) buffers: Vec<wgpu::Buffer>,
    pub(crate) pipelines: IndexMap<KernelKey, Pipeline>,
    pub(crate) bind_groups: IndexMap<(KernelId, Vec<Slice>), wgpu::BindGroup>,
    pub(crate) recordings: Vec<Vec<Recorded>>,
    /// Where results are mapped; grows.
    pub(crate) staging: Option<wgpu::Buffer>,
    /// Bytes written since the last submission.
    pub(crate) unsubmitted: usize,
    /// What was submitted last, and what was encoded ahead.
    pub(crate) steps: crate::submit::Steps,
}

/// wgpu's handles and what went wrong on them.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) health: crate::health::Health,
}

impl GpuDevice {
    /// Opens the best adapter, or the best whose name contains `name`; a GPU before a software driver.
    ///
    /// Shaders run unchecked, as the kernel verifier has proved their indices, unless `SLM_CHECK` contains `bounds`.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`], with the remedy, when there is no such adapter or it lacks what kernels need.
    pub fn open(name: Option<&str>) -> Result<Self, DeviceError> {
        let checked = std::env::var("SLM_CHECK").is_ok_and(|checks| checks.split(',').any(|c| c.trim() == "bounds"));
        let Opened { adapter, device, queue, health } = adapter::open(name)?;
        let (info, limits) = (adapter.get_info(), device.limits());
        let subgroup = adapter::fixed_subgroup(&adapter);
        let reported = match device.features().contains(wgpu::Features::SUBGROUP) {
            true => (info.subgroup_min_size, info.subgroup_max_size),
            false => (1, 1),
        };
        let target = Target {
            name: info.name,
            max_binding: usize::try_from(limits.max_storage_buffer_binding_size).unwrap_or(usize::MAX),
            subgroup: subgroup.map_or(reported, |size| (size, size)),
            shared_bytes: limits.max_compute_workgroup_storage_size as usize,
            memory: adapter::memory(&adapter),
        };
        let options = LowerOptions { subgroup, shared_bytes: target.shared_bytes, ..LowerOptions::default() };
        let mut opened = Self {
            gpu: Gpu { device, queue, health },
            limits,
            target,
            options,
            checked,
            buffers: vec![],
            pipelines: IndexMap::new(),
            bind_groups: IndexMap::new(),
            recordings: vec![],
            staging: None,
            unsubmitted: 0,
            steps: crate::submit::Steps::default(),
        };
        opened.probe()?;
        Ok(opened)
    }

    /// Like [`Self::open`], with kernels lowered for less than this device can do: how tests see what others run.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_lowered(name: Option<&str>, adjust: impl FnOnce(&mut LowerOptions)) -> Result<Self, DeviceError> {
        let mut opened = Self::open(name)?;
        adjust(&mut opened.options);
        Ok(opened)
    }

    /// What kernels may take for granted here, found by running one.
    pub fn lower_options(&self) -> &LowerOptions {
        &self.options
    }

    /// Pipelines made so far.
    pub fn pipelines(&self) -> usize {
        self.pipelines.len()
    }

    /// Bind groups made so far.
    pub fn bind_groups(&self) -> usize {
        self.bind_groups.len()
    }
}

impl Device for GpuDevice {
    fn target(&self) -> &Target {
        &self.target
    }

    fn alloc(&mut self, bytes: usize, usage: Usage, what: &str) -> Result<BufferId, DeviceError> {
        self.allocate(bytes, usage, what)
    }

    fn write(&mut self, buffer: BufferId, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.upload(buffer, offset, bytes)
    }

    fn read(&mut self, slice: Slice, into: &mut [u8]) -> Result<(), DeviceError> {
        self.download(slice, into)
    }

    fn copy(&mut self, from: Slice, to: Slice) -> Result<(), DeviceError> {
        self.copy_through(from, to)
    }

    fn load(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError> {
        self.load_kernel(kernel)
    }

    fn record(&mut self, launches: Vec<Launch>) -> Result<RecordingId, DeviceError> {
        self.record_launches(launches)
    }

    fn submit(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError> {
        self.submit_step(recordings, sizes)
    }

    fn profile(&mut self, recording: RecordingId, sizes: StepSizes) -> Result<Vec<LaunchTime>, DeviceError> {
        self.profile_recording(recording, sizes)
    }
}
