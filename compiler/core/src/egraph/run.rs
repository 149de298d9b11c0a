//! Equality saturation over the pure islands of a function.
//!
//! An island is a run of pure ops between two effects. Values from outside are leaves, so no rewrite can move work across
//! an effect.

use std::collections::BTreeMap;

use egg::{EGraph, Id, Rewrite, Runner, StopReason};
use swiftlm_ir::graph::{Arg, Def, Graph, Value, WeightSlot};
use swiftlm_ir::ops::infer::ArgType;

use super::analysis::{Types, op_of};
use super::explain::{Explained, explain};
use super::extract::{Choice, extract};
use super::lang::Node;
use crate::choices::{Choices, Chooser};
use crate::rewrite::{Rewriter, uses};

/// Bounds of saturation for one island; a function of a network stays far below.
const NODE_LIMIT: usize = 20_000;
const ITERATION_LIMIT: usize = 30;

/// What happened to a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How often each rule changed something, by name.
    pub applied: BTreeMap<String, usize>,
    /// Whether every island reached a fixed point.
    pub saturated: bool,
    /// Rules that merged unequal types, or an extraction that failed: defects, shown and without effect.
    pub defects: Vec<String>,
    /// Why values are computed otherwise than they stood; only where explanations were asked for.
    pub explained: Vec<Explained>,
}

/// A saturated e-graph and what was picked of it, for whoever wants to look at it.
#[derive(Clone, Copy)]
pub struct Island<'a> {
    /// Number among the function's islands.
    pub number: usize,
    /// The function before rewriting.
    pub func: &'a Graph,
    /// Its values that are computed here, in program order.
    pub values: &'a [Value],
    /// Those of them that the rest of the function uses.
    pub exits: &'a [Value],
    /// Every term that the rules made of them.
    pub egraph: &'a EGraph<Node, Types>,
    /// The class of each exit.
    pub roots: &'a [Id],
    /// The term picked for each class; `None` where extraction failed, which the report says.
    pub picked: Option<&'a Choice>,
}

impl Island<'_> {
    /// The e-graph in Graphviz's language: a box per class, a node per term.
    pub fn dot(&self) -> String {
        self.egraph.dot().to_string()
    }
}

/// Rewrites a function by `rules`, for speed.
pub fn run(g: &Graph, rules: &[Rewrite<Node, Types>]) -> (Graph, Report) {
    run_observed(g, rules, &mut |_| {})
}

