//! What the verifier refuses, and where.

use crate::ty::Type;

/// One thing that is wrong with a module, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The function, or `main`.
    pub func: String,
    /// The value as texts name it, the weight, or the call; empty where the function as a whole is meant.
    pub value: String,
    /// Where in the model it stands, relative to the function's scope; may be empty.
    pub loc: String,
    /// What is wrong.
    pub defect: Defect,
}

impl std::error::Error for VerifyError {}

impl std::fmt::Display for VerifyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.func)?;
        if !self.value.is_empty() {
            write!(f, " {}", self.value)?;
        }
        if !self.loc.is_empty() {
            write!(f, " (at {})", self.loc)?;
        }
        write!(f, ": {}", self.defect)
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The arguments do not fit the op.
    #[error("{0}")]
    Arguments(String),
    /// The type that is written is not the one that follows from the arguments.
    #[error("its type is {got}, but its arguments give {expected}")]
    Type {
        /// What inference gives.
        expected: Box<Type>,
        /// What the graph says.
        got: Box<Type>,
    },
    /// A type that no value can have.
    #[error("{0}")]
    Malformed(String),
    /// An argument that does not exist.
    #[error("argument {argument} is {what}, which does not exist")]
    Unknown {
        /// Position in the argument list.
        argument: usize,
        /// What it names.
        what: String,
    },
    /// An argument that comes later.
    #[error("argument {argument} is {what}, which comes later")]
    Order {
        /// Position in the argument list.
        argument: usize,
        /// What it names.
        what: String,
    },
    /// The list of parameters and the values disagree, or a kind occurs twice.
    #[error("{0}")]
    Parameter(String),
    /// A version of a state that two effects consume.
    #[error("consumes {state}, which {by} has consumed")]
    ConsumedTwice {
        /// The version.
        state: String,
        /// Who was first.
        by: String,
    },
    /// A version of a state that is read when it is gone.
    #[error("reads {state} after {by} has consumed it")]
    ReadAfterConsumed {
        /// The version.
        state: String,
        /// Who consumed it.
        by: String,
    },
    /// The last version of a state is dropped.
    #[error("is the last version of the state, but no result")]
    StateDropped,
    /// The results are not what a caller expects.
    #[error("results: expected {expected}, got {got}")]
    Results {
        /// What a caller expects.
        expected: String,
        /// What there is.
        got: String,
    },
    /// A weight that no op uses.
    #[error("no op uses it")]
    UnusedWeight,
    /// Two of the same name.
    #[error("there are two of this name")]
    Duplicate,
    /// A call names what the module does not have.
    #[error("there is no {what} {index}: the module has {count}")]
    Missing {
        /// Function, state or rope table.
        what: &'static str,
        /// The index named.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A function and its call disagree about the state.
    #[error("state: expected {expected}, got {got}")]
    State {
        /// What the function takes.
        expected: String,
        /// What the call gives.
        got: String,
    },
    /// How often a state is used.
    #[error("{count} calls use state {index}: expected exactly one")]
    StateUses {
        /// The state.
        index: usize,
        /// How many calls.
        count: usize,
    },
    /// What one call hands on is not what the next takes.
    #[error("flow: expected {expected}, got {got}")]
    Flow {
        /// What the function takes.
        expected: String,
        /// What comes in.
        got: String,
    },
    /// A rope table of another size than its parameter.
    #[error("rope table {index} rotates {table} elements, the parameter is {ty}")]
    RopeDim {
        /// The table.
        index: usize,
        /// Twice its frequencies.
        table: usize,
        /// The parameter's type.
        ty: Box<Type>,
    },
    /// Sizes that must fit the vocabulary.
    #[error("vocabulary: expected {expected}, got {got}")]
    Vocabulary {
        /// What the module's vocabulary asks for.
        expected: String,
        /// What there is.
        got: String,
    },
    /// A model without calls.
    #[error("there is no call")]
    Empty,
}
