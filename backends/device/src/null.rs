//! A device that runs nothing: it counts, so that plans can be checked without memory or hardware.

use swiftlm_ir::kernel::{Kernel, KernelKey};
use swiftlm_ir::plan::StepSizes;

use crate::{BufferId, Device, DeviceError, KernelId, Launch, LaunchTime, RecordingId, Slice, Target, Usage};

/// Counts allocations and launches; reads give zeros.
#[derive(Debug)]
pub struct NullDevice {
    target: Target,
    kernels: Vec<KernelKey>,
    recordings: Vec<Vec<Launch>>,
    buffers: Vec<(usize, Usage)>,
    launched: Vec<&'static str>,
}

impl NullDevice {
    /// A device with the given facts.
    pub fn new(target: Target) -> Self {
        Self { target, kernels: vec![], recordings: vec![], buffers: vec![], launched: vec![] }
    }

    /// Template names of everything launched so far.
    pub fn launched(&self) -> &[&'static str] {
        &self.launched
    }

    /// Bytes allocated for a use.
    pub fn allocated(&self, usage: Usage) -> usize {
        self.buffers.iter().filter(|(_, u)| *u == usage).map(|(bytes, _)| bytes).sum()
    }
}

impl Device for NullDevice {
    fn target(&self) -> &Target {
        &self.target
    }

    fn alloc(&mut self, bytes: usize, usage: Usage, _what: &str) -> Result<BufferId, DeviceError> {
        self.buffers.push((bytes, usage));
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn write(&mut self, _buffer: BufferId, _offset: usize, _bytes: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn read(&mut self, _slice: Slice, into: &mut [u8]) -> Result<(), DeviceError> {
        into.fill(0);
        Ok(())
    }

    fn load(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError> {
        let key = kernel.key();
        let at = self.kernels.iter().position(|k| *k == key).unwrap_or_else(|| {
            self.kernels.push(key);
            self.kernels.len() - 1
        });
        Ok(KernelId(at as u32))
    }

    fn record(&mut self, launches: Vec<Launch>) -> Result<RecordingId, DeviceError> {
        self.recordings.push(launches);
        Ok(RecordingId(self.recordings.len() as u32 - 1))
    }

    fn submit(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError> {
        for r in recordings {
            let launches = &self.recordings[r.0 as usize];
            let runs = launches.iter().filter(|l| l.runs(&sizes));
            self.launched.extend(runs.map(|l| l.template.name()));
        }
        Ok(())
    }

    fn profile(&mut self, recording: RecordingId, sizes: StepSizes) -> Result<Vec<LaunchTime>, DeviceError> {
        self.submit(&[recording], sizes)?;
        let launches = 0..self.recordings[recording.0 as usize].len();
        Ok(launches.map(|launch| LaunchTime { launch, nanoseconds: 0 }).collect())
    }
}
