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

/// How a gate and the other side of a feed-forward layer become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    /// `f(gate) · up`.
    Of(Activation),
    /// `g · sigmoid(slope · g)` of `g = min(gate, limit)`, times one more than the other side between `-limit` and `limit`
    /// (OpenAI 2025, gpt-oss model card, §2.1).
    Clamped {
        /// Largest magnitude.
        limit: f64,
        /// Factor in the sigmoid.
        slope: f64,
    },
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
    /// A gate and the other side as one.
    pub fn gate(&mut self, f: Gate, gate: Value, up: Value) -> Value {
        let op = match f {
            Gate::Of(f) => f.op(),
            Gate::Clamped { limit, slope } => {
                let gate = self.op(Op::Min { bound: limit }, [gate.into()]);
                let up = self.op(Op::Min { bound: limit }, [up.into()]);
                let up = self.op(Op::Max { bound: -limit }, [up.into()]);
                let scaled = self.scale(gate, slope);
                let sigmoid = self.op(Op::Sigmoid, [scaled.into()]);
                let gate = self.op(Op::Mul, [gate.into(), sigmoid.into()]);
                let product = self.op(Op::Mul, [gate.into(), up.into()]);
                return self.add(product, gate);
            }
        };
        let gate = self.op(op, [gate.into()]);
        self.op(Op::Mul, [gate.into(), up.into()])
    }

    /// `down(f(gate(x)) · up(x))` (Shazeer 2020) with the weights below `name`.
    pub fn gated(&mut self, name: &str, x: Value, inner: usize, f: Activation, bias: bool) -> Value {
        let width = self.width(x);
        self.within(name, |b| {
            let gate = b.linear("gate_proj", x, inner, bias);
            let up = b.linear("up_proj", x, inner, bias);
            let h = b.gate(Gate::Of(f), gate, up);
            b.linear("down_proj", h, width, bias)
        })
    }
}
