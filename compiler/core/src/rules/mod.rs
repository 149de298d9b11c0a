//! Rewrite rules by theme: one line of algebra and one of reason each. Rules are directional; there is no bare
//! commutativity. Every rule has a case in `golden-tests/cases/rules`, checked numerically through the host reference.

mod activation;
mod cast;
mod latent;
mod scale;
mod shape;
mod turbo;

use egg::{Applier, EGraph, Id, Pattern, PatternAst, Rewrite, Subst, Symbol, Var};

use crate::egraph::analysis::Types;
use crate::egraph::lang::Node;

/// A rewrite rule over the IR.
pub type Rule = Rewrite<Node, Types>;

/// Every rule, theme by theme.
pub fn all() -> Vec<Rule> {
    [scale::rules(), activation::rules(), cast::rules(), shape::rules(), turbo::rules(), latent::rules()]
        .into_iter()
        .flatten()
        .collect()
}

/// A rule between two patterns.
fn rule(name: &str, from: &str, to: &str) -> Rule {
    Rewrite::new(name, pattern(from), pattern(to)).expect("a rule's right side uses variables of its left side")
}

/// A rule whose right side has a number `?n` computed from two matched numbers.
fn rule_with(name: &str, from: &str, to: &str, (a, b): (&str, &str), compute: fn(f64, f64) -> f64) -> Rule {
    let var = |v: &str| v.parse::<Var>().expect("a variable of a rule starts with `?`");
    let applier = Computed { to: pattern(to), number: var("?n"), operands: (var(a), var(b)), compute };
    Rewrite::new(name, pattern(from), applier).expect("a rule's right side uses variables of its left side")
}

fn pattern(text: &str) -> Pattern<Node> {
    text.parse().expect("a rule's pattern is an s-expression over ops of the table")
}

struct Computed {
    to: Pattern<Node>,
    number: Var,
    operands: (Var, Var),
    compute: fn(f64, f64) -> f64,
}

impl Applier<Node, Types> for Computed {
    fn apply_one(
        &self,
        egraph: &mut EGraph<Node, Types>,
        class: Id,
        subst: &Subst,
        searched: Option<&PatternAst<Node>>,
        rule: Symbol,
    ) -> Vec<Id> {
        let number = |v: Var| {
            egraph[subst[v]].nodes.iter().find_map(|n| match n {
                Node::Number(bits) => Some(f64::from_bits(*bits)),
                _ => None,
            })
        };
        let (Some(a), Some(b)) = (number(self.operands.0), number(self.operands.1)) else { return vec![] };
        let id = egraph.add(Node::Number((self.compute)(a, b).to_bits()));
        let mut subst = subst.clone();
        subst.insert(self.number, id);
        self.to.apply_one(egraph, class, &subst, searched, rule)
    }

    fn vars(&self) -> Vec<Var> {
        let (a, b) = self.operands;
        let mut vars: Vec<Var> = self.to.vars().into_iter().filter(|v| *v != self.number).collect();
        vars.extend([a, b]);
        vars
    }
}
