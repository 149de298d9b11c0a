//! A page for a browser, without anything from elsewhere: every function before and after each pass, the rewrites that
//! made the difference, and the launches of a step.

use serde::Serialize;
use swiftlm_compiler::work::{StepShape, work_of};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::plan::{Dispatch, FuncPlan};
use swiftlm_ir::text::print_graph;

use super::roofline::Roofline;
use super::trace::Trace;
use super::why::{Computed, Rewrite, launches, rewrites};

/// The page around the data.
const FRAME: &str = include_str!("page.html");

#[derive(Serialize)]
struct Data<'a> {
    family: &'a str,
    fingerprint: &'a str,
    funcs: Vec<Func<'a>>,
    step: Vec<Bar>,
    measured: Option<&'a Roofline>,
}

#[derive(Serialize)]
struct Func<'a> {
    name: &'a str,
    calls: usize,
    /// Names of passes and the function's text after each.
    passes: Vec<(&'a str, String)>,
    rewrites: Vec<Rewrite>,
}

/// A launch of the step.
#[derive(Serialize)]
struct Bar {
    func: String,
    place: String,
    computed: Computed,
    bytes: u64,
    flops: u64,
}

/// The page of a compilation; where the step was measured, launches are drawn as long as they took, else by the bytes that
/// they move.
pub fn page(trace: &Trace, step: &StepShape, measured: Option<&Roofline>) -> String {
    let program = &trace.compiled.program;
    let func = |at: usize| {
        let name = program.module.funcs[at].name.as_str();
        let passes = trace.of_func(name).map(|after| (after.pass.as_str(), print_graph(&after.graph)));
        let calls = program.module.main.iter().filter(|call| call.func == at).count();
        Func { name, calls, passes: passes.collect(), rewrites: rewrites(trace, at) }
    };
    let last = program.module.main.len().saturating_sub(1);
    let bars = program.module.main.iter().enumerate().flat_map(|(i, call)| {
        let class = ShapeClass::of(if i == last { step.rows } else { step.tokens });
        let plan = program.plans[call.func].iter().find(|plan| plan.class == class);
        plan.map_or_else(Vec::new, |plan| bars(trace, plan, step))
    });
    let data = Data {
        family: &trace.compiled.family,
        fingerprint: &trace.compiled.fingerprint,
        funcs: (0..program.module.funcs.len()).map(func).collect(),
        step: bars.collect(),
        measured,
    };
    // A string of the data must not end the script that it stands in.
    let json = serde_json::to_string(&data).unwrap_or_default().replace("</", "<\\/");
    FRAME.replace("\"DATA\"", &json)
}

fn bars(trace: &Trace, plan: &FuncPlan, step: &StepShape) -> Vec<Bar> {
    let func = &trace.compiled.program.module.funcs[plan.func].name;
    let bar = |(dispatch, computed): (&Dispatch, Computed)| {
        let work = work_of(&dispatch.template, step);
        Bar { func: func.clone(), place: dispatch.loc.clone(), computed, bytes: work.bytes(), flops: work.flops }
    };
    plan.dispatches.iter().zip(launches(trace, plan)).map(bar).collect()
}
