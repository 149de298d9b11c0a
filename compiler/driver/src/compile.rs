//! From a checkpoint to a program: configuration and tensor names in, launches out. No weight is read here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use swiftlm_compiler::egraph::run::Report;
use swiftlm_compiler::{Choices, CompileError, CompileOptions, Seen};
use swiftlm_ir::plan::Program;
use swiftlm_ir::text;
pub use swiftlm_models::Activations;
use swiftlm_models::{BuildOptions, Config, ModelError};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::debug::Debug;

/// What the caller decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Of the graph.
    pub build: BuildOptions,
    /// Of the schedule.
    pub compile: CompileOptions,
}

/// A compiled checkpoint.
#[derive(Debug)]
pub struct Compiled {
    /// The launches.
    pub program: Program,
    /// `model_type`.
    pub family: String,
    /// Positions the model was made for.
    pub context: usize,
    /// Which rules applied, by function.
    pub rules: Vec<Report>,
    /// Hash of graph and kernels: equal programs have equal ones, on every machine.
    pub fingerprint: String,
    /// How the program was compiled: what was asked for, changed by the `SLM_*` variables.
    pub options: CompileOptions,
    /// What is otherwise than was asked for, because the model does not stand that: a sentence.
    pub note: Option<String>,
    /// Time it took to build and compile.
    pub time: Duration,
}

/// Why a checkpoint could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A file is missing or broken.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration or the tensors do not make a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The compiler refused the graph.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A variable or the dump directory.
    #[error("{0}")]
    Debug(String),
}

static PASSES: AtomicU64 = AtomicU64::new(0);

/// Compiler passes over a function that this process has run: none where it started from a package.
pub fn passes() -> u64 {
    PASSES.load(Ordering::Relaxed)
}

/// Compiles a checkpoint.
///
/// # Errors
/// Everything wrong with the configuration or the tensors, in one error.
pub fn compile(checkpoint: &Checkpoint, options: &Options) -> Result<Compiled, DriverError> {
    compile_observed(checkpoint, options, &mut |_, _| {})
}

/// As [`compile`]; `observe` sees what the compiler's own observer sees.
///
/// # Errors
/// As [`compile`].
pub fn compile_observed(
    checkpoint: &Checkpoint,
    options: &Options,
    observe: &mut dyn FnMut(&str, Seen<'_>),
) -> Result<Compiled, DriverError> {
    let debug = Debug::from_env().map_err(DriverError::Debug)?;
    let start = Instant::now();
    let config = Config::parse(checkpoint.config())?;
    let model = swiftlm_models::build(&config, &checkpoint.tensors(), &options.build)?;
    if !model.unused.is_empty() {
        tracing::warn!("not used yet, the model takes text only: tensors of {}", model.unused.join(", "));
    }
    let mut dump_errors = vec![];
    let mut step = 0;
    let mut compile_options = options.compile.clone();
    compile_options.without_rules.extend(debug.without_rules.iter().cloned());
    if debug.choices != Choices::Best {
        compile_options.choices = debug.choices;
    }
    let compiled = swiftlm_compiler::compile(&model.module, &compile_options, &mut |pass, seen| {
        dump_errors.extend(debug.seen(step, pass, seen).err());
        step += 1;
        if matches!(seen, Seen::Graph(_)) {
            PASSES.fetch_add(1, Ordering::Relaxed);
        }
        observe(pass, seen);
    })?;
    if let Some(e) = dump_errors.first() {
        return Err(DriverError::Debug(format!("SLM_DUMP: {e}")));
    }
    let swiftlm_compiler::Compiled { program, rules } = compiled;
    if debug.level >= 3 {
        for (graph, report) in program.module.funcs.iter().zip(&rules) {
            tracing::info!(target: "slm", func = graph.name, applied = ?report.applied, "rules");
        }
    }
    show(&debug, &program).map_err(|e| DriverError::Debug(format!("SLM_DUMP: {e}")))?;
    let fingerprint = fingerprint(&program);
    if debug.level >= 1 {
        let (kernels, weights) = (program.kernels.len(), program.weight_bytes());
        tracing::info!(target: "slm", family = model.family, fingerprint, kernels, weights, "compiled");
    }
    let time = start.elapsed();
    let (family, context, note) = (model.family, model.context, model.note);
    Ok(Compiled { program, family, context, rules, fingerprint, options: compile_options, note, time })
}

/// Plans and kernels, as far as they were asked for.
fn show(debug: &Debug, program: &Program) -> std::io::Result<()> {
    if debug.level >= 4 {
        for kernel in &program.kernels {
            tracing::info!(target: "slm", "kernel {}:\n{}", kernel.key(), text::print_kernel(kernel));
        }
    }
    if debug.dump.is_none() {
        return Ok(());
    }
    for plan in program.plans.iter().flatten() {
        let func = &program.module.funcs[plan.func].name;
        debug.write(&format!("plan-{func}-{}.slir", plan.class.name()), &text::print_plan(program, plan))?;
    }
    for kernel in &program.kernels {
        debug.write(&format!("kernel-{}-{}.slir", kernel.name, kernel.key()), &text::print_kernel(kernel))?;
    }
    Ok(())
}

fn fingerprint(program: &Program) -> String {
    let mut all = text::print(&program.module);
    for kernel in &program.kernels {
        all.push_str(&kernel.key().to_string());
    }
    swiftlm_ir::kernel::KernelKey::of_text(&all).to_string()
}