/// As [`run`]; `observe` sees every island.
pub fn run_observed(g: &Graph, rules: &[Rewrite<Node, Types>], observe: &mut dyn FnMut(Island<'_>)) -> (Graph, Report) {
    run_chosen(g, rules, &Chooser::new(Choices::Best, 0), false, observe)
}

/// Rewrites a function by `rules`; `chooser` prices terms, `observe` sees every island. To `explain` keeps
/// proofs, which takes time and changes nothing.
pub(crate) fn run_chosen(
    g: &Graph,
    rules: &[Rewrite<Node, Types>],
    chooser: &Chooser,
    explain: bool,
    observe: &mut dyn FnMut(Island<'_>),
) -> (Graph, Report) {
    let mut report = Report { saturated: true, ..Report::default() };
    let mut r = Rewriter::new(g);
    let uses = uses(g);
    let mut island: Vec<Value> = vec![];
    let mut number = 0;
    let mut choose = |values: &[Value], exits: &[Value], egraph: &EGraph<Node, Types>, roots: &[Id]| {
        let picked = extract(egraph, roots, chooser);
        observe(Island { number, func: g, values, exits, egraph, roots, picked: picked.as_ref().ok() });
        number += 1;
        picked
    };
    for i in 0..g.values.len() {
        let v = Value(i as u32);
        match &g.value(v).def {
            Def::Node { op, .. } if !op.is_effect() => island.push(v),
            _ => {
                optimise(g, &mut r, &island, &uses, rules, explain, &mut report, &mut choose);
                island.clear();
                r.copy(v);
            }
        }
    }
    optimise(g, &mut r, &island, &uses, rules, explain, &mut report, &mut choose);
    (r.finish(), report)
}

/// Picks the terms that compute an island's exits, whose classes come last, from its saturated e-graph.
type Choose<'c> = dyn FnMut(&[Value], &[Value], &EGraph<Node, Types>, &[Id]) -> Result<Choice, String> + 'c;

#[expect(clippy::too_many_arguments, reason = "one step of `run_chosen`, which has no state of its own")]
fn optimise(
    g: &Graph,
    r: &mut Rewriter<'_>,
    island: &[Value],
    uses: &[Vec<Option<Value>>],
    rules: &[Rewrite<Node, Types>],
    proofs: bool,
    report: &mut Report,
    choose: &mut Choose<'_>,
) {
    if island.is_empty() {
        return;
    }
    let mut egraph = EGraph::new(types(g, island));
    if proofs {
        egraph = egraph.with_explanations_enabled().without_explanation_length_optimization();
    }
    let ids = add_terms(g, &mut egraph, island);
    let leaves_island = |v: &&Value| uses[v.0 as usize].iter().any(|user| user.is_none_or(|u| !island.contains(&u)));
    let exits: Vec<Value> = island.iter().filter(leaves_island).copied().collect();
    let runner = Runner::<Node, Types>::new(Types::default())
        .with_egraph(egraph)
        .with_node_limit(NODE_LIMIT)
        .with_iter_limit(ITERATION_LIMIT)
        // No clock decides what is compiled: the other limits bound the work.
        .with_time_limit(std::time::Duration::from_secs(3600))
        .run(rules);
    report.saturated &= matches!(runner.stop_reason, Some(StopReason::Saturated));
    for (rule, count) in runner.iterations.iter().flat_map(|i| &i.applied) {
        *report.applied.entry(rule.to_string()).or_default() += count;
    }
    let roots: Vec<Id> = exits.iter().map(|v| runner.egraph.find(ids[v])).collect();
    let extracted = match runner.egraph.analysis.conflicts.first() {
        Some(conflict) => Err(conflict.clone()),
        None => choose(island, &exits, &runner.egraph, &roots),
    };
    match extracted {
        Ok(choice) => {
            if proofs {
                let mut egraph = runner.egraph.clone();
                let explained = island.iter().filter_map(|v| explain(g, &mut egraph, &choice, &ids, *v));
                report.explained.extend(explained);
            }
            rebuild(g, r, &runner.egraph, &choice, island, &exits, &ids);
        }
        Err(defect) => {
            report.defects.push(defect);
            island.iter().for_each(|v| {
                r.copy(*v);
            });
        }
    }
}

/// The values of an island as terms, before any rule, and the class of each.
pub fn terms(g: &Graph, island: &[Value]) -> (EGraph<Node, Types>, BTreeMap<Value, Id>) {
    let mut egraph = EGraph::new(types(g, island));
    let ids = add_terms(g, &mut egraph, island);
    egraph.rebuild();
    (egraph, ids)
}

/// Types of what an island's terms end in.
fn types(g: &Graph, island: &[Value]) -> Types {
    let leaf = |v: usize| (!island.contains(&Value(v as u32))).then(|| ArgType::Value(g.values[v].ty.clone()));
    Types {
        values: (0..g.values.len()).map(leaf).collect(),
        weights: g.weights.iter().map(|w| ArgType::Weight(w.ty)).collect(),
        conflicts: vec![],
    }
}

fn add_terms(g: &Graph, egraph: &mut EGraph<Node, Types>, island: &[Value]) -> BTreeMap<Value, Id> {
    let mut ids = BTreeMap::new();
    for v in island {
        let id = add(g, egraph, &ids, *v);
        ids.insert(*v, id);
    }
    ids
}

fn add(g: &Graph, egraph: &mut EGraph<Node, Types>, ids: &BTreeMap<Value, Id>, v: Value) -> Id {
    let Some((op, args)) = g.node(v) else { return egraph.add(Node::Value(v.0)) };
    let mut children = vec![];
    for a in args {
        children.push(match a {
            Arg::Value(x) => ids.get(x).copied().unwrap_or_else(|| egraph.add(Node::Value(x.0))),
            Arg::Weight(w) => egraph.add(Node::Weight(w.0)),
        });
    }
    for (_, a) in op.attributes() {
        children.push(egraph.add(Node::attribute(&a)));
    }
    egraph.add(Node::Op(op.name().into(), children))
}

/// Emits the chosen terms in dependency order; classes that stood in the old graph keep their place in the model.
fn rebuild(
    g: &Graph,
    r: &mut Rewriter<'_>,
    egraph: &EGraph<Node, Types>,
    choice: &Choice,
    island: &[Value],
    exits: &[Value],
    ids: &BTreeMap<Value, Id>,
) {
    let mut locs: BTreeMap<Id, String> = BTreeMap::new();
    for v in island {
        locs.entry(egraph.find(ids[v])).or_insert_with(|| g.value(*v).loc.clone());
    }
    let mut done: BTreeMap<Id, Arg> = BTreeMap::new();
    for exit in exits {
        let loc = g.value(*exit).loc.clone();
        if let Some(Arg::Value(new)) = emit(r, egraph, choice, &locs, &mut done, egraph.find(ids[exit]), &loc) {
            r.replace(*exit, new);
        }
    }
}

fn emit(
    r: &mut Rewriter<'_>,
    egraph: &EGraph<Node, Types>,
    choice: &Choice,
    locs: &BTreeMap<Id, String>,
    done: &mut BTreeMap<Id, Arg>,
    id: Id,
    parent: &str,
) -> Option<Arg> {
    if let Some(arg) = done.get(&id) {
        return Some(*arg);
    }
    let arg = match choice.get(&id)? {
        Node::Value(v) => r.arg(Arg::Value(Value(*v))),
        Node::Weight(w) => Arg::Weight(WeightSlot(*w)),
        Node::Number(_) | Node::Word(_) => return None,
        Node::Op(name, children) => {
            let loc = locs.get(&id).map_or(parent, String::as_str);
            let args =
                children.iter().filter_map(|c| emit(r, egraph, choice, locs, done, egraph.find(*c), loc)).collect();
            let (op, _) = op_of(egraph, name.as_str(), children).ok()?;
            Arg::Value(r.emit(op, args, loc))
        }
    };
    done.insert(id, arg);
    Some(arg)
}
