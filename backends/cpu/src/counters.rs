//! Launches by template and tier, so that a test can prove that nothing ran on the wrong one.

use std::collections::BTreeMap;

/// Launches since the device was made.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// By micro-kernels, per template name.
    pub native: BTreeMap<&'static str, u64>,
    /// By the interpreter, per template name.
    pub interpreted: BTreeMap<&'static str, u64>,
}
