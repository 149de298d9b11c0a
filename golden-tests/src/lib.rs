//! What the golden tests share: rows of reference checkpoints, and a way to run one on any device.
//!
//! The fixtures are read here with their own few lines, apart from the code under test, so that a mistake in the loader
//! cannot hide behind itself.

pub mod cases;
pub mod chaos;
pub mod experts;
pub mod extraction;
pub mod faults;
pub mod fixture;
pub mod generated;
pub mod greedy;
pub mod host;
pub mod least;
pub mod msl;
pub mod published;
pub mod run;
pub mod worth;
