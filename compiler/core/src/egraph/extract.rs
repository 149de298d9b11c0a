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
pub type Choice = BTreeMap<Id, Node>;

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

#[cfg(test)]
mod tests {
    use egg::{RecExpr, Runner};
    use swiftlm_ir::dim::{Dim, Sym};
    use swiftlm_ir::graph::WeightType;
    use swiftlm_ir::ops::infer::ArgType;
    use swiftlm_ir::quant::Format;
    use swiftlm_ir::ty::{DType, TensorType, Type};

    use super::*;
    use crate::choices::Choices;
    use crate::rules;

    /// An e-graph of one term over `%0: f32[T,8]` and `w0: f32[8,8]`, saturated with all rules.
    fn saturated(term: &str) -> (EGraph<Node, Types>, Id) {
        let x = ArgType::Value(Type::Tensor(TensorType::new(DType::F32, [Dim::Sym(Sym::Tokens), Dim::Const(8)])));
        let weight = ArgType::Weight(WeightType { format: Format::F32, rows: 8, cols: 8 });
        let types = Types { values: vec![Some(x)], weights: vec![weight], conflicts: vec![] };
        let mut egraph = EGraph::new(types);
        let pattern: RecExpr<Node> = term.parse().expect("a term");
        // Leaves parse as words.
        let leaf = |node: Node| match &node {
            Node::Word(w) if w.as_str() == "x" => Node::Value(0),
            Node::Word(w) if w.as_str() == "w" => Node::Weight(0),
            _ => node,
        };
        let mut ids: Vec<Id> = vec![];
        for node in pattern.as_ref() {
            let node = leaf(node.clone().map_children(|c| ids[usize::from(c)]));
            ids.push(egraph.add(node));
        }
        let root = *ids.last().expect("a term has a node");
        egraph.rebuild();
        let egraph = Runner::<Node, Types>::new(Types::default()).with_egraph(egraph).run(&rules::all()).egraph;
        let root = egraph.find(root);
        (egraph, root)
    }

    /// The least price of all ways to pick one node for each class that the root needs, shared ones counted once.
    fn least(all: &BTreeMap<Id, Vec<(Node, u64)>>, egraph: &EGraph<Node, Types>, root: Id) -> u64 {
        fn walk(
            all: &BTreeMap<Id, Vec<(Node, u64)>>,
            egraph: &EGraph<Node, Types>,
            open: &mut Vec<Id>,
            picked: &mut BTreeMap<Id, Node>,
            price: u64,
            best: &mut u64,
        ) {
            let Some(id) = open.pop() else {
                if acyclic(egraph, picked) {
                    *best = price.min(*best);
                }
                return;
            };
            if picked.contains_key(&id) {
                walk(all, egraph, open, picked, price, best);
            } else {
                for (node, own) in &all[&id] {
                    picked.insert(id, node.clone());
                    let mut open = open.clone();
                    open.extend(node.children().iter().map(|c| egraph.find(*c)));
                    walk(all, egraph, &mut open, picked, price + own, best);
                    picked.remove(&id);
                }
            }
            open.push(id);
        }
        fn acyclic(egraph: &EGraph<Node, Types>, picked: &BTreeMap<Id, Node>) -> bool {
            let mut done = std::collections::BTreeSet::new();
            loop {
                let ready = |node: &Node| node.children().iter().all(|c| done.contains(&egraph.find(*c)));
                let next: Vec<Id> =
                    picked.iter().filter(|(id, node)| !done.contains(*id) && ready(node)).map(|(id, _)| *id).collect();
                if next.is_empty() {
                    return done.len() == picked.len();
                }
                done.extend(next);
            }
        }
        let mut best = u64::MAX;
        walk(all, egraph, &mut vec![root], &mut BTreeMap::new(), 0, &mut best);
        best
    }

    /// The integer program picks what trying all ways picks, by prices that mean something and by random ones.
    #[test]
    fn the_cheapest_is_picked() {
        for term in [
            "(scale (linear (scale x 2) w) 3)",
            "(add (linear (scale x 2) w) (linear (scale x 2) w))",
            "(mul (scale x 2) (sigmoid (scale x 2)))",
            "(add (linear x w) (linear (silu x) w))",
            "(linear (scale (add (linear x w) (linear (silu x) w)) 2) w)",
            "(mul (mul x (sigmoid x)) (scale (linear (scale (mul x (sigmoid x)) 3) w) 5))",
        ] {
            let (egraph, root) = saturated(term);
            let all_prices = [Choices::Best].into_iter().chain((0..20).map(Choices::Random));
            for choices in all_prices {
                let all = candidates(&egraph, &[root], &Chooser::new(choices, 0));
                let choice = extract(&egraph, &[root], &Chooser::new(choices, 0));
                let choice = choice.unwrap_or_else(|e| panic!("{term}, {choices:?}: {e}"));
                let price = |(id, node): (&Id, &Node)| {
                    all[id].iter().find(|(known, _)| known == node).map(|(_, price)| *price).expect("a candidate")
                };
                let picked: u64 = choice.iter().map(price).sum();
                assert_eq!(picked, least(&all, &egraph, root), "{term}, {choices:?}");
                assert!(all.values().any(|nodes| nodes.len() > 1), "{term}: there is something to choose");
            }
        }
    }
}
