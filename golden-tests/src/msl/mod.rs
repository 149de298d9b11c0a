//! A device that runs the Metal texts of kernels on the CPU: a C++ compiler takes them with a header that stands in for
//! Metal's library, and a child process runs them, lanes as fibres that meet at barriers.
//!
//! It proves syntax, types, bindings and what the texts compute; neither that Apple's compiler takes them nor that they are
//! fast.

pub mod compiler;
pub mod text;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use swiftlm_device::{BufferId, Device, DeviceError, KernelId, Launch, LaunchTime, RecordingId, Slice, Target, Usage};
use swiftlm_ir::kernel::{Kernel, KernelKey};
use swiftlm_ir::plan::StepSizes;
use swiftlm_shader::LowerOptions;

use compiler::Clang;

/// What a request begins with; `host.cpp` says what follows.
#[derive(Clone, Copy, Debug)]
enum Request {
    Alloc = 0,
    Write = 1,
    Read = 2,
    Load = 3,
    Launch = 4,
}

/// The device.
#[derive(Debug)]
pub struct MslDevice {
    target: Target,
    clang: Clang,
    options: LowerOptions,
    change: fn(String) -> String,
    child: Child,
    buffers: u32,
    kernels: Vec<KernelKey>,
    /// Texts that no library has yet, with their lanes.
    texts: Vec<(String, u32)>,
    recordings: Vec<Vec<Launch>>,
}

impl MslDevice {
    /// A device whose subgroups have `subgroup` lanes, or none. `change` is made to every text before it is compiled.
    ///
    /// # Errors
    /// The host program cannot be made.
    pub fn new(clang: Clang, subgroup: Option<u32>, change: fn(String) -> String) -> Result<Self, String> {
        clang.write("host.cpp", include_str!("host.cpp"))?;
        clang.program("host.cpp", "host")?;
        let child = Command::new(clang.dir().join("host")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let options = LowerOptions { subgroup, ..LowerOptions::default() };
        let target = Target {
            name: "msl".to_owned(),
            max_binding: 1 << 30,
            subgroup: (subgroup.unwrap_or(1), subgroup.unwrap_or(1)),
            shared_bytes: options.shared_bytes,
            memory: None,
        };
        Ok(Self {
            target,
            clang,
            options,
            change,
            child: child.map_err(|e| e.to_string())?,
            buffers: 0,
            kernels: vec![],
            texts: vec![],
            recordings: vec![],
        })
    }

    fn lost(&self, reason: impl ToString) -> DeviceError {
        DeviceError::Lost { device: self.target.name.clone(), reason: reason.to_string() }
    }

    fn ask(&mut self, request: Request, numbers: &[u64], bytes: &[u8]) -> Result<(), DeviceError> {
        let numbers = [request as u64].iter().chain(numbers).flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let sent = match &mut self.child.stdin {
            Some(stdin) => stdin.write_all(&numbers).and_then(|()| stdin.write_all(bytes)),
            None => Ok(()),
        };
        sent.map_err(|e| self.lost(e))
    }

    /// Makes a library of the texts that have none.
    fn compile(&mut self) -> Result<(), DeviceError> {
        if self.texts.is_empty() {
            return Ok(());
        }
        let texts = std::mem::take(&mut self.texts);
        let first = self.kernels.len() - texts.len();
        let mut file = text::PROLOGUE.to_owned();
        for (i, (text, _)) in texts.iter().enumerate() {
            file += &text::numbered(text, first + i).map_err(|e| self.lost(e))?;
        }
        let (source, library) = (format!("kernels{first}.cpp"), format!("./kernels{first}.so"));
        let made = self.clang.write(&source, &file).and_then(|()| self.clang.library(&source, &library));
        made.map_err(|e| self.lost(e))?;
        let path = self.clang.dir().join(&library).display().to_string();
        self.ask(Request::Load, &[path.len() as u64], path.as_bytes())?;
        let lanes = texts.iter().map(|(_, lanes)| u64::from(*lanes));
        let numbers: Vec<u8> = [texts.len() as u64].into_iter().chain(lanes).flat_map(u64::to_le_bytes).collect();
        let sent = self.child.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(&numbers));
        sent.map_err(|e| self.lost(e))
    }
}

impl Drop for MslDevice {
    fn drop(&mut self) {
        // The child ends with its input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn place(slice: &Slice) -> [u64; 3] {
    [u64::from(slice.buffer.0), slice.offset as u64, slice.bytes as u64]
}

impl Device for MslDevice {
    fn target(&self) -> &Target {
        &self.target
    }

    fn alloc(&mut self, bytes: usize, _usage: Usage, _what: &str) -> Result<BufferId, DeviceError> {
        // What the last argument spans is rounded up to a word.
        self.ask(Request::Alloc, &[bytes.next_multiple_of(4) as u64], &[])?;
        self.buffers += 1;
        Ok(BufferId(self.buffers - 1))
    }

    fn write(&mut self, buffer: BufferId, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.ask(Request::Write, &place(&Slice { buffer, offset, bytes: bytes.len() }), bytes)
    }

    fn read(&mut self, slice: Slice, into: &mut [u8]) -> Result<(), DeviceError> {
        self.ask(Request::Read, &place(&Slice { bytes: into.len(), ..slice }), &[])?;
        let read = self.child.stdout.as_mut().map_or(Ok(()), |stdout| stdout.read_exact(into));
        read.map_err(|e| self.lost(e))
    }

    fn load(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError> {
        let key = kernel.key();
        if let Some(known) = self.kernels.iter().position(|k| *k == key) {
            return Ok(KernelId(known as u32));
        }
        let refused = |reason| DeviceError::Kernel { kernel: format!("{} {key}", kernel.name), reason };
        let text = text::of_kernel(kernel, &self.options).map_err(refused)?;
        self.texts.push(((self.change)(text), kernel.lanes));
        self.kernels.push(key);
        Ok(KernelId(self.kernels.len() as u32 - 1))
    }

    fn record(&mut self, launches: Vec<Launch>) -> Result<RecordingId, DeviceError> {
        self.recordings.push(launches);
        Ok(RecordingId(self.recordings.len() as u32 - 1))
    }

    fn submit(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError> {
        self.compile()?;
        for recording in recordings {
            for launch in self.recordings[recording.0 as usize].clone() {
                for stage in &launch.stages {
                    let Some(groups) = stage.groups(&sizes) else { continue };
                    let mut numbers = vec![u64::from(stage.kernel.0)];
                    numbers.extend(groups.iter().chain(&sizes.words()).map(|n| u64::from(*n)));
                    numbers.push(stage.args.len() as u64);
                    numbers.extend(stage.args.iter().flat_map(|arg| place(&launch.args[*arg])));
                    self.ask(Request::Launch, &numbers, &[])?;
                }
            }
        }
        Ok(())
    }

    fn profile(&mut self, recording: RecordingId, sizes: StepSizes) -> Result<Vec<LaunchTime>, DeviceError> {
        self.submit(&[recording], sizes)?;
        Ok(vec![])
    }
}
