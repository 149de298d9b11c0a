//! Mamba-2: a selective state space whose memory of a head decays as a whole and gains an outer product with each token.

use swiftlm_ir::graph::Value;
use swiftlm_ir::ops::Op;
use swiftlm_ir::ty::{Recurrent, StateType};

use super::mlp::Activation;
use super::{Block, Norm};

/// What distinguishes one Mamba-2 mixer from another.
#[derive(Clone, Copy, Debug)]
pub struct Mamba2 {
    /// Heads of x and time steps.
    pub heads: usize,
    /// Groups of heads that share B and C, a divisor of `heads`.
    pub groups: usize,
    /// Elements of B or C of a group: the size of the state.
    pub key: usize,
    /// Elements of x of a head.
    pub value: usize,
    /// Inputs that the short convolution makes an output of.
    pub taps: usize,
    /// Bias on the projection in.
    pub input_bias: bool,
    /// Bias on the convolution.
    pub conv_bias: bool,
    /// Bias on the projection out.
    pub output_bias: bool,
    /// The function behind the convolution.
    pub activation: Activation,
    /// Factors on what is projected: gate, x, B, C and time steps.
    pub factors: [f64; 5],
    /// What time steps are at least and at most.
    pub bounds: [f64; 2],
    /// The norm of the result, group by group; none in some models.
    pub norm: Option<GatedNorm>,
}

/// A norm beside a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedNorm {
    /// The norm.
    pub norm: Norm,
    /// Whether the gate multiplies what is normalised, in place of the result being normalised.
    pub before_gate: bool,
}

impl Block<'_> {
    /// Dao & Gu 2024, "Transformers are SSMs", fig. 6, with the weights below `name`: gate, x, B, C and time steps are made
    /// by one projection; x, B and C go through a short convolution and an activation; the memory is read after each token,
    /// and its answer is gated, normalised where there is a norm, and projected. The new version of the call's state is
    /// returned beside the result.
    pub fn mamba2(&mut self, name: &str, x: Value, m: &Mamba2) -> (Value, Value) {
        let (inner, keys) = (m.heads * m.value, m.groups * m.key);
        let channels = inner + 2 * keys;
        let sizes = Recurrent { columns: m.taps - 1, channels, heads: m.heads, key: m.key, value: m.value };
        let state = self.state(StateType::Recurrent(sizes));
        let width = self.width(x);
        self.within(name, |b| {
            let mut projected = b.linear("in_proj", x, inner + channels + m.heads, m.input_bias);
            let mut start = 0;
            for (len, factor) in [inner, inner, keys, keys, m.heads].into_iter().zip(m.factors) {
                projected = b.op(Op::ScalePart { start, len, factor }, [projected.into()]);
                start += len;
            }
            let slice = |b: &mut Self, of: Value, start, len| b.op(Op::Slice { start, len }, [of.into()]);
            let gate = slice(b, projected, 0, inner);
            let xbc = slice(b, projected, inner, channels);
            let dt = slice(b, projected, inner + channels, m.heads);
            let state = b.op(Op::ConvAppend, [state.into(), xbc.into()]);
            let taps = b.taps("conv1d.weight", channels, m.taps);
            let mut xbc = b.op(Op::ConvCausal, [state.into(), taps.into()]);
            if m.conv_bias {
                let bias = b.vector("conv1d.bias", channels);
                xbc = b.op(Op::Bias, [xbc.into(), bias.into()]);
            }
            let xbc = b.op(m.activation.op(), [xbc.into()]);
            let part = |b: &mut Self, start: usize, heads: usize, dim: usize| {
                let x = slice(b, xbc, start, heads * dim);
                b.op(Op::SplitHeads { heads }, [x.into()])
            };
            let x = part(b, 0, m.heads, m.value);
            let inputs = part(b, inner, m.groups, m.key);
            let queries = part(b, inner + keys, m.groups, m.key);
            let bias = b.vector("dt_bias", m.heads);
            let [least, most] = m.bounds;
            let dt = b.op(Op::TimeStep { least, most }, [dt.into(), bias.into()]);
            let (a, d) = (b.vector("A_log", m.heads), b.vector("D", m.heads));
            let state = b.op(Op::SsmAppend, [state.into(), inputs.into(), x.into(), dt.into(), a.into()]);
            let y = b.op(Op::SsmRead, [state.into(), queries.into(), x.into(), d.into()]);
            let y = match m.norm {
                Some(GatedNorm { norm, before_gate: true }) => {
                    let y = b.rows_of(y);
                    let y = b.group_norm(y, norm, m.groups);
                    b.gated_by(y, gate, m.groups)
                }
                Some(GatedNorm { norm, before_gate: false }) => {
                    let y = b.gated_by(y, gate, m.heads);
                    let y = b.rows_of(y);
                    b.group_norm(y, norm, m.groups)
                }
                None => b.gated_by(y, gate, m.heads),
            };
            let y = b.rows_of(y);
            (b.linear("out_proj", y, width, m.output_bias), state)
        })
    }

    /// Rows as heads; of a single one they stay what they are.
    fn heads_of(&mut self, x: Value, heads: usize) -> Value {
        if heads > 1 { self.op(Op::SplitHeads { heads }, [x.into()]) } else { x }
    }

    /// Heads as rows.
    fn rows_of(&mut self, x: Value) -> Value {
        match self.rank(x) {
            3 => self.op(Op::MergeHeads, [x.into()]),
            _ => x,
        }
    }

    /// Rows, normalised group by group, as groups.
    fn group_norm(&mut self, y: Value, Norm { eps, offset }: Norm, groups: usize) -> Value {
        let weight = self.vector("norm.weight", self.width(y));
        let y = self.heads_of(y, groups);
        self.op(Op::RmsNorm { eps, offset }, [y.into(), weight.into()])
    }

    /// `y · silu(gate)` of heads and a row of the gate.
    fn gated_by(&mut self, y: Value, gate: Value, heads: usize) -> Value {
        let gate = if self.rank(y) == 3 { self.op(Op::SplitHeads { heads }, [gate.into()]) } else { gate };
        let gate = self.op(Op::Silu, [gate.into()]);
        self.op(Op::Mul, [y.into(), gate.into()])
    }
}
