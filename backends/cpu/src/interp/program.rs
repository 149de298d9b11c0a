//! The interpreter's own form of a kernel: instructions over numbered registers. Knows nothing of memory or threads.
//!
//! A register is `width · lanes` words, element by element: word `e · lanes + l` is element `e` of lane `l`. Floats are
//! kept as their bits, truth values as 0 and 1. Registers are numbered by their first word, and an instruction's operands
//! always lie before its result: no register is written twice in one evaluation of its block.

use swiftlm_ir::kernel::{Binary, ReduceOp, Unary};

/// First word of a register.
pub(crate) type Register = usize;

/// What a register holds before the first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Preset {
    /// The same word in every lane.
    Word(u32),
    /// Word `i` of the step's sizes.
    Immediate(u32),
    /// Workgroup index along an axis.
    Group(u8),
    /// The lane's index.
    Lane,
}

/// A bound that a value promised to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Promise {
    /// Less than a constant.
    Below(u32),
    /// Less than word `i` of the step's sizes.
    BelowImmediate(u32),
    /// Less than the units, each of so many bytes, of an argument.
    BelowUnits { arg: usize, unit_bytes: u64 },
    /// Less than the rows of a page table, each of `table_stride` entries.
    BelowRows { arg: usize },
}

/// Instructions on registers alone: no lane depends on another and none can fail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arithmetic {
    Unary {
        op: Unary,
        a: Register,
    },
    Binary {
        op: Binary,
        float: bool,
        a: Register,
        b: Register,
    },
    Fma {
        a: Register,
        b: Register,
        c: Register,
    },
    /// `cond` has one element, the others the width of the result.
    Select {
        cond: Register,
        yes: Register,
        no: Register,
    },
    /// Each element of the result is the one register of its place.
    Gather {
        parts: [Register; 4],
    },
    Copy {
        a: Register,
    },
    /// Dot product of registers of `width` elements, from the first element on.
    Dot {
        a: Register,
        b: Register,
        width: usize,
    },
}

/// An instruction.
#[derive(Clone, Debug)]
pub(crate) enum Inst {
    Arithmetic { what: Arithmetic, out: Register, words: usize },
    Load { arg: usize, index: Register, out: Register, width: usize },
    Store { arg: usize, index: Register, value: Register, width: usize },
    SharedGet { array: usize, index: Register, out: Register },
    SharedSet { array: usize, index: Register, value: Register },
    Set { var: Register, value: Register, words: usize },
    Reduce { op: ReduceOp, value: Register, out: Register, run: usize },
    Check { value: Register, promise: Promise },
    If { cond: Register, then: Vec<Inst>, otherwise: Vec<Inst> },
    Loop { counter: Register, from: Register, to: Register, step: u32, body: Vec<Inst> },
    Barrier,
}

/// A shared array: first word in shared memory, elements, words of an element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedSlot {
    pub(crate) base: usize,
    pub(crate) len: usize,
    pub(crate) width: usize,
}

/// A kernel ready to be interpreted.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Name and key, for errors.
    pub(crate) name: String,
    /// Names of the arguments, for errors.
    pub(crate) args: Vec<String>,
    pub(crate) lanes: usize,
    /// Words of all registers.
    pub(crate) register_words: usize,
    /// Words of all shared arrays.
    pub(crate) shared_words: usize,
    pub(crate) shared: Vec<SharedSlot>,
    pub(crate) presets: Vec<(Register, Preset)>,
    /// Deepest nesting of blocks.
    pub(crate) depth: usize,
    pub(crate) body: Vec<Inst>,
}
