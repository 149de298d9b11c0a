//! Texts of the IR.

pub mod group;
pub mod names;
