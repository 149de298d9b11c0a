//! Printing of plans: one line per launch, with its kernel, its grid and where each argument lies.

use std::fmt::Write;

use super::group::join;
use super::print::at;
use crate::graph::Graph;
use crate::map::{Map, MapStep};
use crate::plan::{Dispatch, Fetch, FuncPlan, Groups, Input, Operand, Program, Reach, Stage};
use crate::template::Template;

/// Characters of an elementwise program's text.
const LONGEST: usize = 160;

/// The text of all plans of a program.
pub fn print_program(program: &Program) -> String {
    let (chunk, rows, arena) = (program.chunk, program.max_rows, bytes(program.arena_bytes));
    let (weights, kernels) = (bytes(program.weight_bytes()), program.kernels.len());
    let mut out = format!("program chunk={chunk} max_rows={rows} arena={arena} weights={weights} kernels={kernels}\n");
    for plan in program.plans.iter().flatten() {
        out.push('\n');
        out.push_str(&print_plan(program, plan));
    }
    out
}

/// The text of a function's plan: `number template#key grid(groups) argument=place, … ; where in the model`. A further
/// kernel of a launch follows on a line of its own, `+ name#key grid(groups) argument=place, …`.
///
/// `@a+b` are `b` bytes of the arena from byte `a` on, `w"…"[a..b]` rows of a weight.
pub fn print_plan(program: &Program, plan: &FuncPlan) -> String {
    let graph = program.module.funcs.get(plan.func);
    let name = graph.map_or("?", |g| g.name.as_str());
    let mut out = format!("plan {} class={} arena={} {{\n", at(name), plan.class.name(), bytes(plan.arena_bytes));
    for (i, dispatch) in plan.dispatches.iter().enumerate() {
        for ahead in plan.fetches.iter().filter_map(|f| f.ahead.as_ref()).filter(|a| a.launches.start == i) {
            let (last, ids) = (ahead.launches.end.saturating_sub(1), operand(graph, &ahead.ids));
            // Writing to a string cannot fail.
            let _ = writeln!(out, "     host may guess the next experts by launches to {last} -> {ids}");
        }
        for fetch in plan.fetches.iter().filter(|f| f.launches.start == i) {
            out.push_str(&host(graph, fetch));
        }
        out.push_str(&launch(program, graph, i, dispatch));
        out.push('\n');
    }
    let results: Vec<String> = plan.results.iter().map(|o| operand(graph, o)).collect();
    let _ = writeln!(out, "  return {}\n}}", results.join(", "));
    out
}

fn launch(program: &Program, graph: Option<&Graph>, i: usize, d: &Dispatch) -> String {
    let mut stages = d.stages.iter().map(|s| stage(program, graph, d, s));
    let mut text = format!("  {i:2} {}", stages.next().unwrap_or_else(|| d.template.name().to_owned()));
    let computes = computes(&d.template);
    if !computes.is_empty() {
        text.push_str(&format!(" {{{}}}", computes.join(", ")));
    }
    if !d.loc.is_empty() {
        text.push_str(&format!(" ; {}", d.loc.escape_debug()));
    }
    stages.for_each(|stage| text.push_str(&format!("\n   + {stage}")));
    text
}

/// A kernel with its grid and where each of its arguments lies.
fn stage(program: &Program, graph: Option<&Graph>, d: &Dispatch, stage: &Stage) -> String {
    let kernel = program.kernels.get(stage.kernel);
    let key = kernel.map_or_else(|| "?".to_owned(), |k| k.key().to_string());
    let argument = |(i, at): (usize, &usize)| {
        let name = kernel.and_then(|k| k.args.get(i)).map_or("?", |a| a.name.as_str());
        let place = d.args.get(*at).map_or_else(|| "?".to_owned(), |o| operand(graph, o));
        if place == name { place } else { format!("{name}={place}") }
    };
    let args: Vec<String> = stage.args.iter().enumerate().map(argument).collect();
    let name = kernel.map_or(d.template.name(), |k| k.name.as_str());
    format!("{name}#{key} {} {}", grid(&stage.grid), args.join(", "))
}

fn host(graph: Option<&Graph>, f: &Fetch) -> String {
    let rows = |w: &usize| graph.and_then(|g| g.weights.get(*w)).map_or(0, |decl| decl.ty.rows);
    let weight = |w: &usize| operand(graph, &Operand::Weight { slot: *w, first: 0, count: rows(w) });
    let (ids, weights) = (operand(graph, &f.ids), f.weights.iter().map(weight).collect::<Vec<_>>().join(", "));
    let (last, slots, experts) = (f.launches.end.saturating_sub(1), f.slots, f.experts);
    format!(
        "     host expert.fetch {ids} -> slots for launches to {last}: {experts} experts in {slots} slots of {weights}\n"
    )
}

/// A number of bytes, in KiB or MiB where that is exact.
fn bytes(n: usize) -> String {
    match n {
        n if n > 0 && n.is_multiple_of(1 << 20) => format!("{}MiB", n >> 20),
        n if n > 0 && n.is_multiple_of(1 << 10) => format!("{}KiB", n >> 10),
        n => n.to_string(),
    }
}

