//! Every text of a compiled model: graph, plan, kernels and shaders, of all functions or of one.

use std::fmt::Write;

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::plan::Program;
use swiftlm_ir::text;
use swiftlm_shader::{LowerOptions, ShaderError, lower, msl, spirv, wgsl};

/// What can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The optimised graph.
    Graph,
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
    pub const ALL: [(&'static str, Self); 7] = [
        ("graph", Self::Graph),
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
    /// A kernel has no shader.
    #[error("kernel {kernel}: {error}")]
    Shader {
        /// Its name.
        kernel: String,
        /// Why.
        error: ShaderError,
    },
}

/// The text of one stage. `egraphs` are drawings with the names of their functions, kept while compiling.
///
/// # Errors
/// A function that does not exist, or a kernel that cannot be lowered.
pub fn dump(
    program: &Program,
    egraphs: &[(String, String)],
    stage: Stage,
    selection: &Selection,
) -> Result<String, DumpError> {
    let funcs = selected(program, selection)?;
    let mut out = String::new();
    match stage {
        Stage::Graph if selection.func.is_none() => out.push_str(&text::print(&program.module)),
        Stage::Graph => funcs.iter().for_each(|f| out.push_str(&text::print_graph(&program.module.funcs[*f]))),
        Stage::EGraph => {
            let wanted = |func: &String| selection.func.as_ref().is_none_or(|name| name == func);
            egraphs.iter().filter(|(func, _)| wanted(func)).for_each(|(_, dot)| out.push_str(dot));
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
    used.into_iter().map(|k| &program.kernels[k]).collect()
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
