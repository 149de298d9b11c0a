//! The kernel DSL: Rust functions over [`Kb`] write kernels; build-time `if` and `for` are the template language.
//!
//! [`E`] is a typed handle with operators. Every expression is evaluated where it is written. Constants fold while
//! building, so shape arithmetic written once costs nothing where shapes are known.

use std::cell::RefCell;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Shr, Sub};

use super::{
    Access, Binary, Block, DataBound, Ex, Expr, Immediate, KArg, KType, Kernel, Length, LoopId, ReduceOp, Scalar,
    Shared, SharedArray, Stmt, Unary, Var,
};
use crate::map::{Map, MapStep};
use crate::ty::DType;

/// A kernel under construction.
#[derive(Debug)]
pub struct Kb {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    kernel: Kernel,
    blocks: Vec<Block>,
}

/// An expression of a kernel under construction.
#[derive(Clone, Copy, Debug)]
pub struct E<'k> {
    kb: &'k Kb,
    /// The handle.
    pub ex: Ex,
}

/// An argument of a kernel under construction.
#[derive(Clone, Copy, Debug)]
pub struct A<'k> {
    kb: &'k Kb,
    /// Argument index.
    pub index: u32,
}

/// A private variable of a kernel under construction.
#[derive(Clone, Copy, Debug)]
pub struct V<'k> {
    kb: &'k Kb,
    var: Var,
}

/// A shared array of a kernel under construction.
#[derive(Clone, Copy, Debug)]
pub struct S<'k> {
    kb: &'k Kb,
    shared: Shared,
}

impl Kb {
    /// A kernel of workgroups of `lanes` lanes, for steps whose sizes are at most `immediate_max`.
    pub fn new(name: &str, lanes: u32, immediate_max: [u32; 3]) -> Self {
        let kernel = Kernel { name: name.to_owned(), lanes, immediate_max, ..Kernel::default() };
        Self { inner: RefCell::new(Inner { kernel, blocks: vec![vec![]] }) }
    }

    /// The finished kernel.
    pub fn finish(self) -> Kernel {
        let mut inner = self.inner.into_inner();
        inner.kernel.body = inner.blocks.pop().unwrap_or_default();
        inner.kernel
    }

    /// Lanes of a workgroup.
    pub fn lanes(&self) -> u32 {
        self.inner.borrow().kernel.lanes
    }

