//! The kernel verifier: what it lets pass may run without runtime checks.
//!
//! It checks types and handles, that values are computed before they are used, that all lanes reach what all lanes must
//! reach, that loops end, and it proves every index: intervals of u32 values, refined by the conditions around a place,
//! and places among units whose number only a loaded model knows.
//! It assumes of a step what its host guarantees: immediates are at most [`Kernel::immediate_max`], an argument is as
//! long as declared and shorter than 2^32 elements, what an argument is declared to read nobody writes meanwhile, and
//! trusted data is within its bound. It assumes nothing of the grid.

mod error;
mod range;
mod types;

pub use error::KernelError;
use range::{Fact, Place, Range};

use super::{
    Access, Binary, Block, DataBound, Ex, Expr, Immediate, KType, Kernel, Length, LoopId, Scalar, Stmt, Unary,
};

/// Most rounds of a loop.
const MAX_ROUNDS: u32 = 1 << 26;

/// Checks a kernel.
///
/// # Errors
/// Everything that is wrong with it.
pub fn verify(kernel: &Kernel) -> Result<(), Vec<KernelError>> {
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

    /// What is known of a well-typed expression; reports what would be undefined.
    fn fact(&mut self, e: Ex, expr: &Expr) -> Fact {
        let known = |e: Ex| self.facts[e.0 as usize].unwrap_or(Fact::new(Range::ANY, false));
        let opaque = |operands: &[Ex]| Fact::new(Range::ANY, operands.iter().all(|e| known(*e).uniform));
        let constant = |n: u32| Fact::new(Range::exactly(n), true);
        match *expr {
            Expr::U32(n) => constant(n),
            Expr::F32(_) | Expr::Bool(_) | Expr::GroupId(_) => Fact::new(Range::ANY, true),
            Expr::Immediate(i) => {
                let range = Range::new(0, self.kernel.immediate_max[i as usize]);
                Fact { at_most: Some(i), ..Fact::new(range, true) }
            }
            Expr::Lane => Fact::new(Range::new(0, self.kernel.lanes - 1), self.kernel.lanes == 1),
            Expr::Counter(id) => self.counters[id.0 as usize].unwrap_or(Fact::new(Range::ANY, false)),
            Expr::Unary(_, a) => opaque(&[a]),
            Expr::Binary(op, a, b) if self.kernel.ty(a).scalar == Scalar::U32 => {
                let (fa, fb) = (known(a), known(b));
                let undefined = match op {
                    Binary::Div | Binary::Rem if fb.range.min == 0 => Some("division by what may be 0"),
                    Binary::Shl | Binary::Shr if fb.range.max > 31 => Some("shift by what may exceed 31"),
                    _ => None,
                };
                if let Some(what) = undefined {
                    self.errors.push(KernelError::Undefined { expr: e, what });
                }
                let (at_most, mut place) = Fact::relate(op, &fa, &fb);
                if op == Binary::Mul {
                    place = self.table_row(a, b).or_else(|| self.table_row(b, a)).or(place);
                }
                let range = Range::binary(op, fa.range, fb.range);
                Fact { at_most, place, ..Fact::new(range, fa.uniform && fb.uniform) }
            }
            Expr::Binary(_, a, b) | Expr::Dot(a, b) => opaque(&[a, b]),
            Expr::Fma(a, b, c) => opaque(&[a, b, c]),
            Expr::Select { cond, yes, no } => {
                let (yes, no) = (known(yes), known(no));
                Fact::new(yes.range.union(no.range), known(cond).uniform && yes.uniform && no.uniform)
            }
            Expr::Splat(a, _) | Expr::Extract(a, _) => Fact::new(known(a).range, known(a).uniform),
            Expr::Compose4(parts) => parts
                .iter()
                .map(|p| known(*p))
                .fold(known(parts[0]), |all, p| Fact::new(all.range.union(p.range), all.uniform && p.uniform)),
            Expr::Load { arg, index } => {
                let (index, access) = (known(index), self.kernel.args[arg as usize].access);
                self.index(arg, &index);
                // What nobody writes is the same for all who read it.
                Fact::new(Range::ANY, index.uniform && access == Access::Read)
            }
            Expr::Get(_) => Fact::new(Range::ANY, false),
            Expr::SharedGet(shared, index) => {
                let index = known(index);
                self.shared_index(shared.0, self.kernel.shared[shared.0 as usize].len, &index);
                Fact::new(Range::ANY, false)
            }
            Expr::Reduce { width, .. } => {
                if !width.is_power_of_two() || width > self.kernel.lanes {
                    self.errors.push(KernelError::Width { width, lanes: self.kernel.lanes });
                }
                self.all_lanes("a reduction");
                Fact::new(Range::ANY, width == self.kernel.lanes)
            }
            Expr::Trust(a, bound) => {
                if !self.is_data(a) {
                    self.errors.push(KernelError::NotData { expr: e });
                }
                trusted(known(a), bound, &self.kernel.immediate_max)
            }
        }
    }

    /// Whether an expression is loaded, or the quotient of something loaded: what a host can have checked.
    fn is_data(&self, e: Ex) -> bool {
        match *self.kernel.expr(e) {
            Expr::Load { .. } => true,
            Expr::Trust(a, _) => self.is_data(a),
            Expr::Binary(Binary::Div, a, b) => self.is_data(a) && matches!(self.kernel.expr(b), Expr::U32(_)),
            _ => false,
        }
    }

    /// `sequence · table stride`, where `a` is the sequence.
    fn table_row(&self, a: Ex, b: Ex) -> Option<Place> {
        let Some(Place::Unit { arg, scale: 1, rest: Range { min: 0, max: 0 } }) = self.known(a)?.place else {
            return None;
        };
        let stride = *self.kernel.expr(b) == Expr::Immediate(Immediate::TableStride);
        (stride && self.kernel.args[arg as usize].len == Length::PageTable).then_some(Place::TableRow { arg })
    }

    /// Checks `block` under the assumption that `cond` is `truth`.
    fn assuming(&mut self, cond: Ex, truth: bool, block: &Block) {
        let mut saved = vec![];
        self.refine(cond, truth, &mut saved);
        self.block(block);
        for (e, fact) in saved.into_iter().rev() {
            self.facts[e] = Some(fact);
        }
    }

    fn refine(&mut self, cond: Ex, truth: bool, saved: &mut Vec<(usize, Fact)>) {
        let (op, a, b) = match *self.kernel.expr(cond) {
            Expr::Unary(Unary::Not, a) => return self.refine(a, !truth, saved),
            Expr::Binary(op, a, b) => (op, a, b),
            _ => return,
        };
        if matches!((op, truth), (Binary::And, true) | (Binary::Or, false)) {
            self.refine(a, truth, saved);
            return self.refine(b, truth, saved);
        }
        if self.kernel.ty(a) != KType::U32 {
            return;
        }
        let (Some(fa), Some(fb)) = (self.known(a), self.known(b)) else { return };
        // Ordered so that `low < high` or `low <= high` holds.
        let ordered = match (op, truth) {
            (Binary::Less, true) => Some((a, fa, b, fb, true)),
            (Binary::Less, false) => Some((b, fb, a, fa, false)),
            (Binary::LessEqual, true) => Some((a, fa, b, fb, false)),
            (Binary::LessEqual, false) => Some((b, fb, a, fa, true)),
            _ => None,
        };
        let mut learn = |e: Ex, fact: Fact| {
            saved.extend(self.facts[e.0 as usize].replace(fact).map(|old| (e.0 as usize, old)));
        };
        if let Some((low, mut fl, high, mut fh, strict)) = ordered {
            let gap = u32::from(strict);
            let (max, min) = (fh.range.max.saturating_sub(gap), fl.range.min.saturating_add(gap));
            if strict {
                fl.below = fh.at_most.or(fl.below);
            } else {
                fl.at_most = fh.at_most.or(fl.at_most);
                fl.below = fh.below.or(fl.below);
            }
            (fl.range, fh.range) = (fl.range.at_most(max), fh.range.at_least(min));
            learn(low, fl);
            learn(high, fh);
        } else if (op, truth) == (Binary::Equal, true) {
            let both = fa.range.at_most(fb.range.max).at_least(fb.range.min);
            learn(a, Fact { range: both, ..fa });
            learn(b, Fact { range: both, ..fb });
        }
    }

    /// Proves that an index lies in its argument.
    fn index(&mut self, arg: u32, index: &Fact) {
        let declared = &self.kernel.args[arg as usize];
        let (proven, len) = match declared.len {
            Length::Elements(n) => (u64::from(index.range.max) < n, format!("{n} elements")),
            Length::Units(n) => {
                let inside = matches!(index.place, Some(Place::Unit { arg: of, scale, rest })
                    if of == arg && u64::from(scale) == n && u64::from(rest.max) < n);
                (inside, format!("units of {n} elements"))
            }
            Length::PageTable => {
                (index.place == Some(Place::TableEntry { arg }), "rows of table_stride entries".into())
            }
        };
        if !proven {
            let what = format!("argument `{}`", declared.name);
            self.errors.push(KernelError::Index { what, len, min: index.range.min, max: index.range.max });
        }
    }

    fn shared_index(&mut self, shared: u32, len: u32, index: &Fact) {
        if index.range.max >= len {
            let (what, len) = (format!("shared array {shared}"), format!("{len} elements"));
            self.errors.push(KernelError::Index { what, len, min: index.range.min, max: index.range.max });
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

    fn all_lanes(&mut self, what: &'static str) {
        if !self.uniform {
            self.errors.push(KernelError::Divergent { what });
        }
    }

    fn handle(&mut self, what: &'static str, index: u32) {
        self.errors.push(KernelError::Handle { what, index });
    }
}

fn trusted(mut fact: Fact, bound: DataBound, immediate_max: &[u32; 3]) -> Fact {
    match bound {
        DataBound::Below(n) => fact.range = fact.range.at_most(n.saturating_sub(1)),
        DataBound::BelowImmediate(i) => {
            fact.range = fact.range.at_most(immediate_max[i as usize].saturating_sub(1));
            (fact.below, fact.at_most) = (Some(i), Some(i));
        }
        DataBound::BelowUnits(arg) => fact.place = Some(Place::Unit { arg, scale: 1, rest: Range::exactly(0) }),
    }
    fact
}
