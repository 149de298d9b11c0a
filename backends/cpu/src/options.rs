//! What a user of the CPU device may choose.

use std::num::NonZero;

/// How launches run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tier {
    /// Micro-kernels chosen by template.
    #[default]
    Native,
    /// The kernel itself, interpreted; slow, every access checked.
    Interpreter,
}

/// Choices that a device is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CpuOptions {
    /// Threads that share a launch, the caller's included; 0 for the cores that the process may use.
    pub threads: usize,
    /// How launches run.
    pub tier: Tier,
}

impl CpuOptions {
    /// Threads, 0 resolved: the standard library reads affinity and the cgroup's quota.
    pub(crate) fn resolved_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            n => n,
        }
    }
}
