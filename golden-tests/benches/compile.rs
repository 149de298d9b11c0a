//! Time from configuration and tensor names to a program, and what became of it:
//! `cargo bench -p swiftlm-golden-tests --bench compile`. No weight is read.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::time::Instant;

use swiftlm_compiler::pipeline::dispatch_counts;
use swiftlm_compiler::{CompileOptions, compile};
use swiftlm_golden_tests::published::{Published, all};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::plan::Program;
use swiftlm_models::BuildOptions;

/// Times a model is compiled; the median counts.
const ROUNDS: usize = 5;

/// Milliseconds to build the graph, and to compile it.
fn once(model: &Published) -> ([f64; 2], Program) {
    let start = Instant::now();
    let built = swiftlm_models::build(&model.config, &model.index, &BuildOptions::default());
    let built = built.unwrap_or_else(|e| panic!("{}: {e}", model.name));
    let at = Instant::now();
    // As for the CPU, which may bind a weight as a whole.
    let options = CompileOptions { max_binding: usize::MAX / 2, ..CompileOptions::default() };
    let compiled = compile(&built.module, &options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{}: {e}", model.name));
    let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
    ([ms(start, at), ms(at, Instant::now())], compiled.program)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    println!("| model | family | build ms | compile ms | kernels of a layer | arena bytes | host points |");
    println!("|---|---|---|---|---|---|---|");
    let mut longest = (0.0, String::new());
    for model in all() {
        let mut rounds: Vec<([f64; 2], Program)> = (0..ROUNDS).map(|_| once(&model)).collect();
        let time = |i: usize| median(rounds.iter().map(|(times, _)| times[i]).collect());
        let (build, compile) = (time(0), time(1));
        let (_, program) = rounds.remove(0);
        let mut layers: Vec<usize> = dispatch_counts(&program, ShapeClass::One)
            .into_iter()
            .filter(|(func, _)| func.starts_with("layer"))
            .map(|(_, kernels)| kernels)
            .collect();
        layers.sort_unstable();
        layers.dedup();
        let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
        let hosts: usize = program.plans.iter().flatten().map(|plan| plan.fetches.len()).sum();
        let family = model.config.text("model_type").ok().flatten().expect("a model has a type");
        println!(
            "| {} | {family} | {build:.1} | {compile:.1} | {} | {} | {hosts} |",
            model.name,
            layers.join(", "),
            program.arena_bytes
        );
        if build + compile > longest.0 {
            longest = (build + compile, model.name.clone());
        }
    }
    println!("\nlongest: {}, {:.3} s; bar 2 s", longest.1, longest.0 / 1e3);
}
