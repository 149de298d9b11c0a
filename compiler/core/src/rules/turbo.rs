//! The rotation of keys and values that are quantised: away from the history, to where it is done once.

use super::{Rule, rule};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        // <q, Rᵀk> = <Rq, k>: one query is rotated, not every key of the history.
        rule(
            "turbo-rotate-query",
            "(attend ?q (rotate ?k true) ?v ?scale ?window ?cap)",
            "(attend (rotate ?q false) ?k ?v ?scale ?window ?cap)",
        ),
        // R is linear, so it commutes with the weighted sum over tokens: one result is rotated back, not every value.
        rule(
            "turbo-unrotate-once",
            "(attend ?q ?k (rotate ?v true) ?scale ?window ?cap)",
            "(rotate (attend ?q ?k ?v ?scale ?window ?cap) true)",
        ),
        // A rotation and its inverse cancel, in either order.
        rule("turbo-there-and-back", "(rotate (rotate ?x false) true)", "?x"),
        rule("turbo-back-and-there", "(rotate (rotate ?x true) false)", "?x"),
    ]
}
