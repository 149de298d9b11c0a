//! What `kernel-dump` shows of a model: every text (graph, plan, kernels and shaders, of all functions or of one), the
//! chain of passes and rules behind a value, each launch's time beside its floor, one launch run twice.

pub mod cli;
pub mod page;
pub mod replay;
pub mod roofline;
pub mod subject;
pub mod trace;
pub mod why;

use std::fmt::Write;

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::plan::Program;
use swiftlm_ir::text;
use swiftlm_shader::{LowerOptions, ShaderError, lower, msl, spirv, wgsl};

use self::trace::Trace;

/// What can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The optimised graph.
    Graph,
    /// Every function after each pass that changed it.
    Passes,
    /// E-graphs of the rewriting, in Graphviz's language.
    EGraph,
    /// Launches and operands.
    Plan,
    /// Kernel IR.
    Kernel,
    /// WGSL of the kernels.
    Wgsl,
    /// Metal's language.
    Msl,
    /// SPIR-V, as hexadecimal words.
    Spirv,
}

impl Stage {
    /// All, with the names they go by.
    pub const ALL: [(&'static str, Self); 8] = [
        ("graph", Self::Graph),
        ("passes", Self::Passes),
        ("egraph", Self::EGraph),
        ("plan", Self::Plan),
        ("kernel", Self::Kernel),
        ("wgsl", Self::Wgsl),
        ("msl", Self::Msl),
        ("spirv", Self::Spirv),
    ];
}

/// What to print of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only this function.
    pub func: Option<String>,
    /// Only this class.
    pub class: Option<ShapeClass>,
    /// Of passes, only this.
    pub pass: Option<String>,
    /// Of kernels, only those of this name, or whose key begins so.
    pub kernel: Option<String>,
}

/// Why a text could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// No function has this name.
    #[error("there is no function `{name}`: this model has {known}")]
    NoFunction {
        /// Asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No pass has this name.
    #[error("there is no pass `{name}`: expected one of {known}")]
    NoPass {
        /// Asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A function has no value of this name.
    #[error("@{func} has no value `{name}`: expected `{func}.` and one of {known}")]
    NoValue {
        /// The function.
        func: String,
        /// Asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A kernel has no shader.
    #[error("kernel {kernel}: {error}")]
    Shader {
        /// Its name.
        kernel: String,
        /// Why.
        error: ShaderError,
    },
    /// The model could not be run.
    #[error("{0}")]
    Run(String),
}

impl DumpError {
    fn run(reason: impl ToString) -> Self {
        Self::Run(reason.to_string())
    }
}

/// The text of one stage.
///
/// # Errors
/// A function or pass that does not exist, or a kernel that cannot be lowered.
pub fn dump(trace: &Trace, stage: Stage, selection: &Selection) -> Result<String, DumpError> {
    let program = &trace.compiled.program;
    let funcs = selected(program, selection)?;
    let mut out = String::new();
    match stage {
        Stage::Graph if selection.func.is_none() => out.push_str(&text::print(&program.module)),
        Stage::Graph => funcs.iter().for_each(|f| out.push_str(&text::print_graph(&program.module.funcs[*f]))),
        Stage::Passes => {
            for func in &funcs {
                out.push_str(&passes(trace, &program.module.funcs[*func].name, selection)?);
            }
        }
        Stage::EGraph => {
            let wanted = |func: &String| selection.func.as_ref().is_none_or(|name| name == func);
            trace.egraphs.iter().filter(|(func, _)| wanted(func)).for_each(|(_, dot)| out.push_str(dot));
        }
        Stage::Plan => {
            let plans = funcs.iter().flat_map(|f| &program.plans[*f]);
            for plan in plans.filter(|p| selection.class.is_none_or(|c| c == p.class)) {
                out.push_str(&text::print_plan(program, plan));
            }
        }
        Stage::Kernel | Stage::Wgsl | Stage::Msl | Stage::Spirv => {
            for kernel in kernels(program, &funcs, selection) {
                let error = |error| DumpError::Shader { kernel: kernel.name.clone(), error };
                // Writing to a string cannot fail.
                let _ = writeln!(out, "; {} {}", kernel.name, kernel.key());
                out.push_str(&kernel_text(kernel, stage).map_err(error)?);
                out.push('\n');
            }
        }
    }
    Ok(out)
}

/// A function after each pass that changed it, or after one.
fn passes(trace: &Trace, func: &str, selection: &Selection) -> Result<String, DumpError> {
    let texts: Vec<(&str, String)> =
        trace.of_func(func).map(|after| (after.pass.as_str(), text::print_graph(&after.graph))).collect();
    if let Some(wanted) = &selection.pass {
        let found = texts.iter().find(|(pass, _)| pass == wanted).map(|(_, text)| text.clone());
        let known = || texts.iter().map(|(pass, _)| *pass).collect::<Vec<_>>().join(", ");
        return found.ok_or_else(|| DumpError::NoPass { name: wanted.clone(), known: known() });
    }
    let mut out = String::new();
    for (i, (pass, text)) in texts.iter().enumerate() {
        match i.checked_sub(1).map(|before| &texts[before].1) {
            Some(before) if before == text => out.push_str(&format!("; {pass} leaves it as it is\n")),
            _ => out.push_str(&format!("; after {pass}\n{text}")),
        }
    }
    Ok(out)
}

fn selected(program: &Program, selection: &Selection) -> Result<Vec<usize>, DumpError> {
    let names: Vec<&str> = program.module.funcs.iter().map(|g| g.name.as_str()).collect();
    match &selection.func {
        None => Ok((0..names.len()).collect()),
        Some(name) => match names.iter().position(|n| n == name) {
            Some(at) => Ok(vec![at]),
            None => Err(DumpError::NoFunction { name: name.clone(), known: names.join(", ") }),
        },
    }
}

/// Kernels of the selected plans, each once, in order of first use.
fn kernels<'p>(program: &'p Program, funcs: &[usize], selection: &Selection) -> Vec<&'p Kernel> {
    let plans = funcs.iter().flat_map(|f| &program.plans[*f]);
    let plans = plans.filter(|p| selection.class.is_none_or(|c| c == p.class));
    let stages = plans.flat_map(|p| &p.dispatches).flat_map(|d| &d.stages);
    let used: indexmap::IndexSet<usize> = stages.map(|s| s.kernel).collect();
    let wanted = |k: &Kernel| selection.kernel.as_ref().is_none_or(|name| is_kernel(k, name));
    used.into_iter().map(|k| &program.kernels[k]).filter(|k| wanted(k)).collect()
}

/// Whether a kernel is meant by a name, or by the beginning of a key.
fn is_kernel(kernel: &Kernel, name: &str) -> bool {
    kernel.name == name || kernel.key().to_string().starts_with(name)
}

fn kernel_text(kernel: &Kernel, stage: Stage) -> Result<String, ShaderError> {
    if stage == Stage::Kernel {
        return Ok(text::print_kernel(kernel));
    }
    let module = lower(kernel, &LowerOptions::default())?;
    match stage {
        Stage::Msl => msl(&module),
        Stage::Spirv => {
            let words = spirv(&module)?;
            let lines =
                words.chunks(8).map(|line| line.iter().map(|w| format!("{w:08x}")).collect::<Vec<_>>().join(" "));
            Ok(lines.collect::<Vec<_>>().join("\n"))
        }
        _ => wgsl(&module),
    }
}
