//! Every kernel becomes a valid shader, with subgroups and without, in shared memory that any device has.

use swiftlm_compiler::kernels::Built;
use swiftlm_shader::{LowerOptions, lower, validate};

use crate::samples::kernels;

#[test]
fn kernels_are_shaders() {
    for (_, Built { kernel, .. }) in kernels() {
        for subgroup in [None, Some(8), Some(32)] {
            let options = LowerOptions { subgroup, shared_bytes: 16 << 10, ..LowerOptions::default() };
            let valid = lower(&kernel, &options).and_then(|module| validate(&module));
            assert!(valid.is_ok(), "{}, subgroups of {subgroup:?}: {:?}", kernel.name, valid.err());
        }
    }
}
