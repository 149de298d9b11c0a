//! DAG-aware extraction, exact: an integer program that counts a shared term once.
//!
//! Tree cost counts it once per use and, over residual connections, doubles with every layer. Variables: a class is
//! computed or not, a node is picked or not, and a level per class that keeps the choice acyclic.

use std::collections::BTreeMap;

use egg::{EGraph, Id, Language};
use microlp::{ComparisonOp, OptimizationDirection, Problem, SolveOutcome, Variable};

use super::analysis::Types;
use super::cost::cost;
use super::lang::Node;
use crate::choices::Chooser;

/// The node picked for each class that is computed.
pub(super) type Choice = BTreeMap<Id, Node>;

/// Picks the nodes that compute all `roots` and are cheapest in the prices of `chooser`.
///
/// # Errors
/// The solver found no solution; then the graph stays as it was.
pub(super) fn extract(egraph: &EGraph<Node, Types>, roots: &[Id], chooser: &Chooser) -> Result<Choice, String> {
    let candidates = candidates(egraph, roots, chooser);
    if candidates.values().all(|nodes| nodes.len() == 1) {
        return Ok(candidates.into_iter().filter_map(|(id, mut nodes)| Some((id, nodes.pop()?.0))).collect());
    }
    let mut problem = Problem::new(OptimizationDirection::Minimize);
    let levels = candidates.len() as f64;
    let mut classes: BTreeMap<Id, (Variable, Variable)> = BTreeMap::new();
    for id in candidates.keys() {
        let least = if roots.iter().any(|r| egraph.find(*r) == *id) { 1.0 } else { 0.0 };
        classes.insert(*id, (problem.add_var(0.0, (least, 1.0)), problem.add_var(0.0, (0.0, levels))));
    }
    let mut picks: Vec<(Id, &Node, Variable)> = vec![];
    for (id, nodes) in &candidates {
        let (computed, level) = classes[id];
        let mut one_of = vec![(computed, -1.0)];
        for (node, price) in nodes {
            let picked = problem.add_binary_var(*price as f64);
            one_of.push((picked, 1.0));
            picks.push((*id, node, picked));
            for child in node.children() {
                let (child_computed, child_level) = classes[&egraph.find(*child)];
                problem.add_constraint([(child_computed, 1.0), (picked, -1.0)], ComparisonOp::Ge, 0.0);
                // A picked node lies above its children: level ≥ child's level + 1, unless it is not picked.
                problem.add_constraint(
                    [(level, 1.0), (child_level, -1.0), (picked, -(levels + 1.0))],
                    ComparisonOp::Ge,
                    -levels,
                );
            }
        }
        problem.add_constraint(one_of, ComparisonOp::Ge, 0.0);
    }
    let solution = match problem.solve() {
        Ok(SolveOutcome::Solution(solution)) => solution,
        Ok(SolveOutcome::Interrupted(_)) => return Err("extraction: interrupted without a solution".to_owned()),
        Err(e) => return Err(format!("extraction: {e}")),
    };
    let picked = picks.into_iter().filter(|(_, _, var)| solution[*var] > 0.5);
    let mut choice = Choice::new();
    for (id, node, _) in picked {
        choice.entry(id).or_insert_with(|| node.clone());
    }
    Ok(choice)
}

/// Classes reachable from the roots with the nodes worth considering, cheapest first, equal ones in node order.
fn candidates(egraph: &EGraph<Node, Types>, roots: &[Id], chooser: &Chooser) -> BTreeMap<Id, Vec<(Node, u64)>> {
    let mut found = BTreeMap::new();
    let mut open: Vec<Id> = roots.iter().map(|r| egraph.find(*r)).collect();
    while let Some(id) = open.pop() {
        if found.contains_key(&id) {
            continue;
        }
        let mut nodes: Vec<(Node, u64)> = egraph[id]
            .nodes
            .iter()
            .map(|n| n.clone().map_children(|c| egraph.find(c)))
            .filter(|n| !n.children().contains(&id))
            .filter_map(|n| cost(egraph, &n).map(|price| (n, chooser.price(price))))
            .collect();
        nodes.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        nodes.dedup();
        open.extend(nodes.iter().flat_map(|(n, _)| n.children().iter().copied()));
        found.insert(id, nodes);
    }
    found
}
