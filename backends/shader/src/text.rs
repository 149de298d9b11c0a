//! A module as text or binary, for people and for checks; devices take the module itself.
//!
//! The options are those that devices run with: no bounds checks, no loop bounding, no zeroing of shared memory, no
//! guards around division. The kernel verifier has proved what they would guard.

use naga::back::{msl, spv, wgsl};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};

use crate::ShaderError;

/// Name of every kernel's entry point.
pub const ENTRY_POINT: &str = "main";

/// Bytes of the immediates that every kernel may read: [`swiftlm_ir::plan::StepSizes`].
pub const IMMEDIATE_BYTES: u32 = 12;

/// Oldest Metal language with subgroup shuffles on every Apple GPU that the engine meets.
const MSL_VERSION: (u8, u8) = (2, 4);

/// Oldest SPIR-V with subgroup operations.
const SPIRV_VERSION: (u8, u8) = (1, 3);

/// Validates a module against what a device with immediates, binary16 conversions and subgroups grants.
///
/// # Errors
/// [`ShaderError::Invalid`].
pub fn validate(module: &Module) -> Result<ModuleInfo, ShaderError> {
    let granted = Capabilities::IMMEDIATES | Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP;
    Validator::new(ValidationFlags::all(), granted).validate(module).map_err(|e| ShaderError::Invalid {
        kernel: module.entry_points.first().and_then(|p| p.function.name.clone()).unwrap_or_default(),
        reason: e.emit_to_string("").trim().to_owned(),
    })
}

/// The module in the WebGPU shading language.
///
/// # Errors
/// The module is invalid.
pub fn wgsl(module: &Module) -> Result<String, ShaderError> {
    let info = validate(module)?;
    let written = wgsl::write_string(module, &info, wgsl::WriterFlags::empty());
    written.map_err(|e| ShaderError::Text { language: "WGSL", reason: e.to_string() })
}

/// The module in the Metal shading language: argument `i` is buffer `i`, then the step's sizes, then, where an argument
/// has no fixed length, buffer sizes.
///
/// # Errors
/// The module is invalid.
pub fn msl(module: &Module) -> Result<String, ShaderError> {
    let info = validate(module)?;
    let mut resources = msl::EntryPointResources::default();
    for (_, variable) in module.global_variables.iter() {
        if let (Some(binding), AddressSpace::Storage { access }) = (variable.binding, variable.space) {
            let target = msl::BindTarget {
                buffer: Some(binding.binding as u8),
                mutable: access.contains(naga::StorageAccess::STORE),
                ..msl::BindTarget::default()
            };
            resources.resources.insert(binding, target);
        }
    }
    let arguments = resources.resources.len() as u8;
    resources.immediates_buffer = Some(arguments);
    resources.sizes_buffer = Some(arguments + 1);
    let options = msl::Options {
        lang_version: MSL_VERSION,
        per_entry_point_map: [(ENTRY_POINT.to_owned(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: unchecked(),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..msl::Options::default()
    };
    let written = msl::write_string(module, &info, &options, &msl::PipelineOptions::default());
    written.map(|(text, _)| text).map_err(|e| ShaderError::Text { language: "MSL", reason: e.to_string() })
}

/// The module as SPIR-V words.
///
/// # Errors
/// The module is invalid.
pub fn spirv(module: &Module) -> Result<Vec<u32>, ShaderError> {
    let info = validate(module)?;
    let options = spv::Options {
        lang_version: SPIRV_VERSION,
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: unchecked(),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: ENTRY_POINT.to_owned() };
    spv::write_vec(module, &info, &options, Some(&pipeline))
        .map_err(|e| ShaderError::Text { language: "SPIR-V", reason: e.to_string() })
}

fn unchecked() -> BoundsCheckPolicies {
    BoundsCheckPolicies {
        index: BoundsCheckPolicy::Unchecked,
        buffer: BoundsCheckPolicy::Unchecked,
        image_load: BoundsCheckPolicy::Unchecked,
        binding_array: BoundsCheckPolicy::Unchecked,
    }
}
