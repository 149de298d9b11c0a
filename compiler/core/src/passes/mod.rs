//! The passes, one per file. Graph passes take a graph and give a new one; the rest turn graphs into launches.

pub mod ahead;
pub mod basis;
pub mod canon;
pub mod emit;
pub mod fuse;
pub mod memory;
pub mod residency;
pub mod siblings;
