//! Kernel IR to a [`Program`]: assigns registers and refuses what could not be interpreted. Runs nothing.

use std::collections::BTreeMap;

use swiftlm_device::DeviceError;
use swiftlm_ir::kernel::{Access, DataBound, Ex, Expr, KType, Kernel, Length, Scalar, Stmt};

use super::program::{Arithmetic, Inst, Preset, Program, Promise, Register, SharedSlot};

struct Lower<'k> {
    kernel: &'k Kernel,
    lanes: usize,
    /// Register of each expression that was evaluated so far.
    registers: Vec<Option<Register>>,
    presets: BTreeMap<Preset, Register>,
    vars: Vec<Register>,
    counters: Vec<Register>,
    next: usize,
    depth: usize,
}

/// Assigns registers to a kernel.
///
/// # Errors
/// [`DeviceError::Kernel`] where the kernel is malformed: a handle without a target, a use before its evaluation, a write
/// to an argument that is read only, a loop that does not advance.
pub(crate) fn lower(kernel: &Kernel) -> Result<Program, DeviceError> {
    let name = format!("{} ({})", kernel.name, kernel.key());
    let refuse = |reason| DeviceError::Kernel { kernel: name.clone(), reason };
    let lanes = kernel.lanes as usize;
    if !lanes.is_power_of_two() || lanes > 1024 {
        return Err(refuse(format!("{lanes} lanes: expected a power of two up to 1024")));
    }
    let mut lower = Lower {
        kernel,
        lanes,
        registers: vec![None; kernel.exprs.len()],
        presets: BTreeMap::new(),
        vars: vec![],
        counters: vec![],
        next: 0,
        depth: 0,
    };
    lower.vars = kernel.vars.iter().map(|ty| lower.allocate(ty.width as usize)).collect();
    lower.counters = (0..kernel.loops).map(|_| lower.allocate(1)).collect();
    let body = lower.block(&kernel.body, 1).map_err(refuse)?;
    let mut shared = vec![];
    let mut shared_words = 0;
    for array in &kernel.shared {
        let (len, width) = (array.len as usize, array.elem.width as usize);
        shared.push(SharedSlot { base: shared_words, len, width });
        shared_words += len * width;
    }
    let presets = lower.presets.iter().map(|(preset, register)| (*register, *preset)).collect();
    let args = kernel.args.iter().map(|a| a.name.clone()).collect();
    let (register_words, depth) = (lower.next, lower.depth);
    Ok(Program { name, args, lanes, register_words, shared_words, shared, presets, depth, body })
}

