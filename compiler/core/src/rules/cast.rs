//! Rounding of activations.

use super::{Rule, rule};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        // Rounding to f16 is idempotent, to the bit. By groups it is not quite: a scale is found again from rounded values.
        rule("round-round", "(round (round ?x f16) f16)", "(round ?x f16)"),
        // Rounding to f16 acts on each element, so it commutes with views and may meet another one behind them. Groups of
        // columns are others behind a view.
        rule("round-merge", "(merge_heads (round ?x f16))", "(round (merge_heads ?x) f16)"),
        rule("round-split", "(split_heads (round ?x f16) ?h)", "(round (split_heads ?x ?h) f16)"),
    ]
}
