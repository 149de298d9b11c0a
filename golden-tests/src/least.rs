//! The least price of what a saturated e-graph can compute, by branch and bound. It shares nothing with the compiler's
//! extraction but the e-graph and what a term costs.

use std::collections::{BTreeMap, BTreeSet};

use egg::{EGraph, Id, Language};
use swiftlm_compiler::egraph::analysis::Types;
use swiftlm_compiler::egraph::cost::cost;
use swiftlm_compiler::egraph::lang::Node;

/// Picks that are tried before an e-graph counts as too large.
const TRIES: usize = 5_000_000;

/// A term: its own price and the classes that it is computed from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Term {
    price: u64,
    children: Vec<Id>,
}

/// Branches of the search.
struct Search {
    terms: BTreeMap<Id, Vec<Term>>,
    best: Option<u64>,
    tries: usize,
}

/// Price of the cheapest acyclic choice of terms that computes all `roots`, a shared one counted once.
///
/// # Errors
/// It was not found within a bound of tries, or there is none.
pub fn least(egraph: &EGraph<Node, Types>, roots: &[Id]) -> Result<u64, String> {
    let mut terms: BTreeMap<Id, Vec<Term>> = BTreeMap::new();
    let mut open: Vec<Id> = roots.iter().map(|root| egraph.find(*root)).collect();
    while let Some(class) = open.pop() {
        if terms.contains_key(&class) {
            continue;
        }
        let term = |node: &Node| {
            let price = cost(egraph, node)?;
            let children: BTreeSet<Id> = node.children().iter().map(|child| egraph.find(*child)).collect();
            Some(Term { price, children: children.into_iter().collect() })
        };
        let mut own: Vec<Term> = egraph[class].nodes.iter().filter_map(term).collect();
        own.sort();
        own.dedup();
        open.extend(own.iter().flat_map(|term| &term.children));
        terms.insert(class, own);
    }
    let mut search = Search { terms, best: None, tries: 0 };
    let needed = roots.iter().map(|root| egraph.find(*root)).collect();
    search.branch(&needed, &mut BTreeMap::new(), 0)?;
    search.best.ok_or_else(|| "no acyclic choice computes the roots".to_owned())
}

impl Search {
    /// Tries every term of one class that is needed and not picked yet.
    fn branch(&mut self, needed: &BTreeSet<Id>, picked: &mut BTreeMap<Id, usize>, price: u64) -> Result<(), String> {
        self.tries += 1;
        if self.tries > TRIES {
            return Err(format!("more than {TRIES} picks to try"));
        }
        let needed = self.certain(needed, picked);
        let rest: u64 = needed.iter().map(|class| self.terms[class].first().map_or(u64::MAX / 4, |t| t.price)).sum();
        if self.best.is_some_and(|best| price + rest >= best) {
            return Ok(());
        }
        // Classes of one term first: they decide nothing.
        let Some(class) = needed.iter().copied().min_by_key(|class| self.terms[class].len()) else {
            self.best = Some(price);
            return Ok(());
        };
        for at in 0..self.terms[&class].len() {
            let term = self.terms[&class][at].clone();
            if self.reaches(&term.children, class, picked) {
                continue;
            }
            picked.insert(class, at);
            self.branch(&needed, picked, price + term.price)?;
            picked.remove(&class);
        }
        Ok(())
    }

    /// Classes that are still to be picked, whatever is picked: those needed, and what all terms of such a one need.
    fn certain(&self, needed: &BTreeSet<Id>, picked: &BTreeMap<Id, usize>) -> BTreeSet<Id> {
        let children = |(class, at): (&Id, &usize)| self.terms[class][*at].children.clone();
        let mut open: Vec<Id> = needed.iter().copied().chain(picked.iter().flat_map(children)).collect();
        let mut found = BTreeSet::new();
        while let Some(class) = open.pop() {
            if picked.contains_key(&class) || !found.insert(class) {
                continue;
            }
            if let Some((first, others)) = self.terms[&class].split_first() {
                let common = |child: &&Id| others.iter().all(|term| term.children.contains(child));
                open.extend(first.children.iter().filter(common));
            }
        }
        found
    }

    /// Whether a class is computed from another by what is picked.
    fn reaches(&self, from: &[Id], to: Id, picked: &BTreeMap<Id, usize>) -> bool {
        let mut open = from.to_vec();
        let mut seen = BTreeSet::new();
        while let Some(class) = open.pop() {
            if class == to {
                return true;
            }
            if seen.insert(class)
                && let Some(at) = picked.get(&class)
            {
                open.extend(&self.terms[&class][*at].children);
            }
        }
        false
    }
}
