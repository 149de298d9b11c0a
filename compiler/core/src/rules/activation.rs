//! Activations recognised from their parts.

use super::{Rule, rule};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        // x·σ(x) = silu(x), from either side: one step of an epilogue for two.
        rule("silu-left", "(mul ?x (sigmoid ?x))", "(silu ?x)"),
        rule("silu-right", "(mul (sigmoid ?x) ?x)", "(silu ?x)"),
        // xWᵀ + yWᵀ = (x + y)Wᵀ: the weight is read once.
        rule("linear-distribute", "(add (linear ?x ?w) (linear ?y ?w))", "(linear (add ?x ?y) ?w)"),
    ]
}
