//! Keys and values that each head makes of one latent (DeepSeek-AI 2024, DeepSeek-V2, §2.1.2): away from the history, to
//! where they are made once. What lies behind a latent, the rotated part of a key, is kept by either side.

use super::{Rule, rule};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        // <q, Wc> = <Wᵀq, c>: one query is multiplied, not every latent of the history.
        rule(
            "latent-key",
            "(attend ?q (head_linear ?k ?w ?heads ?first ?len false) ?v ?scale ?window ?cap)",
            "(attend (head_linear ?q ?w ?heads ?first ?len true) ?k ?v ?scale ?window ?cap)",
        ),
        // The same of a matrix that is stored transposed.
        rule(
            "latent-key-transposed",
            "(attend ?q (head_linear ?k ?w ?heads ?first ?len true) ?v ?scale ?window ?cap)",
            "(attend (head_linear ?q ?w ?heads ?first ?len false) ?k ?v ?scale ?window ?cap)",
        ),
        // W is linear, so it commutes with the weighted sum over tokens: one result is multiplied, not every latent.
        rule(
            "latent-value",
            "(attend ?q ?k (head_linear ?v ?w ?heads ?first ?len ?transposed) ?scale ?window ?cap)",
            "(head_linear (attend ?q ?k ?v ?scale ?window ?cap) ?w ?heads ?first ?len ?transposed)",
        ),
    ]
}
