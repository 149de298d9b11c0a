//! The mock device: buffers are bytes of the host, launches are two functions picked by template name.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use swiftlm_device::{BufferId, Device, DeviceError, KernelId, Launch, LaunchTime, RecordingId, Slice, Target, Usage};
use swiftlm_ir::kernel::{Kernel, KernelKey};
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::model::{START, arg_max, fold, logits};

/// What one submission was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLog {
    pub sizes: StepSizes,
    pub recordings: usize,
}

/// Watches and disturbs a mock device from outside its thread.
#[derive(Default)]
pub struct Control {
    /// Submissions so far.
    pub steps: Mutex<Vec<StepLog>>,
    /// Bytes read back so far.
    pub read: AtomicUsize,
    /// So many of the next submissions fail.
    pub failures: AtomicUsize,
    /// So many of the next submissions panic.
    pub panics: AtomicUsize,
    /// Logits are NaN in so many of the next submissions.
    pub nans: AtomicUsize,
    held: Mutex<bool>,
    released: Condvar,
    /// Contents of all buffers, for looking into.
    pub buffers: Mutex<Vec<(Vec<u8>, Usage, String)>>,
}

impl Control {
    /// Makes submissions wait.
    pub fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    /// Lets submissions go on.
    pub fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.released.notify_all();
    }

    /// Submissions so far.
    pub fn step_count(&self) -> usize {
        self.steps.lock().unwrap().len()
    }

    /// The contents of the buffers called `what`, in order of allocation.
    pub fn contents(&self, what: &str) -> Vec<Vec<u8>> {
        self.buffers.lock().unwrap().iter().filter(|(_, _, w)| w == what).map(|(b, _, _)| b.clone()).collect()
    }

    fn take(counter: &AtomicUsize) -> bool {
        counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok()
    }
}

/// The mock device.
pub struct MockDevice {
    target: Target,
    control: Arc<Control>,
    kernels: Vec<KernelKey>,
    recordings: Vec<Vec<Launch>>,
    /// Tokens that a query sees; 0 for all.
    window: usize,
}

impl MockDevice {
    pub fn new(max_binding: usize) -> (Self, Arc<Control>) {
        let target = Target { name: "mock".into(), max_binding, subgroup: (1, 1), shared_bytes: 0, memory: None };
        let control = Arc::new(Control::default());
        (Self { target, control: Arc::clone(&control), kernels: vec![], recordings: vec![], window: 0 }, control)
    }

    /// The same device, whose queries see the last `window` tokens; 0 for all.
    pub fn with_window(self, window: usize) -> Self {
        Self { window, ..self }
    }

    fn words(&self, slice: Slice) -> Vec<u32> {
        let buffers = self.control.buffers.lock().unwrap();
        let bytes = &buffers[slice.buffer.0 as usize].0[slice.offset..][..slice.bytes];
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn put(&self, slice: Slice, at: usize, words: impl IntoIterator<Item = u32>) {
        let mut buffers = self.control.buffers.lock().unwrap();
        let bytes = &mut buffers[slice.buffer.0 as usize].0[slice.offset..][..slice.bytes];
        for (i, word) in words.into_iter().enumerate() {
            bytes[(at + i) * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }

    fn append(&self, args: &[Slice], sizes: StepSizes) {
        let [ids, positions, sequences, table] = [0, 1, 2, 3].map(|i| self.words(args[i]));
        for t in 0..sizes.tokens as usize {
            let (position, row) = (positions[t] as usize, sequences[t]);
            let page = table[(row * sizes.table_stride) as usize + position / PAGE_TOKENS] as usize;
            self.put(args[4], page * PAGE_TOKENS + position % PAGE_TOKENS, [ids[t]]);
        }
    }

    fn read_histories(&self, args: &[Slice], sizes: StepSizes) {
        let [rows, positions, sequences, table, keys] = [0, 1, 2, 3, 4].map(|i| self.words(args[i]));
        let broken = Control::take(&self.control.nans);
        for (r, t) in rows.iter().take(sizes.rows as usize).map(|t| *t as usize).enumerate() {
            let row = &table[(sequences[t] * sizes.table_stride) as usize..];
            let id = |p: usize| keys[row[p / PAGE_TOKENS] as usize * PAGE_TOKENS + p % PAGE_TOKENS];
            let end = positions[t] as usize + 1;
            let first = if self.window == 0 { 0 } else { end.saturating_sub(self.window) };
            let hash = (first..end).fold(START, |h, p| fold(h, id(p)));
            let values = if broken { vec![f32::NAN; logits(hash).len()] } else { logits(hash) };
            self.put(args[6], r, [arg_max(&values)]);
            self.put(args[5], r * values.len(), values.iter().map(|l| l.to_bits()));
        }
    }
}

impl Device for MockDevice {
    fn target(&self) -> &Target {
        &self.target
    }

    fn alloc(&mut self, bytes: usize, usage: Usage, what: &str) -> Result<BufferId, DeviceError> {
        let mut buffers = self.control.buffers.lock().unwrap();
        buffers.push((vec![0; bytes], usage, what.to_owned()));
        Ok(BufferId(buffers.len() as u32 - 1))
    }

    fn write(&mut self, buffer: BufferId, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(offset.is_multiple_of(4) && bytes.len().is_multiple_of(4), "writes are whole words");
        self.control.buffers.lock().unwrap()[buffer.0 as usize].0[offset..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, slice: Slice, into: &mut [u8]) -> Result<(), DeviceError> {
        let buffers = self.control.buffers.lock().unwrap();
        into.copy_from_slice(&buffers[slice.buffer.0 as usize].0[slice.offset..][..slice.bytes]);
        self.control.read.fetch_add(into.len(), Ordering::Relaxed);
        Ok(())
    }

    fn load(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError> {
        assert!(!self.kernels.contains(&kernel.key()), "a kernel is loaded once");
        self.kernels.push(kernel.key());
        Ok(KernelId(self.kernels.len() as u32 - 1))
    }

    fn record(&mut self, launches: Vec<Launch>) -> Result<RecordingId, DeviceError> {
        self.recordings.push(launches);
        Ok(RecordingId(self.recordings.len() as u32 - 1))
    }

    fn submit(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError> {
        self.control.steps.lock().unwrap().push(StepLog { sizes, recordings: recordings.len() });
        let mut held = self.control.held.lock().unwrap();
        while *held {
            held = self.control.released.wait(held).unwrap();
        }
        drop(held);
        if Control::take(&self.control.failures) {
            return Err(DeviceError::Lost { device: "mock".into(), reason: "told to fail".into() });
        }
        assert!(!Control::take(&self.control.panics), "told to panic");
        for recording in recordings {
            for launch in &self.recordings[recording.0 as usize] {
                match launch.template.name() {
                    "append" => self.append(&launch.args, sizes),
                    _ => self.read_histories(&launch.args, sizes),
                }
            }
        }
        Ok(())
    }

    fn profile(&mut self, recording: RecordingId, sizes: StepSizes) -> Result<Vec<LaunchTime>, DeviceError> {
        self.submit(&[recording], sizes)?;
        let launches = 0..self.recordings[recording.0 as usize].len();
        Ok(launches.map(|launch| LaunchTime { launch, nanoseconds: 7 }).collect())
    }
}
