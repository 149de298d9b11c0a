//! A step as one submission: one encoder, one pass, launches in order.
//!
//! While the device works on a step of decoding, the host encodes the one that most likely follows: the same launches, one
//! position further. If another comes instead, what was encoded is thrown away.

use swiftlm_device::{DeviceError, KernelId, RecordingId};
use swiftlm_ir::plan::StepSizes;
use wgpu::{CommandBuffer, CommandEncoderDescriptor, ComputePass, ComputePassDescriptor};

use crate::GpuDevice;
use crate::record::Recorded;

/// The step that was submitted last, and the one that was encoded ahead.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    last: Option<(Vec<RecordingId>, StepSizes)>,
    ahead: Option<CommandBuffer>,
}

/// What follows a step of decoding.
fn next(sizes: StepSizes) -> StepSizes {
    StepSizes { last_position: sizes.last_position.saturating_add(1), ..sizes }
}

impl GpuDevice {
    /// Runs recordings in order.
    pub(crate) fn submit_step(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError> {
        let ahead = self.steps.ahead.take();
        let follows = self.steps.last.take().is_some_and(|(of, last)| of == recordings && next(last) == sizes);
        let commands = match ahead.filter(|_| follows) {
            Some(commands) => commands,
            None => self.encode_step(recordings, sizes)?,
        };
        self.gpu.queue.submit([commands]);
        self.unsubmitted = 0;
        self.gpu.health.check()?;
        if follows {
            // What cannot be encoded fails when its turn comes.
            self.steps.ahead = self.encode_step(recordings, next(sizes)).ok();
        }
        self.steps.last = Some((recordings.to_vec(), sizes));
        Ok(())
    }

    fn encode_step(&self, recordings: &[RecordingId], sizes: StepSizes) -> Result<CommandBuffer, DeviceError> {
        let mut encoder = self.gpu.device.create_command_encoder(&CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
        let mut current = None;
        for recording in recordings {
            for launch in self.recording(*recording)? {
                if let Some(groups) = self.groups(launch, &sizes)? {
                    self.encode(&mut pass, &mut current, launch, groups, &sizes)?;
                }
            }
        }
        drop(pass);
        Ok(encoder.finish())
    }

    /// Workgroups of a kernel of a launch at these sizes; `None` if it has none.
    pub(crate) fn groups(&self, launch: &Recorded, sizes: &StepSizes) -> Result<Option<[u32; 3]>, DeviceError> {
        let Some(groups) = launch.stage.groups(sizes) else { return Ok(None) };
        let most = self.limits.max_compute_workgroups_per_dimension;
        if groups.iter().all(|n| *n <= most) {
            return Ok(Some(groups));
        }
        let reason = format!("{}: {groups:?} workgroups, the device takes at most {most} per axis", launch.describe());
        Err(DeviceError::Kernel { kernel: self.pipeline(launch.stage.kernel)?.name.clone(), reason })
    }

    /// Appends a kernel of a launch to a pass in which `current` is the kernel set last.
    pub(crate) fn encode(
        &self,
        pass: &mut ComputePass<'_>,
        current: &mut Option<KernelId>,
        launch: &Recorded,
        [x, y, z]: [u32; 3],
        sizes: &StepSizes,
    ) -> Result<(), DeviceError> {
        let kernel = launch.stage.kernel;
        if current.replace(kernel) != Some(kernel) {
            pass.set_pipeline(&self.pipeline(kernel)?.pipeline);
            pass.set_immediates(0, bytemuck::cast_slice(&sizes.words()));
        }
        pass.set_bind_group(0, &launch.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
        Ok(())
    }
}
