//! Types as an e-class analysis: the same inference as everywhere else, and a soundness check for free. Two terms of
//! unequal type in one class mean that a rule is wrong.

use egg::{DidMerge, EGraph, Id};
use swiftlm_ir::ops::infer::{ArgType, infer};
use swiftlm_ir::ops::{Attribute, Op};

use super::lang::Node;

/// What is known of a class.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A value or weight of this type.
    Typed(ArgType),
    /// An attribute.
    Attribute(Attribute),
    /// An op whose arguments do not fit it: a rule built it, and extraction must not pick it.
    IllTyped(String),
}

/// Types of leaves, and what went wrong.
#[derive(Clone, Debug, Default)]
pub struct Types {
    /// Type of each value that enters the island, by value number.
    pub values: Vec<Option<ArgType>>,
    /// Type of each weight slot.
    pub weights: Vec<ArgType>,
    /// Unequal facts that a rule merged.
    pub conflicts: Vec<String>,
}

/// An op from an e-node, with the types of its arguments.
pub fn op_of(egraph: &EGraph<Node, Types>, name: &str, children: &[Id]) -> Result<(Op, Vec<ArgType>), String> {
    let mut types = vec![];
    let mut attributes = vec![];
    for child in children {
        match &egraph[*child].data {
            Fact::Typed(t) => types.push(t.clone()),
            Fact::Attribute(a) => attributes.push(a.clone()),
            Fact::IllTyped(e) => return Err(e.clone()),
        }
    }
    // Attribute names are not in the e-node; they follow from the op's order, which a probe op shows.
    let names = attribute_names(name, &attributes)?;
    let get = |attr: &str| names.iter().position(|n| *n == attr).map(|i| attributes[i].clone());
    Ok((Op::from_attributes(name, &get)?, types))
}

/// Names of an op's attributes in order: found by building it with a recorder.
fn attribute_names(name: &str, attributes: &[Attribute]) -> Result<Vec<&'static str>, String> {
    let next = std::cell::Cell::new(0usize);
    let op = Op::from_attributes(name, &|_| {
        let i = next.get();
        next.set(i + 1);
        attributes.get(i).cloned()
    })?;
    let names: Vec<&'static str> = op.attributes().into_iter().map(|(n, _)| n).collect();
    if names.len() == attributes.len() {
        Ok(names)
    } else {
        Err(format!("`{name}` has {} attributes, got {}", names.len(), attributes.len()))
    }
}

impl egg::Analysis<Node> for Types {
    type Data = Fact;

    fn make(egraph: &mut EGraph<Node, Self>, node: &Node, _id: Id) -> Fact {
        let leaf = |t: Option<&ArgType>| t.cloned().map_or_else(|| Fact::IllTyped("unknown leaf".into()), Fact::Typed);
        match node {
            Node::Value(v) => leaf(egraph.analysis.values.get(*v as usize).and_then(Option::as_ref)),
            Node::Weight(w) => leaf(egraph.analysis.weights.get(*w as usize)),
            Node::Op(name, children) => {
                let typed = op_of(egraph, name.as_str(), children).and_then(|(op, types)| infer(&op, &types));
                typed.map_or_else(Fact::IllTyped, |ty| Fact::Typed(ArgType::Value(ty)))
            }
            Node::Number(_) | Node::Word(_) => {
                node.as_attribute().map_or_else(|| Fact::IllTyped("unknown leaf".into()), Fact::Attribute)
            }
        }
    }

    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        if *a != b {
            self.conflicts.push(format!("a rule merged {a:?} with {b:?}"));
        }
        DidMerge(false, false)
    }
}
