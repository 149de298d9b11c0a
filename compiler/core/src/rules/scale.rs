//! Constant factors: they meet, and end in an op that multiplies anyway.

use super::{Rule, rule, rule_with};

pub(super) fn rules() -> Vec<Rule> {
    let times = |a: f64, b: f64| a * b;
    let from = ("?a", "?b");
    vec![
        // (x·a)·b = x·(ab): one multiplication for two.
        rule_with("scale-scale", "(scale (scale ?x ?a) ?b)", "(scale ?x ?n)", from, times),
        // a·embed(i) = embed(i) with its factor a-fold: the lookup multiplies already.
        rule_with("scale-embed", "(scale (embed ?i ?w ?a) ?b)", "(embed ?i ?w ?n)", from, times),
        // <aq, k>·s = <q, k>·(as): attention multiplies its scores already.
        rule_with(
            "scale-query",
            "(attend (scale ?q ?a) ?k ?v ?b ?window ?cap)",
            "(attend ?q ?k ?v ?n ?window ?cap)",
            from,
            times,
        ),
        // (ax)Wᵀ = a(xWᵀ): behind the product the factor joins its epilogue.
        rule("scale-linear", "(linear (scale ?x ?a) ?w)", "(scale (linear ?x ?w) ?a)"),
        // A rotation is linear: the factor goes on to where it can end.
        rule(
            "scale-rope",
            "(rope (scale ?x ?a) ?t ?start ?dim ?layout)",
            "(scale (rope ?x ?t ?start ?dim ?layout) ?a)",
        ),
        // Splitting and merging heads moves no value.
        rule("scale-split", "(split_heads (scale ?x ?a) ?h)", "(scale (split_heads ?x ?h) ?a)"),
        rule("scale-merge", "(merge_heads (scale ?x ?a))", "(scale (merge_heads ?x) ?a)"),
        // (ax)·y = a(x·y), from either side.
        rule("scale-mul-left", "(mul (scale ?x ?a) ?y)", "(scale (mul ?x ?y) ?a)"),
        rule("scale-mul-right", "(mul ?x (scale ?y ?a))", "(scale (mul ?x ?y) ?a)"),
    ]
}
