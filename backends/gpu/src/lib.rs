//! The wgpu device: kernels on any GPU with a Vulkan, Metal or DirectX 12 driver, software ones included.
//!
//! It loads kernels through [`swiftlm_shader`], keeps launches as recordings with their bind groups made once, and runs
//! a step as one submission. It knows kernels, buffers and launches; never models, graphs or requests.

mod adapter;
mod buffer;
mod device;
mod health;
mod pipeline;
mod probe;
mod profile;
mod record;
mod submit;

pub use adapter::{AdapterFacts, adapters};
pub use device::GpuDevice;
