//! What is decided for speed changes no result: nothing decided, rules left out one by one, decisions at random.
//!
//! `SLM_CHAOS_SEEDS=50 cargo test --test choices` tries more seeds; what that printed stands in `docs/reliability.md`.

use std::io::Write;

use swiftlm_compiler::{Choices, CompileOptions, rules};
use swiftlm_golden_tests::fixture::Row;
use swiftlm_golden_tests::run::{Loaded, On, compile_with, exact, relative_error};

/// Dense families, one with windows, one with experts, plain and quantised.
const ROWS: [&str; 9] = [
    "deepseek_v3",
    "falcon_h1",
    "falcon_h1-norm",
    "gemma3_text",
    "llama-rope3",
    "qwen2-mlx-mixed",
    "qwen3",
    "qwen3_5",
    "qwen3_moe-mlx4",
];
const BAR: f64 = 1e-4;

/// Launches of all plans, and the error against the reference.
fn measure(row: &Row, options: CompileOptions) -> (usize, f64) {
    let program = compile_with(row, &exact(), CompileOptions { chunk: 64, max_rows: 64, ..options });
    let launches = program.plans.iter().flatten().map(|plan| plan.dispatches.len()).sum();
    let mut loaded = Loaded::new(row, program, On::Cpu.open(2), 1);
    let mut logits = loaded.prompt(0, &row.prompt[..130], 64);
    // Single tokens take the schedule of decoding.
    for (position, id) in row.prompt.iter().enumerate().skip(130) {
        logits.extend(loaded.step(&[(0, position as u32, *id)]));
    }
    (launches, relative_error(&logits.concat(), &row.logits))
}

#[test]
fn definitions_alone_compute_the_same() {
    for name in ROWS {
        let row = Row::open(name);
        let (best, _) = measure(&row, CompileOptions::default());
        let (plain, error) = measure(&row, CompileOptions { choices: Choices::Plain, ..CompileOptions::default() });
        assert!(2 * plain > 3 * best, "{name}: {plain} launches without fusion, {best} with");
        assert!(error <= BAR, "{name}: {error:.2e}");
    }
}

#[test]
fn every_rule_can_be_left_out() {
    let names: Vec<String> = rules::all().iter().map(|rule| rule.name.to_string()).collect();
    for name in ["granite", "qwen3_moe", "deepseek_v3"] {
        let row = Row::open(name);
        for rule in &names {
            let options = CompileOptions { without_rules: vec![rule.clone()], ..CompileOptions::default() };
            let (_, error) = measure(&row, options);
            assert!(error <= BAR, "{name} without {rule}: {error:.2e}");
        }
    }
}

#[test]
fn chance_decides_and_nothing_changes() {
    let asked = std::env::var("SLM_CHAOS_SEEDS").ok();
    let seeds = asked.as_ref().map_or(5, |n| n.parse().expect("SLM_CHAOS_SEEDS is a number"));
    for name in ROWS {
        let row = Row::open(name);
        let (mut counts, mut worst) = (std::collections::BTreeSet::new(), 0f64);
        for seed in 0..seeds {
            let options = CompileOptions { choices: Choices::Random(seed), ..CompileOptions::default() };
            let (launches, error) = measure(&row, options);
            assert!(error <= BAR, "{name}, seed {seed}: {error:.2e}");
            counts.insert(launches);
            worst = worst.max(error);
        }
        assert!(counts.len() > 1, "{name}: seeds make different programs");
        if asked.is_some() {
            let (least, most) = (counts.first().copied().unwrap_or(0), counts.last().copied().unwrap_or(0));
            let line = format!("{name}: {seeds} seeds, {least} to {most} launches, worst error {worst:.1e}\n");
            std::io::stdout().write_all(line.as_bytes()).expect("standard output takes a line");
        }
    }
}
