//! The CPU device: buffers in host memory, a thread pool, and two tiers of launches.
//!
//! Tier *interpreter* ([`interp`]) runs kernel IR as it is written, every access checked: it is the truth for kernels.
//! Tier *native* runs micro-kernels chosen by a launch's template. This crate knows kernels, templates and buffers; it
//! must never know models, graphs or requests.

pub mod arrange;
mod bandwidth;
mod counters;
mod device;
pub mod interp;
mod memory;
mod options;
mod pool;
mod simd;

pub use bandwidth::read_bandwidth;
pub use counters::Counters;
pub use device::CpuDevice;
pub use options::{CpuOptions, Tier};
pub use simd::isa::IsaKind;
