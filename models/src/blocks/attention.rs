//! Causal self-attention with grouped heads over pages of keys and values.

use swiftlm_ir::graph::Value;
use swiftlm_ir::ops::Op;
use swiftlm_ir::quant::{Archive, rotation};
use swiftlm_ir::ty::StateType;

use super::rope::Rope;
use super::{Block, Norm, Pieces};

/// What distinguishes one attention from another.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// KV heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub output_bias: bool,
    /// Whether the result is multiplied by the sigmoid of a gate (Qiu et al. 2025, "Gated Attention for Large Language
    /// Models", eq. 5, elementwise) whose rows lie in `q_proj`, behind the query's of each head.
    pub gate: bool,
    /// RMS norm of each query and key head before rotation (`q_norm`, `k_norm`).
    pub head_norm: Option<Norm>,
    /// RMS norm of all queries of a token together, and of all its keys, in place of head by head.
    pub row_norm: Option<Norm>,
    /// Rotation of queries and keys.
    pub rope: Rope,
    /// Keys a query sees, itself included; 0 for all.
    pub window: usize,
    /// Factor on the scores; `1/√head_dim` unless given.
    pub scale: Option<f64>,
    /// Bound that scores `s` approach as `cap · tanh(s / cap)`.
    pub cap: Option<f64>,
    /// Whether each query head has a score that no value belongs to (`sinks`).
    pub sinks: bool,
}

impl Attention {
    /// Whether an archive can keep this attention's older tokens, and there are any.
    fn archives(&self, archive: &Archive) -> bool {
        archive.check(self.head_dim).is_ok() && (self.window == 0 || self.window > archive.first + archive.recent())
    }
}

impl Block<'_> {
    /// `softmax(q kᵀ / √d) v`, projected in and out by the weights below `name`. The function takes the state of its
    /// call; the new version is returned beside the result. A state keeps no more than the window.
    pub fn attention(&mut self, name: &str, x: Value, a: &Attention) -> (Value, Value) {
        let (kv, dim) = (self.options.kv, a.head_dim);
        let asked = self.options.archive.filter(|policy| a.archives(&policy.archive));
        let (archive, note) = asked.map_or((None, None), |policy| policy.of(a));
        self.note = self.note.take().or(note);
        let rotate = archive.is_some() || self.options.rotate && rotation::parts(dim).is_ok();
        let state_type =
            StateType::Paged { window: a.window, heads: a.kv_heads, dim, k: kv.0, v: kv.1, latent: None, archive };
        let state = self.state(state_type);
        let width = self.width(x);
        self.within(name, |b| {
            let half = |which| Pieces { first: which, step: if a.gate { 2 } else { 1 }, count: a.heads };
            let q = b.linear_pieces("q_proj", x, a.heads * dim, half(0), a.qkv_bias);
            let q = b.heads(Some("q_norm"), q, a.heads, a);
            let gate = a.gate.then(|| b.linear_pieces("q_proj", x, a.heads * dim, half(1), a.qkv_bias));
            let k = b.linear("k_proj", x, a.kv_heads * dim, a.qkv_bias);
            let k = b.heads(Some("k_norm"), k, a.kv_heads, a);
            let v = b.linear("v_proj", x, a.kv_heads * dim, a.qkv_bias);
            let v = b.heads(None, v, a.kv_heads, a);
            let q = b.rope(q, a.rope);
            let k = b.rope(k, a.rope);
            let turn = |b: &mut Self, x: Value, inverse: bool| match rotate {
                true => b.op(Op::Rotate { inverse }, [x.into()]),
                false => x,
            };
            let (k, v) = (turn(b, k, false), turn(b, v, false));
            let mut state = b.op(Op::KvAppend, [state.into(), k.into(), v.into()]);
            if archive.is_some() {
                state = b.op(Op::KvArchive, [state.into()]);
            }
            let (keys, values) = (b.op(Op::KvK, [state.into()]), b.op(Op::KvV, [state.into()]));
            let (keys, values) = (turn(b, keys, true), turn(b, values, true));
            let scale = a.scale.unwrap_or(1.0 / (dim as f64).sqrt());
            let attend = Op::Attend { scale, window: a.window, cap: a.cap.unwrap_or(0.0) };
            let mut args = vec![q.into(), keys.into(), values.into()];
            if a.sinks {
                args.push(b.vector("sinks", a.heads).into());
            }
            let y = b.op(attend, args);
            let y = b.op(Op::MergeHeads, [y.into()]);
            let y = gate.map_or(y, |gate| {
                let gate = b.op(Op::Sigmoid, [gate.into()]);
                b.op(Op::Mul, [y.into(), gate.into()])
            });
            (b.linear("o_proj", y, width, a.output_bias), state)
        })
    }

    /// A projection cut into heads, with the norm that the weights `norm` belong to.
    fn heads(&mut self, norm: Option<&str>, y: Value, heads: usize, a: &Attention) -> Value {
        let y = self.norm(norm.zip(a.row_norm), y);
        let y = self.op(Op::SplitHeads { heads }, [y.into()]);
        self.norm(norm.zip(a.head_norm), y)
    }

    fn norm(&mut self, norm: Option<(&str, Norm)>, x: Value) -> Value {
        norm.map_or(x, |(name, norm)| self.rms_norm(name, x, norm))
    }
}
