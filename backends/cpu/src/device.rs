//! [`CpuDevice`]: buffers, loaded kernels and recordings behind the device trait.

use std::sync::atomic::AtomicU32;
use std::time::Instant;

use swiftlm_device::{BufferId, Device, DeviceError, KernelId, Launch, LaunchTime, RecordingId, Slice, Target, Usage};
use swiftlm_ir::kernel::{Kernel, KernelKey, Length};
use swiftlm_ir::plan::{Groups, StepSizes};

use crate::counters::Counters;
use crate::interp;
use crate::memory::{Memory, Span};
use crate::options::CpuOptions;
use crate::pool::{PerWorker, Pool};

/// The host's processors as a device.
pub struct CpuDevice {
    target: Target,
    pool: Pool,
    buffers: Vec<Buffer>,
    kernels: Vec<Loaded>,
    recordings: Vec<Vec<Prepared>>,
    counters: Counters,
    interpreters: PerWorker<interp::Scratch>,
}

struct Buffer {
    memory: Memory,
    /// Bytes asked for, rounded up to whole words.
    bytes: usize,
    what: String,
}

struct Loaded {
    key: KernelKey,
    kernel: Kernel,
    program: interp::Program,
}

/// A launch with its arguments resolved to addresses. Buffers live as long as the device and never move.
struct Prepared {
    name: &'static str,
    kernel: usize,
    args: Vec<Span>,
    grid: [Groups; 3],
}

impl CpuDevice {
    /// A device over the host's processors.
    pub fn new(options: CpuOptions) -> Self {
        let pool = Pool::new(options.resolved_threads());
        let target = Target {
            name: "cpu".to_owned(),
            max_binding: usize::MAX / 2,
            subgroup: (1, 1),
            shared_bytes: 64 << 10,
            memory: None,
        };
        let interpreters = PerWorker::new(pool.threads(), interp::Scratch::default);
        Self {
            target,
            pool,
            buffers: vec![],
            kernels: vec![],
            recordings: vec![],
            counters: Counters::default(),
            interpreters,
        }
    }

    /// Launches so far, by template and tier.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Threads that share a launch.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn lost(&self, reason: String) -> DeviceError {
        DeviceError::Lost { device: self.target.name.clone(), reason }
    }

    fn span(&self, slice: Slice) -> Result<Span, DeviceError> {
        let Some(buffer) = self.buffers.get(slice.buffer.0 as usize) else {
            return Err(self.lost(format!("buffer {} does not exist", slice.buffer.0)));
        };
        let Slice { offset, bytes, .. } = slice;
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= buffer.bytes);
        let aligned = offset.is_multiple_of(4) && bytes.is_multiple_of(4);
        match buffer.memory.span(offset, bytes) {
            Some(span) if inside && aligned => Ok(span),
            _ => Err(self.lost(format!(
                "{bytes} bytes at {offset} of {} ({} bytes): expected whole words inside",
                buffer.what, buffer.bytes
            ))),
        }
    }

    fn prepare(&self, launch: Launch) -> Result<Prepared, DeviceError> {
        let Some(loaded) = self.kernels.get(launch.kernel.0 as usize) else {
            return Err(self.lost(format!("kernel {} does not exist", launch.kernel.0)));
        };
        let refuse = |reason| DeviceError::Kernel {
            kernel: loaded.program.name.clone(),
            reason: format!("{reason} (at {})", launch.loc),
        };
        let declared = &loaded.kernel.args;
        if declared.len() != launch.args.len() {
            return Err(refuse(format!("{} arguments given, it has {}", launch.args.len(), declared.len())));
        }
        let mut args = vec![];
        for (arg, slice) in declared.iter().zip(&launch.args) {
            let span = self.span(*slice).map_err(|e| refuse(format!("argument `{}`: {e}", arg.name)))?;
            let (unit, least) = match arg.len {
                Length::Elements(n) => (arg.elem.bytes() as u64, n),
                Length::Units(n) => (n * arg.elem.bytes() as u64, 1),
                Length::PageTable => (4, 1),
            };
            if (span.bytes as u64) < unit * least {
                let expected = unit * least;
                return Err(refuse(format!(
                    "argument `{}` has {} bytes, expected at least {expected}",
                    arg.name, span.bytes
                )));
            }
            args.push(span);
        }
        Ok(Prepared { name: launch.template.name(), kernel: launch.kernel.0 as usize, args, grid: launch.grid })
    }

    /// Runs one launch; false where its grid is empty.
    fn launch(&mut self, recording: usize, index: usize, sizes: StepSizes) -> Result<bool, DeviceError> {
        let prepared = &self.recordings[recording][index];
        let grid = prepared.grid.map(|axis| axis.count(&sizes));
        if grid.contains(&0) {
            return Ok(false);
        }
        let program = &self.kernels[prepared.kernel].program;
        let words: Option<Vec<&[AtomicU32]>> = prepared.args.iter().map(|span| span.shared_words()).collect();
        let words = words.ok_or_else(|| self.lost("an argument is not aligned to words".to_owned()))?;
        interp::launch(program, &words, grid, sizes, &self.pool, &self.interpreters)?;
        *self.counters.interpreted.entry(prepared.name).or_default() += 1;
        Ok(true)
    }

    fn launches(&self, recording: RecordingId) -> Result<usize, DeviceError> {
        let known = self.recordings.get(recording.0 as usize).map(Vec::len);
        known.ok_or_else(|| self.lost(format!("recording {} does not exist", recording.0)))
    }
}

