//! [`CpuDevice`]: buffers, loaded kernels and recordings behind the device trait.

use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use swiftlm_device::{
    BufferId, Device, DeviceError, KernelId, Launch, LaunchTime, Order, RecordingId, Slice, Stage, Target, Usage,
    write_rows,
};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::{Kernel, KernelKey, Length};
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::Template;

use crate::counters::Counters;
use crate::interp;
use crate::memory::{Memory, Region, Span};
use crate::options::{CpuOptions, Tier};
use crate::pool::{PerWorker, Pool};
use crate::simd::isa::IsaKind;
use crate::simd::{Context, Faults, Micro, Needs, micro, replace, settle};

/// The host's processors as a device.
pub struct CpuDevice {
    target: Target,
    tier: Tier,
    isa: IsaKind,
    pool: Pool,
    buffers: Vec<Buffer>,
    kernels: Vec<Loaded>,
    recordings: Vec<Vec<Prepared>>,
    counters: Counters,
    interpreters: PerWorker<interp::Scratch>,
    /// Scratch of a launch, and of each worker in it; `reserved` is what they hold.
    shared_scratch: Region,
    worker_scratch: PerWorker<Region>,
    reserved: Needs,
}

struct Buffer {
    memory: Memory,
    /// Bytes asked for, rounded up to whole words.
    bytes: usize,
    what: String,
    /// Whether it holds a weight in the order of [`settle`].
    packed: bool,
}

struct Loaded {
    key: KernelKey,
    kernel: Kernel,
    /// Made when a launch needs it.
    program: Option<interp::Program>,
}

/// A launch with its arguments resolved to addresses. Buffers live as long as the device and never move.
struct Prepared {
    name: &'static str,
    /// The micro-kernel; without one the kernels of the stages are interpreted.
    micro: Option<Box<dyn Micro>>,
    loc: String,
    args: Vec<Span>,
    stages: Vec<Stage>,
}

impl CpuDevice {
    /// A device over the host's processors, with the best instruction set that they have.
    pub fn new(options: CpuOptions) -> Self {
        let best = IsaKind::available().first().copied().unwrap_or(IsaKind::Portable);
        Self::build(options, best)
    }

    /// A device whose micro-kernels use `isa`.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] where this machine does not have it.
    pub fn with_isa(options: CpuOptions, isa: IsaKind) -> Result<Self, DeviceError> {
        let available = IsaKind::available();
        if !available.contains(&isa) {
            let reason = format!("this machine does not have {isa:?}: expected one of {available:?}");
            return Err(DeviceError::Unavailable(reason));
        }
        Ok(Self::build(options, isa))
    }

    fn build(options: CpuOptions, isa: IsaKind) -> Self {
        let pool = Pool::new(options.resolved_threads());
        let target = Target {
            name: "cpu".to_owned(),
            max_binding: usize::MAX / 2,
            subgroup: (1, 1),
            shared_bytes: 64 << 10,
            memory: None,
        };
        let interpreters = PerWorker::new(pool.threads(), interp::Scratch::default);
        let worker_scratch = PerWorker::new(pool.threads(), Region::default);
        Self {
            target,
            tier: options.tier,
            isa,
            pool,
            buffers: vec![],
            kernels: vec![],
            recordings: vec![],
            counters: Counters::default(),
            interpreters,
            shared_scratch: Region::default(),
            worker_scratch,
            reserved: Needs::default(),
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
            Some(span) if inside && aligned => Ok(Span { packed: buffer.packed, ..span }),
            _ => Err(self.lost(format!(
                "{bytes} bytes at {offset} of {} ({} bytes): expected whole words inside",
                buffer.what, buffer.bytes
            ))),
        }
    }

    /// A range whose bytes are as they were written.
    fn plain(&self, slice: Slice) -> Result<Span, DeviceError> {
        let span = self.span(slice)?;
        if span.packed {
            let what = &self.buffers[slice.buffer.0 as usize].what;
            return Err(self.lost(format!("{what} was rearranged: only launches can reach it")));
        }
        Ok(span)
    }

