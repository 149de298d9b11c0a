//! What a compiler without an e-graph does with the same rules: it rewrites in place, rule by rule in the order in which
//! they stand, over and over until none matches. What the e-graph is worth is measured against this; nothing compiles
//! with it.

use std::collections::BTreeMap;

use egg::{EGraph, Id, Language};
use swiftlm_compiler::egraph::analysis::Types;
use swiftlm_compiler::egraph::cost::cost;
use swiftlm_compiler::egraph::lang::Node;
use swiftlm_compiler::egraph::run::{Island, terms};
use swiftlm_compiler::rules::Rule;

/// Rewrites of one island at most; rules of one direction stay far below.
const STEPS: usize = 1000;

/// Which matches are rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greed {
    /// Every one.
    Everywhere,
    /// Those that make the island cheaper at once.
    WherePaid,
}

/// Terms of which each class has exactly one: what a compiler holds that forgets what it rewrote.
struct Held {
    egraph: EGraph<Node, Types>,
    roots: Vec<Id>,
}

/// Price of an island's exits as they stand, before any rule.
pub fn standing(island: &Island<'_>) -> u64 {
    Held::new(island).price()
}

/// Price of an island's exits after rewriting in place.
///
/// # Panics
/// Rules go round in circles.
pub fn rewritten(island: &Island<'_>, rules: &[Rule], greed: Greed) -> u64 {
    let mut held = Held::new(island);
    let mut steps = 0;
    loop {
        let before = steps;
        for rule in rules {
            while let Some(next) = held.step(rule, greed) {
                held = next;
                steps += 1;
                assert!(steps < STEPS, "rules of one direction come to an end, at last {}", rule.name);
            }
        }
        if steps == before {
            return held.price();
        }
    }
}

impl Held {
    fn new(island: &Island<'_>) -> Self {
        let (egraph, ids) = terms(island.func, island.values);
        let roots = island.exits.iter().map(|v| egraph.find(ids[v])).collect();
        Self { egraph, roots }
    }

    /// Every term once, however often it is used.
    fn price(&self) -> u64 {
        let own = |class: &Id| cost(&self.egraph, only(&self.egraph, *class)).expect("terms in place are well-typed");
        reachable(&self.roots, |class| only(&self.egraph, class).children()).iter().map(own).sum()
    }

    /// The first match in program order that may be rewritten, rewritten.
    fn step(&self, rule: &Rule, greed: Greed) -> Option<Self> {
        let mut matches = rule.search(&self.egraph);
        matches.sort_by_key(|found| found.eclass);
        let places = matches.iter().flat_map(|found| found.substs.iter().map(|subst| (found.eclass, subst)));
        places.into_iter().find_map(|(class, subst)| {
            let mut both = self.egraph.clone();
            rule.applier.apply_one(&mut both, class, subst, None, rule.name);
            both.rebuild();
            let old = only(&self.egraph, class).clone().map_children(|c| both.find(c));
            let next = self.replaced(&both, class, &old)?;
            (greed == Greed::Everywhere || next.price() < self.price()).then_some(next)
        })
    }

    /// Terms anew, those of one class computed by the term that is not `old`; `None` if there is none.
    fn replaced(&self, both: &EGraph<Node, Types>, class: Id, old: &Node) -> Option<Self> {
        let at = both.find(class);
        let new = both[at].nodes.iter().find(|node| *node != old)?;
        let pick = |class: Id| if both.find(class) == at { new } else { only(both, class) };
        let mut egraph = EGraph::new(Types { conflicts: vec![], ..both.analysis.clone() });
        let mut done = BTreeMap::new();
        let roots = self.roots.iter().map(|root| copy(both, &pick, &mut egraph, &mut done, both.find(*root))).collect();
        egraph.rebuild();
        Some(Self { egraph, roots })
    }
}

/// The one term of a class.
fn only(egraph: &EGraph<Node, Types>, class: Id) -> &Node {
    match &egraph[egraph.find(class)].nodes[..] {
        [node] => node,
        nodes => panic!("terms are rewritten in place, yet a class has {} of them", nodes.len()),
    }
}

fn copy<'n>(
    from: &EGraph<Node, Types>,
    pick: &dyn Fn(Id) -> &'n Node,
    into: &mut EGraph<Node, Types>,
    done: &mut BTreeMap<Id, Id>,
    class: Id,
) -> Id {
    if let Some(id) = done.get(&class) {
        return *id;
    }
    let node = pick(class).clone().map_children(|child| copy(from, pick, into, done, from.find(child)));
    let id = into.add(node);
    done.insert(class, id);
    id
}

/// Classes that some are computed from, themselves included.
pub(crate) fn reachable<'n>(roots: &[Id], children: impl Fn(Id) -> &'n [Id]) -> Vec<Id> {
    let mut found: Vec<Id> = vec![];
    let mut open = roots.to_vec();
    while let Some(class) = open.pop() {
        if !found.contains(&class) {
            found.push(class);
            open.extend(children(class));
        }
    }
    found
}