impl Device for CpuDevice {
    fn target(&self) -> &Target {
        &self.target
    }

    fn alloc(&mut self, bytes: usize, _usage: Usage, what: &str) -> Result<BufferId, DeviceError> {
        let memory = Memory::zeroed(bytes).ok_or_else(|| DeviceError::OutOfMemory {
            device: self.target.name.clone(),
            bytes,
            what: what.to_owned(),
            reason: "the system has no such range of memory".to_owned(),
        })?;
        self.buffers.push(Buffer { memory, bytes: bytes.next_multiple_of(4), what: what.to_owned() });
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn write(&mut self, buffer: BufferId, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.span(Slice { buffer, offset, bytes: bytes.len() })?.write(bytes);
        Ok(())
    }

    fn read(&mut self, slice: Slice, into: &mut [u8]) -> Result<(), DeviceError> {
        if slice.bytes != into.len() {
            return Err(self.lost(format!("reads {} bytes into {}", slice.bytes, into.len())));
        }
        self.span(slice)?.read(into);
        Ok(())
    }

    fn load(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError> {
        let key = kernel.key();
        let known = self.kernels.iter().position(|k| k.key == key && k.kernel == *kernel);
        let at = match known {
            Some(at) => at,
            None => {
                self.kernels.push(Loaded { key, program: interp::lower(kernel)?, kernel: kernel.clone() });
                self.kernels.len() - 1
            }
        };
        Ok(KernelId(at as u32))
    }

    fn record(&mut self, launches: Vec<Launch>) -> Result<RecordingId, DeviceError> {
        let prepared = launches.into_iter().map(|launch| self.prepare(launch)).collect::<Result<_, _>>()?;
        self.recordings.push(prepared);
        Ok(RecordingId(self.recordings.len() as u32 - 1))
    }

    fn submit(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError> {
        for recording in recordings {
            for index in 0..self.launches(*recording)? {
                self.launch(recording.0 as usize, index, sizes)?;
            }
        }
        Ok(())
    }

    fn profile(&mut self, recording: RecordingId, sizes: StepSizes) -> Result<Vec<LaunchTime>, DeviceError> {
        let mut times = vec![];
        for launch in 0..self.launches(recording)? {
            let start = Instant::now();
            if self.launch(recording.0 as usize, launch, sizes)? {
                let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                times.push(LaunchTime { launch, nanoseconds });
            }
        }
        Ok(times)
    }
}
