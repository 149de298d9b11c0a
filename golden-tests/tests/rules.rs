//! Every rewrite rule has a case, is needed by it, and is true on numbers.
//!
//! Extraction picks one term of a class, so comparing what it picked would leave terms unseen. Here a case is saturated
//! with one rule alone and every term of every class, what the rule made included, is appended to the function; the host
//! reference evaluates all, and terms of one class must agree. Knows nothing of passes other than the e-graph.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use egg::{EGraph, Id, Rewrite, Runner};
use swiftlm_compiler::egraph::analysis::{Types, op_of};
use swiftlm_compiler::egraph::lang::Node;
use swiftlm_compiler::egraph::run::run;
use swiftlm_compiler::rules::{Rule, all};
use swiftlm_golden_tests::host::{BAR, evaluate};
use swiftlm_golden_tests::run::relative_error;
use swiftlm_ir::graph::{Arg, Def, Graph, Value, ValueInfo, WeightSlot};
use swiftlm_ir::ops::infer::{ArgType, infer};
use swiftlm_ir::reference::HostTensor;
use swiftlm_ir::text::{parse_graph, print_graph};
use swiftlm_ir::ty::Type;

/// Rules that move values or roundings only: equal bits.
const EXACT: [&str; 7] =
    ["round-round", "round-merge", "round-split", "slice-slice", "merge-split", "scale-split", "scale-merge"];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/rules")
}

fn case(rule: &str) -> Graph {
    let path = directory().join(format!("{rule}.slir"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("rule `{rule}` needs {}: {e}", path.display()));
    assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("; ")), "{rule}.slir says its algebra");
    parse_graph(&text).unwrap_or_else(|e| panic!("{rule}.slir: {e:?}"))
}

/// Saturates a function with one rule and compares all terms of each class; the largest error and the terms compared.
fn soundness(g: &Graph, rule: &Rule, exact: bool, seed: u32) -> Result<(f64, usize), String> {
    let pure = |v: usize| matches!(&g.values[v].def, Def::Node { op, .. } if !op.is_effect());
    let leaf = |v: usize| (!pure(v)).then(|| ArgType::Value(g.values[v].ty.clone()));
    let types = Types {
        values: (0..g.values.len()).map(leaf).collect(),
        weights: g.weights.iter().map(|w| ArgType::Weight(w.ty)).collect(),
        conflicts: vec![],
    };
    let mut egraph: EGraph<Node, Types> = EGraph::new(types);
    let mut ids: Vec<Id> = vec![];
    for (i, info) in g.values.iter().enumerate() {
        let node = match &info.def {
            Def::Node { op, args } if pure(i) => {
                let mut children: Vec<Id> = vec![];
                for a in args {
                    children.push(match a {
                        Arg::Value(v) => ids[v.0 as usize],
                        Arg::Weight(w) => egraph.add(Node::Weight(w.0)),
                    });
                }
                children.extend(op.attributes().iter().map(|(_, a)| egraph.add(Node::attribute(a))));
                Node::Op(op.name().into(), children)
            }
            _ => Node::Value(i as u32),
        };
        ids.push(egraph.add(node));
    }
    let egraph = Runner::<Node, Types>::new(Types::default()).with_egraph(egraph).run(std::iter::once(rule)).egraph;
    if let Some(conflict) = egraph.analysis.conflicts.first() {
        return Err(conflict.clone());
    }
    // Terms whose children stand are appended until nothing is new.
    let mut all = g.clone();
    let mut standing: BTreeMap<Id, Value> = BTreeMap::new();
    let mut pairs: Vec<(Value, Value)> = vec![];
    for (i, id) in ids.iter().enumerate() {
        let v = Value(i as u32);
        let first = *standing.entry(egraph.find(*id)).or_insert(v);
        if first != v {
            pairs.push((first, v));
        }
    }
    let mut nodes: Vec<(Id, Node)> =
        egraph.classes().flat_map(|c| c.nodes.iter().map(|n| (egraph.find(c.id), n.clone()))).collect();
    nodes.sort();
    loop {
        let left = nodes.len();
        nodes.retain(|(class, node)| {
            let Node::Op(name, children) = node else { return false };
            let mut args = vec![];
            for c in children.iter().map(|c| egraph.find(*c)) {
                match (egraph[c].nodes.iter().find(|n| matches!(n, Node::Weight(_))), standing.get(&c)) {
                    (Some(Node::Weight(w)), _) => args.push(Arg::Weight(WeightSlot(*w))),
                    (_, Some(v)) => args.push(Arg::Value(*v)),
                    _ if egraph[c].nodes.iter().any(|n| n.as_attribute().is_some()) => {}
                    _ => return true,
                }
            }
            let (op, _) = op_of(&egraph, name.as_str(), children).expect("terms of a case are ops");
            let ty = infer(&op, &all.arg_types(&args)).expect("terms of a case are well-typed");
            all.values.push(ValueInfo { def: Def::Node { op, args }, ty, loc: String::new() });
            let v = Value(all.values.len() as u32 - 1);
            let first = *standing.entry(*class).or_insert(v);
            if first != v {
                pairs.push((first, v));
            }
            false
        });
        if nodes.len() == left {
            break;
        }
    }
    assert!(nodes.is_empty(), "every term was compared");
    pairs.retain(|(a, _)| matches!(all.value(*a).ty, Type::Tensor(_)));
    let states = g.results.iter().copied().filter(|v| matches!(g.value(*v).ty, Type::State(_)));
    all.results = pairs.iter().flat_map(|(a, b)| [*a, *b]).chain(states).collect();
    let results = evaluate(&all, g, seed);
    let floats = |i: usize| results[i].tensor().and_then(HostTensor::floats).expect("cases compute f32");
    let mut worst = 0.0f64;
    for i in 0..pairs.len() {
        let (a, b) = (floats(2 * i), floats(2 * i + 1));
        let error = relative_error(b, a);
        if (exact && a != b) || error.is_nan() || error > BAR {
            return Err(format!("terms of one class differ by {error:.2e}"));
        }
        worst = worst.max(error);
    }
    Ok((worst, pairs.len()))
}

