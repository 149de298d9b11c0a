//! Runs a [`Program`] for one workgroup after another: all lanes in step, a mask where they part.
//!
//! Lock-step makes barriers trivial; that all lanes reach them is checked. Every access is checked against the memory it
//! goes to, whatever a verifier may have proven.

use std::sync::atomic::{AtomicU32, Ordering};
use swiftlm_ir::kernel::Immediate;

use swiftlm_ir::kernel::ReduceOp;

use super::arithmetic::Evaluate;
use super::fault::Fault;
use super::program::{Inst, Preset, Program, Promise, Register};

/// What undefined shared memory holds: no number, and no index that is in bounds.
const UNDEFINED: u32 = 0xffff_ffff;

/// Words that one thread needs to run workgroups of a program.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    registers: Vec<u32>,
    shared: Vec<u32>,
    /// One per lane and depth of blocks: 1 where the lane is active.
    masks: Vec<u32>,
}

impl Scratch {
    /// Grows to what `program` needs.
    pub(crate) fn reserve(&mut self, program: &Program) {
        let grow = |words: &mut Vec<u32>, to: usize| words.resize(words.len().max(to), 0);
        grow(&mut self.registers, program.register_words);
        grow(&mut self.shared, program.shared_words);
        grow(&mut self.masks, (program.depth + 1) * program.lanes);
    }
}

/// One thread's run of a program on given memory.
pub(crate) struct Run<'a> {
    program: &'a Program,
    args: &'a [&'a [AtomicU32]],
    sizes: [u32; 3],
    evaluate: Evaluate,
    registers: &'a mut [u32],
    shared: &'a mut [u32],
    masks: &'a mut [u32],
}

/// The lanes that run a block: those marked at a depth, and whether these are all.
#[derive(Clone, Copy)]
struct Active {
    depth: usize,
    all: bool,
}

