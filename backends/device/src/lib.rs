//! What a device must do, and a device that only records. Knows kernels and buffers; never models, graphs or requests.

use std::sync::Arc;

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::plan::{Groups, StepSizes};
use swiftlm_ir::template::Template;

pub mod null;

pub use null::NullDevice;

/// A buffer of a device: index in order of allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// A loaded kernel: index in order of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(pub u32);

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// Written once, read by kernels.
    Weights,
    /// Read and written by kernels.
    ReadWrite,
    /// Written by the host before each step, read by kernels.
    Input,
}

/// A range of a buffer, in bytes; `offset` is a multiple of 256 unless the buffer is a weight's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The buffer.
    pub buffer: BufferId,
    /// First byte.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
}

/// The order in which the bytes of a weight lie inside the places that [`Format::layout`] gives its components.
///
/// [`Format::layout`]: swiftlm_ir::quant::Format::layout
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// Row after row, as files have it.
    #[default]
    Rows,
    /// As products of whole numbers on vector units read it: what 16 rows have stays where these rows' bytes are, but is
    /// arranged among itself.
    Blocks,
}

/// A launch with its operands resolved; the same for every step except for sizes.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What it computes, for devices with micro-kernels of their own.
    pub template: Arc<Template>,
    /// The template's arguments in their order; behind them, where kernels leave one another something, their scratch.
    pub args: Vec<Slice>,
    /// The kernels that compute it in order, on other devices.
    pub stages: Vec<Stage>,
    /// Path of the ops it came from.
    pub loc: String,
}

/// One kernel of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The kernel.
    pub kernel: KernelId,
    /// Which of the launch's arguments it takes, in its binding order.
    pub args: Vec<usize>,
    /// Workgroups per axis.
    pub grid: [Groups; 3],
}

impl Stage {
    /// Workgroups per axis at these sizes, `None` if there are none.
    pub fn groups(&self, sizes: &StepSizes) -> Option<[u32; 3]> {
        let groups = self.grid.map(|axis| axis.count(sizes));
        groups.iter().all(|n| *n > 0).then_some(groups)
    }
}

impl Launch {
    /// A launch of one kernel, which takes all arguments.
    pub fn of_kernel(
        kernel: KernelId,
        template: Arc<Template>,
        args: Vec<Slice>,
        grid: [Groups; 3],
        loc: &str,
    ) -> Self {
        let stages = vec![Stage { kernel, args: (0..args.len()).collect(), grid }];
        Self { template, args, stages, loc: loc.to_owned() }
    }

    /// Whether it does anything at these sizes: the grids of its kernels are empty together.
    pub fn runs(&self, sizes: &StepSizes) -> bool {
        self.stages.iter().any(|stage| stage.groups(sizes).is_some())
    }
}

/// Launches that are submitted together again and again; made by [`Device::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordingId(pub u32);

/// Facts that plans depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `cpu`, or the adapter's name.
    pub name: String,
    /// Largest range that one argument may span, in bytes.
    pub max_binding: usize,
    /// Smallest and largest subgroup, 1 where there is none.
    pub subgroup: (u32, u32),
    /// Bytes of shared memory of a workgroup.
    pub shared_bytes: usize,
    /// Bytes of device memory where the device says so.
    pub memory: Option<u64>,
}

/// What went wrong on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No adapter, or it lacks something.
    #[error("{0}")]
    Unavailable(String),
    /// A buffer could not be made.
    #[error("device {device} cannot allocate {bytes} bytes for {what}: {reason}")]
    OutOfMemory {
        /// Device name.
        device: String,
        /// Bytes asked for.
        bytes: usize,
        /// What for.
        what: String,
        /// The driver's words.
        reason: String,
    },
    /// A kernel was refused.
    #[error("kernel {kernel}: {reason}")]
    Kernel {
        /// Name and key.
        kernel: String,
        /// Why.
        reason: String,
    },
    /// The device was lost or a submission failed.
    #[error("device {device} failed: {reason}")]
    Lost {
        /// Device name.
        device: String,
        /// The driver's words.
        reason: String,
    },
}

/// Time of one launch of the last profiled submission.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchTime {
    /// Index in the recording.
    pub launch: usize,
    /// Nanoseconds by the device's own clock.
    pub nanoseconds: u64,
}

/// A device. One thread owns it.
pub trait Device: Send {
    /// Facts.
    fn target(&self) -> &Target;

