//! What a kernel can do wrong while it runs, in words that name the kernel, the argument and the index.

use swiftlm_device::DeviceError;

use super::program::Program;

/// A kernel's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An argument was accessed beyond its end.
    Argument { arg: usize, index: usize, len: usize, lane: usize },
    /// A shared array was accessed beyond its end.
    Shared { array: usize, index: usize, len: usize, lane: usize },
    /// A value that was to be trusted is not below its bound.
    Promise { value: u32, below: u64, lane: usize },
    /// Some lanes did not come along.
    Parted { what: &'static str },
}

impl Fault {
    pub(crate) fn argument(arg: usize, index: usize, len: usize, lane: usize) -> Self {
        Self::Argument { arg, index, len, lane }
    }

    /// The error to report for workgroup `group`.
    pub(crate) fn error(self, program: &Program, group: [u32; 3]) -> DeviceError {
        let what = match self {
            Self::Argument { arg, index, len, lane } => {
                format!(
                    "argument `{}`: index {index} is out of bounds of {len} elements, lane {lane}",
                    program.args[arg]
                )
            }
            Self::Shared { array, index, len, lane } => {
                format!("shared array {array}: index {index} is out of bounds of {len} elements, lane {lane}")
            }
            Self::Promise { value, below, lane } => {
                format!("trusted value {value} is not below {below}, lane {lane}: whoever wrote the data must check it")
            }
            Self::Parted { what } => format!("not all lanes reach {what}"),
        };
        DeviceError::Kernel { kernel: program.name.clone(), reason: format!("{what} of workgroup {group:?}") }
    }
}
