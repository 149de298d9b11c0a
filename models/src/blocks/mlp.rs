//! Gated feed-forward layers.

use swiftlm_ir::graph::Value;
use swiftlm_ir::ops::Op;

use super::Block;

impl Block<'_> {
    /// `down(silu(gate(x)) · up(x))` (Shazeer 2020) with the weights below `name`.
    pub fn swiglu(&mut self, name: &str, x: Value, inner: usize, bias: bool) -> Value {
        let width = self.width(x);
        self.within(name, |b| {
            let gate = b.linear("gate_proj", x, inner, bias);
            let up = b.linear("up_proj", x, inner, bias);
            let gate = b.op(Op::Silu, [gate.into()]);
            let h = b.op(Op::Mul, [gate.into(), up.into()]);
            b.linear("down_proj", h, width, bias)
        })
    }
}