#[test]
fn every_rule_has_its_case_and_every_case_its_rule() {
    let mut rules: Vec<String> = all().iter().map(|r| r.name.to_string()).collect();
    let entries = std::fs::read_dir(directory()).expect("golden-tests/cases/rules can be read").flatten();
    let mut cases: Vec<String> =
        entries.map(|e| e.file_name().to_string_lossy().trim_end_matches(".slir").to_owned()).collect();
    rules.sort();
    cases.sort();
    assert_eq!(rules, cases);
}

#[test]
fn every_rule_applies_and_its_case_needs_it() {
    for rule in all() {
        let name = rule.name.as_str();
        let g = case(name);
        let (_, alone) = run(&g, std::slice::from_ref(&rule));
        assert!(alone.applied.get(name).is_some_and(|n| *n > 0), "{name} applies: {alone:?}");
        let (with, report) = run(&g, &all());
        for r in [&alone, &report] {
            assert!(r.saturated && r.defects.is_empty(), "{name}: {r:?}");
        }
        let others: Vec<Rule> = all().into_iter().filter(|r| r.name != rule.name).collect();
        let (without, _) = run(&g, &others);
        assert_ne!(print_graph(&with), print_graph(&g), "{name} changes its case");
        assert_ne!(print_graph(&with), print_graph(&without), "{name} is needed in its case");
    }
}

#[test]
fn terms_that_a_rule_makes_equal_are_equal() {
    for rule in all() {
        let name = rule.name.as_str();
        for seed in 1..=8 {
            let checked = soundness(&case(name), &rule, EXACT.contains(&name), seed);
            let (_, pairs) = checked.unwrap_or_else(|e| panic!("{name}, seed {seed}: {e}"));
            assert!(pairs > case(name).values.len() / 4, "{name} compares terms");
        }
    }
}

/// Rules that are almost right are noticed.
#[test]
fn wrong_rules_are_noticed() {
    let pattern = |text: &str| text.parse::<egg::Pattern<Node>>().expect("a pattern");
    for (name, from, to) in [
        ("scale-scale", "(scale (scale ?x ?a) ?b)", "(scale ?x ?a)"),
        ("scale-linear", "(linear (scale ?x ?a) ?w)", "(linear ?x ?w)"),
        (
            "scale-rope",
            "(rope (scale ?x ?a) ?t ?start ?dim ?layout)",
            "(scale (rope (scale ?x ?a) ?t ?start ?dim ?layout) ?a)",
        ),
        ("scale-query", "(attend (scale ?q ?a) ?k ?v ?b ?window ?cap)", "(attend ?q ?k ?v ?a ?window ?cap)"),
        ("slice-slice", "(slice (slice ?x ?a ?l) ?b ?m)", "(slice ?x ?b ?m)"),
        ("silu-left", "(mul ?x (sigmoid ?x))", "(gelu_tanh ?x)"),
        ("round-split", "(split_heads (round ?x ?to) ?h)", "(split_heads ?x ?h)"),
        ("linear-distribute", "(add (linear ?x ?w) (linear ?y ?w))", "(linear (mul ?x ?y) ?w)"),
    ] {
        let wrong: Rule = Rewrite::new(name, pattern(from), pattern(to)).expect("variables of the left side");
        assert!(soundness(&case(name), &wrong, EXACT.contains(&name), 1).is_err(), "a wrong {name} is noticed");
    }
}
