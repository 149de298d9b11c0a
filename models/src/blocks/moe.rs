//! Routed mixtures of gated feed-forward experts.

use swiftlm_ir::graph::Value;
use swiftlm_ir::ops::{Op, Routing};

use super::Block;
use super::mlp::Gate;

/// Usual names of an expert's gate, up and down matrix, and those of all experts' where they are stacked.
pub const MATRICES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Usual name of the matrix of scores.
pub const ROUTER: &str = "gate";

/// How a token's experts are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Groups of experts, of equal size.
    pub groups: usize,
    /// Groups that a token's experts are chosen from: those whose two best experts have the largest sums.
    pub kept: usize,
    /// Weight of the router that is added to the sigmoid of scores when experts are chosen, and only then.
    pub bias: Option<&'static str>,
}

impl Choice {
    /// The experts with the best scores.
    pub const BEST: Self = Self { groups: 1, kept: 1, bias: None };
}

/// What distinguishes one mixture from another.
#[derive(Clone, Copy, Debug)]
pub struct Moe {
    /// Experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Name of the matrix of scores: usually [`ROUTER`].
    pub router: &'static str,
    /// Whether scores and all products of experts have a bias.
    pub bias: bool,
    /// Names of an expert's gate, up and down matrix where each expert has tensors of its own.
    pub names: [&'static str; 3],
    /// Inner width of an expert.
    pub inner: usize,
    /// How gate and up become one.
    pub gate: Gate,
    /// How a token's experts are chosen.
    pub choice: Choice,
    /// Scores to weights.
    pub routing: Routing,
    /// Whether a token's weights are divided by their sum.
    pub normalize: bool,
}

impl Block<'_> {
    /// `Σ_r w_r · expert_{id_r}(x)` over the chosen experts in the router's order, with the weights below `name`.
    pub fn moe(&mut self, name: &str, x: Value, m: &Moe) -> Value {
        let width = self.width(x);
        self.within(name, |b| {
            let scores = b.linear_exact(m.router, x, m.experts, m.bias);
            let top_k = b.options.experts_per_token.map_or(m.top_k, |most| m.top_k.min(most.max(1)));
            let Choice { groups, kept, .. } = m.choice;
            let by = b.chosen_by(scores, m);
            let ids = b.op(Op::RouteIds { top_k, groups, kept }, [by.into()]);
            let route = Op::RouteWeights { routing: m.routing, normalize: m.normalize };
            let weights = b.op(route, [scores.into(), ids.into()]);
            let [gate, up] = b.expert_sides(x, ids, m);
            let h = b.gate(m.gate, gate, up);
            let y = b.expert_results(h, ids, width, m);
            b.op(Op::Combine, [y.into(), weights.into()])
        })
    }

    /// `sigmoid(x wᵀ) · y`, with one factor for a token: the weight `gate` has one row.
    pub fn gate_rows(&mut self, gate: &str, x: Value, y: Value) -> Value {
        let factor = self.linear(gate, x, 1, false);
        let factor = self.op(Op::Sigmoid, [factor.into()]);
        // A sum over one rank.
        let y = self.op(Op::SplitHeads { heads: 1 }, [y.into()]);
        self.op(Op::Combine, [y.into(), factor.into()])
    }

    /// What experts are chosen by.
    fn chosen_by(&mut self, scores: Value, m: &Moe) -> Value {
        let Some(name) = m.choice.bias else { return scores };
        let chances = self.op(Op::Sigmoid, [scores.into()]);
        self.within(m.router, |b| {
            let w = b.vector(name, m.experts);
            b.op(Op::Bias, [chances.into(), w.into()])
        })
    }
}