impl<'a> Run<'a> {
    /// Sets what does not depend on the workgroup. `scratch` has been reserved for the program.
    pub(crate) fn new(
        program: &'a Program,
        args: &'a [&'a [AtomicU32]],
        sizes: [u32; 3],
        evaluate: Evaluate,
        scratch: &'a mut Scratch,
    ) -> Self {
        let Scratch { registers, shared, masks } = scratch;
        masks[..program.lanes].fill(1);
        for (register, preset) in &program.presets {
            let lanes = &mut registers[*register..register + program.lanes];
            match preset {
                Preset::Word(word) => lanes.fill(*word),
                Preset::Immediate(i) => lanes.fill(sizes[*i as usize]),
                Preset::Lane => lanes.iter_mut().zip(0..).for_each(|(lane, i)| *lane = i),
                Preset::Group(_) => {}
            }
        }
        Self { program, args, sizes, evaluate, registers, shared: &mut shared[..program.shared_words], masks }
    }

    /// Runs one workgroup.
    ///
    /// # Errors
    /// The first access out of bounds, broken promise or parted barrier.
    pub(crate) fn group(&mut self, group: [u32; 3]) -> Result<(), Fault> {
        for (register, preset) in &self.program.presets {
            if let Preset::Group(axis) = preset {
                self.registers[*register..register + self.program.lanes].fill(group[*axis as usize]);
            }
        }
        self.shared.fill(UNDEFINED);
        let program = self.program;
        self.block(&program.body, Active { depth: 0, all: true })
    }

    fn block(&mut self, insts: &[Inst], active: Active) -> Result<(), Fault> {
        for inst in insts {
            self.inst(inst, active)?;
        }
        Ok(())
    }

    fn inst(&mut self, inst: &Inst, active: Active) -> Result<(), Fault> {
        let lanes = self.program.lanes;
        match inst {
            Inst::Arithmetic { what, out, words } => {
                (self.evaluate)(what, lanes, self.registers, *out, *words);
            }
            Inst::Load { arg, index, out, width } => self.load(*arg, *index, *out, *width, active)?,
            Inst::Store { arg, index, value, width } => self.store(*arg, *index, *value, *width, active)?,
            Inst::SharedGet { array, index, out } => self.shared_get(*array, *index, *out, active)?,
            Inst::SharedSet { array, index, value } => self.shared_set(*array, *index, *value, active)?,
            Inst::Set { var, value, words } => self.set(*var, *value, *words, active),
            Inst::Reduce { op, value, out, run } => {
                if !active.all {
                    return Err(Fault::Parted { what: "a reduction" });
                }
                reduce(*op, &mut self.registers[..out + lanes], *value, *out, lanes, *run);
            }
            Inst::Barrier => {
                if !active.all {
                    return Err(Fault::Parted { what: "a barrier" });
                }
            }
            Inst::Check { value, promise } => self.check(*value, *promise, active)?,
            Inst::If { cond, then, otherwise } => {
                for (block, wanted) in [(then, 1), (otherwise, 0)] {
                    if !block.is_empty() {
                        let inner = self.part(active, |registers, lane| registers[cond + lane] == wanted);
                        if let Some(inner) = inner {
                            self.block(block, inner)?;
                        }
                    }
                }
            }
            Inst::Loop { counter, from, to, step, body } => self.repeat([*counter, *from, *to], *step, body, active)?,
        }
        Ok(())
    }

    fn repeat(
        &mut self,
        [counter, from, to]: [Register; 3],
        step: u32,
        body: &[Inst],
        active: Active,
    ) -> Result<(), Fault> {
        let lanes = self.program.lanes;
        self.registers.copy_within(from..from + lanes, counter);
        let mut next = self.part(active, |r, lane| r[counter + lane] < r[to + lane]);
        while let Some(inner) = next {
            self.block(body, inner)?;
            for lane in 0..lanes {
                // A counter that would wrap has passed every bound.
                self.registers[counter + lane] = self.registers[counter + lane].saturating_add(step);
            }
            // A lane that left the loop keeps counting past its bound, so the outer mask is enough.
            next = self.part(active, |r, lane| r[counter + lane] < r[to + lane]);
        }
        Ok(())
    }

    /// The active lanes where `keep` holds; `None` if there are none.
    fn part(&mut self, active: Active, keep: impl Fn(&[u32], usize) -> bool) -> Option<Active> {
        let lanes = self.program.lanes;
        let (outer, inner) = self.masks.split_at_mut((active.depth + 1) * lanes);
        let outer = &outer[active.depth * lanes..];
        let mut count = 0;
        for (lane, (inner, outer)) in inner.iter_mut().zip(outer).enumerate() {
            *inner = outer & u32::from(keep(self.registers, lane));
            count += *inner as usize;
        }
        (count > 0).then_some(Active { depth: active.depth + 1, all: count == lanes })
    }

    fn is_active(&self, active: Active, lane: usize) -> bool {
        active.all || self.masks[active.depth * self.program.lanes + lane] == 1
    }

    fn load(&mut self, arg: usize, index: usize, out: usize, width: usize, active: Active) -> Result<(), Fault> {
        let (lanes, memory) = (self.program.lanes, self.args[arg]);
        for lane in 0..lanes {
            if !self.is_active(active, lane) {
                continue;
            }
            let at = self.registers[index + lane] as usize;
            let Some(words) = memory.get(at * width..(at + 1) * width) else {
                return Err(Fault::argument(arg, at, memory.len() / width, lane));
            };
            for (e, word) in words.iter().enumerate() {
                self.registers[out + e * lanes + lane] = word.load(Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn store(&self, arg: usize, index: usize, value: usize, width: usize, active: Active) -> Result<(), Fault> {
        let (lanes, memory) = (self.program.lanes, self.args[arg]);
        for lane in (0..lanes).filter(|lane| self.is_active(active, *lane)) {
            let at = self.registers[index + lane] as usize;
            let Some(words) = memory.get(at * width..(at + 1) * width) else {
                return Err(Fault::argument(arg, at, memory.len() / width, lane));
            };
            for (e, word) in words.iter().enumerate() {
                word.store(self.registers[value + e * lanes + lane], Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn shared_get(&mut self, array: usize, index: usize, out: usize, active: Active) -> Result<(), Fault> {
        let (lanes, slot) = (self.program.lanes, self.program.shared[array]);
        for lane in 0..lanes {
            if !self.is_active(active, lane) {
                continue;
            }
            let at = self.registers[index + lane] as usize;
            if at >= slot.len {
                return Err(Fault::Shared { array, index: at, len: slot.len, lane });
            }
            for e in 0..slot.width {
                self.registers[out + e * lanes + lane] = self.shared[slot.base + at * slot.width + e];
            }
        }
        Ok(())
    }

    fn shared_set(&mut self, array: usize, index: usize, value: usize, active: Active) -> Result<(), Fault> {
        let (lanes, slot) = (self.program.lanes, self.program.shared[array]);
        for lane in 0..lanes {
            if !self.is_active(active, lane) {
                continue;
            }
            let at = self.registers[index + lane] as usize;
            if at >= slot.len {
                return Err(Fault::Shared { array, index: at, len: slot.len, lane });
            }
            for e in 0..slot.width {
                self.shared[slot.base + at * slot.width + e] = self.registers[value + e * lanes + lane];
            }
        }
        Ok(())
    }

    fn set(&mut self, var: usize, value: usize, words: usize, active: Active) {
        if active.all {
            self.registers.copy_within(value..value + words, var);
            return;
        }
        let lanes = self.program.lanes;
        let mask = &self.masks[active.depth * lanes..][..lanes];
        for element in (0..words).step_by(lanes) {
            for (lane, on) in mask.iter().enumerate() {
                if *on == 1 {
                    self.registers[var + element + lane] = self.registers[value + element + lane];
                }
            }
        }
    }

    fn check(&self, value: usize, promise: Promise, active: Active) -> Result<(), Fault> {
        let below = match promise {
            Promise::Below(n) => u64::from(n),
            Promise::BelowImmediate(i) => u64::from(self.sizes[i as usize]),
            Promise::BelowUnits { arg, unit_bytes } => self.args[arg].len() as u64 * 4 / unit_bytes,
            Promise::BelowRows { arg } => {
                let stride = self.sizes[Immediate::TableStride as usize];
                (self.args[arg].len() as u64).checked_div(u64::from(stride)).unwrap_or(0)
            }
        };
        let broken = |lane: &usize| self.is_active(active, *lane) && u64::from(self.registers[value + lane]) >= below;
        match (0..self.program.lanes).find(broken) {
            None => Ok(()),
            Some(lane) => Err(Fault::Promise { value: self.registers[value + lane], below, lane }),
        }
    }
}

/// Combines lanes by halving: after the step of distance `d`, lane `i` holds `i`'s and `i ^ d`'s values combined.
fn reduce(op: ReduceOp, registers: &mut [u32], value: Register, out: Register, lanes: usize, run: usize) {
    registers.copy_within(value..value + lanes, out);
    let combine = |a: u32, b: u32| {
        let (a, b) = (f32::from_bits(a), f32::from_bits(b));
        match op {
            ReduceOp::Sum => a + b,
            ReduceOp::Max => a.max(b),
        }
        .to_bits()
    };
    for run in registers[out..out + lanes].chunks_exact_mut(run) {
        let mut width = run.len();
        // Addition and maximum commute, so both lanes of a pair get one result, and a half stands for the whole.
        while width > 1 {
            width /= 2;
            let (low, high) = run.split_at_mut(width);
            for (a, b) in low.iter_mut().zip(high.iter()) {
                *a = combine(*a, *b);
            }
        }
        let result = run[0];
        run.fill(result);
    }
}
