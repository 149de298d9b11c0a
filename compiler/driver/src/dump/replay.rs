//! One launch run twice: by the device as it serves, and by the interpreter of kernels, from the same contents of memory.

use std::fmt::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use swiftlm_cpu::{CpuDevice, CpuOptions, Tier};
use swiftlm_device::{
    BufferId, Device, DeviceError, KernelId, Launch, LaunchTime, Order, RecordingId, Slice, Stage, Target, Usage,
};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::{Access, KType, Kernel};
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::Template;

use super::subject::StepFlags;
use super::trace::Trace;
use super::{DumpError, is_kernel};
use crate::checkpoint::Checkpoint;

/// What an argument held after either run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Path of the op that the launch is built around.
    pub place: String,
    /// Template of the launch.
    pub template: &'static str,
    /// Its kernels, `name#key`.
    pub kernels: Vec<String>,
    /// The argument, as the kernel names it.
    pub argument: String,
    /// Words that either run wrote.
    pub written: usize,
    /// Words in which they differ.
    pub different: usize,
    /// `‖a − b‖ / ‖b‖` of written f32; none for other words.
    pub error: Option<f64>,
}

/// Runs a step on a device, and every launch of a template (`attend`), of a kernel (by name, or by the beginning of its key) or, for
/// `all`, every launch a second time.
///
/// # Errors
/// The model cannot be run, or no launch of the step is of that name.
pub fn replay(
    trace: &Trace,
    checkpoint: &Checkpoint,
    (device, flags): (Box<dyn Device>, &StepFlags),
    kernel: &str,
) -> Result<Vec<Compared>, DumpError> {
    let found = Arc::new(Mutex::new(vec![]));
    let twin = Twin {
        first: device,
        second: CpuDevice::new(CpuOptions { threads: flags.threads, tier: Tier::Interpreter }),
        buffers: vec![],
        kernels: vec![],
        recordings: vec![],
        wanted: kernel.to_owned(),
        found: Arc::clone(&found),
    };
    let mut executable = flags.load(Box::new(twin), trace.compiled.program.clone(), checkpoint)?;
    let batch = flags.batch(&executable);
    executable.step(&batch).map_err(DumpError::run)?;
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    if found.is_empty() {
        let mut names: Vec<&str> = trace.compiled.program.kernels.iter().map(|k| k.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        return Err(DumpError::Run(format!(
            "no launch of this step is of `{kernel}`: expected `all`, the beginning of a key, or one of {}",
            names.join(", ")
        )));
    }
    Ok(found)
}

/// The table that people read.
pub fn table(compared: &[Compared]) -> String {
    let mut out = format!(
        "{:<14} {:>10} {:>10} {:>10}  {}\n",
        "template", "written", "different", "error", "place, argument, kernels"
    );
    for c in compared {
        let error = c.error.map_or("-".to_owned(), |e| format!("{e:.1e}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:<14} {:>10} {:>10} {error:>10}  {}, {}, {}",
            c.template,
            c.written,
            c.different,
            c.place,
            c.argument,
            c.kernels.join(" ")
        );
    }
    out
}

/// A launch on both devices.
struct Single {
    launch: Launch,
    /// Which of its arguments are written by kernels and read by others, with their element's type and name.
    results: Vec<(usize, KType, String)>,
    first: RecordingId,
    second: RecordingId,
}

/// Two devices that are given the same. What is launched runs on the first; launches that are looked at run on the second,
/// too, from what the first held before.
struct Twin {
    first: Box<dyn Device>,
    second: CpuDevice,
    buffers: Vec<(BufferId, BufferId)>,
    kernels: Vec<(KernelId, KernelId, Kernel)>,
    recordings: Vec<Vec<Single>>,
    wanted: String,
    found: Arc<Mutex<Vec<Compared>>>,
}

impl Twin {
    fn lost(&self, what: &str) -> DeviceError {
        DeviceError::Lost { device: self.first.target().name.clone(), reason: format!("{what} does not exist") }
    }

    fn buffer(&self, buffer: BufferId) -> Result<(BufferId, BufferId), DeviceError> {
        self.buffers.get(buffer.0 as usize).copied().ok_or_else(|| self.lost("a buffer"))
    }

    fn slices(&self, slice: Slice) -> Result<(Slice, Slice), DeviceError> {
        let (first, second) = self.buffer(slice.buffer)?;
        Ok((Slice { buffer: first, ..slice }, Slice { buffer: second, ..slice }))
    }

    fn looked_at(&self, launch: &Launch) -> bool {
        let of = |stage: &Stage| {
            let kernel = self.kernels.get(stage.kernel.0 as usize).map(|(_, _, kernel)| kernel);
            kernel.is_some_and(|k| is_kernel(k, &self.wanted))
        };
        self.wanted == "all" || launch.template.name() == self.wanted || launch.stages.iter().any(of)
    }

    /// A launch for one of the devices.
    fn of(&self, launch: &Launch, second: bool) -> Result<Launch, DeviceError> {
        let mut launch = launch.clone();
        for arg in &mut launch.args {
            let slices = self.slices(*arg)?;
            *arg = if second { slices.1 } else { slices.0 };
        }
        for stage in &mut launch.stages {
            let known = self.kernels.get(stage.kernel.0 as usize).ok_or_else(|| self.lost("a kernel"))?;
            stage.kernel = if second { known.1 } else { known.0 };
        }
        Ok(launch)
    }

    fn results(&self, launch: &Launch) -> Vec<(usize, KType, String)> {
        // The last argument of several kernels is what they leave one another.
        let count = launch.args.len() - usize::from(launch.stages.len() > 1);
        let mut results: Vec<(usize, KType, String)> = vec![];
        for stage in &launch.stages {
            let Some((_, _, kernel)) = self.kernels.get(stage.kernel.0 as usize) else { continue };
            for (arg, at) in kernel.args.iter().zip(&stage.args) {
                let written = arg.access == Access::ReadWrite && *at < count;
                // What is written over an input lies where the input does.
                if written && results.iter().all(|(known, ..)| launch.args[*known] != launch.args[*at]) {
                    results.push((*at, arg.elem, arg.name.clone()));
                }
            }
        }
        results
    }

    /// Runs a launch on both devices from the same contents.
    fn compare(&mut self, recording: usize, at: usize, sizes: StepSizes) -> Result<(), DeviceError> {
        let single = &self.recordings[recording][at];
        let mut before = vec![];
        for (arg, ..) in &single.results {
            let (first, second) = self.slices(single.launch.args[*arg])?;
            let mut bytes = vec![0; first.bytes];
            self.first.read(first, &mut bytes)?;
            self.second.write(second.buffer, second.offset, &bytes)?;
            before.push((first, second, bytes));
        }
        self.first.submit(&[single.first], sizes)?;
        self.second.submit(&[single.second], sizes)?;
        for ((_, elem, argument), (first, second, before)) in single.results.iter().zip(before) {
            let (mut a, mut b) = (vec![0; before.len()], vec![0; before.len()]);
            self.first.read(first, &mut a)?;
            self.second.read(second, &mut b)?;
            let (written, different, error) = difference(&before, &a, &b, *elem == KType::F32);
            let kernel = |stage: &Stage| self.kernels.get(stage.kernel.0 as usize).map(|(_, _, k)| k);
            let named = |k: &Kernel| format!("{}#{}", k.name, k.key());
            if written > 0 {
                let compared = Compared {
                    place: single.launch.loc.clone(),
                    template: single.launch.template.name(),
                    kernels: single.launch.stages.iter().filter_map(kernel).map(named).collect(),
                    argument: argument.clone(),
                    written,
                    different,
                    error,
                };
                self.found.lock().unwrap_or_else(PoisonError::into_inner).push(compared);
            }
        }
        Ok(())
    }
}

/// Words written by either run, words in which the runs differ, and how far floats are apart.
fn difference(before: &[u8], a: &[u8], b: &[u8], floats: bool) -> (usize, usize, Option<f64>) {
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    };
    let (mut written, mut different, mut far, mut norm) = (0, 0, 0.0, 0.0);
    for ((before, a), b) in words(before).into_iter().zip(words(a)).zip(words(b)) {
        if a == before && b == before {
            continue;
        }
        written += 1;
        different += usize::from(a != b);
        let (a, b) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
        far += (a - b) * (a - b);
        norm += b * b;
    }
    (written, different, floats.then(|| if far == 0.0 { 0.0 } else { (far / norm).sqrt() }))
}

impl Device for Twin {
    fn target(&self) -> &Target {
        self.first.target()
    }

    fn alloc(&mut self, bytes: usize, usage: Usage, what: &str) -> Result<BufferId, DeviceError> {
        let both = (self.first.alloc(bytes, usage, what)?, self.second.alloc(bytes, usage, what)?);
        self.buffers.push(both);
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn write(&mut self, buffer: BufferId, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let (first, second) = self.buffer(buffer)?;
        self.first.write(first, offset, bytes)?;
        self.second.write(second, offset, bytes)
    }

    fn settle(&mut self, weight: Slice, ty: WeightType, readers: &[&Template]) -> Result<(), DeviceError> {
        let (first, second) = self.slices(weight)?;
        self.first.settle(first, ty, readers)?;
        self.second.settle(second, ty, readers)
    }

    fn replace(
        &mut self,
        weight: Slice,
        ty: WeightType,
        rows: Range<usize>,
        bytes: &[u8],
        order: Order,
    ) -> Result<(), DeviceError> {
        let (first, second) = self.slices(weight)?;
        self.first.replace(first, ty, rows.clone(), bytes, order)?;
        self.second.replace(second, ty, rows, bytes, order)
    }

    fn read(&mut self, slice: Slice, into: &mut [u8]) -> Result<(), DeviceError> {
        let (first, _) = self.slices(slice)?;
        self.first.read(first, into)
    }

    fn load(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError> {
        let both = (self.first.load(kernel)?, self.second.load(kernel)?, kernel.clone());
        self.kernels.push(both);
        Ok(KernelId(self.kernels.len() as u32 - 1))
    }

    fn record(&mut self, launches: Vec<Launch>) -> Result<RecordingId, DeviceError> {
        let mut singles = vec![];
        for launch in launches {
            let (first, second) = (self.of(&launch, false)?, self.of(&launch, true)?);
            let (first, second) = (self.first.record(vec![first])?, self.second.record(vec![second])?);
            singles.push(Single { results: self.results(&launch), launch, first, second });
        }
        self.recordings.push(singles);
        Ok(RecordingId(self.recordings.len() as u32 - 1))
    }

    fn submit(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError> {
        for recording in recordings {
            let count = self.recordings.get(recording.0 as usize).map(Vec::len);
            for at in 0..count.ok_or_else(|| self.lost("a recording"))? {
                let single = &self.recordings[recording.0 as usize][at];
                if single.launch.runs(&sizes) && self.looked_at(&single.launch) {
                    self.compare(recording.0 as usize, at, sizes)?;
                } else {
                    self.first.submit(&[single.first], sizes)?;
                }
            }
        }
        Ok(())
    }

    fn profile(&mut self, recording: RecordingId, sizes: StepSizes) -> Result<Vec<LaunchTime>, DeviceError> {
        // Nobody times what runs twice.
        self.submit(&[recording], sizes)?;
        Ok(vec![])
    }
}
