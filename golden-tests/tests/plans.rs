//! Plans of every row: how many kernels a layer and a step launch, and what the rewrite rules are worth.

use std::fmt::Write;

use swiftlm_compiler::pipeline::dispatch_counts;
use swiftlm_compiler::{CompileOptions, Compiled, compile, rules};
use swiftlm_golden_tests::fixture::{Row, names};
use swiftlm_golden_tests::generated::assert_fresh;
use swiftlm_golden_tests::run::exact;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::plan::Stage;

fn compiled(row: &Row, without_rules: Vec<String>) -> Compiled {
    let model =
        swiftlm_models::build(&row.config, &row.index, &exact()).unwrap_or_else(|e| panic!("{}: {e}", row.name));
    let options = CompileOptions { without_rules, ..CompileOptions::default() };
    compile(&model.module, &options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{}: {e}", row.name))
}

fn step(compiled: &Compiled, class: ShapeClass) -> usize {
    let counts = dispatch_counts(&compiled.program, class);
    compiled.program.module.main.iter().map(|call| counts[call.func].1).sum()
}

/// Kernels that a GPU launches for a decode step, function by function. A dense layer takes at most 9, a mixture 12.
#[test]
fn launches() {
    let mut text = String::new();
    for name in names() {
        let row = Row::open(&name);
        let compiled = compiled(&row, vec![]);
        let counts = dispatch_counts(&compiled.program, ShapeClass::One);
        let each: Vec<String> = counts.iter().map(|(func, count)| format!("{func} {count}")).collect();
        writeln!(text, "{name}: step {} = {}", step(&compiled, ShapeClass::One), each.join(", "))
            .expect("a string grows");
        // Siblings stored in different formats cannot merge.
        let mixed = name == "qwen2-mlx-mixed";
        let most = counts.iter().filter(|(func, _)| func.starts_with("layer")).map(|(_, n)| *n).max().unwrap_or(0);
        // Norms over all heads of a row are launches of their own, behind which rotations and the append are three. A
        // shared expert is two products, its gate's sigmoid, and the multiplication by that.
        // Latent attention rotates queries, multiplies heads before and behind, and writes latents: launches of their own.
        // Attention with a state space beside it has the norm of the latter.
        let more = match name.split(['-', '_']).next() {
            Some("deepseek") => 5,
            Some("falcon") => 2,
            Some("olmoe") => 4,
            _ if name.starts_with("qwen2_moe") => 4,
            _ => 0,
        };
        let bar = if row.has_experts() { 12 } else { 9 } + more;
        assert!(mixed || most <= bar, "{name}: {most} launches in a layer");
    }
    insta::assert_snapshot!(text);
}

/// Rules that applied, and the launches of a step with and without them.
#[test]
fn what_the_rules_are_worth() {
    let mut text = String::new();
    let all: Vec<String> = rules::all().iter().map(|r| r.name.to_string()).collect();
    for name in names() {
        let row = Row::open(&name);
        let (with, without) = (compiled(&row, vec![]), compiled(&row, all.clone()));
        let mut applied: Vec<&str> = with.rules.iter().flat_map(|r| r.applied.keys().map(String::as_str)).collect();
        applied.sort_unstable();
        applied.dedup();
        assert!(with.rules.iter().all(|r| r.saturated), "{name}: saturation stopped at a limit");
        let (a, b) = (step(&with, ShapeClass::One), step(&without, ShapeClass::One));
        writeln!(text, "{name}: {a} launches, {b} without rules; applied: {}", applied.join(", "))
            .expect("a string grows");
    }
    insta::assert_snapshot!(text);
}

/// The same input gives the same program.
#[test]
fn compiling_is_deterministic() {
    for name in ["granite", "qwen3_moe-mlx4"] {
        let row = Row::open(name);
        assert!(compiled(&row, vec![]) == compiled(&row, vec![]), "{name}");
    }
}

/// Every kernel of every row, function and class, in order of launch. A change of the file says which kernels a change of
/// the compiler touches; kernels are the same for every device, but for one that binds less.
#[test]
fn kernels_are_those_of_the_lock() {
    let mut text = "# row function class: kernels in order of launch, by template and content\n".to_owned();
    for name in names() {
        let program = compiled(&Row::open(&name), vec![]).program;
        for plan in program.plans.iter().flatten() {
            let func = &program.module.funcs[plan.func].name;
            let kernel = |s: &Stage| format!(" {}#{}", program.kernels[s.kernel].name, program.kernels[s.kernel].key());
            let kernels: String = plan.dispatches.iter().flat_map(|d| &d.stages).map(kernel).collect();
            writeln!(text, "{name} {func} {}:{kernels}", plan.class.name()).expect("a string grows");
        }
    }
    assert_fresh("golden-tests/kernels.lock", &text, "plans");
}
