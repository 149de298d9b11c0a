//! The kernel verifier: what it lets pass may run without runtime checks.
//!
//! It checks types and handles, that values are computed before they are used, that all lanes reach what all lanes must
//! reach, that loops end, and it proves every index: intervals of u32 values, refined by the conditions around a place,
//! and places among units whose number only a loaded model knows.
//! It assumes of a step what its host guarantees: immediates are at most [`Kernel::immediate_max`], an argument is as
//! long as declared and shorter than 2^32 elements, what an argument is declared to read nobody writes meanwhile, and
//! trusted data is within its bound. It assumes nothing of the grid.

mod error;
mod facts;
mod range;
mod types;

pub use error::KernelError;
use range::{Fact, Range};

use super::{Access, Block, DataBound, Ex, Expr, KType, Kernel, LoopId, Scalar, Stmt};

/// Most loops of a kernel.
const MAX_LOOPS: u32 = 1 << 16;
/// Most bytes that a workgroup shares: more than any device has.
const MAX_SHARED: u64 = 1 << 20;
/// Conditions of a condition that are looked into: handles can make few expressions a large tree.
const MAX_CONDITIONS: usize = 64;
/// Most rounds of a loop.
const MAX_ROUNDS: u32 = 1 << 26;

/// Checks a kernel.
///
/// # Errors
/// Everything that is wrong with it.
pub fn verify(kernel: &Kernel) -> Result<(), Vec<KernelError>> {
    // Before anything is sized by it.
    if kernel.loops > MAX_LOOPS {
        return Err(vec![KernelError::Handle { what: "loop", index: kernel.loops }]);
    }
    let mut checker = Checker {
        kernel,
        errors: vec![],
        facts: vec![None; kernel.exprs.len()],
        evaluated: vec![false; kernel.exprs.len()],
        set: vec![false; kernel.vars.len()],
        counters: vec![None; kernel.loops as usize],
        looped: vec![false; kernel.loops as usize],
        uniform: true,
    };
    checker.declarations();
    if checker.errors.is_empty() {
        checker.block(&kernel.body);
    }
    if checker.errors.is_empty() { Ok(()) } else { Err(checker.errors) }
}

struct Checker<'a> {
    kernel: &'a Kernel,
    errors: Vec<KernelError>,
    /// What is known of the expressions evaluated so far and in scope.
    facts: Vec<Option<Fact>>,
    /// Expressions evaluated anywhere before.
    evaluated: Vec<bool>,
    /// Variables set on every way to here.
    set: Vec<bool>,
    /// Counters of the loops around here.
    counters: Vec<Option<Fact>>,
    /// Loops met before.
    looped: Vec<bool>,
    /// Whether all lanes of the workgroup are here.
    uniform: bool,
}

