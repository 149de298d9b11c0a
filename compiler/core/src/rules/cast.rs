//! Rounding of activations.

use super::{Rule, rule};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        // Rounding is idempotent.
        rule("round-round", "(round (round ?x ?to) ?to)", "(round ?x ?to)"),
        // Rounding acts on each element, so it commutes with views and may meet another one behind them.
        rule("round-merge", "(merge_heads (round ?x ?to))", "(round (merge_heads ?x) ?to)"),
        rule("round-split", "(split_heads (round ?x ?to) ?h)", "(round (split_heads ?x ?h) ?to)"),
    ]
}
