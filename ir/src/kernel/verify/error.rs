//! What the kernel verifier refuses.

use crate::kernel::Ex;

/// One thing that is wrong with a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The workgroup's size.
    #[error("{lanes} lanes: expected a power of two up to 256")]
    Lanes {
        /// Lanes asked for.
        lanes: u32,
    },
    /// An argument, a shared array or the tables.
    #[error("{what}: {reason}")]
    Declaration {
        /// Which.
        what: String,
        /// Why not.
        reason: String,
    },
    /// Something named that does not exist here.
    #[error("there is no {what} {index} here")]
    Handle {
        /// Kind of the thing.
        what: &'static str,
        /// Its number.
        index: u32,
    },
    /// Types do not fit.
    #[error("type of expression {}: {reason}", expr.0)]
    Type {
        /// The expression.
        expr: Ex,
        /// What was expected and got.
        reason: String,
    },
    /// An operand was not evaluated before, or in another block.
    #[error("expression {} is used where it is not evaluated{}", expr.0, user.map_or(String::new(), |u| format!(", by {}", u.0)))]
    Unevaluated {
        /// The operand.
        expr: Ex,
        /// The expression that uses it, unless it is a statement.
        user: Option<Ex>,
    },
    /// An expression is evaluated at two places.
    #[error("expression {} is evaluated twice", expr.0)]
    Twice {
        /// The expression.
        expr: Ex,
    },
    /// A variable may be read before it is set.
    #[error("variable {var} is read where it may not be set")]
    Unset {
        /// The variable.
        var: u32,
    },
    /// A write to an argument that is only read.
    #[error("argument `{arg}` is written but declared as read")]
    ReadOnly {
        /// The argument.
        arg: String,
    },
    /// Only some lanes may arrive where all must.
    #[error("{what} that only some lanes may reach")]
    Divergent {
        /// Which operation.
        what: &'static str,
    },
    /// A reduction's run.
    #[error("reduction of {width} lanes: expected a power of two up to {lanes}")]
    Width {
        /// Lanes asked for.
        width: u32,
        /// Lanes of the workgroup.
        lanes: u32,
    },
    /// A loop that may not end, or not soon.
    #[error("loop {id} from {from} to {to} by {step} is not bounded")]
    Loop {
        /// The loop.
        id: u32,
        /// Least first value.
        from: u32,
        /// Largest bound.
        to: u32,
        /// Step.
        step: u32,
    },
    /// An operation that is not defined for all possible operands.
    #[error("expression {}: {what}", expr.0)]
    Undefined {
        /// The expression.
        expr: Ex,
        /// What may happen.
        what: &'static str,
    },
    /// Trust in something that no host can have checked.
    #[error("expression {} trusts what is not data", expr.0)]
    NotData {
        /// The expression.
        expr: Ex,
    },
    /// An index that is not proven.
    #[error("{what} has {len}: an index from {min} to {max} is not proven to be inside")]
    Index {
        /// Argument or array.
        what: String,
        /// Its length.
        len: String,
        /// Least index.
        min: u32,
        /// Largest index.
        max: u32,
    },
}