impl Checker<'_> {
    fn declarations(&mut self) {
        let k = self.kernel;
        if !k.lanes.is_power_of_two() || k.lanes > 256 {
            self.errors.push(KernelError::Lanes { lanes: k.lanes });
        }
        if k.types.len() != k.exprs.len() {
            self.errors
                .push(KernelError::Declaration { what: "types".into(), reason: "not one per expression".into() });
        }
        let in_memory = |ty: &KType| ty.scalar != Scalar::Bool && matches!(ty.width, 1 | 2 | 4);
        let args = k.args.iter().map(|a| (format!("argument `{}`", a.name), a.elem));
        let shared = k.shared.iter().enumerate().map(|(i, s)| (format!("shared array {i}"), s.elem));
        let bytes: u64 = k.shared.iter().map(|s| u64::from(s.len) * s.elem.bytes() as u64).sum();
        if bytes > MAX_SHARED {
            let reason = format!("{bytes} bytes, expected at most {MAX_SHARED}");
            self.errors.push(KernelError::Declaration { what: "shared arrays".into(), reason });
        }
        if let Some(i) = k.vars.iter().position(|ty| !matches!(ty.width, 1 | 2 | 4)) {
            let reason = format!("{:?} is not a type", k.vars[i]);
            self.errors.push(KernelError::Declaration { what: format!("variable {i}"), reason });
        }
        for (what, elem) in args.chain(shared) {
            if !in_memory(&elem) {
                self.errors.push(KernelError::Declaration { what, reason: format!("{elem:?} is not an element type") });
            }
        }
    }

    /// Checks a block; what is evaluated in it goes out of scope behind it.
    fn block(&mut self, block: &Block) {
        let mut scope = vec![];
        for stmt in block {
            if let Stmt::Eval(e) = stmt {
                scope.push(*e);
            }
            self.stmt(stmt);
        }
        for e in scope {
            if let Some(fact) = self.facts.get_mut(e.0 as usize) {
                *fact = None;
            }
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Eval(e) => self.eval(*e),
            Stmt::Store { arg, index, value } => {
                let Some(declared) = self.kernel.args.get(*arg as usize) else {
                    return self.handle("argument", *arg);
                };
                if declared.access != Access::ReadWrite {
                    self.errors.push(KernelError::ReadOnly { arg: declared.name.clone() });
                }
                if let Some(index) = self.operand(*index, KType::U32) {
                    self.index(*arg, &index);
                }
                self.operand(*value, declared.elem);
            }
            Stmt::Set(var, value) => {
                let Some(ty) = self.kernel.vars.get(var.0 as usize) else {
                    return self.handle("variable", var.0);
                };
                self.operand(*value, *ty);
                self.set[var.0 as usize] = true;
            }
            Stmt::SharedSet(shared, index, value) => {
                let Some(array) = self.kernel.shared.get(shared.0 as usize) else {
                    return self.handle("shared array", shared.0);
                };
                if let Some(index) = self.operand(*index, KType::U32) {
                    self.shared_index(shared.0, array.len, &index);
                }
                self.operand(*value, array.elem);
            }
            Stmt::If { cond, then, otherwise } => {
                let Some(fact) = self.operand(*cond, KType::BOOL) else { return };
                let (uniform, set) = (self.uniform, self.set.clone());
                self.uniform &= fact.uniform;
                self.assuming(*cond, true, then);
                let set_then = std::mem::replace(&mut self.set, set);
                self.assuming(*cond, false, otherwise);
                self.set.iter_mut().zip(set_then).for_each(|(set, then)| *set &= then);
                self.uniform = uniform;
            }
            Stmt::Loop { id, from, to, step, body } => self.repeat(*id, (*from, *to, *step), body),
            Stmt::Barrier => self.all_lanes("a barrier"),
        }
    }

    fn repeat(&mut self, id: LoopId, (from, to, step): (Ex, Ex, u32), body: &Block) {
        let bounds = (self.operand(from, KType::U32), self.operand(to, KType::U32));
        let at = id.0 as usize;
        if at >= self.counters.len() || std::mem::replace(&mut self.looped[at], true) {
            return self.handle("loop", id.0);
        }
        let (Some(from), Some(to)) = bounds else { return };
        let (first, last) = (from.range.min, to.range.max.saturating_sub(1));
        let ends = last.checked_add(step).is_some() && last.saturating_sub(first) / step.max(1) < MAX_ROUNDS;
        if step == 0 || !ends {
            self.errors.push(KernelError::Loop { id: id.0, from: first, to: to.range.max, step });
            return;
        }
        let max = match (from.range.constant(), to.range.constant()) {
            (Some(from), Some(_)) if from <= last => from + (last - from) / step * step,
            _ => last.max(first),
        };
        let uniform = from.uniform && to.uniform;
        let counter = Fact { below: to.at_most, at_most: to.at_most, ..Fact::new(Range::new(first, max), uniform) };
        self.counters[at] = Some(counter);
        let (outer, set) = (self.uniform, self.set.clone());
        self.uniform &= uniform;
        self.block(body);
        // The body may run no round at all.
        (self.uniform, self.set) = (outer, set);
        self.counters[at] = None;
    }

    fn eval(&mut self, e: Ex) {
        let at = e.0 as usize;
        if at >= self.kernel.exprs.len() {
            return self.handle("expression", e.0);
        }
        if std::mem::replace(&mut self.evaluated[at], true) {
            self.errors.push(KernelError::Twice { expr: e });
            return;
        }
        let expr = *self.kernel.expr(e);
        if !self.handles(e, &expr) {
            return;
        }
        match types::infer(self.kernel, &expr) {
            Ok(ty) if ty == self.kernel.ty(e) => {}
            Ok(ty) => {
                let reason = format!("it is {ty:?}, not {:?}", self.kernel.ty(e));
                self.errors.push(KernelError::Type { expr: e, reason });
                return;
            }
            Err(reason) => {
                self.errors.push(KernelError::Type { expr: e, reason });
                return;
            }
        }
        let fact = self.fact(e, &expr);
        self.facts[at] = Some(fact);
    }

    /// Whether everything that an expression names exists, and was computed before.
    fn handles(&mut self, e: Ex, expr: &Expr) -> bool {
        let before = self.errors.len();
        let limit = |kind: &'static str, i: u32, n: usize| (i as usize >= n).then_some((kind, i));
        let (k, mut operands) = (self.kernel, vec![]);
        let bad = match *expr {
            Expr::Unary(_, a) | Expr::Splat(a, _) | Expr::Extract(a, _) | Expr::Reduce { value: a, .. } => {
                operands.push(a);
                None
            }
            Expr::Trust(a, bound) => {
                operands.push(a);
                match bound {
                    DataBound::BelowUnits(arg) => limit("argument", arg, k.args.len()),
                    DataBound::Below(_) | DataBound::BelowImmediate(_) => None,
                }
            }
            Expr::Binary(_, a, b) | Expr::Dot(a, b) => {
                operands.extend([a, b]);
                None
            }
            Expr::Fma(a, b, c) | Expr::Select { cond: a, yes: b, no: c } => {
                operands.extend([a, b, c]);
                None
            }
            Expr::Compose4(parts) => {
                operands.extend(parts);
                None
            }
            Expr::Load { arg, index } => {
                operands.push(index);
                limit("argument", arg, k.args.len())
            }
            Expr::SharedGet(shared, index) => {
                operands.push(index);
                limit("shared array", shared.0, k.shared.len())
            }
            Expr::Get(var) => {
                if self.set.get(var.0 as usize) == Some(&false) {
                    self.errors.push(KernelError::Unset { var: var.0 });
                }
                limit("variable", var.0, k.vars.len())
            }
            Expr::Counter(id) => match self.counters.get(id.0 as usize) {
                Some(Some(_)) => None,
                _ => Some(("loop", id.0)),
            },
            _ => None,
        };
        if let Some((kind, i)) = bad {
            self.handle(kind, i);
        }
        for operand in operands {
            if self.known(operand).is_none() {
                self.errors.push(KernelError::Unevaluated { expr: operand, user: Some(e) });
            }
        }
        self.errors.len() == before
    }

    /// Checks `block` under the assumption that `cond` is `truth`.
    fn assuming(&mut self, cond: Ex, truth: bool, block: &Block) {
        let mut saved = vec![];
        self.refine(cond, truth, &mut { MAX_CONDITIONS }, &mut saved);
        self.block(block);
        for (e, fact) in saved.into_iter().rev() {
            self.facts[e] = Some(fact);
        }
    }

    fn known(&self, e: Ex) -> Option<Fact> {
        self.facts.get(e.0 as usize).copied().flatten()
    }

    /// The fact of a statement's operand of type `want`.
    fn operand(&mut self, e: Ex, want: KType) -> Option<Fact> {
        let Some(fact) = self.known(e) else {
            self.errors.push(KernelError::Unevaluated { expr: e, user: None });
            return None;
        };
        let got = self.kernel.ty(e);
        if got != want {
            self.errors.push(KernelError::Type { expr: e, reason: format!("expected {want:?}, got {got:?}") });
            return None;
        }
        Some(fact)
    }

    fn handle(&mut self, what: &'static str, index: u32) {
        self.errors.push(KernelError::Handle { what, index });
    }
}
