//! Gated delta nets: linear attention whose memory of a head is a matrix that each token corrects and decays.

use swiftlm_ir::graph::Value;
use swiftlm_ir::ops::Op;
use swiftlm_ir::ty::{Recurrent, StateType};

use super::mlp::Activation;
use super::{Block, Norm};

/// Added to the sum of squares by which queries and keys are normalised, in every published model.
const NORM_EPS: f64 = 1e-6;

/// What distinguishes one gated delta net from another.
#[derive(Clone, Copy, Debug)]
pub struct DeltaNet {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of `key_heads`.
    pub heads: usize,
    /// Elements of a query or key.
    pub key: usize,
    /// Elements of a value.
    pub value: usize,
    /// Inputs that the short convolution makes an output of.
    pub taps: usize,
    /// The function behind the convolution, and on the gate.
    pub activation: Activation,
    /// The norm of each head's result.
    pub norm: Norm,
}

impl Block<'_> {
    /// Yang et al. 2024, "Gated Delta Networks", fig. 1, with the weights below `name`: queries, keys and values go through
    /// one short convolution and an activation, queries and keys are normalised, the memory is read after each token, and
    /// its answer is normalised head by head, gated and projected. The new version of the call's state is returned beside
    /// the result.
    pub fn delta_net(&mut self, name: &str, x: Value, d: &DeltaNet) -> (Value, Value) {
        let (keys, values) = (d.key_heads * d.key, d.heads * d.value);
        let channels = 2 * keys + values;
        let sizes = Recurrent { columns: d.taps - 1, channels, heads: d.heads, key: d.key, value: d.value };
        let state = self.state(StateType::Recurrent(sizes));
        let width = self.width(x);
        self.within(name, |b| {
            let qkv = b.linear("in_proj_qkv", x, channels, false);
            let z = b.linear("in_proj_z", x, values, false);
            let beta = b.linear("in_proj_b", x, d.heads, false);
            let decay = b.linear("in_proj_a", x, d.heads, false);
            let state = b.op(Op::ConvAppend, [state.into(), qkv.into()]);
            let taps = b.taps("conv1d.weight", channels, d.taps);
            let qkv = b.op(Op::ConvCausal, [state.into(), taps.into()]);
            let qkv = b.op(d.activation.op(), [qkv.into()]);
            let part = |b: &mut Self, start: usize, heads: usize, dim: usize| {
                let x = b.op(Op::Slice { start, len: heads * dim }, [qkv.into()]);
                b.op(Op::SplitHeads { heads }, [x.into()])
            };
            let q = part(b, 0, d.key_heads, d.key);
            let k = part(b, keys, d.key_heads, d.key);
            let v = part(b, 2 * keys, d.heads, d.value);
            let q = b.op(Op::L2Norm { eps: NORM_EPS }, [q.into()]);
            let k = b.op(Op::L2Norm { eps: NORM_EPS }, [k.into()]);
            let (a_log, bias) = (b.vector("A_log", d.heads), b.vector("dt_bias", d.heads));
            let decay = b.op(Op::Decay, [decay.into(), a_log.into(), bias.into()]);
            let beta = b.op(Op::Sigmoid, [beta.into()]);
            let state = b.op(Op::DeltaAppend, [state.into(), k.into(), v.into(), decay.into(), beta.into()]);
            let y = b.op(Op::DeltaRead { scale: 1.0 / (d.key as f64).sqrt() }, [state.into(), q.into()]);
            let y = b.rms_norm("norm", y, d.norm);
            let z = b.op(Op::SplitHeads { heads: d.heads }, [z.into()]);
            let z = b.op(d.activation.op(), [z.into()]);
            let y = b.op(Op::Mul, [y.into(), z.into()]);
            let y = b.op(Op::MergeHeads, [y.into()]);
            (b.linear("out_proj", y, width, false), state)
        })
    }
}