    /// A zeroed buffer of at least `bytes` bytes; `what` names it in errors.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn alloc(&mut self, bytes: usize, usage: Usage, what: &str) -> Result<BufferId, DeviceError>;

    /// Writes bytes; `offset` and the length are multiples of 4.
    ///
    /// # Errors
    /// The device was lost.
    fn write(&mut self, buffer: BufferId, offset: usize, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Says that a weight is complete, and which templates will read it, and no others. The device may rearrange it where
    /// it lies into what its launches of these templates read best; afterwards it is neither written nor read by the host.
    /// A device that has no order of its own does nothing.
    ///
    /// # Errors
    /// The range is not this device's.
    fn settle(&mut self, weight: Slice, ty: WeightType, readers: &[&Template]) -> Result<(), DeviceError> {
        let _ = (weight, ty, readers);
        Ok(())
    }

    /// The order that [`Self::settle`] left a weight in.
    fn order(&self, weight: Slice) -> Order {
        let _ = weight;
        Order::Rows
    }

    /// Writes some rows of a weight anew. `bytes` is these rows as a matrix of their own, as [`Format::layout`] places it,
    /// row after row or in the order that the weight is in.
    ///
    /// [`Format::layout`]: swiftlm_ir::quant::Format::layout
    ///
    /// # Errors
    /// The range is not this device's, rows of this number cannot be told apart, or the order is neither of the two.
    fn replace(
        &mut self,
        weight: Slice,
        ty: WeightType,
        rows: std::ops::Range<usize>,
        bytes: &[u8],
        order: Order,
    ) -> Result<(), DeviceError> {
        match order {
            Order::Rows => write_rows(self, weight, ty, rows, bytes),
            Order::Blocks => Err(DeviceError::Lost {
                device: self.target().name.clone(),
                reason: format!("rows {rows:?} of a weight {ty} come in blocks, and it lies row after row"),
            }),
        }
    }

    /// Reads bytes after everything submitted so far; `offset` and the length are multiples of 4.
    ///
    /// # Errors
    /// The device was lost.
    fn read(&mut self, slice: Slice, into: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies as many bytes as `to` has, after everything submitted so far and before everything submitted later; offsets
    /// and the length are multiples of 4.
    ///
    /// # Errors
    /// A range is not this device's, or the device was lost.
    fn copy(&mut self, from: Slice, to: Slice) -> Result<(), DeviceError> {
        let mut bytes = vec![0; to.bytes];
        self.read(Slice { bytes: to.bytes, ..from }, &mut bytes)?;
        self.write(to.buffer, to.offset, &bytes)
    }

    /// Loads a verified kernel; loading an equal kernel again gives the same id.
    ///
    /// # Errors
    /// [`DeviceError::Kernel`].
    fn load(&mut self, kernel: &Kernel) -> Result<KernelId, DeviceError>;

    /// Keeps launches for repeated submission.
    ///
    /// # Errors
    /// An argument does not fit its kernel.
    fn record(&mut self, launches: Vec<Launch>) -> Result<RecordingId, DeviceError>;

    /// Runs recordings in order as one submission. Launches whose grid is empty at these sizes are skipped.
    ///
    /// # Errors
    /// The device was lost.
    fn submit(&mut self, recordings: &[RecordingId], sizes: StepSizes) -> Result<(), DeviceError>;

    /// Like [`Self::submit`], one recording, and waits; gives the time of every launch that ran.
    ///
    /// # Errors
    /// The device was lost.
    fn profile(&mut self, recording: RecordingId, sizes: StepSizes) -> Result<Vec<LaunchTime>, DeviceError>;
}

/// [`Device::replace`] of a weight that lies as it was written.
///
/// # Errors
/// As [`Device::write`].
pub fn write_rows(
    device: &mut (impl Device + ?Sized),
    weight: Slice,
    ty: WeightType,
    rows: std::ops::Range<usize>,
    bytes: &[u8],
) -> Result<(), DeviceError> {
    let (whole, own) = (ty.format.layout(ty.rows, ty.cols), ty.format.layout(rows.len(), ty.cols));
    for (to, from) in whole.components.iter().zip(&own.components) {
        let offset = weight.offset + to.offset + rows.start * to.row_bytes;
        device.write(weight.buffer, offset, &bytes[from.offset..from.offset + from.bytes])?;
    }
    Ok(())
}
