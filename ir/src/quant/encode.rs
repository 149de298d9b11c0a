//! Encoding of groups on the kernel builder: the twin of [`Group`](super::head::Group).

use super::head::{ABSOLUTE, LARGEST, RELATIVE};
use crate::kernel::builder::{E, Kb};

/// Scale and bias of a group of codes, while a kernel is built.
#[derive(Clone, Copy, Debug)]
pub struct GroupExpr<'k> {
    kb: &'k Kb,
    scale: E<'k>,
    bias: E<'k>,
    levels: u32,
    /// The group's word in a page.
    pub word: E<'k>,
}

impl<'k> GroupExpr<'k> {
    /// The group whose smallest and largest numbers these are.
    pub fn new(kb: &'k Kb, low: E<'k>, high: E<'k>, bits: u8) -> Self {
        let (levels, relative, absolute) = ((1u32 << bits) - 1, kb.f32(RELATIVE), kb.f32(ABSOLUTE));
        let (low, high) = (low.max(kb.f32(-LARGEST)), high.min(kb.f32(LARGEST)));
        let below = low - low.abs() * relative - absolute;
        let bias = below.pack_half(below).half_low();
        let scale = (high - bias) / kb.f32(levels as f32);
        let above = scale + scale * relative + absolute;
        let word = above.pack_half(below);
        Self { kb, scale: word.half_low(), bias, levels, word }
    }

    /// The nearest code. A device may flush the least scales to zero: it gets no division by it.
    pub fn code(&self, x: E<'k>) -> E<'k> {
        let kb = self.kb;
        let steps = (x - self.bias) / self.scale.max(kb.f32(f32::MIN_POSITIVE));
        (steps + kb.f32(0.5)).max(kb.f32(0.0)).min(kb.f32(self.levels as f32)).to_u32()
    }
}
