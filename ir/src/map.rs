//! Elementwise programs: what a fused prologue or epilogue computes for one element.
//!
//! One program serves every backend: the kernel builder emits it per lane, the CPU backend runs it over tiles.

use serde::{Deserialize, Serialize};

use crate::ty::DType;

/// Register of a program: the result of its step of that index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reg(pub u16);

/// One step, giving one f32.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum MapStep {
    /// Input `i` of the program.
    Input(u16),
    /// A constant.
    Const(f32),
    /// `a + b`.
    Add(Reg, Reg),
    /// `a · b`.
    Mul(Reg, Reg),
    /// `x · sigmoid(x)`.
    Silu(Reg),
    /// Tanh approximation of GELU, as op `gelu_tanh` defines it.
    GeluTanh(Reg),
    /// `1 / (1 + e^-x)`.
    Sigmoid(Reg),
    /// `tanh x`.
    Tanh(Reg),
    /// The lesser of two.
    Min(Reg, Reg),
    /// The greater of two.
    Max(Reg, Reg),
    /// Rounds to a narrower type and back.
    Round(Reg, DType),
}

/// A straight-line program; the last step is its result.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Map {
    /// Steps in order; operands precede their use.
    pub steps: Vec<MapStep>,
}

impl Map {
    /// The program that returns input 0.
    pub fn identity() -> Self {
        Self { steps: vec![MapStep::Input(0)] }
    }

    /// Whether the program is [`Self::identity`].
    pub fn is_identity(&self) -> bool {
        self.steps == [MapStep::Input(0)]
    }

    /// Appends a step, sharing equal ones.
    pub fn push(&mut self, step: MapStep) -> Reg {
        let at = self.steps.iter().position(|s| *s == step).unwrap_or_else(|| {
            self.steps.push(step);
            self.steps.len() - 1
        });
        Reg(u16::try_from(at).unwrap_or(u16::MAX))
    }

    /// Evaluates over any value type, given the inputs and how each non-input step acts.
    /// `apply` receives a step and looks registers up in the slice of results so far.
    pub fn run<V: Copy>(&self, mut apply: impl FnMut(&MapStep, &[V]) -> V) -> Option<V> {
        let mut results: Vec<V> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let value = apply(step, &results);
            results.push(value);
        }
        results.last().copied()
    }

    /// The result for one element.
    pub fn eval(&self, inputs: &[f32]) -> f32 {
        self.run(|step, r: &[f32]| {
            let at = |reg: &Reg| r[reg.0 as usize];
            match step {
                MapStep::Input(i) => inputs[*i as usize],
                MapStep::Const(c) => *c,
                MapStep::Add(a, b) => at(a) + at(b),
                MapStep::Mul(a, b) => at(a) * at(b),
                MapStep::Silu(a) => silu(at(a)),
                MapStep::GeluTanh(a) => gelu_tanh(at(a)),
                MapStep::Sigmoid(a) => sigmoid(at(a)),
                MapStep::Tanh(a) => at(a).tanh(),
                MapStep::Min(a, b) => at(a).min(at(b)),
                MapStep::Max(a, b) => at(a).max(at(b)),
                MapStep::Round(a, to) => round(at(a), *to),
            }
        })
        .unwrap_or(0.0)
    }
}

/// `x · sigmoid(x)`.
pub fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Tanh approximation of GELU (Hendrycks & Gimpel 2016).
pub fn gelu_tanh(x: f32) -> f32 {
    let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// Rounds to nearest even in `to` and back.
pub fn round(x: f32, to: DType) -> f32 {
    match to {
        DType::F16 => half::f16::from_f32(x).to_f32(),
        DType::F32 | DType::U32 => x,
    }
}
