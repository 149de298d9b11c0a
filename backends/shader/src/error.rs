//! What can be wrong with a kernel that is to become a shader.

/// Why a kernel has no shader. Expressions are named by their handle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShaderError {
    /// A handle of an expression, argument, variable, array or loop that does not exist here.
    #[error("kernel {kernel}: {what} {index} does not exist where it is used; verify the kernel first")]
    Unknown {
        /// Kernel name.
        kernel: String,
        /// Kind of handle.
        what: &'static str,
        /// The handle.
        index: u32,
    },
    /// An operator on a type that it has no meaning for.
    #[error("kernel {kernel}: expression {expr} applies {op} to {ty}")]
    Type {
        /// Kernel name.
        kernel: String,
        /// The expression.
        expr: u32,
        /// The operator.
        op: String,
        /// The operand's type.
        ty: String,
    },
    /// A constant that shader languages do not promise to keep.
    #[error("kernel {kernel}: expression {expr} is the constant {value}; use a finite one such as f32::MIN")]
    NotFinite {
        /// Kernel name.
        kernel: String,
        /// The expression.
        expr: u32,
        /// The constant.
        value: String,
    },
    /// A reduction over runs that do not tile the workgroup.
    #[error(
        "kernel {kernel}: reduction over {width} of {lanes} lanes; the width must be a power of two up to the lanes"
    )]
    ReduceWidth {
        /// Kernel name.
        kernel: String,
        /// Run length.
        width: u32,
        /// Lanes of the workgroup.
        lanes: u32,
    },
    /// More shared memory than a workgroup has, counting what reductions need.
    #[error(
        "kernel {kernel}: {needed} bytes of shared memory, the device has {available}; use smaller tiles or fewer lanes"
    )]
    SharedMemory {
        /// Kernel name.
        kernel: String,
        /// Bytes of the declared arrays and of reductions.
        needed: usize,
        /// Bytes that a workgroup may have.
        available: usize,
    },
    /// The validator refused the module.
    #[error("kernel {kernel}: invalid shader: {reason}")]
    Invalid {
        /// Kernel name.
        kernel: String,
        /// The validator's words.
        reason: String,
    },
    /// A text writer failed.
    #[error("no {language} text: {reason}")]
    Text {
        /// The language.
        language: &'static str,
        /// The writer's words.
        reason: String,
    },
}
