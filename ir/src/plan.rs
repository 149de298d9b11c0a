//! Plans: which launches make a step, and where each operand lies.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::dim::{ShapeClass, Sym};
use crate::graph::{Module, WeightType};
use crate::kernel::Kernel;
use crate::template::Template;
use crate::ty::Window;

/// What a step gives to every launch beside arena, weights and states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Input {
    /// Token ids, `u32[T]`.
    Ids,
    /// Absolute position of each token in its sequence, `u32[T]`.
    Positions,
    /// Row of the page table of each token's sequence, `u32[T]`.
    Sequences,
    /// What a recurrent state keeps for each token's sequence: the number of its unit, `u32[T]`.
    Units,
    /// Runs of tokens of one sequence, `u32[T, 3]`: first token, the one behind the last, tokens of the sequence before
    /// them. Rows behind the last run hold 0.
    Segments,
    /// Page ids of the states' parts with this window, `u32[sequences · table_stride]`.
    PageTable(Window),
    /// Tokens that want logits, `u32[R]`.
    Rows,
    /// Cosines and sines for rope table `i`: `f32[T, dim]`.
    RopeTable(usize),
    /// The slot of each token's experts, `u32[T, K]`, or [`ABSENT`](crate::template::ABSENT): what a [`Fetch`] writes.
    Slots,
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
    /// Keys (`part` 0) or values (1) of a state of the call, or its archive's keys (2) or values (3); of a recurrent state
    /// the last inputs (0) or the memory (1).
    State {
        /// Which state of the call.
        state: usize,
        /// Which part.
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
    /// What less there is to do where histories are short.
    pub reach: Option<Reach>,
}

/// How workgroups depend on the sequences of a step: the positions of its longest history, or how many take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reach {
    /// At most one group for each so many positions.
    Each(u32),
    /// None where there are no more positions than this.
    Beyond(u32),
    /// At most one group for each run of tokens of one sequence, however many positions.
    Segments,
}

impl Groups {
    /// A constant count.
    pub fn fixed(times: usize) -> Self {
        Self { times: u32::try_from(times).unwrap_or(u32::MAX), rows: None, reach: None }
    }

    /// `times · ceil(rows / per)` groups.
    pub fn per_rows(times: usize, rows: Sym, per: u32) -> Self {
        Self { rows: Some((rows, per)), ..Self::fixed(times) }
    }

    /// As many, or fewer where histories are short.
    pub fn reaching(self, reach: Reach) -> Self {
        Self { reach: Some(reach), ..self }
    }

    /// The count for a step.
    pub fn count(&self, sizes: &StepSizes) -> u32 {
        let all = self.times * self.rows.map_or(1, |(sym, per)| sizes.get(sym).div_ceil(per));
        match self.reach {
            None => all,
            Some(Reach::Segments) => all.min(sizes.segments),
            Some(Reach::Each(per)) => all.min(sizes.last_position / per + 1),
            Some(Reach::Beyond(positions)) => {
                if sizes.last_position >= positions {
                    all
                } else {
                    0
                }
            }
        }
    }
}

/// The sizes of one step. The first three are given to every kernel as immediates in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct StepSizes {
    /// Tokens.
    pub tokens: u32,
    /// Rows that want logits.
    pub rows: u32,
    /// Entries of the page table per sequence.
    pub table_stride: u32,
    /// Largest position of a token, which grids follow and kernels do not rely on.
    pub last_position: u32,
    /// Runs of tokens of one sequence, which grids follow and kernels do not rely on.
    pub segments: u32,
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

/// One launch: one template, computed by one kernel or by several in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// What it computes.
    pub template: Template,
    /// The template's arguments in their order; behind them, where kernels leave one another something, their scratch.
    pub args: Vec<Operand>,
    /// What kernels do in order. A device that computes the template by itself runs none of them.
    pub stages: Vec<Stage>,
    /// Path of the ops it came from.
    pub loc: String,
}

/// One kernel of a launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Index into [`Program::kernels`].
    pub kernel: usize,
    /// Which of the launch's arguments it takes, in its binding order.
    pub args: Vec<usize>,
    /// Workgroups per axis.
    pub grid: [Groups; 3],
}

