//! Views of views.

use super::{Rule, rule, rule_with};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        // x[a..][b..b+m] = x[a+b..][..m].
        rule_with("slice-slice", "(slice (slice ?x ?a ?l) ?b ?m)", "(slice ?x ?n ?m)", ("?a", "?b"), |a, b| a + b),
        // Merging what was split gives it back.
        rule("merge-split", "(merge_heads (split_heads ?x ?h))", "?x"),
    ]
}
