//! Growing an epilogue: the elementwise ops after an anchor that one launch can take along.

use swiftlm_ir::graph::{Arg, Value};
use swiftlm_ir::map::{Map, MapStep, Reg};
use swiftlm_ir::ops::Op;
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::Extra;
use swiftlm_ir::ty::DType;

use super::{Fuser, GroupArg};

/// An anchor with what it absorbed.
#[derive(Clone, Debug)]
pub(super) struct Region {
    /// What is computed per element; accumulators come first, extras after them.
    pub(super) map: Map,
    /// Further inputs with their arguments, if they have one, in input order.
    pub(super) extras: Vec<(Extra, Option<GroupArg>)>,
    /// The one value that leaves.
    pub(super) output: Value,
    /// Everything computed inside, the output included.
    pub(super) members: Vec<Value>,
}

/// What a region may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extras {
    /// Weights and factors along the columns, and activations.
    Any,
    /// Activations.
    Elements,
    /// Accumulators only.
    None,
}

#[derive(Clone)]
struct Growing {
    map: Map,
    regs: Vec<(Value, Reg)>,
    extras: Vec<(Extra, Option<GroupArg>)>,
    accumulators: u16,
}

impl Growing {
    fn reg(&self, v: Value) -> Option<Reg> {
        self.regs.iter().find(|(value, _)| *value == v).map(|(_, reg)| *reg)
    }

    fn extra(&mut self, extra: Extra, arg: Option<GroupArg>) -> Reg {
        let at = self.extras.iter().position(|e| *e == (extra, arg.clone())).unwrap_or_else(|| {
            self.extras.push((extra, arg));
            self.extras.len() - 1
        });
        self.map.push(MapStep::Input(self.accumulators + at as u16))
    }
}

impl Region {
    /// The extras as a template has them.
    pub(super) fn inputs(&self) -> Vec<Extra> {
        self.extras.iter().map(|e| e.0).collect()
    }

    /// The arguments of the extras that have one.
    pub(super) fn args(&self) -> impl Iterator<Item = GroupArg> {
        self.extras.iter().filter_map(|e| e.1.clone())
    }
}

