//! What a package shows people: graph, plan, and every kernel in kernel IR and in the targets' languages. Made from the
//! program alone, so that whoever verifies a package can make them again.

use std::collections::BTreeMap;

use swiftlm_ir::plan::Program;
use swiftlm_ir::text;
use swiftlm_shader::{LowerOptions, lower, msl, spirv, wgsl};

use crate::dump::DumpError;

/// Content of each text by path.
///
/// # Errors
/// A kernel that cannot be written in a target's language.
pub(super) fn texts(program: &Program) -> Result<BTreeMap<String, Vec<u8>>, DumpError> {
    let mut texts = BTreeMap::new();
    texts.insert("graph.slir".to_owned(), text::print(&program.module).into_bytes());
    texts.insert("plan.slir".to_owned(), text::print_program(program).into_bytes());
    for kernel in &program.kernels {
        let error = |error| DumpError::Shader { kernel: kernel.name.clone(), error };
        let module = lower(kernel, &LowerOptions::default()).map_err(error)?;
        let words = spirv(&module).map_err(error)?;
        let mut put = |extension: &str, content: Vec<u8>| {
            texts.insert(format!("kernels/{}-{}.{extension}", kernel.name, kernel.key()), content);
        };
        put("slir", text::print_kernel(kernel).into_bytes());
        put("wgsl", wgsl(&module).map_err(error)?.into_bytes());
        put("metal", msl(&module).map_err(error)?.into_bytes());
        put("spv", words.iter().flat_map(|word| word.to_le_bytes()).collect());
    }
    Ok(texts)
}
