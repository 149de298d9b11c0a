//! Gated feed-forward layers.

use swiftlm_ir::graph::Value;
use swiftlm_ir::ops::Op;

use super::Block;
use crate::{Config, ModelError};

/// The function on the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
}

impl Activation {
    /// As a configuration names it.
    ///
    /// # Errors
    /// A function that is not implemented.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        // Where a file has both, the newer field says what the reference computes.
        let field = if config.get("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
        config.only(field, &["silu", "gelu_pytorch_tanh"])?;
        Ok(if config.text(field)? == Some("gelu_pytorch_tanh") { Self::GeluTanh } else { Self::Silu })
    }

    /// The op that computes it.
    pub fn op(self) -> Op {
        match self {
            Self::Silu => Op::Silu,
            Self::GeluTanh => Op::GeluTanh,
        }
    }
}

impl Block<'_> {
    /// `down(f(gate(x)) · up(x))` (Shazeer 2020) with the weights below `name`.
    pub fn gated(&mut self, name: &str, x: Value, inner: usize, f: Activation, bias: bool) -> Value {
        let width = self.width(x);
        self.within(name, |b| {
            let gate = b.linear("gate_proj", x, inner, bias);
            let up = b.linear("up_proj", x, inner, bias);
            let gate = b.op(f.op(), [gate.into()]);
            let h = b.op(Op::Mul, [gate.into(), up.into()]);
            b.linear("down_proj", h, width, bias)
        })
    }
}
