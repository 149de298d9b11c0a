//! Launches kept for repeated submission: checked once, their bind groups made once.

use std::sync::Arc;

use swiftlm_device::{BufferId, DeviceError, KernelId, Launch, RecordingId, Slice, Stage};
use swiftlm_ir::kernel::{Access, KArg};
use swiftlm_ir::template::Template;

use crate::GpuDevice;
use crate::buffer::words;
use crate::health::scoped;
use crate::pipeline::least_bytes;

/// One kernel of a launch, ready to be encoded.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// Index of the launch in its recording.
    pub(crate) launch: usize,
    pub(crate) stage: Stage,
    pub(crate) bind_group: wgpu::BindGroup,
    template: Arc<Template>,
    loc: String,
}

impl Recorded {
    /// Template and origin, for errors.
    pub(crate) fn describe(&self) -> String {
        describe(&self.template, &self.loc)
    }
}

impl GpuDevice {
    /// Keeps launches.
    pub(crate) fn record_launches(&mut self, launches: Vec<Launch>) -> Result<RecordingId, DeviceError> {
        let mut recorded = vec![];
        for (at, launch) in launches.into_iter().enumerate() {
            self.record_launch(at, launch, &mut recorded)?;
        }
        self.recordings.push(recorded);
        Ok(RecordingId(self.recordings.len() as u32 - 1))
    }

    /// The kernels of the launches behind an id.
    pub(crate) fn recording(&self, id: RecordingId) -> Result<&[Recorded], DeviceError> {
        let found = self.recordings.get(id.0 as usize).map(Vec::as_slice);
        found.ok_or_else(|| self.gpu.health.lost(format!("recording {} was never made", id.0)))
    }

    fn record_launch(&mut self, at: usize, launch: Launch, into: &mut Vec<Recorded>) -> Result<(), DeviceError> {
        let Launch { template, args, stages, loc } = launch;
        for stage in stages {
            let slice = |i: &usize| {
                let missing = || format!("{}: argument {i} is not there", describe(&template, &loc));
                args.get(*i).copied().ok_or_else(|| self.gpu.health.lost(missing()))
            };
            let key = (stage.kernel, stage.args.iter().map(slice).collect::<Result<Vec<_>, _>>()?);
            let bind_group = match self.bind_groups.get(&key) {
                Some(made) => made.clone(),
                None => {
                    let made = self.bind(stage.kernel, &key.1, &describe(&template, &loc))?;
                    self.bind_groups.insert(key, made.clone());
                    made
                }
            };
            into.push(Recorded { launch: at, stage, bind_group, template: Arc::clone(&template), loc: loc.clone() });
        }
        Ok(())
    }

    fn bind(&self, kernel: KernelId, slices: &[Slice], launch: &str) -> Result<wgpu::BindGroup, DeviceError> {
        let pipeline = self.pipeline(kernel)?;
        let refused = |reason: String| DeviceError::Kernel {
            kernel: pipeline.name.clone(),
            reason: format!("{launch}: {reason}"),
        };
        if slices.len() != pipeline.args.len() {
            return Err(refused(format!("{} arguments given, {} declared", slices.len(), pipeline.args.len())));
        }
        for (arg, slice) in pipeline.args.iter().zip(slices) {
            self.check_argument(arg, *slice)?.map_err(|e| refused(format!("argument {}: {e}", arg.name)))?;
        }
        if let Some(buffer) = read_and_written(&pipeline.args, slices) {
            return Err(refused(format!("buffer {} is bound both for reading only and for writing", buffer.0)));
        }
        let binding = |slice: &Slice| -> Result<wgpu::BindingResource<'_>, DeviceError> {
            Ok(wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: self.buffer(slice.buffer)?,
                offset: slice.offset as u64,
                size: std::num::NonZeroU64::new((slice.bytes as u64).next_multiple_of(4)),
            }))
        };
        let resources = slices.iter().map(binding).collect::<Result<Vec<_>, _>>()?;
        let entries: Vec<_> =
            (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
        let descriptor = wgpu::BindGroupDescriptor { label: Some(launch), layout: &pipeline.layout, entries: &entries };
        let made = scoped(&self.gpu.device, || self.gpu.device.create_bind_group(&descriptor));
        made.map_err(|e| refused(words(&e)))
    }

    /// The outer error is a buffer that does not exist, the inner one a slice that does not fit.
    fn check_argument(&self, arg: &KArg, slice: Slice) -> Result<Result<(), String>, DeviceError> {
        let (size, alignment) = (self.buffer(slice.buffer)?.size(), self.limits.min_storage_buffer_offset_alignment);
        let (offset, bytes) = (slice.offset as u64, slice.bytes as u64);
        let (least, most) = (least_bytes(arg), self.limits.max_storage_buffer_binding_size);
        Ok(if bytes > most {
            Err(format!("{bytes} bytes, the device binds at most {most}; split the operand into segments"))
        } else if bytes < least {
            Err(format!("{bytes} bytes, the kernel uses {least}"))
        } else if offset.saturating_add(bytes) > size {
            Err(format!("bytes {offset}..{} of a buffer of {size}", offset.saturating_add(bytes)))
        } else if !offset.is_multiple_of(u64::from(alignment)) {
            Err(format!("offset {offset} is not a multiple of {alignment}"))
        } else {
            Ok(())
        })
    }
}

/// A buffer that arguments of both accesses share: devices track use by whole buffers.
fn read_and_written(args: &[KArg], slices: &[Slice]) -> Option<BufferId> {
    let of = |access: Access| args.iter().zip(slices).filter(move |(a, _)| a.access == access).map(|(_, s)| s.buffer);
    of(Access::Read).find(|read| of(Access::ReadWrite).any(|written| written == *read))
}

fn describe(template: &Template, loc: &str) -> String {
    format!("launch {} of {loc}", template.name())
}
