//! Kernel IR: what one workgroup does, the same for GPUs and the interpreter.
//!
//! A workgroup is a row of [`Kernel::lanes`] lanes. Expressions are evaluated where [`Stmt::Eval`] names them, in program
//! order, so a read of memory sees exactly the writes before it. [`Stmt::Barrier`] and [`Expr::Reduce`] must be reached
//! by all lanes of a group. There are no runtime checks: [`verify`](crate::kernel) must prove every index and loop
//! bounded before a kernel reaches a device.

pub mod builder;
mod flat;
pub mod verify;

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

/// Kind of a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scalar {
    /// IEEE 754 binary32.
    F32,
    /// Unsigned 32-bit; wraps.
    U32,
    /// Truth value; never in memory.
    Bool,
}

/// Type of an expression: a scalar, or a vector of 2 or 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KType {
    /// Kind of each element.
    pub scalar: Scalar,
    /// 1, 2 or 4.
    pub width: u8,
}

impl KType {
    /// One f32.
    pub const F32: Self = Self { scalar: Scalar::F32, width: 1 };
    /// One u32.
    pub const U32: Self = Self { scalar: Scalar::U32, width: 1 };
    /// One truth value.
    pub const BOOL: Self = Self { scalar: Scalar::Bool, width: 1 };
    /// Four f32.
    pub const F32X4: Self = Self { scalar: Scalar::F32, width: 4 };
    /// Four u32.
    pub const U32X4: Self = Self { scalar: Scalar::U32, width: 4 };
    /// Two u32.
    pub const U32X2: Self = Self { scalar: Scalar::U32, width: 2 };

    /// Bytes in memory.
    pub fn bytes(self) -> usize {
        4 * self.width as usize
    }
}

/// Handle of an expression: index into [`Kernel::exprs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ex(pub u32);

/// Handle of a private variable of each lane: index into [`Kernel::vars`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Var(pub u32);

/// Handle of an array shared by a workgroup: index into [`Kernel::shared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shared(pub u32);

/// Handle of a loop; its counter is [`Expr::Counter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LoopId(pub u32);

/// A number that the step gives to every kernel, in the order of [`StepSizes`](crate::plan::StepSizes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u32)]
pub enum Immediate {
    /// Tokens of the step.
    Tokens = 0,
    /// Rows that want logits.
    Rows = 1,
    /// Entries of the page table per sequence.
    TableStride = 2,
}

/// One-operand operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unary {
    /// `-x` (f32).
    Neg,
    /// `e^x`.
    Exp,
    /// `1/√x`.
    InverseSqrt,
    /// `√x`.
    Sqrt,
    /// Hyperbolic tangent.
    Tanh,
    /// `|x|`.
    Abs,
    /// Logical not.
    Not,
    /// u32 → f32 by value.
    ToF32,
    /// f32 → u32, truncating; the operand is in range by construction.
    ToU32,
    /// Same bits, f32 ↔ u32.
    Bitcast,
    /// f32 of the low half of a u32 read as binary16.
    HalfLow,
    /// f32 of the high half of a u32 read as binary16.
    HalfHigh,
}

/// Two-operand operators; operands have one type, comparisons give bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a · b`.
    Mul,
    /// `a / b`; u32 by a constant or value known not to be 0.
    Div,
    /// `a mod b` (u32).
    Rem,
    /// Smaller.
    Min,
    /// Larger.
    Max,
    /// Bitwise (u32) or logical (bool) and.
    And,
    /// Bitwise or logical or.
    Or,
    /// Bitwise exclusive or (u32).
    Xor,
    /// `a << b`, b < 32.
    Shl,
    /// `a >> b`, b < 32.
    Shr,
    /// `a < b`.
    Less,
    /// `a <= b`.
    LessEqual,
    /// `a == b`.
    Equal,
    /// Two f32 rounded to nearest even binary16, `a` in the low half: gives u32.
    PackHalf,
}

/// Combining of lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReduceOp {
    /// Sum.
    Sum,
    /// Maximum.
    Max,
}

/// The bound of a value read from data that its writer has checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DataBound {
    /// Less than a constant.
    Below(u32),
    /// Less than the number of units of an argument: of [`Length::Units`], or rows of the [`Length::PageTable`].
    BelowUnits(u32),
    /// Less than an immediate.
    BelowImmediate(Immediate),
}

