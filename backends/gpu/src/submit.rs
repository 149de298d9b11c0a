//! A step as one submission: one encoder, one pass, launches in order.

use swiftlm_device::{DeviceError, KernelId, RecordingId};
use swiftlm_ir::plan::StepSizes;
use wgpu::{CommandEncoderDescriptor, ComputePass, ComputePassDescriptor};

use crate::GpuDevice;
use crate::record::Recorded;

impl GpuDevice {
    /// Runs recordings in order.
    pub(crate) fn submit_step(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError> {
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
        self.gpu.queue.submit([encoder.finish()]);
        self.unsubmitted = 0;
        self.gpu.health.check()
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
