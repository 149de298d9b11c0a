//! A null device that the test can still look at after an executable owns it.

use std::sync::{Arc, Mutex};

use swiftlm_device::{
    BufferId, Device, DeviceError, KernelId, Launch, LaunchTime, NullDevice, RecordingId, Slice, Target, Usage,
};
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::plan::StepSizes;

/// A handle to a null device.
pub struct SharedDevice {
    target: Target,
    inner: Arc<Mutex<NullDevice>>,
}

impl SharedDevice {
    pub fn new(inner: Arc<Mutex<NullDevice>>) -> Self {
        let target = inner.lock().unwrap().target().clone();
        Self { target, inner }
    }
}

impl Device for SharedDevice {
    fn target(&self) -> &Target {
        &self.target
    }

    fn alloc(&mut self, bytes: usize, usage: Usage, what: &str) -> Result<BufferId, DeviceError> {
        self.inner.lock().unwrap().alloc(bytes, usage, what)
    }

    fn write(&mut self, buffer: BufferId, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.inner.lock().unwrap().write(buffer, offset, bytes)
    }

    fn read(&mut self, slice: Slice, into: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.lock().unwrap().read(slice, into)
    }

    fn load(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError> {
        self.inner.lock().unwrap().load(kernel)
    }

    fn record(&mut self, launches: Vec<Launch>) -> Result<RecordingId, DeviceError> {
        self.inner.lock().unwrap().record(launches)
    }

    fn submit(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError> {
        self.inner.lock().unwrap().submit(recordings, sizes)
    }

    fn profile(&mut self, recording: RecordingId, sizes: StepSizes) -> Result<Vec<LaunchTime>, DeviceError> {
        self.inner.lock().unwrap().profile(recording, sizes)
    }
}