    /// Declares the next argument.
    pub fn arg(&self, name: &str, access: Access, elem: KType, len: Length) -> A<'_> {
        let args = &mut self.inner.borrow_mut().kernel.args;
        args.push(KArg { name: name.to_owned(), access, elem, len });
        A { kb: self, index: args.len() as u32 - 1 }
    }

    fn add(&self, expr: Expr, ty: KType) -> E<'_> {
        let mut inner = self.inner.borrow_mut();
        let ex = Ex(inner.kernel.exprs.len() as u32);
        inner.kernel.exprs.push(expr);
        inner.kernel.types.push(ty);
        if let Some(block) = inner.blocks.last_mut() {
            block.push(Stmt::Eval(ex));
        }
        E { kb: self, ex }
    }

    fn stmt(&self, stmt: Stmt) {
        if let Some(block) = self.inner.borrow_mut().blocks.last_mut() {
            block.push(stmt);
        }
    }

    fn constant(&self, e: Ex) -> Option<u32> {
        if let Expr::U32(n) = self.inner.borrow().kernel.exprs[e.0 as usize] { Some(n) } else { None }
    }

    fn ty(&self, e: Ex) -> KType {
        self.inner.borrow().kernel.types[e.0 as usize]
    }

    /// u32 constant.
    pub fn u32(&self, n: u32) -> E<'_> {
        self.add(Expr::U32(n), KType::U32)
    }

    /// u32 constant from a shape.
    pub fn dim(&self, n: usize) -> E<'_> {
        self.u32(u32::try_from(n).expect("extents inside a kernel fit 32 bits"))
    }

    /// f32 constant.
    pub fn f32(&self, x: f32) -> E<'_> {
        self.add(Expr::F32(x), KType::F32)
    }

    /// A number given by the step.
    pub fn immediate(&self, i: Immediate) -> E<'_> {
        self.add(Expr::Immediate(i), KType::U32)
    }

    /// Workgroup index along an axis.
    pub fn group(&self, axis: u8) -> E<'_> {
        self.add(Expr::GroupId(axis), KType::U32)
    }

    /// Lane index.
    pub fn lane(&self) -> E<'_> {
        self.add(Expr::Lane, KType::U32)
    }

    /// A private variable set to `init`.
    pub fn var<'k>(&'k self, init: E<'k>) -> V<'k> {
        let var = {
            let mut inner = self.inner.borrow_mut();
            let ty = inner.kernel.types[init.ex.0 as usize];
            inner.kernel.vars.push(ty);
            Var(inner.kernel.vars.len() as u32 - 1)
        };
        let v = V { kb: self, var };
        v.set(init);
        v
    }

    /// A shared array.
    pub fn shared(&self, elem: KType, len: u32) -> S<'_> {
        let mut inner = self.inner.borrow_mut();
        inner.kernel.shared.push(SharedArray { elem, len });
        S { kb: self, shared: Shared(inner.kernel.shared.len() as u32 - 1) }
    }

    /// All lanes arrive.
    pub fn barrier(&self) {
        self.stmt(Stmt::Barrier);
    }

    fn block(&self, f: impl FnOnce()) -> Block {
        self.inner.borrow_mut().blocks.push(vec![]);
        f();
        self.inner.borrow_mut().blocks.pop().unwrap_or_default()
    }

    /// Lanes where `cond` holds run `then`.
    pub fn when(&self, cond: E<'_>, then: impl FnOnce()) {
        self.when_else(cond, then, || {});
    }

    /// Lanes where `cond` holds run `then`, the others `otherwise`.
    pub fn when_else(&self, cond: E<'_>, then: impl FnOnce(), otherwise: impl FnOnce()) {
        let (then, otherwise) = (self.block(then), self.block(otherwise));
        self.stmt(Stmt::If { cond: cond.ex, then, otherwise });
    }

    /// `for i in (from..to).step_by(step)` at run time.
    pub fn range<'k>(&'k self, from: E<'k>, to: E<'k>, step: u32, body: impl FnOnce(E<'k>)) {
        let id = {
            let kernel = &mut self.inner.borrow_mut().kernel;
            kernel.loops += 1;
            LoopId(kernel.loops - 1)
        };
        let body = self.block(|| body(self.add(Expr::Counter(id), KType::U32)));
        self.stmt(Stmt::Loop { id, from: from.ex, to: to.ex, step, body });
    }

    /// Lanes share the range `0..n`: lane `l` runs `l, l + lanes, …`. Where `lanes` divides a constant `n` no lane idles.
    pub fn for_lanes<'k>(&'k self, n: usize, body: impl FnOnce(E<'k>)) {
        self.range(self.lane(), self.dim(n), self.lanes(), body);
    }

    /// Sum over `0..n` shared by runs of `width` lanes, the same in every lane of a run: each lane adds its own
    /// elements in order, then lanes combine by halving.
    pub fn fold_sum<'k>(&'k self, lane: E<'k>, width: u32, n: usize, element: impl FnOnce(E<'k>) -> E<'k>) -> E<'k> {
        let sum = self.var(self.f32(0.0));
        self.range(lane, self.dim(n), width, |i| sum.set(sum.get() + element(i)));
        self.reduce(ReduceOp::Sum, sum.get(), width)
    }

    /// Reduction over each aligned run of `width` lanes.
    pub fn reduce<'k>(&'k self, op: ReduceOp, value: E<'k>, width: u32) -> E<'k> {
        if width == 1 {
            return value;
        }
        self.add(Expr::Reduce { op, value: value.ex, width }, KType::F32)
    }

    /// Emits an elementwise program for one element; `input(i)` gives input `i`.
    pub fn map<'k>(&'k self, map: &Map, mut input: impl FnMut(u16) -> E<'k>) -> E<'k> {
        map.run(|step, r: &[E<'k>]| {
            let at = |reg: &crate::map::Reg| r[reg.0 as usize];
            match step {
                MapStep::Input(i) => input(*i),
                MapStep::Const(c) => self.f32(*c),
                MapStep::Add(a, b) => at(a) + at(b),
                MapStep::Mul(a, b) => at(a) * at(b),
                MapStep::Silu(a) => at(a).silu(),
                MapStep::GeluTanh(a) => at(a).gelu_tanh(),
                MapStep::Sigmoid(a) => at(a).sigmoid(),
                MapStep::Tanh(a) => at(a).tanh_of_any(),
                MapStep::Min(a, b) => at(a).min(at(b)),
                MapStep::Max(a, b) => at(a).max(at(b)),
                MapStep::Round(a, to) => at(a).round(*to),
            }
        })
        .unwrap_or_else(|| self.f32(0.0))
    }
}

impl<'k> A<'k> {
    /// Element `index`.
    pub fn load(&self, index: E<'k>) -> E<'k> {
        let ty = self.kb.inner.borrow().kernel.args[self.index as usize].elem;
        self.kb.add(Expr::Load { arg: self.index, index: index.ex }, ty)
    }

    /// Writes element `index`.
    pub fn store(&self, index: E<'k>, value: E<'k>) {
        self.kb.stmt(Stmt::Store { arg: self.index, index: index.ex, value: value.ex });
    }
}

impl<'k> V<'k> {
    /// Its value now.
    pub fn get(&self) -> E<'k> {
        let ty = self.kb.inner.borrow().kernel.vars[self.var.0 as usize];
        self.kb.add(Expr::Get(self.var), ty)
    }