fn operand(graph: Option<&Graph>, o: &Operand) -> String {
    match o {
        Operand::Arena { offset, bytes: n } => format!("@{}+{}", bytes(*offset), bytes(*n)),
        Operand::Weight { slot, first, count } => match graph.and_then(|g| g.weights.get(*slot)) {
            Some(decl) if (*first, *count) == (0, decl.ty.rows) => format!("w\"{}\"", join(&decl.names)),
            Some(decl) => format!("w\"{}\"[{first}..{}]", join(&decl.names), first.saturating_add(*count)),
            None => format!("w{slot}?"),
        },
        Operand::State { state, part } => {
            let recurrent = graph.and_then(|g| g.state(*state)?.recurrent()).is_some();
            match (recurrent, part) {
                (true, _) => ["inputs", "memory"][*part % 2],
                (false, 0) => "keys",
                (false, 1) => "values",
                (false, 2) => "archived_keys",
                (false, _) => "archived_values",
            }
            .to_owned()
        }
        Operand::Input(input) => match input {
            Input::Ids => "ids".to_owned(),
            Input::Positions => "positions".to_owned(),
            Input::Sequences => "sequences".to_owned(),
            Input::Units => "units".to_owned(),
            Input::Segments => "segments".to_owned(),
            Input::PageTable(window) if window.is_all() => "page_table".to_owned(),
            Input::PageTable(window) => format!("page_table({window})"),
            Input::Rows => "rows".to_owned(),
            Input::RopeTable(i) => format!("rope({i})"),
            Input::Slots => "slots".to_owned(),
        },
    }
}

/// `grid(24, T)`: axes of one group at the end are left out.
fn grid(axes: &[Groups; 3]) -> String {
    let one = Groups::fixed(1);
    let used = axes.iter().rposition(|g| *g != one).map_or(1, |i| i + 1);
    let texts: Vec<String> = axes[..used].iter().map(groups).collect();
    format!("grid({})", texts.join(", "))
}

/// `N` is the number of positions of the longest history.
fn groups(g: &Groups) -> String {
    let all = match g.rows {
        None => g.times.to_string(),
        Some((sym, per)) => {
            let rows = if per == 1 { sym.name().to_owned() } else { format!("ceil({}/{per})", sym.name()) };
            if g.times == 1 { rows } else { format!("{}·{rows}", g.times) }
        }
    };
    match g.reach {
        None => all,
        Some(Reach::Each(per)) => format!("min({all}, ceil(N/{per}))"),
        Some(Reach::Beyond(positions)) => format!("{all} if N > {positions}"),
        Some(Reach::Segments) => format!("min({all}, S)"),
    }
}

/// What a template does beyond its name.
fn computes(template: &Template) -> Vec<String> {
    let (round, pair, map) = match template {
        Template::Linear(l) => (l.round, l.pair, &l.epilogue),
        Template::ExpertLinear(l) => (l.round, l.pair, &l.epilogue),
        Template::Attend(a) if a.sinks.is_some() => return vec!["beside sinks".to_owned()],
        Template::Combine(c) => (None, false, &c.epilogue),
        Template::RmsNorm(n) => (None, false, &n.epilogue),
        Template::Map(m) => (None, false, &m.map),
        Template::Ssm(t) => (None, false, &t.epilogue),
        _ => return vec![],
    };
    let mut words: Vec<String> = round.iter().map(|to| format!("round x to {to}")).collect();
    if matches!(template, Template::ExpertLinear(l) if l.bias.is_some()) {
        words.push("add a bias".to_owned());
    }
    if pair {
        words.push("pairs".to_owned());
    }
    if !map.is_identity() {
        words.push(format!("y = {}", formula(map)));
    }
    words
}

/// An elementwise program as a formula of its inputs `a0`, `a1`, …
fn formula(map: &Map) -> String {
    let mut texts: Vec<String> = vec![];
    for step in &map.steps {
        let of = |reg: &crate::map::Reg| texts.get(reg.0 as usize).map_or("?", String::as_str);
        let text = match step {
            MapStep::Input(i) => format!("a{i}"),
            MapStep::Const(c) => format!("{c:?}"),
            MapStep::Add(a, b) => format!("({} + {})", of(a), of(b)),
            MapStep::Mul(a, b) => format!("{} · {}", of(a), of(b)),
            MapStep::Silu(a) => format!("silu({})", of(a)),
            MapStep::GeluTanh(a) => format!("gelu_tanh({})", of(a)),
            MapStep::Sigmoid(a) => format!("sigmoid({})", of(a)),
            MapStep::Tanh(a) => format!("tanh({})", of(a)),
            MapStep::Min(a, b) => format!("min({}, {})", of(a), of(b)),
            MapStep::Max(a, b) => format!("max({}, {})", of(a), of(b)),
            MapStep::Round(a, to) => format!("{}({})", to.name(), of(a)),
        };
        // A value used twice stands twice: without a bound the text could double with every step.
        texts.push(if text.len() > LONGEST { "…".to_owned() } else { text });
    }
    texts.pop().unwrap_or_default()
}