    fn prepare(&mut self, launch: Launch) -> Result<Prepared, DeviceError> {
        let Launch { template, args, stages, loc } = launch;
        let refuse = |reason: String| DeviceError::Kernel {
            kernel: template.name().to_owned(),
            reason: format!("{reason} (at {loc})"),
        };
        let spans = args.iter().enumerate();
        let args = spans.map(|(i, slice)| self.span(*slice).map_err(|e| refuse(format!("argument {i}: {e}"))));
        let args = args.collect::<Result<Vec<Span>, _>>()?;
        let micro = if self.tier == Tier::Native { micro(&template) } else { None };
        for stage in &stages {
            let Some(loaded) = self.kernels.get(stage.kernel.0 as usize) else {
                return Err(self.lost(format!("kernel {} does not exist", stage.kernel.0)));
            };
            match &micro {
                None => {
                    let named = |reason| refuse(format!("kernel {} ({}): {reason}", loaded.kernel.name, loaded.key));
                    let given = spans_of(stage, &args).map_err(named)?;
                    fits(&loaded.kernel, &given).map_err(named)?;
                    if let Some(i) = given.iter().position(|span| span.packed) {
                        return Err(named(format!("argument {i} was rearranged, which a kernel does not know")));
                    }
                }
                Some(micro) => {
                    // The kernel's bound of the table is far above any real one; the first step asks for what that one
                    // needs.
                    let [tokens, rows, _] = loaded.kernel.immediate_max;
                    let needs = micro.needs(
                        &StepSizes { tokens, rows, table_stride: 1, last_position: 0, segments: tokens },
                        self.pool.threads(),
                    );
                    self.reserve(needs)?;
                }
            }
        }
        for stage in stages.iter().filter(|_| micro.is_none()) {
            let loaded = &mut self.kernels[stage.kernel.0 as usize];
            if loaded.program.is_none() {
                loaded.program = Some(interp::lower(&loaded.kernel)?);
            }
        }
        Ok(Prepared { name: template.name(), micro, loc, args, stages })
    }

    /// Grows scratch; a step that stays below the kernels' bounds finds it large enough.
    fn reserve(&mut self, needs: Needs) -> Result<(), DeviceError> {
        let enough = |ok: bool, floats: usize| {
            let bytes = 4 * floats;
            let (device, what) = (self.target.name.clone(), "scratch".to_owned());
            let reason = "the system has no such range of memory".to_owned();
            if ok { Ok(()) } else { Err(DeviceError::OutOfMemory { device, bytes, what, reason }) }
        };
        if needs.launch > self.reserved.launch {
            enough(self.shared_scratch.reserve(needs.launch), needs.launch)?;
            self.reserved.launch = needs.launch;
        }
        if needs.worker > self.reserved.worker {
            for worker in 0..self.pool.threads() {
                let ok = self.worker_scratch.with(worker, |region| region.reserve(needs.worker));
                enough(ok, needs.worker)?;
            }
            self.reserved.worker = needs.worker;
        }
        Ok(())
    }

    /// Runs one launch; false where its grids are empty.
    fn launch(&mut self, recording: usize, index: usize, sizes: StepSizes) -> Result<bool, DeviceError> {
        let prepared = &self.recordings[recording][index];
        if prepared.stages.iter().all(|stage| stage.groups(&sizes).is_none()) {
            return Ok(false);
        }
        let name = prepared.name;
        if let Some(micro) = &prepared.micro {
            let needs = micro.needs(&sizes, self.pool.threads());
            self.reserve(needs)?;
            self.native(recording, index, sizes)?;
            *self.counters.native.entry(name).or_default() += 1;
            return Ok(true);
        }
        for stage in &prepared.stages {
            let Some(grid) = stage.groups(&sizes) else { continue };
            let Some(program) = &self.kernels[stage.kernel.0 as usize].program else {
                return Err(self.lost("a kernel was recorded without being lowered".to_owned()));
            };
            let words: Option<Vec<&[AtomicU32]>> =
                stage.args.iter().map(|at| prepared.args[*at].shared_words()).collect();
            let words = words.ok_or_else(|| self.lost("an argument is not aligned to words".to_owned()))?;
            interp::launch(program, &words, grid, sizes, &self.pool, &self.interpreters)?;
        }
        *self.counters.interpreted.entry(name).or_default() += 1;
        Ok(true)
    }

