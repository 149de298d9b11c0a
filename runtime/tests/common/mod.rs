//! A device that runs a tiny model by hand, so that the runtime is tested without compiler or kernels.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses its own part of this module")]

mod client;
mod device;
mod expected;
mod model;
mod program;
mod shared;

pub use client::{Call, Reply, request, run, submit, wait_for};
pub use device::{Control, MockDevice, StepLog};
pub use expected::{Outcome, expected};
pub use model::{greedy_reply, greedy_reply_within, logits_after};
pub use program::{CHUNK, MAX_ROWS, Shape, VOCABULARY, WeightBytes, program};
pub use shared::SharedDevice;

use swiftlm_runtime::{Executable, ExecutableOptions};

use std::sync::Arc;

/// An executable of the mock model, and the handle that watches and disturbs its device.
pub fn executable(
    shape: Shape,
    kv_pages: usize,
    max_sequences: usize,
    table_stride: usize,
) -> (Executable, Arc<Control>) {
    let (device, control) = MockDevice::new(1 << 20);
    let device = device.with_window(shape.window);
    let options = ExecutableOptions {
        kv_pages,
        max_sequences,
        table_stride,
        layers: None,
        experts: None,
        rest: None,
        progress: &mut |_| {},
    };
    let executable = Executable::load(Box::new(device), program(shape), &WeightBytes, options);
    (executable.expect("the mock program loads"), control)
}
