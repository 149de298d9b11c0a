//! Why a term was picked: the applications of rules that lead from a function's own term to it.

use std::collections::BTreeMap;

use egg::{EGraph, FlatTerm, Id, RecExpr, Symbol};
use swiftlm_ir::graph::{Arg, Graph, Value};
use swiftlm_ir::text::group::join;
use swiftlm_ir::text::names::{value_name, value_names};

use super::analysis::Types;
use super::extract::Choice;
use super::lang::Node;

/// Levels of a term that are written out.
const DEPTH: usize = 4;

/// One application of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub rule: String,
    /// The term it found, its depths left out.
    pub before: String,
    /// What the term became.
    pub after: String,
}

/// Why a value that other passes see is computed as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Name of the value in the function before rewriting.
    pub value: String,
    /// Its place in the model.
    pub loc: String,
    /// The rules in order, those on what it is computed from included.
    pub steps: Vec<Step>,
}

/// Explains one value of a saturated e-graph that keeps its proofs; `None` where it is computed as it stood.
pub(super) fn explain(
    g: &Graph,
    egraph: &mut EGraph<Node, Types>,
    choice: &Choice,
    ids: &BTreeMap<Value, Id>,
    value: Value,
) -> Option<Explained> {
    let (mut old, mut new) = (RecExpr::default(), RecExpr::default());
    stood(g, ids, value, &mut old, &mut BTreeMap::new());
    picked(egraph, choice, egraph.find(*ids.get(&value)?), &mut new, &mut BTreeMap::new())?;
    let names = value_names(g);
    let mut proof = egraph.explain_equivalence(&old, &new);
    let terms = proof.make_flat_explanation();
    let step = |pair: &[FlatTerm<Node>]| {
        let (rule, before, after) = applied(&pair[0], &pair[1])?;
        let text = |term| print(g, &names, term, DEPTH);
        Some(Step { rule: rule.to_string(), before: text(before), after: text(after) })
    };
    let steps: Vec<Step> = terms.windows(2).filter_map(step).collect();
    let info = g.value(value);
    (!steps.is_empty()).then(|| Explained { value: value_name(&names, value), loc: info.loc.clone(), steps })
}

/// The term of a value as the function has it.
fn stood(
    g: &Graph,
    island: &BTreeMap<Value, Id>,
    v: Value,
    expr: &mut RecExpr<Node>,
    done: &mut BTreeMap<Value, Id>,
) -> Id {
    if let Some(id) = done.get(&v) {
        return *id;
    }
    let node = match g.node(v).filter(|_| island.contains_key(&v)) {
        None => Node::Value(v.0),
        Some((op, args)) => {
            let mut children: Vec<Id> = vec![];
            for a in args {
                children.push(match a {
                    Arg::Value(x) => stood(g, island, *x, expr, done),
                    Arg::Weight(w) => expr.add(Node::Weight(w.0)),
                });
            }
            children.extend(op.attributes().iter().map(|(_, a)| expr.add(Node::attribute(a))));
            Node::Op(op.name().into(), children)
        }
    };
    let id = expr.add(node);
    done.insert(v, id);
    id
}

/// The term that extraction picked for a class.
fn picked(
    egraph: &EGraph<Node, Types>,
    choice: &Choice,
    class: Id,
    expr: &mut RecExpr<Node>,
    done: &mut BTreeMap<Id, Id>,
) -> Option<Id> {
    if let Some(id) = done.get(&class) {
        return Some(*id);
    }
    let node = match choice.get(&class)? {
        Node::Op(name, children) => {
            let children = children.iter().map(|c| picked(egraph, choice, egraph.find(*c), expr, done));
            Node::Op(*name, children.collect::<Option<_>>()?)
        }
        leaf => leaf.clone(),
    };
    let id = expr.add(node);
    done.insert(class, id);
    Some(id)
}

/// Where two terms that follow one another in a proof differ, and by which rule.
fn applied<'t>(
    before: &'t FlatTerm<Node>,
    after: &'t FlatTerm<Node>,
) -> Option<(Symbol, &'t FlatTerm<Node>, &'t FlatTerm<Node>)> {
    if let Some(rule) = after.forward_rule.or(after.backward_rule) {
        return Some((rule, before, after));
    }
    before.children.iter().zip(&after.children).find_map(|(a, b)| applied(a, b))
}

/// `op(argument, …, attribute, …)`.
fn print(g: &Graph, names: &[String], term: &FlatTerm<Node>, depth: usize) -> String {
    match &term.node {
        Node::Value(v) => value_name(names, Value(*v)),
        Node::Weight(w) => {
            g.weights.get(*w as usize).map_or_else(|| format!("w{w}"), |w| format!("w\"{}\"", join(&w.names)))
        }
        Node::Op(name, _) if depth == 0 => format!("{name}(…)"),
        Node::Op(name, _) => {
            let children: Vec<String> = term.children.iter().map(|c| print(g, names, c, depth - 1)).collect();
            format!("{name}({})", children.join(", "))
        }
        leaf => leaf.to_string(),
    }
}
