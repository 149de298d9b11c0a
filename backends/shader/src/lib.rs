//! Kernel IR to naga modules, and their texts for people: WGSL, MSL, SPIR-V. Every GPU runs what [`lower`] makes.
//!
//! A kernel arrives verified, so nothing here adds a runtime check; what a verifier cannot have let through comes back
//! as a [`ShaderError`]. This crate knows neither devices nor what a kernel computes.

mod error;
mod expr;
mod half;
mod lower;
mod reduce;
mod stmt;
mod text;
mod types;

pub use error::ShaderError;
pub use lower::{LowerOptions, lower};
pub use reduce::scratch_bytes;
pub use text::{ENTRY_POINT, IMMEDIATE_BYTES, msl, spirv, validate, wgsl};