    /// Sets it.
    pub fn set(&self, value: E<'k>) {
        self.kb.stmt(Stmt::Set(self.var, value.ex));
    }
}

impl<'k> S<'k> {
    /// Element `index`.
    pub fn get(&self, index: E<'k>) -> E<'k> {
        let ty = self.kb.inner.borrow().kernel.shared[self.shared.0 as usize].elem;
        self.kb.add(Expr::SharedGet(self.shared, index.ex), ty)
    }

    /// Writes element `index`.
    pub fn set(&self, index: E<'k>, value: E<'k>) {
        self.kb.stmt(Stmt::SharedSet(self.shared, index.ex, value.ex));
    }
}

impl<'k> E<'k> {
    /// Type of the expression.
    pub fn ty(self) -> KType {
        self.kb.ty(self.ex)
    }

    fn unary(self, op: Unary) -> Self {
        let ty = self.ty();
        let scalar = match op {
            Unary::ToF32 | Unary::HalfLow | Unary::HalfHigh => Scalar::F32,
            Unary::ToU32 => Scalar::U32,
            Unary::Bitcast if ty.scalar == Scalar::F32 => Scalar::U32,
            Unary::Bitcast => Scalar::F32,
            _ => ty.scalar,
        };
        self.kb.add(Expr::Unary(op, self.ex), KType { scalar, ..ty })
    }

    fn binary(self, op: Binary, other: Self) -> Self {
        let ty = self.ty();
        if ty == KType::U32
            && let Some(folded) = self.fold(op, other)
        {
            return folded;
        }
        let scalar = match op {
            Binary::Less | Binary::LessEqual | Binary::Equal => Scalar::Bool,
            Binary::PackHalf => Scalar::U32,
            _ => ty.scalar,
        };
        self.kb.add(Expr::Binary(op, self.ex, other.ex), KType { scalar, ..ty })
    }

    /// Folds u32 arithmetic on constants and neutral elements.
    fn fold(self, op: Binary, other: Self) -> Option<Self> {
        let (a, b) = (self.kb.constant(self.ex), self.kb.constant(other.ex));
        let n = match (op, a, b) {
            (Binary::Add, Some(a), Some(b)) => a.checked_add(b)?,
            (Binary::Sub, Some(a), Some(b)) => a.checked_sub(b)?,
            (Binary::Mul, Some(a), Some(b)) => a.checked_mul(b)?,
            (Binary::Div, Some(a), Some(b)) => a.checked_div(b)?,
            (Binary::Rem, Some(a), Some(b)) => a.checked_rem(b)?,
            (Binary::Add | Binary::Sub | Binary::Shl | Binary::Shr, _, Some(0))
            | (Binary::Mul | Binary::Div, _, Some(1)) => {
                return Some(self);
            }
            (Binary::Add, Some(0), _) | (Binary::Mul, Some(1), _) => return Some(other),
            (Binary::Mul, _, Some(0)) | (Binary::Mul, Some(0), _) | (Binary::Rem, _, Some(1)) => 0,
            _ => return None,
        };
        Some(self.kb.u32(n))
    }

