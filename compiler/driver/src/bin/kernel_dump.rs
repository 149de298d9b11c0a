//! `kernel-dump`: prints any stage of a model's compilation.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use swiftlm_compiler::Seen;
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_driver::compile::{Options, compile_observed};
use swiftlm_driver::dump::{Selection, Stage, dump};
use swiftlm_ir::dim::ShapeClass;

/// Prints graph, plan, kernels and shaders of a model directory. No weight is read.
#[derive(Debug, Parser)]
#[command(name = "kernel-dump", version)]
struct Flags {
    /// Model directory
    model: PathBuf,
    /// What to print: graph, egraph, plan, kernel, wgsl, msl, spirv; several with commas
    #[arg(long, value_delimiter = ',', default_value = "graph", value_parser = stage)]
    emit: Vec<Stage>,
    /// Only this function (embed, layer0, head)
    #[arg(long)]
    func: Option<String>,
    /// Only this class of rows: one, few, some, many
    #[arg(long, value_parser = class)]
    class: Option<ShapeClass>,
    /// Tokens of a step at most
    #[arg(long, default_value_t = 512)]
    chunk: usize,
}

fn stage(name: &str) -> Result<Stage, String> {
    let known = || Stage::ALL.map(|(name, _)| name).join(", ");
    Stage::ALL.iter().find(|s| s.0 == name).map(|s| s.1).ok_or_else(|| format!("expected one of {}", known()))
}

fn class(name: &str) -> Result<ShapeClass, String> {
    let known = || ShapeClass::ALL.map(ShapeClass::name).join(", ");
    ShapeClass::ALL.into_iter().find(|c| c.name() == name).ok_or_else(|| format!("expected one of {}", known()))
}

fn run(flags: &Flags) -> Result<(), Box<dyn std::error::Error>> {
    let mut options = Options::default();
    options.compile.chunk = flags.chunk.max(1);
    options.compile.max_rows = options.compile.max_rows.min(options.compile.chunk);
    let mut egraphs = vec![];
    let drawn = flags.emit.contains(&Stage::EGraph);
    let compiled = compile_observed(&Checkpoint::open(&flags.model)?, &options, &mut |_, seen| match seen {
        Seen::EGraph(func, island) if drawn => egraphs.push((func.to_owned(), island.dot())),
        _ => {}
    })?;
    let selection = Selection { func: flags.func.clone(), class: flags.class };
    let mut out = std::io::stdout().lock();
    for stage in &flags.emit {
        out.write_all(dump(&compiled.program, &egraphs, *stage, &selection)?.as_bytes())?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed pipe (`| head`) is no failure worth words.
            let _ = writeln!(std::io::stderr(), "kernel-dump: {error}");
            ExitCode::FAILURE
        }
    }
}
