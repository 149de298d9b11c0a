//! Metal texts as parts of a C++ program: each in a namespace of its own, with a function that calls it.

use std::fmt::Write;

use swiftlm_ir::kernel::Kernel;
use swiftlm_shader::{LowerOptions, lower, msl};

/// What precedes kernels in a file.
pub const PROLOGUE: &str = "#include <metal_stdlib>\n#include <simd/simd.h>\n";

/// The Metal text of a kernel.
///
/// # Errors
/// It cannot be lowered.
pub fn of_kernel(kernel: &Kernel, options: &LowerOptions) -> Result<String, String> {
    lower(kernel, options).and_then(|module| msl(&module)).map_err(|e| e.to_string())
}

/// A text as number `number` of a program.
///
/// # Errors
/// The text has no entry point as kernels have.
pub fn numbered(text: &str, number: usize) -> Result<String, String> {
    let own = text.lines().filter(|line| !line.starts_with("#include")).collect::<Vec<_>>().join("\n");
    let missing = || format!("there is no entry point in\n{text}");
    let (_, parameters) = own.split_once("kernel void main_(\n").ok_or_else(missing)?;
    let (parameters, _) = parameters.split_once("\n) {\n").ok_or_else(missing)?;
    let (mut before, mut given) = (String::new(), vec![]);
    for parameter in parameters.split("\n,").map(str::trim) {
        given.push(argument(parameter, &mut before).ok_or_else(|| format!("nothing is known of `{parameter}`"))?);
    }
    let given = given.join(", ");
    let call = format!(
        "extern \"C\" void kernel_{number}(void *const *args, const uint *sizes, const uint *group, uint lane) {{\n\
         {before}    (void)args, (void)sizes, (void)group, (void)lane;\n    main_({given});\n}}"
    );
    Ok(format!("namespace n{number} {{\n{own}\n{call}\n}}\n"))
}

/// What a parameter of an entry point is given; shared memory is declared `before`.
fn argument(parameter: &str, before: &mut String) -> Option<String> {
    if parameter.contains("[[threadgroup_position_in_grid]]") {
        return Some("metal::uint3(group[0], group[1], group[2])".to_owned());
    }
    if parameter.contains("[[thread_index_in_threadgroup]]") {
        return Some("lane".to_owned());
    }
    let (declared, name) = match parameter.split_once(" [[buffer(") {
        Some((declared, binding)) => (declared, binding.split_once(')')?.0),
        None => (parameter, ""),
    };
    let (space, rest) = declared.split_once(' ')?;
    let (ty, _) = rest.split_once('&')?;
    match space {
        "device" => Some(format!("*reinterpret_cast<{ty} *>(args[{name}])")),
        // The step's sizes; lengths of arguments are never asked for.
        "constant" if ty.trim() == "StepSizes" => Some("*reinterpret_cast<const StepSizes *>(sizes)".to_owned()),
        "constant" => Some(format!("*reinterpret_cast<const {ty} *>(sizes)")),
        "threadgroup" => {
            let shared = format!("shared{}", before.lines().count());
            // Lanes of a workgroup run in turn, and one workgroup after another.
            writeln!(before, "    static {ty} {shared};").ok()?;
            Some(shared)
        }
        _ => None,
    }
}
