//! Sizes: constants, and symbols that a step binds.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A size that is known when a step is built, not when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Sym {
    /// Tokens of the step, of all sequences together.
    Tokens,
    /// Rows of the step that want logits.
    Rows,
}

impl Sym {
    /// All symbols, in the order of a step's immediates.
    pub const ALL: [Self; 2] = [Self::Tokens, Self::Rows];

    /// The letter it is printed as.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "T",
            Self::Rows => "R",
        }
    }
}

/// One extent of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Dim {
    /// Known at compile time.
    Const(usize),
    /// Bound by the step.
    Sym(Sym),
}

impl Dim {
    /// The constant, if it is one.
    pub fn constant(self) -> Option<usize> {
        match self {
            Self::Const(n) => Some(n),
            Self::Sym(_) => None,
        }
    }

    /// The largest value when symbols are at most `bound`.
    pub fn max(self, bound: usize) -> usize {
        self.constant().unwrap_or(bound)
    }
}

impl From<Sym> for Dim {
    fn from(s: Sym) -> Self {
        Self::Sym(s)
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Self::Const(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Const(n) => write!(f, "{n}"),
            Self::Sym(s) => f.write_str(s.name()),
        }
    }
}

/// A bound on a symbol for which a schedule is made (`one`, `few`, `some`, `many`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ShapeClass {
    /// Exactly 1 row.
    One,
    /// 2 to 8 rows.
    Few,
    /// 9 to 64 rows.
    Some,
    /// 65 rows to the prefill chunk.
    Many,
}

impl ShapeClass {
    /// All classes, smallest first.
    pub const ALL: [Self; 4] = [Self::One, Self::Few, Self::Some, Self::Many];

    /// The name in plans and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Few => "few",
            Self::Some => "some",
            Self::Many => "many",
        }
    }

    /// The largest row count; `chunk` bounds `many`.
    pub fn max_rows(self, chunk: usize) -> usize {
        match self {
            Self::One => 1,
            Self::Few => 8,
            Self::Some => 64,
            Self::Many => chunk.max(65),
        }
    }

    /// The smallest class that holds `rows` rows.
    pub fn of(rows: usize) -> Self {
        match rows {
            0..=1 => Self::One,
            2..=8 => Self::Few,
            9..=64 => Self::Some,
            _ => Self::Many,
        }
    }
}
