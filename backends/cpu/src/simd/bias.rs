//! Vectors that are added to the sums of a product before its epilogue sees them.

use swiftlm_ir::quant::Float;

use super::isa::{Isa, LANES};
use super::weights::{load_floats, load_some, store_some};

/// A vector for the outputs of a product, and behind it that of their second halves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bias {
    pub(crate) float: Float,
    pub(crate) base: *const u8,
    /// Outputs.
    pub(crate) outputs: usize,
}

// SAFETY: an address of a weight, which is only read while a launch runs.
unsafe impl Send for Bias {}
// SAFETY: as above.
unsafe impl Sync for Bias {}

impl Bias {
    /// Adds to `count` sums of outputs from `col` on, of the first half or the second.
    #[inline(always)]
    pub(crate) unsafe fn add<I: Isa>(&self, half: usize, col: usize, count: usize, sums: *mut f32) {
        let from = self.base.add((half * self.outputs + col) * self.float.bytes());
        for i in (0..count).step_by(LANES) {
            let (left, to) = (count - i, sums.add(i));
            let bias = load_floats::<I>(self.float, from.add(i * self.float.bytes()), left);
            store_some::<I>(to, I::add(load_some::<I>(to, left), bias), left);
        }
    }
}