impl Lower<'_> {
    fn allocate(&mut self, width: usize) -> Register {
        let register = self.next;
        self.next += width * self.lanes;
        register
    }

    fn preset(&mut self, preset: Preset) -> Register {
        if let Some(register) = self.presets.get(&preset) {
            return *register;
        }
        let register = self.allocate(1);
        self.presets.insert(preset, register);
        register
    }

    fn register(&self, e: Ex) -> Result<Register, String> {
        let known = self.registers.get(e.0 as usize).copied().flatten();
        known.ok_or_else(|| format!("expression {} is used before it is evaluated", e.0))
    }

    fn ty(&self, e: Ex) -> Result<KType, String> {
        self.kernel.types.get(e.0 as usize).copied().ok_or_else(|| format!("expression {} does not exist", e.0))
    }

    fn arg(&self, arg: u32) -> Result<usize, String> {
        let known = (arg as usize) < self.kernel.args.len();
        known.then_some(arg as usize).ok_or_else(|| format!("argument {arg} does not exist"))
    }

    fn block(&mut self, block: &[Stmt], depth: usize) -> Result<Vec<Inst>, String> {
        self.depth = self.depth.max(depth);
        let mut out = vec![];
        for stmt in block {
            self.stmt(stmt, depth, &mut out)?;
        }
        Ok(out)
    }

    fn stmt(&mut self, stmt: &Stmt, depth: usize, out: &mut Vec<Inst>) -> Result<(), String> {
        let inst = match stmt {
            Stmt::Eval(e) => return self.eval(*e, out),
            Stmt::Barrier => Inst::Barrier,
            Stmt::Store { arg, index, value } => {
                let at = self.arg(*arg)?;
                let target = &self.kernel.args[at];
                if target.access == Access::Read {
                    return Err(format!("writes argument `{}`, which it declares as read only", target.name));
                }
                let width = target.elem.width as usize;
                Inst::Store { arg: at, index: self.register(*index)?, value: self.register(*value)?, width }
            }
            Stmt::Set(var, value) => {
                let ty = self.kernel.vars.get(var.0 as usize).ok_or_else(|| format!("variable {} missing", var.0))?;
                let words = ty.width as usize * self.lanes;
                Inst::Set { var: self.vars[var.0 as usize], value: self.register(*value)?, words }
            }
            Stmt::SharedSet(array, index, value) => Inst::SharedSet {
                array: self.shared(array.0)?,
                index: self.register(*index)?,
                value: self.register(*value)?,
            },
            Stmt::If { cond, then, otherwise } => Inst::If {
                cond: self.register(*cond)?,
                then: self.block(then, depth + 1)?,
                otherwise: self.block(otherwise, depth + 1)?,
            },
            Stmt::Loop { id, from, to, step, body } => {
                if *step == 0 {
                    return Err(format!("loop {} has step 0", id.0));
                }
                let known = self.counters.get(id.0 as usize).copied();
                let counter = known.ok_or_else(|| format!("loop {} does not exist", id.0))?;
                let (from, to) = (self.register(*from)?, self.register(*to)?);
                Inst::Loop { counter, from, to, step: *step, body: self.block(body, depth + 1)? }
            }
        };
        out.push(inst);
        Ok(())
    }

    fn shared(&self, array: u32) -> Result<usize, String> {
        let known = (array as usize) < self.kernel.shared.len();
        known.then_some(array as usize).ok_or_else(|| format!("shared array {array} does not exist"))
    }

    fn eval(&mut self, e: Ex, out: &mut Vec<Inst>) -> Result<(), String> {
        let ty = self.ty(e)?;
        let width = ty.width as usize;
        let register = match self.kernel.exprs[e.0 as usize] {
            Expr::F32(x) => self.preset(Preset::Word(x.to_bits())),
            Expr::U32(n) => self.preset(Preset::Word(n)),
            Expr::Bool(b) => self.preset(Preset::Word(u32::from(b))),
            Expr::Immediate(i) => self.preset(Preset::Immediate(i as u32)),
            Expr::GroupId(axis) if axis < 3 => self.preset(Preset::Group(axis)),
            Expr::GroupId(axis) => return Err(format!("workgroup axis {axis} does not exist")),
            Expr::Lane => self.preset(Preset::Lane),
            Expr::Counter(id) => {
                let known = self.counters.get(id.0 as usize).copied();
                known.ok_or_else(|| format!("loop {} does not exist", id.0))?
            }
            Expr::Extract(a, i) => {
                let source = self.ty(a)?.width;
                if i >= source {
                    return Err(format!("element {i} of a vector of {source} does not exist"));
                }
                self.register(a)? + i as usize * self.lanes
            }
            Expr::Trust(a, bound) => {
                let value = self.register(a)?;
                let promise = self.promise(bound)?;
                out.push(Inst::Check { value, promise });
                value
            }
            Expr::Load { arg, index } => {
                let (arg, index, to) = (self.arg(arg)?, self.register(index)?, self.allocate(width));
                out.push(Inst::Load { arg, index, out: to, width });
                to
            }
            Expr::SharedGet(array, index) => {
                let (array, index, to) = (self.shared(array.0)?, self.register(index)?, self.allocate(width));
                out.push(Inst::SharedGet { array, index, out: to });
                to
            }
            Expr::Reduce { op, value, width } => {
                let (value, run) = (self.register(value)?, width as usize);
                if !run.is_power_of_two() || run > self.lanes {
                    return Err(format!("reduces runs of {run} of {} lanes: expected a power of two", self.lanes));
                }
                let to = self.allocate(1);
                out.push(Inst::Reduce { op, value, out: to, run });
                to
            }
            expr => {
                let what = self.arithmetic(expr)?;
                let to = self.allocate(width);
                out.push(Inst::Arithmetic { what, out: to, words: width * self.lanes });
                to
            }
        };
        self.registers[e.0 as usize] = Some(register);
        Ok(())
    }

    fn arithmetic(&self, expr: Expr) -> Result<Arithmetic, String> {
        let same = |a: Ex, b: Ex| {
            let (ta, tb) = (self.ty(a)?, self.ty(b)?);
            if ta == tb { Ok(ta) } else { Err(format!("operands {} and {} differ: {ta:?} and {tb:?}", a.0, b.0)) }
        };
        Ok(match expr {
            Expr::Unary(op, a) => Arithmetic::Unary { op, a: self.register(a)? },
            Expr::Binary(op, a, b) => {
                let float = same(a, b)?.scalar == Scalar::F32;
                Arithmetic::Binary { op, float, a: self.register(a)?, b: self.register(b)? }
            }
            Expr::Fma(a, b, c) => {
                same(a, b)?;
                same(a, c)?;
                Arithmetic::Fma { a: self.register(a)?, b: self.register(b)?, c: self.register(c)? }
            }
            Expr::Select { cond, yes, no } => {
                same(yes, no)?;
                Arithmetic::Select { cond: self.register(cond)?, yes: self.register(yes)?, no: self.register(no)? }
            }
            Expr::Splat(a, _) => Arithmetic::Gather { parts: [self.register(a)?; 4] },
            Expr::Compose4(p) => Arithmetic::Gather {
                parts: [self.register(p[0])?, self.register(p[1])?, self.register(p[2])?, self.register(p[3])?],
            },
            Expr::Dot(a, b) => {
                let width = same(a, b)?.width as usize;
                Arithmetic::Dot { a: self.register(a)?, b: self.register(b)?, width }
            }
            Expr::Get(var) => {
                let known = self.vars.get(var.0 as usize).copied();
                Arithmetic::Copy { a: known.ok_or_else(|| format!("variable {} does not exist", var.0))? }
            }
            other => return Err(format!("{other:?} is no arithmetic")),
        })
    }

    fn promise(&self, bound: DataBound) -> Result<Promise, String> {
        Ok(match bound {
            DataBound::Below(n) => Promise::Below(n),
            DataBound::BelowImmediate(i) => Promise::BelowImmediate(i as u32),
            DataBound::BelowUnits(arg) => {
                let arg = self.arg(arg)?;
                let KType { width, .. } = self.kernel.args[arg].elem;
                match self.kernel.args[arg].len {
                    Length::Units(n) if n > 0 => Promise::BelowUnits { arg, unit_bytes: n * 4 * u64::from(width) },
                    Length::PageTable => Promise::BelowRows { arg },
                    _ => return Err(format!("argument `{}` has no units", self.kernel.args[arg].name)),
                }
            }
        })
    }
}
