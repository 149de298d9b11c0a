//! The list of passes, in the order in which they run.
//!
//! Algebra runs once per function, so that every class computes the same sums in the same order; a class only picks the
//! schedule. Functions that layers share are compiled once.

use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::graph::{Graph, Module, ParamKind};
use swiftlm_ir::plan::{FuncPlan, Program, WeightBuffer};
use swiftlm_ir::verify;

use crate::choices::{Choices, Chooser};
use crate::passes::{ahead, basis, canon, emit, fuse, memory, residency, siblings};
use crate::{egraph, rules};

/// What the caller decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// Largest token count of a step.
    pub chunk: usize,
    /// Largest count of rows that want logits.
    pub max_rows: usize,
    /// Bytes that one argument of a launch may span.
    pub max_binding: usize,
    /// Rewrite rules that may be used: all but those named here.
    pub without_rules: Vec<String>,
    /// How the compiler decides where several programs are right.
    pub choices: Choices,
    /// Experts of each layer that are in memory at a time; `None` for all.
    pub slots: Option<usize>,
    /// Whether, where not all experts are in memory, a layer also guesses those of the next.
    pub ahead: bool,
    /// Whether reports say by which rules values came to be as they are. Changes no program.
    pub explain: bool,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            chunk: 512,
            max_rows: 64,
            max_binding: 128 << 20,
            without_rules: vec![],
            choices: Choices::Best,
            slots: None,
            ahead: false,
            explain: false,
        }
    }
}

/// Why a module could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The graph breaks a rule of the IR.
    #[error("the graph is not valid:\n{}", .0.join("\n"))]
    Invalid(Vec<String>),
    /// An op, in this place, has no template.
    #[error("{0}")]
    Unsupported(String),
}

/// A compiled module and what the rules did to its functions.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// The launches.
    pub program: Program,
    /// Of each function: which rules applied.
    pub rules: Vec<egraph::run::Report>,
}

/// What an observer of a compilation sees of a function.
#[derive(Clone, Copy)]
pub enum Seen<'a> {
    /// The function after a pass.
    Graph(&'a Graph),
    /// A saturated e-graph of the function with this name.
    EGraph(&'a str, egraph::run::Island<'a>),
}

