//! Printing of modules and functions: canonical, so that equal modules give equal texts.

use std::fmt::Write;

use super::group::{counted, escape, join};
use super::lex::is_plain;
use super::names::{value_name, value_names};
use crate::graph::{Arg, Call, Def, Graph, Module, ParamKind, RopeTable, Value};
use crate::ops::Attribute;
use crate::ty::StateType;

/// Columns of a text, where it can be broken.
const WIDTH: usize = 120;

/// The text of a module.
pub fn print(module: &Module) -> String {
    let mut out = String::from("slir 1\n");
    line(&mut out, format_args!("vocabulary {}", module.vocabulary));
    if !module.rope_tables.is_empty() {
        out.push('\n');
    }
    for (i, table) in module.rope_tables.iter().enumerate() {
        rope_table(&mut out, i, table);
    }
    if !module.states.is_empty() {
        out.push('\n');
    }
    states(&mut out, &module.states);
    for func in &module.funcs {
        out.push('\n');
        out.push_str(&print_graph(func));
    }
    out.push_str("\nmain {\n");
    calls(&mut out, module);
    out.push_str("}\n");
    out
}

/// A line of text.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
    out.push('\n');
}

/// A name behind `@`.
pub(super) fn at(name: &str) -> String {
    if is_plain(name) { format!("@{name}") } else { format!("@\"{}\"", escape(name)) }
}

/// A number that parses back to the same bits; whole ones without a point.
pub(super) fn number(x: f64) -> String {
    if x.fract() == 0.0 && x.abs() < 1e15 { format!("{x}") } else { format!("{x:?}") }
}

fn attribute(a: &Attribute) -> String {
    match a {
        Attribute::Number(x) => number(*x),
        Attribute::Bool(_) | Attribute::Word(_) => a.to_string(),
    }
}

fn rope_table(out: &mut String, index: usize, table: &RopeTable) {
    line(out, format_args!("rope {index} = magnitude {} [", number(table.magnitude)));
    let mut row = String::new();
    for f in &table.inverse_frequencies {
        let text = number(*f);
        if !row.is_empty() && row.len() + text.len() + 4 > WIDTH {
            line(out, format_args!("  {}", row.trim_end()));
            row.clear();
        }
        row.push_str(&text);
        row.push_str(", ");
    }
    if !row.is_empty() {
        line(out, format_args!("  {}", row.trim_end()));
    }
    out.push_str("]\n");
}

/// Length of the run that `items` begin with: item `i` continues it where `continues(i)`.
fn run(count: usize, continues: impl Fn(usize) -> bool) -> usize {
    (1..count).find(|i| !continues(*i)).unwrap_or(count)
}

/// `0..n` or, for one, its number.
fn span(start: usize, count: usize) -> String {
    if count == 1 { start.to_string() } else { format!("{start}..{}", start + count) }
}

fn states(out: &mut String, states: &[StateType]) {
    let mut start = 0;
    while let Some(first) = states.get(start) {
        let count = run(states.len() - start, |i| states[start + i] == *first);
        line(out, format_args!("state {} = {first}", span(start, count)));
        start += count;
    }
}

fn calls(out: &mut String, module: &Module) {
    let mut rest = module.main.as_slice();
    while let Some(first) = rest.first() {
        let count = layers(rest);
        let scopes: Vec<String> = rest[..count].iter().map(|c| c.scope.clone()).collect();
        let name = module.funcs.get(first.func).map_or_else(|| format!("{}?", first.func), |f| f.name.clone());
        let states: Vec<String> = first.states.iter().map(|s| span(*s, count)).collect();
        let states = if states.is_empty() { String::new() } else { format!(" state {}", states.join(", ")) };
        line(out, format_args!("  call {} \"{}\"{states}", at(&name), join(&scopes)));
        rest = &rest[count..];
    }
}

/// Calls at the front that one line can say: the same function, with scopes and states counted up.
fn layers(calls: &[Call]) -> usize {
    let first = &calls[0];
    let alike = run(calls.len(), |i| {
        let counted_up = |(state, first): (&usize, &usize)| first.checked_add(i) == Some(*state);
        calls[i].func == first.func
            && calls[i].states.len() == first.states.len()
            && calls[i].states.iter().zip(&first.states).all(counted_up)
    });
    let scopes: Vec<&str> = calls[..alike].iter().map(|c| c.scope.as_str()).collect();
    counted(&scopes)
}

/// The text of a function.
pub fn print_graph(graph: &Graph) -> String {
    let names = value_names(graph);
    let params: Vec<String> = graph.params.iter().map(|(kind, v)| param(graph, &names, kind, *v)).collect();
    let mut out = format!("func {}({}) {{\n", at(&graph.name), params.join(", "));
    for decl in &graph.weights {
        line(&mut out, format_args!("  w\"{}\": {}", join(&decl.names), decl.ty));
    }
    let leading = graph.params.iter().enumerate().take_while(|(i, (_, v))| v.0 as usize == *i).count();
    for (i, info) in graph.values.iter().enumerate().skip(leading) {
        let name = value_name(&names, Value(i as u32));
        match &info.def {
            Def::Param(_) => line(&mut out, format_args!("  param {name}")),
            Def::Node { op, args } => {
                let mut text = format!("  {name} = {}", op.name());
                for (i, a) in args.iter().enumerate() {
                    text.push_str(if i == 0 { " " } else { ", " });
                    text.push_str(&argument(graph, &names, *a));
                }
                let attributes: Vec<String> =
                    op.attributes().iter().map(|(name, a)| format!("{name}={}", attribute(a))).collect();
                if !attributes.is_empty() {
                    text.push_str(&format!(" {{{}}}", attributes.join(", ")));
                }
                line(&mut out, format_args!("{text} : {}{}", info.ty, location(&info.loc)));
            }
        }
    }
    let results: Vec<String> = graph.results.iter().map(|v| value_name(&names, *v)).collect();
    line(&mut out, format_args!("  return {}", results.join(", ")));
    out.push_str("}\n");
    out
}

fn location(loc: &str) -> String {
    if loc.is_empty() { String::new() } else { format!(" {}", at(loc)) }
}

fn param(graph: &Graph, names: &[String], kind: &ParamKind, v: Value) -> String {
    let kind = match kind {
        ParamKind::Flow => "flow".to_owned(),
        ParamKind::Ids => "ids".to_owned(),
        ParamKind::RopeTable(i) => format!("rope({i})"),
        ParamKind::State(0) => "state".to_owned(),
        ParamKind::State(i) => format!("state({i})"),
    };
    let (ty, loc) =
        graph.values.get(v.0 as usize).map_or_else(Default::default, |i| (i.ty.to_string(), location(&i.loc)));
    format!("{}: {kind} {ty}{loc}", value_name(names, v))
}

pub(super) fn argument(graph: &Graph, names: &[String], a: Arg) -> String {
    match a {
        Arg::Value(v) => value_name(names, v),
        Arg::Weight(w) => match graph.weights.get(w.0 as usize) {
            Some(decl) => format!("w\"{}\"", join(&decl.names)),
            None => format!("w{}?", w.0),
        },
    }
}