impl Fuser<'_> {
    /// The largest region around `anchor` that has one output. `halves` are the two slices of a paired product, which
    /// are then the accumulators in place of the anchor.
    pub(super) fn grow(&self, anchor: Value, halves: Option<[Value; 2]>, extras: Extras) -> Option<Region> {
        let accumulators: Vec<Value> = halves.map_or_else(|| vec![anchor], Vec::from);
        let mut growing =
            Growing { map: Map::default(), regs: vec![], extras: vec![], accumulators: accumulators.len() as u16 };
        for (i, v) in accumulators.iter().enumerate() {
            let reg = growing.map.push(MapStep::Input(i as u16));
            growing.regs.push((*v, reg));
        }
        let mut best = halves.is_none().then(|| self.region(&growing, anchor));
        let same_shape = |v: Value| self.g.value(v).ty == self.g.value(accumulators[0]).ty;
        for i in anchor.0 + 1..self.g.values.len() as u32 {
            let v = Value(i);
            if self.absorbed.contains(&v) || self.available.contains(&v) || !same_shape(v) {
                continue;
            }
            if halves.is_none() && !self.chooser.fuse() {
                break;
            }
            if let Some(reg) = self.take(&mut growing, v, extras) {
                growing.regs.push((v, reg));
                if let [output] = self.outputs(&growing, anchor)[..] {
                    best = Some(self.region(&growing, output));
                }
            }
        }
        best
    }

    /// A region whose anchor is itself elementwise.
    pub(super) fn grow_map(&self, anchor: Value) -> Option<Region> {
        let mut growing = Growing { map: Map::default(), regs: vec![], extras: vec![], accumulators: 0 };
        let reg = self.take_from(&mut growing, anchor, Extras::Any, true)?;
        growing.regs.push((anchor, reg));
        Some(self.region(&growing, anchor))
    }

    /// Whether an elementwise op is used by nothing but another, whose launch can compute it.
    pub(super) fn joins_later(&self, v: Value) -> bool {
        let user = self.only_user(v).filter(|user| self.g.value(*user).ty == self.g.value(v).ty);
        // What a product does to its input where it loads is no launch.
        let takes =
            |user: Value| !self.absorbed.contains(&user) && self.g.node(user).is_some_and(|(op, _)| elementwise(op));
        self.g.node(v).is_some_and(|(op, _)| elementwise(op)) && user.is_some_and(takes)
    }

    fn region(&self, growing: &Growing, output: Value) -> Region {
        let mut map = growing.map.clone();
        // The result is the last step; steps after it belong to larger regions that were not taken.
        if let Some(reg) = growing.reg(output) {
            map.steps.truncate(reg.0 as usize + 1);
        }
        let used = |i: usize| map.steps.contains(&MapStep::Input(growing.accumulators + i as u16));
        let keep = (0..growing.extras.len()).rev().find(|i| used(*i)).map_or(0, |i| i + 1);
        let last = growing.reg(output).map_or(u16::MAX, |reg| reg.0);
        let members = growing.regs.iter().filter(|(_, reg)| reg.0 <= last).map(|(v, _)| *v).collect();
        Region { map, extras: growing.extras[..keep].to_vec(), output, members }
    }

    fn outputs(&self, growing: &Growing, anchor: Value) -> Vec<Value> {
        let inside = |v: &Value| growing.reg(*v).is_some();
        let mut outputs: Vec<Value> = growing
            .regs
            .iter()
            .map(|(v, _)| *v)
            .filter(|v| self.uses[v.0 as usize].iter().any(|user| !user.as_ref().is_some_and(inside)))
            .collect();
        // With halves the anchor is no register, but a further use of it would have to see it whole.
        if !inside(&anchor) && self.uses[anchor.0 as usize].len() != 2 {
            outputs.push(anchor);
        }
        outputs
    }

    fn take(&self, growing: &mut Growing, v: Value, extras: Extras) -> Option<Reg> {
        self.take_from(growing, v, extras, false)
    }

    /// Adds one elementwise op if its operands are inside or lie in memory. `free` allows an op with no operand inside.
    fn take_from(&self, growing: &mut Growing, v: Value, extras: Extras, free: bool) -> Option<Reg> {
        let (op, args) = self.g.node(v)?;
        let inside = args.iter().any(|a| matches!(a, Arg::Value(x) if growing.reg(*x).is_some()));
        if !elementwise(op) || !(inside || free) {
            return None;
        }
        let outside = |a: &&Arg| !matches!(a, Arg::Value(x) if growing.reg(*x).is_some());
        let refused = |a: &Arg| match extras {
            Extras::Any => false,
            Extras::Elements => matches!(a, Arg::Weight(_)),
            Extras::None => true,
        };
        if args.iter().filter(outside).any(refused) {
            return None;
        }
        let mut grown = growing.clone();
        let mut regs = vec![];
        for a in args {
            regs.push(self.operand(&mut grown, *a, extras)?);
        }
        if let Op::ScalePart { start, len, factor } = op {
            // Columns are those of a row.
            if extras != Extras::Any {
                return None;
            }
            regs.push(grown.extra(Extra::Part { start: *start, len: *len, factor: *factor as f32 }, None));
        }
        *growing = grown;
        Some(emit(&mut growing.map, op, &regs))
    }

    /// An operand of an op that is taken: inside, in memory, or an elementwise op that nothing has computed yet.
    fn operand(&self, growing: &mut Growing, a: Arg, extras: Extras) -> Option<Reg> {
        if let Arg::Value(x) = a
            && let Some(reg) = growing.reg(x)
        {
            return Some(reg);
        }
        if let Some((extra, arg)) = self.source(a) {
            return Some(growing.extra(extra, Some(arg)));
        }
        let Arg::Value(x) = a else { return None };
        if self.absorbed.contains(&x) || self.available.contains(&x) {
            return None;
        }
        let reg = self.take_from(growing, x, extras, true)?;
        growing.regs.push((x, reg));
        Some(reg)
    }

    fn source(&self, a: Arg) -> Option<(Extra, GroupArg)> {
        match a {
            Arg::Weight(w) => {
                let ty = self.g.weights[w.0 as usize].ty;
                Some((Extra::Column(ty.format), GroupArg::Weight(w.0 as usize, 0, ty.rows)))
            }
            Arg::Value(x) => {
                let placed = self.place(x).ok()?;
                if !self.available.contains(&placed.base) {
                    return None;
                }
                let dense = placed.view == swiftlm_ir::template::View::dense(self.row_elements(x).ok()?);
                let arg = match self.read(placed.base) {
                    GroupArg::Read(base) if dense => GroupArg::ReadInPlace(base),
                    other => other,
                };
                Some((Extra::Element(placed.view), arg))
            }
        }
    }
}

fn elementwise(op: &Op) -> bool {
    match op {
        Op::Bias | Op::Add | Op::Mul | Op::Scale { .. } | Op::ScalePart { .. } | Op::Min { .. } | Op::Max { .. } => {
            true
        }
        Op::Silu | Op::GeluTanh | Op::Sigmoid | Op::Tanh => true,
        // Rounding by groups looks at neighbours, and to bfloat16 no step of a map does: the prologue of a product does both.
        Op::Round { to } => *to == Rounding::F16,
        _ => false,
    }
}

fn emit(map: &mut Map, op: &Op, regs: &[Reg]) -> Reg {
    let step = match (op, regs) {
        (Op::Bias | Op::Add, [a, b]) => MapStep::Add(*a, *b),
        (Op::Mul | Op::ScalePart { .. }, [a, b]) => MapStep::Mul(*a, *b),
        (Op::Scale { factor }, [a]) => {
            let factor = map.push(MapStep::Const(*factor as f32));
            MapStep::Mul(*a, factor)
        }
        (Op::Silu, [a]) => MapStep::Silu(*a),
        (Op::GeluTanh, [a]) => MapStep::GeluTanh(*a),
        (Op::Sigmoid, [a]) => MapStep::Sigmoid(*a),
        (Op::Tanh, [a]) => MapStep::Tanh(*a),
        (Op::Min { bound }, [a]) => MapStep::Min(*a, map.push(MapStep::Const(*bound as f32))),
        (Op::Max { bound }, [a]) => MapStep::Max(*a, map.push(MapStep::Const(*bound as f32))),
        (Op::Round { to: Rounding::F16 }, [a]) => MapStep::Round(*a, DType::F16),
        _ => unreachable!("`elementwise` lists the ops above with the arity of the op table"),
    };
    map.push(step)
}
