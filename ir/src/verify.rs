//! The verifier: whether a module, or a program made of one, keeps the rules of the IR, and if not, what breaks them.
//!
//! It is run on every module that comes from outside or from a pass. It changes nothing and knows no pass.

mod error;
mod function;
mod launch;
mod program;
mod sequence;
mod template;

pub use error::{Defect, VerifyError};
pub use program::verify_program;

use crate::graph::{Graph, Module};

/// Checks a module: each function, and the main sequence of calls.
///
/// # Errors
/// All defects, functions first.
pub fn verify(module: &Module) -> Result<(), Vec<VerifyError>> {
    let mut errors: Vec<VerifyError> = vec![];
    for func in &module.funcs {
        errors.extend(verify_graph(func).err().unwrap_or_default());
    }
    errors.extend(sequence::check(module));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Checks a function on its own: values, types, weights, and that its state is used linearly.
///
/// # Errors
/// All defects, in program order.
pub fn verify_graph(graph: &Graph) -> Result<(), Vec<VerifyError>> {
    let mut errors = function::values(graph);
    errors.extend(function::linear(graph));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Checks what evaluation relies on: values, types and weights in range; results may be any.
pub(crate) fn well_formed(graph: &Graph) -> Result<(), Vec<VerifyError>> {
    let errors = function::values(graph);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