/// Compiles a module. `observe` sees every function after every graph pass, and every e-graph.
///
/// # Errors
/// A graph that is not valid, an op without a template in its place, or a rule that broke a type.
pub fn compile(
    module: &Module,
    options: &CompileOptions,
    observe: &mut dyn FnMut(&str, Seen<'_>),
) -> Result<Compiled, CompileError> {
    check(module)?;
    let mut optimised = module.clone();
    let mut rules = rules::all();
    let plain = options.choices == Choices::Plain;
    rules.retain(|rule| !plain && !options.without_rules.iter().any(|name| rule.name.as_str() == name));
    let mut reports = vec![];
    let after = |observe: &mut dyn FnMut(&str, Seen<'_>), pass: &str, func: &Graph| {
        debug_assert_eq!(verify::verify_graph(func), Ok(()), "pass {pass} keeps a graph valid");
        observe(pass, Seen::Graph(func));
    };
    for (i, func) in optimised.funcs.iter_mut().enumerate() {
        after(observe, "model", func);
        *func = canon::run(func);
        after(observe, "canon", func);
        if !plain {
            *func = siblings::run(func);
        }
        after(observe, "siblings", func);
        let chooser = Chooser::new(options.choices, i);
        let (rewritten, report) = egraph::run::run_chosen(func, &rules, &chooser, options.explain, &mut |island| {
            observe("egraph", Seen::EGraph(&func.name, island));
        });
        after(observe, "egraph", &rewritten);
        *func = canon::run(&rewritten);
        after(observe, "tidy", func);
        *func = basis::run(func);
        after(observe, "basis", func);
        if let Some(slots) = options.slots {
            *func = residency::run(func, slots);
            after(observe, "residency", func);
        }
        reports.push(report);
    }
    if options.ahead {
        ahead::run(&mut optimised);
        optimised.funcs.iter().for_each(|func| after(observe, "ahead", func));
    }
    let defects: Vec<String> = reports.iter().flat_map(|r| r.defects.clone()).collect();
    if !defects.is_empty() {
        return Err(CompileError::Invalid(defects));
    }
    check(&optimised)?;
    let program = schedule(optimised, options)?;
    // Devices run kernels without checks of their own: this proof is what allows it.
    verify::verify_program(&program).map_err(CompileError::Invalid)?;
    Ok(Compiled { program, rules: reports })
}

fn check(module: &Module) -> Result<(), CompileError> {
    let words = |errors: Vec<verify::VerifyError>| errors.iter().map(ToString::to_string).collect();
    verify::verify(module).map_err(|errors| CompileError::Invalid(words(errors)))
}

/// Turns optimised functions into launches: fuse, place, emit.
fn schedule(module: Module, options: &CompileOptions) -> Result<Program, CompileError> {
    let mut kernels = emit::Kernels::default();
    let mut plans = Vec::with_capacity(module.funcs.len());
    let width = flow_width(&module);
    for (func, g) in module.funcs.iter().enumerate() {
        let mut by_class = vec![];
        for class in ShapeClass::ALL {
            let mut groups = fuse::run(g, class, options).map_err(CompileError::Unsupported)?;
            let placement = memory::run(g, &mut groups, width, options).map_err(CompileError::Unsupported)?;
            let dispatches = emit::run(&groups, &placement, &mut kernels, options);
            let fetches = residency::fetches(g, &groups, &placement).map_err(CompileError::Unsupported)?;
            let (arena_bytes, results) = (placement.arena_bytes, placement.results);
            by_class.push(FuncPlan { func, class, dispatches, fetches, arena_bytes, results });
        }
        plans.push(by_class);
    }
    let arena_bytes = plans.iter().flatten().map(|p| p.arena_bytes).max().unwrap_or(0);
    let (weights, call_weights) = weights(&module);
    let (chunk, max_rows) = (options.chunk, options.max_rows);
    Ok(Program { kernels: kernels.into_vec(), plans, weights, call_weights, chunk, max_rows, arena_bytes, module })
}

fn flow_width(module: &Module) -> usize {
    let flows = module.funcs.iter().flat_map(|g| g.params.iter().map(move |(kind, v)| (g, kind, v)));
    flows
        .filter(|(_, kind, _)| **kind == ParamKind::Flow)
        .filter_map(|(g, _, v)| g.value(*v).ty.tensor().and_then(|t| t.row_elements()))
        .max()
        .unwrap_or(0)
}

/// Every weight once, and which of them each call's slots are.
fn weights(module: &Module) -> (Vec<WeightBuffer>, Vec<Vec<usize>>) {
    let mut all: indexmap::IndexSet<WeightBuffer> = indexmap::IndexSet::new();
    let mut calls = vec![];
    for (at, call) in module.main.iter().enumerate() {
        let slots = module.funcs[call.func]
            .weights
            .iter()
            .map(|w| all.insert_full(WeightBuffer { names: module.weight_names(at, w), ty: w.ty }).0);
        calls.push(slots.collect());
    }
    (all.into_iter().collect(), calls)
}

/// Kernels that one call of each function launches on a GPU at a class: what a dispatch count is made of.
pub fn dispatch_counts(program: &Program, class: ShapeClass) -> Vec<(String, usize)> {
    let kernels = |p: &FuncPlan| p.dispatches.iter().map(|d| d.stages.len()).sum();
    let count = |func: usize| program.plans[func].iter().find(|p| p.class == class).map_or(0, kernels);
    program.module.funcs.iter().enumerate().map(|(i, g)| (g.name.clone(), count(i))).collect()
}
