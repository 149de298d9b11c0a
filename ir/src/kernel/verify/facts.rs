//! What expressions and conditions tell of values, and the proofs that rest on it.

use super::range::{Fact, Place, Range};
use super::{Checker, KernelError};
use crate::kernel::{Access, Binary, DataBound, Ex, Expr, Immediate, KType, Length, Scalar, Unary};

impl Checker<'_> {
    /// What is known of a well-typed expression; reports what would be undefined.
    pub(super) fn fact(&mut self, e: Ex, expr: &Expr) -> Fact {
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
                let (below, at_most, mut place) = Fact::relate(op, &fa, &fb);
                if op == Binary::Mul {
                    place = self.table_row(a, b).or_else(|| self.table_row(b, a)).or(place);
                }
                let range = Range::binary(op, fa.range, fb.range);
                Fact { below, at_most, place, ..Fact::new(range, fa.uniform && fb.uniform) }
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
    fn is_data(&self, mut e: Ex) -> bool {
        loop {
            e = match *self.kernel.expr(e) {
                Expr::Load { .. } => return true,
                Expr::Trust(a, _) => a,
                Expr::Binary(Binary::Div, a, b) if matches!(self.kernel.expr(b), Expr::U32(_)) => a,
                _ => return false,
            };
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

    /// Takes what `cond` being `truth` says of its operands; what was known before goes to `saved`. Of a condition made of
    /// more than `left` others, some are not taken.
    pub(super) fn refine(&mut self, cond: Ex, truth: bool, left: &mut usize, saved: &mut Vec<(usize, Fact)>) {
        let Some(rest) = left.checked_sub(1) else { return };
        *left = rest;
        let (op, a, b) = match *self.kernel.expr(cond) {
            Expr::Unary(Unary::Not, a) => return self.refine(a, !truth, left, saved),
            Expr::Binary(op, a, b) => (op, a, b),
            _ => return,
        };
        if matches!((op, truth), (Binary::And, true) | (Binary::Or, false)) {
            self.refine(a, truth, left, saved);
            return self.refine(b, truth, left, saved);
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
    pub(super) fn index(&mut self, arg: u32, index: &Fact) {
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

    pub(super) fn shared_index(&mut self, shared: u32, len: u32, index: &Fact) {
        if index.range.max >= len {
            let (what, len) = (format!("shared array {shared}"), format!("{len} elements"));
            self.errors.push(KernelError::Index { what, len, min: index.range.min, max: index.range.max });
        }
    }

    /// Reports an operation that only some lanes may reach.
    pub(super) fn all_lanes(&mut self, what: &'static str) {
        if !self.uniform {
            self.errors.push(KernelError::Divergent { what });
        }
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
