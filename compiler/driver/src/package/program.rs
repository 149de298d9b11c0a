//! The program as a file: its parts as data, so that nothing is parsed or compiled when it is loaded. What is read is
//! verified as a whole before anyone sees it.

use swiftlm_ir::plan::Program;
use swiftlm_ir::verify::verify_program;

/// Name of the file.
pub(super) const FILE: &str = "program.bin";
/// First bytes of the file.
const MAGIC: &[u8; 8] = b"SLMPROG\x01";
/// Problems that are told of one program.
const MOST_PROBLEMS: usize = 20;

/// A program as bytes; equal programs give equal bytes.
pub fn encode(program: &Program) -> Vec<u8> {
    // Data without maps of unknown length or foreign types can always be written.
    let body = postcard::to_allocvec(program).unwrap_or_default();
    [&MAGIC[..], &body].concat()
}

/// The program that bytes hold, verified.
///
/// # Errors
/// Sentences saying why it is none.
pub fn decode(bytes: &[u8]) -> Result<Program, Vec<String>> {
    let other =
        |reason: String| vec![format!("it holds no program of this version ({reason}): make the package again")];
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| other("unknown beginning".to_owned()))?;
    let (program, rest) = postcard::take_from_bytes::<Program>(body).map_err(|e| other(e.to_string()))?;
    if !rest.is_empty() {
        return Err(other(format!("{} bytes too many", rest.len())));
    }
    verify_program(&program).map_err(|mut problems| {
        problems.truncate(MOST_PROBLEMS);
        problems
    })?;
    if program.plans.iter().flatten().any(|plan| !plan.fetches.is_empty()) {
        return Err(vec!["experts take turns in memory, which packages do not hold".to_owned()]);
    }
    Ok(program)
}