/// An expression.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Expr {
    /// f32 constant.
    F32(f32),
    /// u32 constant.
    U32(u32),
    /// Bool constant.
    Bool(bool),
    /// A number given by the step.
    Immediate(Immediate),
    /// Workgroup index along axis 0, 1 or 2.
    GroupId(u8),
    /// Lane index in the workgroup.
    Lane,
    /// The counter of an enclosing loop.
    Counter(LoopId),
    /// One operand, elementwise on vectors.
    Unary(Unary, Ex),
    /// Two operands of one type, elementwise on vectors.
    Binary(Binary, Ex, Ex),
    /// `a · b + c`, rounded once or twice as the device does.
    Fma(Ex, Ex, Ex),
    /// `yes` where `cond` (a scalar bool) holds, else `no`.
    Select {
        /// Condition.
        cond: Ex,
        /// Value where it holds.
        yes: Ex,
        /// Value elsewhere.
        no: Ex,
    },
    /// A vector of equal elements.
    Splat(Ex, u8),
    /// A vector of 4 scalars.
    Compose4([Ex; 4]),
    /// Element of a vector.
    Extract(Ex, u8),
    /// Dot product of two f32 vectors.
    Dot(Ex, Ex),
    /// Element of an argument; the index counts elements of the argument's type.
    Load {
        /// Argument index.
        arg: u32,
        /// Element index.
        index: Ex,
    },
    /// Value of a private variable.
    Get(Var),
    /// Element of a shared array.
    SharedGet(Shared, Ex),
    /// Reduction over each aligned run of `width` lanes (a power of two that divides the lanes); every lane of the run
    /// gets the result. Declared order: halving — lane `i` adds lane `i ^ w/2`, then `i ^ w/4`, … `i ^ 1`.
    Reduce {
        /// How lanes combine.
        op: ReduceOp,
        /// A scalar f32.
        value: Ex,
        /// Run length.
        width: u32,
    },
    /// The operand, known to be bounded because whoever wrote the data checked it.
    Trust(Ex, DataBound),
}

/// A sequence of statements.
pub type Block = Vec<Stmt>;

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// Evaluates an expression here.
    Eval(Ex),
    /// Writes an element of an argument.
    Store {
        /// Argument index; its access is read-write.
        arg: u32,
        /// Element index.
        index: Ex,
        /// Value of the argument's element type.
        value: Ex,
    },
    /// Sets a private variable.
    Set(Var, Ex),
    /// Writes an element of a shared array.
    SharedSet(Shared, Ex, Ex),
    /// Lanes where `cond` holds run `then`, the others `otherwise`.
    If {
        /// A scalar bool.
        cond: Ex,
        /// Where it holds.
        then: Block,
        /// Elsewhere.
        otherwise: Block,
    },
    /// `for counter in (from..to).step_by(step)`; all u32.
    Loop {
        /// The loop.
        id: LoopId,
        /// First counter value.
        from: Ex,
        /// Bound, exclusive.
        to: Ex,
        /// Positive constant.
        step: u32,
        /// Body.
        body: Block,
    },
    /// All lanes of the group arrive; shared memory and arguments written before are visible after.
    Barrier,
}

/// How a kernel uses an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// Only reads; never in the arena (devices track use by whole buffers, and the arena is one).
    Read,
    /// Reads or writes.
    ReadWrite,
}

/// How many elements an argument has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Length {
    /// At least this many.
    Elements(u64),
    /// A number of equal units known when a model is loaded (KV pages), each of so many elements.
    Units(u64),
    /// The page table: one row of `table_stride` entries per sequence.
    PageTable,
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KArg {
    /// Name in texts.
    pub name: String,
    /// Use.
    pub access: Access,
    /// Element type; f32 or u32.
    pub elem: KType,
    /// Elements.
    pub len: Length,
}

/// An array shared by a workgroup; contents are undefined at start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SharedArray {
    /// Element type.
    pub elem: KType,
    /// Elements.
    pub len: u32,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Kernel {
    /// Template name; the key makes it unique.
    pub name: String,
    /// Lanes of a workgroup; a power of two up to 256.
    pub lanes: u32,
    /// Arguments in binding order.
    pub args: Vec<KArg>,
    /// Largest value of each immediate that the kernel was made for, in the order of [`Immediate`].
    pub immediate_max: [u32; 3],
    /// Types of private variables; each is set before it is read.
    pub vars: Vec<KType>,
    /// Shared arrays.
    pub shared: Vec<SharedArray>,
    /// Expressions.
    pub exprs: Vec<Expr>,
    /// Their types.
    pub types: Vec<KType>,
    /// Loops made so far.
    pub loops: u32,
    /// What a workgroup does.
    #[serde(with = "flat")]
    pub body: Block,
}

impl Kernel {
    /// Type of an expression.
    pub fn ty(&self, e: Ex) -> KType {
        self.types[e.0 as usize]
    }

    /// The expression behind a handle.
    pub fn expr(&self, e: Ex) -> &Expr {
        &self.exprs[e.0 as usize]
    }

    /// Content hash: equal kernels have equal keys, on every machine.
    pub fn key(&self) -> KernelKey {
        KernelKey::of_text(&format!("{self:?}"))
    }
}

/// Content hash of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelKey(pub u64);

impl KernelKey {
    /// Hash of a text.
    pub fn of_text(text: &str) -> Self {
        let mut h = Fnv(0xcbf2_9ce4_8422_2325);
        text.hash(&mut h);
        Self(h.0)
    }
}

impl std::fmt::Display for KernelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// FNV-1a: small, and the same everywhere.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
