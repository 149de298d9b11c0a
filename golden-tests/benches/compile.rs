//! Time from configuration and tensor names to a program: `cargo bench -p swiftlm-golden-tests --bench compile`.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::time::Instant;

use swiftlm_compiler::{CompileOptions, compile};
use swiftlm_golden_tests::published::all;
use swiftlm_models::BuildOptions;

fn main() {
    println!("{:<20} {:>9} {:>9}", "model", "build ms", "compile ms");
    for model in all() {
        let start = Instant::now();
        let built = swiftlm_models::build(&model.config, &model.index, &BuildOptions::default());
        let built = built.unwrap_or_else(|e| panic!("{}: {e}", model.name));
        let at = Instant::now();
        let compiled = compile(&built.module, &CompileOptions::default(), &mut |_, _| {});
        compiled.unwrap_or_else(|e| panic!("{}: {e}", model.name));
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        println!("{:<20} {:>9.1} {:>9.1}", model.name, ms(start, at), ms(at, Instant::now()));
    }
}