    /// `e^x`.
    pub fn exp(self) -> Self {
        self.unary(Unary::Exp)
    }
    /// `1/√x`.
    pub fn rsqrt(self) -> Self {
        self.unary(Unary::InverseSqrt)
    }
    /// Hyperbolic tangent.
    pub fn tanh(self) -> Self {
        self.unary(Unary::Tanh)
    }
    /// `|x|`.
    pub fn abs(self) -> Self {
        self.unary(Unary::Abs)
    }
    /// u32 → f32 by value.
    pub fn to_f32(self) -> Self {
        self.unary(Unary::ToF32)
    }
    /// f32 → u32, truncating.
    pub fn to_u32(self) -> Self {
        self.unary(Unary::ToU32)
    }
    /// Same bits as the other 32-bit type.
    pub fn bitcast(self) -> Self {
        self.unary(Unary::Bitcast)
    }
    /// Low half of a u32 as binary16.
    pub fn half_low(self) -> Self {
        self.unary(Unary::HalfLow)
    }
    /// High half of a u32 as binary16.
    pub fn half_high(self) -> Self {
        self.unary(Unary::HalfHigh)
    }
    /// `x · x`.
    pub fn square(self) -> Self {
        self * self
    }
    /// `x · sigmoid(x)`.
    pub fn silu(self) -> Self {
        self / (self.kb.f32(1.0) + (-self).exp())
    }
    /// `1 / (1 + e^-x)`.
    pub fn sigmoid(self) -> Self {
        let one = self.kb.f32(1.0);
        one / (one + (-self).exp())
    }
    /// Tanh approximation of GELU.
    pub fn gelu_tanh(self) -> Self {
        let k = self.kb;
        let inner = k.f32((2.0 / std::f32::consts::PI).sqrt()) * (self + k.f32(0.044_715) * self * self * self);
        k.f32(0.5) * self * (k.f32(1.0) + inner.tanh_of_any())
    }
    /// `tanh x` of an f32 of any size: beyond ±10 it is ±1, and some devices overflow inside [`Self::tanh`].
    pub fn tanh_of_any(self) -> Self {
        self.min(self.kb.f32(10.0)).max(self.kb.f32(-10.0)).tanh()
    }
    /// Rounds to nearest even in `to` and back.
    pub fn round(self, to: DType) -> Self {
        match to {
            DType::F16 => self.pack_half(self).half_low(),
            DType::F32 | DType::U32 => self,
        }
    }
    /// Smaller of two.
    pub fn min(self, other: Self) -> Self {
        self.binary(Binary::Min, other)
    }
    /// Larger of two.
    pub fn max(self, other: Self) -> Self {
        self.binary(Binary::Max, other)
    }
    /// `self < other`.
    pub fn lt(self, other: Self) -> Self {
        self.binary(Binary::Less, other)
    }
    /// `self <= other`.
    pub fn le(self, other: Self) -> Self {
        self.binary(Binary::LessEqual, other)
    }
    /// `self == other`.
    pub fn equals(self, other: Self) -> Self {
        self.binary(Binary::Equal, other)
    }
    /// Two f32 as binary16 halves of a u32, `self` low.
    pub fn pack_half(self, high: Self) -> Self {
        self.binary(Binary::PackHalf, high)
    }
    /// `yes` where `self` holds, else `no`.
    pub fn select(self, yes: Self, no: Self) -> Self {
        let ty = yes.ty();
        self.kb.add(Expr::Select { cond: self.ex, yes: yes.ex, no: no.ex }, ty)
    }
    /// `self · b + c`.
    pub fn fma(self, b: Self, c: Self) -> Self {
        let ty = self.ty();
        self.kb.add(Expr::Fma(self.ex, b.ex, c.ex), ty)
    }
    /// Vector of equal elements.
    pub fn splat(self, width: u8) -> Self {
        let ty = KType { width, ..self.ty() };
        self.kb.add(Expr::Splat(self.ex, width), ty)
    }
    /// Element of a vector; of a scalar, itself.
    pub fn extract(self, i: u8) -> Self {
        let ty = self.ty();
        if ty.width == 1 {
            return self;
        }
        self.kb.add(Expr::Extract(self.ex, i), KType { width: 1, ..ty })
    }
    /// Vector of four scalars.
    pub fn compose4(parts: [Self; 4]) -> Self {
        let ty = KType { width: 4, ..parts[0].ty() };
        parts[0].kb.add(Expr::Compose4(parts.map(|p| p.ex)), ty)
    }
    /// Dot product of two f32 vectors.
    pub fn dot(self, other: Self) -> Self {
        self.kb.add(Expr::Dot(self.ex, other.ex), KType::F32)
    }
    /// The same value, bounded by what its writer checked.
    pub fn trust(self, bound: DataBound) -> Self {
        self.kb.add(Expr::Trust(self.ex, bound), KType::U32)
    }
    /// Adds a shape constant.
    pub fn plus(self, n: usize) -> Self {
        if n == 0 { self } else { self + self.kb.dim(n) }
    }
    /// Multiplies by a shape constant.
    pub fn times(self, n: usize) -> Self {
        if n == 1 { self } else { self * self.kb.dim(n) }
    }
    /// Divides by a shape constant.
    pub fn over(self, n: usize) -> Self {
        if n == 1 { self } else { self / self.kb.dim(n) }
    }
    /// Remainder by a shape constant.
    pub fn modulo(self, n: usize) -> Self {
        self % self.kb.dim(n)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident;)+) => {
        $(impl<'k> $trait for E<'k> {
            type Output = E<'k>;
            fn $method(self, other: Self) -> Self {
                self.binary(Binary::$op, other)
            }
        })+
    };
}
operators! {
    Add add Add; Sub sub Sub; Mul mul Mul; Div div Div; Rem rem Rem;
    BitAnd bitand And; BitOr bitor Or; BitXor bitxor Xor; Shl shl Shl; Shr shr Shr;
}

impl Neg for E<'_> {
    type Output = Self;
    fn neg(self) -> Self {
        self.unary(Unary::Neg)
    }
}

impl Not for E<'_> {
    type Output = Self;
    fn not(self) -> Self {
        self.unary(Unary::Not)
    }
}
