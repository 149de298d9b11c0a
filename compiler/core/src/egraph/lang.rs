//! The e-graph's language: ops of the IR with arguments first and attributes after them, as leaves that patterns can bind.

use std::fmt;

use egg::{FromOp, Id, Language, Symbol};
use swiftlm_ir::ops::{Attribute, Op};

/// One e-node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// An op: its arguments, then its attributes in the table's order.
    Op(Symbol, Vec<Id>),
    /// A number, by its bits.
    Number(u64),
    /// A truth value or a name.
    Word(Symbol),
    /// A value that enters the island.
    Value(u32),
    /// A weight slot.
    Weight(u32),
}

impl Node {
    /// An attribute as a leaf.
    pub fn attribute(a: &Attribute) -> Self {
        match a {
            Attribute::Number(x) => Self::Number(x.to_bits()),
            Attribute::Bool(b) => Self::Word(b.to_string().into()),
            Attribute::Word(w) => Self::Word(w.into()),
        }
    }

    /// The leaf as an attribute.
    pub fn as_attribute(&self) -> Option<Attribute> {
        match self {
            Self::Number(bits) => Some(Attribute::Number(f64::from_bits(*bits))),
            Self::Word(w) => Some(match w.as_str() {
                "true" => Attribute::Bool(true),
                "false" => Attribute::Bool(false),
                word => Attribute::Word(word.to_owned()),
            }),
            _ => None,
        }
    }
}

impl Language for Node {
    type Discriminant = (u8, Symbol);

    fn discriminant(&self) -> Self::Discriminant {
        let none = Symbol::from("");
        match self {
            Self::Op(name, _) => (0, *name),
            Self::Number(_) => (1, none),
            Self::Word(_) => (2, none),
            Self::Value(_) => (3, none),
            Self::Weight(_) => (4, none),
        }
    }

    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Op(a, x), Self::Op(b, y)) => a == b && x.len() == y.len(),
            (a, b) => a == b,
        }
    }

    fn children(&self) -> &[Id] {
        if let Self::Op(_, children) = self { children } else { &[] }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        if let Self::Op(_, children) = self { children } else { &mut [] }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op(name, _) => write!(f, "{name}"),
            Self::Number(bits) => write!(f, "{:?}", f64::from_bits(*bits)),
            Self::Word(w) => write!(f, "{w}"),
            Self::Value(v) => write!(f, "%{v}"),
            Self::Weight(w) => write!(f, "w{w}"),
        }
    }
}

impl FromOp for Node {
    type Error = String;

    /// Parses an operator of a rule's pattern: an op with children, a number or a word without.
    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, String> {
        match (children.is_empty(), op.parse::<f64>()) {
            (true, Ok(x)) => Ok(Self::Number(x.to_bits())),
            (true, Err(_)) => Ok(Self::Word(op.into())),
            (false, _) if Op::NAMES.contains(&op) => Ok(Self::Op(op.into(), children)),
            (false, _) => Err(format!("`{op}` is no op")),
        }
    }
}