    fn native(&mut self, recording: usize, index: usize, sizes: StepSizes) -> Result<(), DeviceError> {
        let prepared = &self.recordings[recording][index];
        let Some(micro) = &prepared.micro else { return Ok(()) };
        let ctx = Context {
            args: &prepared.args,
            sizes,
            pool: &self.pool,
            isa: self.isa,
            workers: &self.worker_scratch,
            faults: Faults::new(),
        };
        let done = micro.run(&ctx, self.shared_scratch.floats()).and_then(|()| ctx.faults.result());
        done.map_err(|reason| DeviceError::Kernel {
            kernel: prepared.name.to_owned(),
            reason: format!("{reason} (at {})", prepared.loc),
        })
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

    fn alloc(&mut self, bytes: usize, usage: Usage, what: &str) -> Result<BufferId, DeviceError> {
        let memory = match usage {
            // Heads of KV pages are read at random, too; what sequences never reach is never touched.
            Usage::Weights | Usage::ReadWrite => Memory::zeroed_huge(bytes),
            Usage::Input => Memory::zeroed(bytes),
        };
        let memory = memory.ok_or_else(|| DeviceError::OutOfMemory {
            device: self.target.name.clone(),
            bytes,
            what: what.to_owned(),
            reason: "the system has no such range of memory".to_owned(),
        })?;
        self.buffers.push(Buffer { memory, bytes: bytes.next_multiple_of(4), what: what.to_owned(), packed: false });
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn write(&mut self, buffer: BufferId, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.plain(Slice { buffer, offset, bytes: bytes.len() })?.write(bytes);
        Ok(())
    }

    /// Weights of codes whose every reader is a micro-kernel of whole numbers, or a look-up, are rearranged in place.
    fn settle(&mut self, weight: Slice, ty: WeightType, readers: &[&Template]) -> Result<(), DeviceError> {
        let span = self.plain(weight)?;
        let whole = weight.offset == 0 && weight.bytes == self.buffers[weight.buffer.0 as usize].bytes;
        if self.tier == Tier::Native && whole {
            self.buffers[weight.buffer.0 as usize].packed = settle(ty, span, readers, &self.pool);
        }
        Ok(())
    }

    fn order(&self, weight: Slice) -> Order {
        let packed = self.buffers.get(weight.buffer.0 as usize).is_some_and(|buffer| buffer.packed);
        if packed { Order::Blocks } else { Order::Rows }
    }

    fn replace(
        &mut self,
        weight: Slice,
        ty: WeightType,
        rows: Range<usize>,
        bytes: &[u8],
        order: Order,
    ) -> Result<(), DeviceError> {
        let span = self.span(weight)?;
        let layout = ty.format.layout(rows.len(), ty.cols);
        if rows.end > ty.rows || span.bytes < ty.bytes() || bytes.len() < layout.bytes {
            return Err(self.lost(format!("rows {rows:?} of a weight {ty} in {} bytes", span.bytes)));
        }
        if span.packed {
            return replace(ty, span, rows, bytes, order, &self.pool).map_err(|reason| self.lost(reason));
        }
        if order != Order::Rows {
            return Err(self.lost(format!("rows {rows:?} of a weight {ty} come in blocks, and it lies row after row")));
        }
        write_rows(self, weight, ty, rows, bytes)
    }

    fn read(&mut self, slice: Slice, into: &mut [u8]) -> Result<(), DeviceError> {
        if slice.bytes != into.len() {
            return Err(self.lost(format!("reads {} bytes into {}", slice.bytes, into.len())));
        }
        self.plain(slice)?.read(into);
        Ok(())
    }

    fn load(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError> {
        let key = kernel.key();
        let known = self.kernels.iter().position(|k| k.key == key && k.kernel == *kernel);
        let at = match known {
            Some(at) => at,
            None => {
                let interpreted = self.tier == Tier::Interpreter;
                let program = interpreted.then(|| interp::lower(kernel)).transpose()?;
                self.kernels.push(Loaded { key, kernel: kernel.clone(), program });
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

/// The arguments that a kernel of a launch takes.
fn spans_of(stage: &Stage, args: &[Span]) -> Result<Vec<Span>, String> {
    let taken = stage.args.iter().map(|at| args.get(*at).copied().ok_or_else(|| format!("argument {at} is not there")));
    taken.collect()
}

/// Whether the arguments have what the kernel declares.
fn fits(kernel: &Kernel, args: &[Span]) -> Result<(), String> {
    if kernel.args.len() != args.len() {
        return Err(format!("{} arguments given, it has {}", args.len(), kernel.args.len()));
    }
    for (arg, span) in kernel.args.iter().zip(args) {
        let expected = match arg.len {
            Length::Elements(n) | Length::Units(n) => n * arg.elem.bytes() as u64,
            Length::PageTable => 4,
        };
        if (span.bytes as u64) < expected {
            return Err(format!("argument `{}` has {} bytes, expected at least {expected}", arg.name, span.bytes));
        }
    }
    Ok(())
}