/// What the host does in the midst of a function: it reads which experts were chosen, brings those that are in no slot,
/// and runs the launches that read slots, all at once or in turns, each with the experts that are in memory by then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fetch {
    /// The launches that read slots: no others lie between them.
    pub launches: Range<usize>,
    /// The chosen experts, `u32[T, top_k]`.
    pub ids: Operand,
    /// Experts of a token.
    pub top_k: usize,
    /// Experts of the layer.
    pub experts: usize,
    /// Slots that they take turns in.
    pub slots: usize,
    /// Weight slots of the function that hold the experts, each with rows for all of them.
    pub weights: Vec<usize>,
    /// What tells the host which experts the next fetch may want, if anything does.
    pub ahead: Option<Ahead>,
}

/// A guess at the experts of the next call that fetches. Nothing else needs its launches: the host may leave them out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ahead {
    /// The launches that make it, the last before those that read slots.
    pub launches: Range<usize>,
    /// The guessed experts, as many and in the form of those chosen.
    pub ids: Operand,
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
    /// Where the host takes part, in order; none where all experts are in memory.
    pub fetches: Vec<Fetch>,
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

/// Sizes of a model's experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mixture {
    /// Experts of a layer, at most.
    pub experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// Bytes of one expert of every layer, all layers together.
    pub expert_bytes: usize,
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

    /// Some of the calls with what they need, to be counted; not a program that runs, since nothing leads into it.
    pub fn only(&self, calls: Range<usize>) -> Self {
        let mut part = self.clone();
        part.module.main = part.module.main[calls.clone()].to_vec();
        part.call_weights = part.call_weights[calls].to_vec();
        let used = part.call_weights.iter_mut().flatten();
        let mut kept: BTreeMap<usize, usize> = BTreeMap::new();
        for weight in used {
            let next = kept.len();
            *weight = *kept.entry(*weight).or_insert(next);
        }
        let mut order: Vec<(usize, usize)> = kept.into_iter().collect();
        order.sort_unstable_by_key(|(_, new)| *new);
        part.weights = order.into_iter().map(|(old, _)| self.weights[old].clone()).collect();
        let mut states = vec![];
        for state in part.module.main.iter_mut().flat_map(|call| &mut call.states) {
            states.push(self.module.states[*state].clone());
            *state = states.len() - 1;
        }
        part.module.states = states;
        part
    }

    /// Bytes of the experts that wait outside of memory, beside those that the slots begin with.
    pub fn streamed_bytes(&self) -> usize {
        let plans = self.plans.iter().filter_map(|classes| classes.first());
        let outside = |call: usize, fetch: &Fetch| -> usize {
            let left = fetch.experts.saturating_sub(fetch.slots);
            fetch.weights.iter().map(|w| self.expert_bytes(call, fetch, *w) * left).sum()
        };
        let calls = self.module.main.iter().enumerate();
        let of = |(call, c): (usize, &crate::graph::Call)| -> usize {
            plans.clone().filter(|p| p.func == c.func).flat_map(|p| &p.fetches).map(|f| outside(call, f)).sum()
        };
        calls.map(of).sum()
    }

    /// The experts of a program without fetches; `None` where there are none.
    pub fn mixture(&self) -> Option<Mixture> {
        let one = |func: usize| self.plans[func].iter().find(|p| p.class == ShapeClass::One);
        let plans = self.module.main.iter().filter_map(|call| one(call.func));
        let mut all: Option<Mixture> = None;
        for template in plans.flat_map(|plan| &plan.dispatches).map(|d| &d.template) {
            let Template::ExpertLinear(t) = template else { continue };
            let mixture = all.get_or_insert_default();
            mixture.experts = mixture.experts.max(t.experts);
            mixture.top_k = mixture.top_k.max(t.top_k);
            mixture.expert_bytes += t.expert_bytes();
        }
        all
    }

    fn expert_bytes(&self, call: usize, fetch: &Fetch, weight: usize) -> usize {
        let index = self.call_weights.get(call).and_then(|slots| slots.get(weight));
        index.and_then(|i| self.weights.get(*i)).map_or(0, |w| w.ty.bytes() / fetch.experts.max(1))
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

    /// State bytes of one sequence that do not grow with it, in all layers.
    pub fn recurrent_bytes(&self) -> usize {
        self.module.states.iter().filter_map(crate::ty::StateType::recurrent).map(crate::ty::Recurrent::bytes).sum()
    }

    /// State bytes that a token reads which follows on `depth` others: of a layer with a window no more than that.
    pub fn kv_bytes_read(&self, depth: usize) -> usize {
        self.module.states.iter().map(|state| state.bytes_read(depth)).sum()
    }
}
