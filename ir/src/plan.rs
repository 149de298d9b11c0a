//! Plans: which launches make a step, and where each operand lies.

use serde::{Deserialize, Serialize};

use crate::dim::{ShapeClass, Sym};
use crate::graph::{Module, WeightType};
use crate::kernel::Kernel;
use crate::template::Template;

/// What a step gives to every launch beside arena, weights and states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Input {
    /// Token ids, `u32[T]`.
    Ids,
    /// Absolute position of each token in its sequence, `u32[T]`.
    Positions,
    /// Row of the page table of each token's sequence, `u32[T]`.
    Sequences,
    /// Page ids, `u32[sequences · table_stride]`.
    PageTable,
    /// Tokens that want logits, `u32[R]`.
    Rows,
    /// Cosines and sines for rope table `i`: `f32[T, dim]`.
    RopeTable(usize),
}

/// Where an argument of a launch lies. Offsets and sizes are bytes; offsets in the arena are multiples of 256.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operand {
    /// In the step's arena.
    Arena {
        /// First byte.
        offset: usize,
        /// Bytes at the class's bound.
        bytes: usize,
    },
    /// Weight slot of the function, rows `first .. first + count` of it.
    Weight {
        /// Index into the function's weights.
        slot: usize,
        /// First row of the segment.
        first: usize,
        /// Rows of the segment.
        count: usize,
    },
    /// Keys (`part` 0) or values (1) of the call's state.
    State {
        /// Which half.
        part: usize,
    },
    /// An input of the step.
    Input(Input),
}

/// Workgroups along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Groups {
    /// Factor that does not depend on the step.
    pub times: u32,
    /// Rows that one group handles: the count is `times · ceil(rows / per)`; `None` for a constant.
    pub rows: Option<(Sym, u32)>,
}

impl Groups {
    /// A constant count.
    pub fn fixed(times: usize) -> Self {
        Self { times: u32::try_from(times).unwrap_or(u32::MAX), rows: None }
    }

    /// `times · ceil(rows / per)` groups.
    pub fn per_rows(times: usize, rows: Sym, per: u32) -> Self {
        Self { rows: Some((rows, per)), ..Self::fixed(times) }
    }

    /// The count for a step.
    pub fn count(&self, sizes: &StepSizes) -> u32 {
        self.times * self.rows.map_or(1, |(sym, per)| sizes.get(sym).div_ceil(per))
    }
}

/// The sizes of one step, given to every kernel as immediates in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct StepSizes {
    /// Tokens.
    pub tokens: u32,
    /// Rows that want logits.
    pub rows: u32,
    /// Entries of the page table per sequence.
    pub table_stride: u32,
}

impl StepSizes {
    /// The value of a symbol.
    pub fn get(&self, sym: Sym) -> u32 {
        match sym {
            Sym::Tokens => self.tokens,
            Sym::Rows => self.rows,
        }
    }

    /// The immediates as words.
    pub fn words(&self) -> [u32; 3] {
        [self.tokens, self.rows, self.table_stride]
    }
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// What it computes.
    pub template: Template,
    /// Index into [`Program::kernels`].
    pub kernel: usize,
    /// Arguments in the kernel's binding order.
    pub args: Vec<Operand>,
    /// Workgroups per axis.
    pub grid: [Groups; 3],
    /// Path of the ops it came from.
    pub loc: String,
}

/// The schedule of one function for one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FuncPlan {
    /// Index of the function in [`Module::funcs`].
    pub func: usize,
    /// Class of its rows.
    pub class: ShapeClass,
    /// Launches in order.
    pub dispatches: Vec<Dispatch>,
    /// Arena bytes used, the flow values included.
    pub arena_bytes: usize,
    /// Where each result lies; of the last function: logits `f32[R, V]`, then the greedy choice `u32[R]`.
    pub results: Vec<Operand>,
}

/// A weight as the loader must make it: the rows of the named tensors one after another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WeightBuffer {
    /// Full dotted names.
    pub names: Vec<String>,
    /// Type of the whole.
    pub ty: WeightType,
}

/// A compiled model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The optimised graph; calls and states are read from here.
    pub module: Module,
    /// Distinct kernels.
    pub kernels: Vec<Kernel>,
    /// Schedules: `plans[func][class]`; every function has all four classes, of `T` or, after `rows`, of `R`.
    pub plans: Vec<Vec<FuncPlan>>,
    /// Every weight, once; tied uses share one.
    pub weights: Vec<WeightBuffer>,
    /// `call_weights[call][slot]` indexes [`Self::weights`].
    pub call_weights: Vec<Vec<usize>>,
    /// Largest token count of a step.
    pub chunk: usize,
    /// Largest count of rows that want logits in a step.
    pub max_rows: usize,
    /// Arena bytes at the largest class.
    pub arena_bytes: usize,
}

impl Program {
    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> usize {
        self.weights.iter().map(|w| w.ty.bytes()).sum()
    }

    /// Weight bytes that a step of one token streams: of an embedding one row, of experts those that a token is sent to.
    pub fn decode_bytes(&self) -> usize {
        let one = |func: usize| self.plans[func].iter().find(|p| p.class == ShapeClass::One);
        let calls = self.module.main.iter().filter_map(|call| one(call.func));
        calls.flat_map(|plan| &plan.dispatches).map(|d| d.template.decode_bytes()).sum()
    }

    /// KV bytes of one token in all layers.
    pub fn kv_bytes_per_token(&self) -> usize {
        self.module.states.iter().map(crate::ty::StateType::bytes_per_token).sum()
    }
}
