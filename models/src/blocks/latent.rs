//! Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, §2.1): keys and values of all heads are made of one latent
//! for each token, which is all that is kept, beside one key that positions rotate and all heads share.

use swiftlm_ir::graph::Value;
use swiftlm_ir::ops::Op;
use swiftlm_ir::ty::StateType;

use super::rope::Rope;
use super::{Block, Norm};

/// What distinguishes one latent attention from another.
#[derive(Clone, Debug)]
pub struct LatentAttention {
    /// Heads.
    pub heads: usize,
    /// Elements of what queries are made of; `None` where they are made of the hidden values themselves.
    pub query_rank: Option<usize>,
    /// Elements of a latent.
    pub latent: usize,
    /// Elements of a query and a key that no position rotates.
    pub plain: usize,
    /// Elements of a value.
    pub value: usize,
    /// Rotation of the elements behind the plain ones.
    pub rope: Rope,
    /// RMS norm of latents, and of what queries are made of.
    pub norm: Norm,
    /// Factor on the scores.
    pub scale: f64,
    /// Biases on the projections from and to the hidden values.
    pub bias: bool,
}

impl Block<'_> {
    /// Latent attention with the weights below `name`: `kv_b_proj` or, where the checkpoint holds keys' and values' matrices
    /// apart, `embed_q` (transposed) and `unembed_out`. Keys and values are written as each head makes them of latents;
    /// the compiler moves the products away from the history. The function takes the state of its call; the new version
    /// is returned beside the result.
    pub fn latent_attention(&mut self, name: &str, x: Value, a: &LatentAttention) -> (Value, Value) {
        let (format, heads, latent) = (self.options.kv.0, a.heads, a.latent);
        let dim = latent + a.rope.dim;
        let state_type =
            StateType::Paged { window: 0, heads: 1, dim, k: format, v: format, latent: Some(latent), archive: None };
        let state = self.state(state_type);
        let width = self.width(x);
        self.within(name, |b| {
            let q = b.latent_query(x, a);
            let both = b.linear("kv_a_proj_with_mqa", x, dim, a.bias);
            let c = b.op(Op::Slice { start: 0, len: latent }, [both.into()]);
            let c = b.rms_norm("kv_a_layernorm", c, a.norm);
            let c = b.op(Op::SplitHeads { heads: 1 }, [c.into()]);
            let r = b.op(Op::Slice { start: latent, len: a.rope.dim }, [both.into()]);
            let r = b.op(Op::SplitHeads { heads: 1 }, [r.into()]);
            let r = b.rope(r, a.rope);
            let state = b.op(Op::KvAppend, [state.into(), c.into(), r.into()]);
            let (latents, values) = (b.op(Op::KvK, [state.into()]), b.op(Op::KvV, [state.into()]));
            let of_head = |first, len, transposed| Op::HeadLinear { heads, first, len, transposed };
            let (keys, values) = if b.has("kv_b_proj.weight") {
                let w = b.matrix("kv_b_proj.weight", heads * (a.plain + a.value), latent);
                let keys = b.op(of_head(0, a.plain, false), [latents.into(), w.into()]);
                (keys, b.op(of_head(a.plain, a.value, false), [values.into(), w.into()]))
            } else {
                let k = b.stacked_matrices("embed_q.weight", heads, latent, a.plain);
                let v = b.stacked_matrices("unembed_out.weight", heads, a.value, latent);
                let keys = b.op(of_head(0, latent, true), [latents.into(), k.into()]);
                (keys, b.op(of_head(0, a.value, false), [values.into(), v.into()]))
            };
            let attend = Op::Attend { scale: a.scale, window: 0, cap: 0.0 };
            let y = b.op(attend, [q.into(), keys.into(), values.into()]);
            let y = b.op(Op::MergeHeads, [y.into()]);
            (b.linear("o_proj", y, width, a.bias), state)
        })
    }

    /// Queries of all heads, rotated.
    fn latent_query(&mut self, x: Value, a: &LatentAttention) -> Value {
        let width = a.heads * (a.plain + a.rope.dim);
        let q = match a.query_rank {
            None => self.linear("q_proj", x, width, false),
            Some(rank) => {
                let q = self.linear("q_a_proj", x, rank, a.bias);
                let q = self.rms_norm("q_a_layernorm", q, a.norm);
                self.linear("q_b_proj", q, width, false)
            }
        };
        let q = self.op(Op::SplitHeads { heads: a.heads }, [q.into()]);
        self.rope_from(q, a.plain, a.rope)
    }
}
