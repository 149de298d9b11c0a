//! What is asked of memory before it is needed.

use super::isa::Isa;

/// Memory that is needed next and asked for while something else is computed: pages lie anywhere, so nothing else
/// would foresee it, and asking for all of it at once would hold up what is computed.
pub(super) struct Ahead {
    pub(super) from: *const u8,
    pub(super) bytes: usize,
}

/// A part of it: a place and the bytes from one step of a loop to the next, and from one loop to the next.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    pub(super) from: *const u8,
    pub(super) step: usize,
    pub(super) loop_bytes: usize,
}

impl Ahead {
    /// Asks for it all at once; nothing is left for those who ask later.
    #[inline(always)]
    pub(super) unsafe fn ask<I: Isa>(&mut self) {
        for at in (0..self.bytes).step_by(64) {
            I::prefetch(self.from.wrapping_add(at));
        }
        self.bytes = 0;
    }

    /// Hands it all out to so many loops of so many steps; nothing is left for those who ask later.
    #[inline(always)]
    pub(super) fn part(&mut self, loops: usize, steps: usize) -> Steps {
        let step = self.bytes / (loops * steps);
        self.bytes = 0;
        Steps { from: self.from, step, loop_bytes: steps * step }
    }
}

impl Steps {
    /// What loop `i` asks for.
    #[inline(always)]
    pub(super) fn of(self, i: usize) -> Self {
        Self { from: self.from.wrapping_add(i * self.loop_bytes), ..self }
    }
}
