//! Times of launches by the device's own clock. Each kernel of a launch is a pass of its own, which every timestamping
//! device can bracket; the sum therefore exceeds what one pass takes.

use swiftlm_device::{DeviceError, LaunchTime, RecordingId};
use swiftlm_ir::plan::StepSizes;
use wgpu::{BufferUsages, CommandEncoderDescriptor, ComputePassDescriptor, ComputePassTimestampWrites, Features};

use crate::GpuDevice;

/// Kernels per query set: each takes two of its queries.
const KERNELS_PER_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

impl GpuDevice {
    /// Runs a recording and gives the time of every launch that ran.
    pub(crate) fn profile_recording(
        &mut self,
        recording: RecordingId,
        sizes: StepSizes,
    ) -> Result<Vec<LaunchTime>, DeviceError> {
        if !self.gpu.device.features().contains(Features::TIMESTAMP_QUERY) {
            let name = self.gpu.health.name();
            return Err(DeviceError::Unavailable(format!(
                "adapter {name} has no timestamps, so launches cannot be timed; profile on another adapter or with `--backend cpu`"
            )));
        }
        let mut runs = vec![];
        for (at, launch) in self.recording(recording)?.iter().enumerate() {
            if let Some(groups) = self.groups(launch, &sizes)? {
                runs.push((at, groups));
            }
        }
        let mut times: Vec<LaunchTime> = vec![];
        for part in runs.chunks(KERNELS_PER_SET) {
            for time in self.time(recording, part, &sizes)? {
                match times.last_mut() {
                    Some(last) if last.launch == time.launch => last.nanoseconds += time.nanoseconds,
                    _ => times.push(time),
                }
            }
        }
        Ok(times)
    }

    fn time(
        &mut self,
        recording: RecordingId,
        runs: &[(usize, [u32; 3])],
        sizes: &StepSizes,
    ) -> Result<Vec<LaunchTime>, DeviceError> {
        let device = &self.gpu.device;
        let count = 2 * runs.len() as u32;
        let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count };
        let queries = device.create_query_set(&descriptor);
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: 8 * u64::from(count),
            usage: BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&CommandEncoderDescriptor::default());
        let launches = self.recording(recording)?;
        for (query, (at, groups)) in (0..).step_by(2).zip(runs) {
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(query),
                    end_of_pass_write_index: Some(query + 1),
                }),
            });
            self.encode(&mut pass, &mut None, &launches[*at], *groups, sizes)?;
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        self.gpu.queue.submit([encoder.finish()]);
        self.unsubmitted = 0;
        let mut ticks = vec![0_u64; count as usize];
        self.read_buffer(&resolved, 0, bytemuck::cast_slice_mut(&mut ticks))?;
        let period = f64::from(self.gpu.queue.get_timestamp_period());
        let elapsed = |pair: &[u64]| (pair[1].saturating_sub(pair[0]) as f64 * period) as u64;
        let launches = self.recording(recording)?;
        let times = runs.iter().zip(ticks.chunks_exact(2));
        let time = |((at, _), pair): (&(usize, _), &[u64])| LaunchTime {
            launch: launches[*at].launch,
            nanoseconds: elapsed(pair),
        };
        Ok(times.map(time).collect())
    }
}
