//! Kernels as pipelines, made once per distinct kernel.

use std::borrow::Cow;

use swiftlm_device::{DeviceError, KernelId};
use swiftlm_ir::kernel::{Access, KArg, Kernel, Length};
use swiftlm_shader::{ENTRY_POINT, IMMEDIATE_BYTES, lower};
use wgpu::{BindGroupLayoutEntry, BindingType, BufferBindingType, ShaderRuntimeChecks, ShaderSource, ShaderStages};

use crate::GpuDevice;
use crate::buffer::words;
use crate::health::scoped;

/// A loaded kernel.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Name and key, for errors.
    pub(crate) name: String,
    pub(crate) args: Vec<KArg>,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

impl GpuDevice {
    /// The pipeline of a kernel; an equal kernel has one already.
    pub(crate) fn load_kernel(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError> {
        let key = kernel.key();
        if let Some(at) = self.pipelines.get_index_of(&key) {
            return Ok(KernelId(at as u32));
        }
        let name = format!("{} {key}", kernel.name);
        let refused = |reason: String| DeviceError::Kernel { kernel: name.clone(), reason };
        let module = lower(kernel, &self.options).map_err(|e| refused(e.to_string()))?;
        let made = scoped(&self.gpu.device, || self.make_pipeline(kernel, &name, module));
        let (pipeline, layout) = made.map_err(|e| refused(words(&e)))?;
        self.pipelines.insert(key, Pipeline { name, args: kernel.args.clone(), pipeline, layout });
        Ok(KernelId(self.pipelines.len() as u32 - 1))
    }

    /// The pipeline behind an id.
    pub(crate) fn pipeline(&self, id: KernelId) -> Result<&Pipeline, DeviceError> {
        let found = self.pipelines.get_index(id.0 as usize).map(|(_, pipeline)| pipeline);
        found.ok_or_else(|| self.gpu.health.lost(format!("kernel {} was never loaded", id.0)))
    }

    fn make_pipeline(
        &self,
        kernel: &Kernel,
        name: &str,
        module: naga::Module,
    ) -> (wgpu::ComputePipeline, wgpu::BindGroupLayout) {
        let device = &self.gpu.device;
        let entries: Vec<_> = kernel.args.iter().enumerate().map(|(i, arg)| layout_entry(i, arg)).collect();
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: IMMEDIATE_BYTES,
        });
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(name), source: ShaderSource::Naga(Cow::Owned(module)) };
        let module = self.make_module(descriptor);
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(ENTRY_POINT),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: None,
        });
        (pipeline, layout)
    }

    #[allow(unsafe_code, reason = "shaders without runtime checks are this device's purpose")]
    fn make_module(&self, descriptor: wgpu::ShaderModuleDescriptor<'_>) -> wgpu::ShaderModule {
        if self.checked {
            return self.gpu.device.create_shader_module(descriptor);
        }
        // SAFETY: `Device::load` takes verified kernels: every index, loop and divisor is proved in bounds for arguments
        // of the declared lengths, and `record` refuses shorter ones.
        unsafe { self.gpu.device.create_shader_module_trusted(descriptor, ShaderRuntimeChecks::unchecked()) }
    }
}

/// Bytes that an argument must have at least.
pub(crate) fn least_bytes(arg: &KArg) -> u64 {
    let elements = match arg.len {
        Length::Elements(n) | Length::Units(n) => n.max(1),
        Length::PageTable => 1,
    };
    elements.saturating_mul(arg.elem.bytes() as u64)
}

fn layout_entry(index: usize, arg: &KArg) -> BindGroupLayoutEntry {
    BindGroupLayoutEntry {
        binding: index as u32,
        visibility: ShaderStages::COMPUTE,
        ty: BindingType::Buffer {
            ty: BufferBindingType::Storage { read_only: arg.access == Access::Read },
            has_dynamic_offset: false,
            min_binding_size: std::num::NonZeroU64::new(least_bytes(arg)),
        },
        count: None,
    }
}
