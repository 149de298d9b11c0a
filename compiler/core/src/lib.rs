//! The compiler: a module goes in, a program of launches comes out.
//!
//! [`pipeline`] is the list of passes. Everything here is pure: no file, no device, no clock, and the same input gives the
//! same bytes. It knows nothing of naga, of wgpu or of models.

pub mod choices;
pub mod egraph;
pub mod kernels;
pub mod passes;
pub mod pipeline;
pub mod rewrite;
pub mod rules;
pub mod work;

pub use choices::Choices;
pub use pipeline::{CompileError, CompileOptions, Compiled, Seen, compile};
