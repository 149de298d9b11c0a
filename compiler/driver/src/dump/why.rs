//! Why a value is computed as it is: what each pass did at its place in the model, by which rules, and which launches
//! compute it.

use std::fmt::Write;

use serde::Serialize;
use swiftlm_compiler::passes::fuse;
use swiftlm_ir::graph::{Graph, Value};
use swiftlm_ir::plan::FuncPlan;
use swiftlm_ir::text;
use swiftlm_ir::text::names::{value_name, value_names};

use super::DumpError;
use super::trace::Trace;

/// What one pass did at a place in the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The pass.
    pub pass: String,
    /// Values that it took away, as the function's text has them.
    pub removed: Vec<String>,
    /// Values that it made.
    pub added: Vec<String>,
}

/// One application of a rewrite rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// The value that came to be computed otherwise by it, as it was named before.
    pub value: String,
    /// Its place in the model.
    pub place: String,
    /// The rule.
    pub rule: String,
    /// The term that it found.
    pub before: String,
    /// What the term became.
    pub after: String,
}

/// A launch and all that it computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Computed {
    /// Class of the step's rows.
    pub class: &'static str,
    /// Index in the plan.
    pub launch: usize,
    /// The template.
    pub template: &'static str,
    /// The values, views and what is never stored included.
    pub values: Vec<String>,
}

/// The chain behind a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Why {
    /// The function.
    pub func: String,
    /// The value as the optimised function has it.
    pub value: String,
    /// Its place in the model.
    pub place: String,
    /// What passes did there, in order; passes that left it alone are not named.
    pub changes: Vec<Change>,
    /// The rules that applied there.
    pub rewrites: Vec<Rewrite>,
    /// The launches that compute it, for each class.
    pub launches: Vec<Computed>,
}

/// Why a value of the optimised program is computed as it is; it is named `func.value`, as the graph's text names both.
///
/// # Errors
/// There is no such function or value.
pub fn why(trace: &Trace, name: &str) -> Result<Why, DumpError> {
    let module = &trace.compiled.program.module;
    let (func, value) = name.split_once('.').unwrap_or((name, ""));
    let at = module.funcs.iter().position(|g| g.name == func).ok_or_else(|| DumpError::NoFunction {
        name: func.to_owned(),
        known: module.funcs.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", "),
    })?;
    let g = &module.funcs[at];
    let names = value_names(g);
    let wanted = value.trim_start_matches('%');
    let v = names.iter().position(|n| n == wanted).ok_or_else(|| DumpError::NoValue {
        func: func.to_owned(),
        name: value.to_owned(),
        known: names.join(", "),
    })?;
    let place = g.values[v].loc.clone();
    Ok(Why {
        func: func.to_owned(),
        value: lines(g)
            .into_iter()
            .find(|l| l.starts_with(&format!("%{wanted} =")))
            .unwrap_or_else(|| format!("%{wanted}")),
        changes: changes(trace, func, &place),
        rewrites: rewrites(trace, at).into_iter().filter(|r| r.place == place).collect(),
        launches: trace.compiled.program.plans[at].iter().filter_map(|plan| computed_in(trace, plan, v)).collect(),
        place,
    })
}

/// The lines of a function's text that define values.
fn lines(g: &Graph) -> Vec<String> {
    text::print_graph(g).lines().map(str::trim).filter(|l| l.starts_with('%')).map(str::to_owned).collect()
}

fn at_place(g: &Graph, place: &str) -> Vec<String> {
    let (names, text) = (value_names(g), lines(g));
    let of_place = |v: usize| g.values[v].loc == place;
    let starts: Vec<String> = (0..names.len()).filter(|v| of_place(*v)).map(|v| format!("%{} =", names[v])).collect();
    text.into_iter().filter(|line| starts.iter().any(|start| line.starts_with(start.as_str()))).collect()
}

fn changes(trace: &Trace, func: &str, place: &str) -> Vec<Change> {
    let texts: Vec<(&str, Vec<String>)> =
        trace.of_func(func).map(|after| (after.pass.as_str(), at_place(&after.graph, place))).collect();
    let change = |pair: &[(&str, Vec<String>)]| {
        let [(_, before), (pass, after)] = pair else { return None };
        let missing = |from: &[String], of: &[String]| -> Vec<String> {
            of.iter().filter(|line| !from.contains(line)).cloned().collect()
        };
        let (removed, added) = (missing(after, before), missing(before, after));
        (!removed.is_empty() || !added.is_empty()).then(|| Change { pass: (*pass).to_owned(), removed, added })
    };
    texts.windows(2).filter_map(change).collect()
}

/// Every application of a rule in a function, once, in the order of the values that came to be as they are by it.
pub fn rewrites(trace: &Trace, func: usize) -> Vec<Rewrite> {
    let mut all: Vec<Rewrite> = vec![];
    for explained in &trace.compiled.rules[func].explained {
        for step in &explained.steps {
            let (value, place) = (explained.value.clone(), explained.loc.clone());
            let (rule, before, after) = (step.rule.clone(), step.before.clone(), step.after.clone());
            // What a value is computed from was explained with it.
            if !all.iter().any(|r| (&r.rule, &r.before, &r.after) == (&rule, &before, &after)) {
                all.push(Rewrite { value, place, rule, before, after });
            }
        }
    }
    all
}

/// What each launch of a plan computes, in order.
pub fn launches(trace: &Trace, plan: &FuncPlan) -> Vec<Computed> {
    let g = &trace.compiled.program.module.funcs[plan.func];
    let names = value_names(g);
    // The compiler is pure: the same function falls into the same groups.
    let groups = fuse::run(g, plan.class, &trace.compiled.options).unwrap_or_default();
    let computed = |(launch, group): (usize, &fuse::Group)| Computed {
        class: plan.class.name(),
        launch,
        template: group.template.name(),
        values: group.computes(g).into_iter().map(|v| value_name(&names, v)).collect(),
    };
    groups.iter().enumerate().map(computed).collect()
}

fn computed_in(trace: &Trace, plan: &FuncPlan, v: usize) -> Option<Computed> {
    let g = &trace.compiled.program.module.funcs[plan.func];
    let name = value_name(&value_names(g), Value(v as u32));
    launches(trace, plan).into_iter().find(|computed| computed.values.contains(&name))
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = format!("@{} at \"{}\":\n  {}\n", self.func, self.place, self.value);
        // Writing to a string cannot fail.
        for change in &self.changes {
            let _ = writeln!(out, "\npass {}", change.pass);
            change.removed.iter().for_each(|l| out.push_str(&format!("  - {l}\n")));
            change.added.iter().for_each(|l| out.push_str(&format!("  + {l}\n")));
        }
        for r in &self.rewrites {
            let _ = writeln!(out, "\nrule {} on the way to {}\n  {}\n  = {}", r.rule, r.value, r.before, r.after);
        }
        for c in &self.launches {
            let values = c.values.join(", ");
            let _ = writeln!(out, "\nclass {}: launch {} `{}` computes {values}", c.class, c.launch, c.template);
        }
        f.write_str(&out)
    }
}
