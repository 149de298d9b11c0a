//! Types of expressions from the types of their operands.

use crate::kernel::{Binary, Ex, Expr, KType, Kernel, Scalar, Unary};

/// The type of an expression whose handles are in range.
///
/// # Errors
/// A sentence saying what was expected and got.
pub(super) fn infer(kernel: &Kernel, expr: &Expr) -> Result<KType, String> {
    let ty = |e: Ex| kernel.ty(e);
    let is = |e: Ex, want: KType| match ty(e) {
        got if got == want => Ok(()),
        got => Err(format!("expected {want:?}, got {got:?}")),
    };
    let floats = |e: Ex| match ty(e) {
        got if got.scalar == Scalar::F32 => Ok(got),
        got => Err(format!("expected f32, got {got:?}")),
    };
    let same = |a: Ex, b: Ex| match (ty(a), ty(b)) {
        (a, b) if a == b => Ok(a),
        (a, b) => Err(format!("operands differ: {a:?} and {b:?}")),
    };
    let scalar = |e: Ex| match ty(e) {
        got if got.width == 1 => Ok(got),
        got => Err(format!("expected a scalar, got {got:?}")),
    };
    match *expr {
        Expr::F32(x) if !x.is_finite() => Err(format!("constant {x} is not finite")),
        Expr::F32(_) => Ok(KType::F32),
        Expr::U32(_) | Expr::Immediate(_) | Expr::Lane | Expr::Counter(_) => Ok(KType::U32),
        Expr::GroupId(axis) if axis > 2 => Err(format!("axis {axis} does not exist")),
        Expr::GroupId(_) => Ok(KType::U32),
        Expr::Bool(_) => Ok(KType::BOOL),
        Expr::Unary(op, a) => unary(op, ty(a)),
        Expr::Binary(op, a, b) => binary(op, same(a, b)?),
        Expr::Fma(a, b, c) => same(a, b).and_then(|_| same(b, c)).and_then(|_| floats(a)),
        Expr::Select { cond, yes, no } => is(cond, KType::BOOL).and_then(|()| same(yes, no)),
        Expr::Splat(a, width @ (2 | 4)) => Ok(KType { width, ..scalar(a)? }),
        Expr::Splat(_, width) => Err(format!("no vector has {width} elements")),
        Expr::Compose4(parts) => {
            for part in parts {
                same(parts[0], part)?;
            }
            Ok(KType { width: 4, ..scalar(parts[0])? })
        }
        Expr::Extract(a, i) if ty(a).width > 1 && i < ty(a).width => Ok(KType { width: 1, ..ty(a) }),
        Expr::Extract(a, i) => Err(format!("{:?} has no element {i}", ty(a))),
        Expr::Dot(a, b) => match floats(a).and_then(|_| same(a, b))? {
            got if got.width > 1 => Ok(KType::F32),
            got => Err(format!("expected vectors, got {got:?}")),
        },
        Expr::Load { arg, index } => is(index, KType::U32).map(|()| kernel.args[arg as usize].elem),
        Expr::Get(var) => Ok(kernel.vars[var.0 as usize]),
        Expr::SharedGet(shared, index) => is(index, KType::U32).map(|()| kernel.shared[shared.0 as usize].elem),
        Expr::Reduce { value, .. } => is(value, KType::F32).map(|()| KType::F32),
        Expr::Trust(a, _) => is(a, KType::U32).map(|()| KType::U32),
    }
}

fn unary(op: Unary, a: KType) -> Result<KType, String> {
    let (want, gives) = match (op, a.scalar) {
        (Unary::Neg | Unary::Exp | Unary::InverseSqrt | Unary::Sqrt | Unary::Tanh | Unary::Abs, _) => {
            (Scalar::F32, Scalar::F32)
        }
        (Unary::Not, _) => (Scalar::Bool, Scalar::Bool),
        (Unary::ToF32 | Unary::HalfLow | Unary::HalfHigh, _) => (Scalar::U32, Scalar::F32),
        (Unary::ToU32, _) | (Unary::Bitcast, Scalar::F32) => (Scalar::F32, Scalar::U32),
        (Unary::Bitcast, _) => (Scalar::U32, Scalar::F32),
    };
    match a.scalar == want {
        true => Ok(KType { scalar: gives, ..a }),
        false => Err(format!("{op:?} of {a:?}")),
    }
}

fn binary(op: Binary, a: KType) -> Result<KType, String> {
    let (allowed, gives): (&[Scalar], Scalar) = match op {
        Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Min | Binary::Max => {
            (&[Scalar::F32, Scalar::U32], a.scalar)
        }
        Binary::Rem | Binary::Xor | Binary::Shl | Binary::Shr => (&[Scalar::U32], Scalar::U32),
        Binary::And | Binary::Or => (&[Scalar::U32, Scalar::Bool], a.scalar),
        Binary::Less | Binary::LessEqual | Binary::Equal => (&[Scalar::F32, Scalar::U32], Scalar::Bool),
        Binary::PackHalf => (&[Scalar::F32], Scalar::U32),
    };
    match allowed.contains(&a.scalar) {
        true => Ok(KType { scalar: gives, ..a }),
        false => Err(format!("{op:?} of {a:?}")),
    }
}
