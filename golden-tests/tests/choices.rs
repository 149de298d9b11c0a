//! What is decided for speed changes no result: nothing decided, rules left out one by one, decisions at random.
//!
//! `golden-tests/examples/chaos.rs` tries more seeds; what it printed stands in `golden-tests/acceptance/chaos.txt`.

use std::collections::BTreeSet;

use swiftlm_compiler::{Choices, CompileOptions, rules};
use swiftlm_golden_tests::chaos::{BAR, Subject};

/// The first families and a mixture; then latents, windows, scaled frequencies, mixed formats and recurrences.
const ROWS: [&str; 13] = [
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "deepseek_v3",
    "falcon_h1",
    "falcon_h1-norm",
    "gemma3_text",
    "granite",
    "llama-rope3",
    "qwen2-mlx-mixed",
    "qwen3_5",
    "qwen3_moe-mlx4",
];

#[test]
fn definitions_alone_compute_the_same() {
    for name in ROWS {
        let subject = Subject::open(name);
        let plain = subject.choose(CompileOptions { choices: Choices::Plain, ..CompileOptions::default() });
        let best = subject.launches();
        assert!(2 * plain.launches > 3 * best, "{name}: {} launches without fusion, {best} with", plain.launches);
        assert!(plain.error <= BAR, "{name}: {:.2e}", plain.error);
    }
}

/// A rule that does nothing in a row leaves the program as it is, so only other programs are run.
#[test]
fn every_rule_can_be_left_out() {
    let names: Vec<String> = rules::all().iter().map(|rule| rule.name.to_string()).collect();
    let mut used = BTreeSet::new();
    for name in ROWS {
        let subject = Subject::open(name);
        for rule in &names {
            let options = CompileOptions { without_rules: vec![rule.clone()], ..CompileOptions::default() };
            if let Some(chosen) = subject.choose_if_other(options) {
                assert!(chosen.error <= BAR, "{name} without {rule}: {:.2e}", chosen.error);
                used.insert(rule);
            }
        }
    }
    assert!(used.len() > 1, "rules that change a row: {used:?}");
}

#[test]
fn chance_decides_and_nothing_changes() {
    let mut other_ops = 0;
    for name in ROWS {
        let subject = Subject::open(name);
        let mut counts = BTreeSet::new();
        for seed in 0..5 {
            let chosen = subject.chance(seed);
            assert!(chosen.error <= BAR, "{name}, seed {seed}: {:.2e}", chosen.error);
            assert!(chosen.other_launches > 0, "{name}, seed {seed}: chance chooses what the compiler does");
            counts.insert(chosen.launches);
            other_ops += chosen.other_ops;
        }
        assert!(counts.len() > 1, "{name}: seeds make different programs");
    }
    assert!(other_ops > 10, "terms are chosen by chance too: {other_ops} ops are others");
}
