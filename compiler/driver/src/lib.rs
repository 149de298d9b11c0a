//! Offline work with files: checkpoints and the hub in, compiled programs, their texts and packages out.
//!
//! This is the only crate that opens model files. It knows every layer below the server and nothing of HTTP or prompts.

pub mod checkpoint;
pub mod compile;
pub mod debug;
pub mod dump;
pub mod hub;
pub mod iobench;
pub mod package;
pub mod precision;
