//! Rows of the first families and of a mixture, then of families in which rules find something, compiled with choices made
//! at random, seed by seed:
//! `cargo run --release -p swiftlm-golden-tests --example chaos -- 50`. Its output stands in `acceptance/chaos.txt`.
//!
//! *Other launches* run kernels that the compiler's own choices do not have in that place; *other ops* are terms that the
//! e-graph picked otherwise. The error is against the reference's logits.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use swiftlm_golden_tests::chaos::{BAR, Subject};

const ROWS: [&str; 7] = ["llama", "qwen2", "qwen3", "qwen3_moe", "granite", "gemma3_text", "deepseek_v3"];

fn main() {
    let seeds = std::env::args().nth(1).map_or(5, |n| n.parse().expect("how many seeds, as a number"));
    println!(
        "{:<11} {:>4} {:>8} {:>14} {:>9} {:>9}",
        "row", "seed", "launches", "other launches", "other ops", "error"
    );
    for name in ROWS {
        let subject = Subject::open(name);
        let mut worst = 0f64;
        for seed in 0..seeds {
            let chosen = subject.chance(seed);
            println!(
                "{name:<11} {seed:>4} {:>8} {:>14} {:>9} {:>9.1e}",
                chosen.launches, chosen.other_launches, chosen.other_ops, chosen.error
            );
            assert!(chosen.error <= BAR, "{name}, seed {seed}: {:.2e}", chosen.error);
            worst = worst.max(chosen.error);
        }
        println!(
            "{name}: {} launches by default; {seeds} seeds, worst error {worst:.1e} of {BAR:.0e}",
            subject.launches()
        );
    }
}
