//! Expressions of a kernel as expressions of a naga function, each evaluated where the kernel evaluates it.

use naga::{BinaryOperator, Expression, Handle, Literal, MathFunction, ScalarKind, UnaryOperator};
use swiftlm_ir::kernel::{Binary, Ex, Expr, KType, Scalar, Unary};

use crate::lower::Lowering;
use crate::{ShaderError, types};

impl Lowering<'_> {
    /// Evaluates an expression at the end of the current block.
    pub(crate) fn eval(&mut self, e: Ex) -> Result<(), ShaderError> {
        let expr = *self.kernel.exprs.get(e.0 as usize).ok_or_else(|| self.unknown("expression", e.0))?;
        let value = match expr {
            Expr::F32(x) if x.is_finite() => self.literal(Literal::F32(x)),
            Expr::F32(x) => {
                let kernel = self.kernel.name.clone();
                return Err(ShaderError::NotFinite { kernel, expr: e.0, value: x.to_string() });
            }
            Expr::U32(n) => self.literal(Literal::U32(n)),
            Expr::Bool(b) => self.literal(Literal::Bool(b)),
            Expr::Immediate(i) => {
                let base = self.immediates.ok_or_else(|| self.unknown("immediate", i as u32))?;
                let pointer = self.add(Expression::AccessIndex { base, index: i as u32 });
                self.add(Expression::Load { pointer })
            }
            Expr::GroupId(axis) if axis < 3 => {
                let base = self.group.ok_or_else(|| self.unknown("axis", axis.into()))?;
                self.add(Expression::AccessIndex { base, index: axis.into() })
            }
            Expr::GroupId(axis) => return Err(self.unknown("axis", axis.into())),
            Expr::Lane => self.lane.ok_or_else(|| self.unknown("expression", e.0))?,
            Expr::Counter(id) => {
                self.counters.get(id.0 as usize).copied().flatten().ok_or_else(|| self.unknown("loop", id.0))?
            }
            Expr::Unary(op, x) => self.unary(e, op, x)?,
            Expr::Binary(op, a, b) => self.binary(e, op, a, b)?,
            Expr::Fma(a, b, c) => {
                let (a, b, c) = (self.value(a)?, self.value(b)?, self.value(c)?);
                self.add(Expression::Math { fun: MathFunction::Fma, arg: a, arg1: Some(b), arg2: Some(c), arg3: None })
            }
            Expr::Select { cond, yes, no } => {
                let (condition, accept, reject) = (self.value(cond)?, self.value(yes)?, self.value(no)?);
                self.add(Expression::Select { condition, accept, reject })
            }
            Expr::Splat(x, width) => {
                let value = self.value(x)?;
                let Some(size) = types::vector_size(width) else {
                    return Err(self.type_error(e, format!("splat to {width}"), x));
                };
                self.add(Expression::Splat { size, value })
            }
            Expr::Compose4(parts) => {
                let components = parts.iter().map(|p| self.value(*p)).collect::<Result<Vec<_>, _>>()?;
                let ty = types::value(&mut self.module, self.kernel.ty(e));
                self.add(Expression::Compose { ty, components })
            }
            Expr::Extract(x, i) => {
                let base = self.value(x)?;
                self.add(Expression::AccessIndex { base, index: i.into() })
            }
            Expr::Dot(a, b) => self.math2(MathFunction::Dot, a, b)?,
            Expr::Load { arg, index } => {
                let base = self.find(&self.args, "argument", arg)?;
                self.load_element(base, index)?
            }
            Expr::Get(var) => {
                let pointer = self.find(&self.vars, "variable", var.0)?;
                self.add(Expression::Load { pointer })
            }
            Expr::SharedGet(shared, index) => {
                let base = self.find(&self.shared, "shared array", shared.0)?;
                self.load_element(base, index)?
            }
            Expr::Reduce { op, value, width } => {
                let value = self.value(value)?;
                self.reduce(op, value, width)?
            }
            Expr::Trust(x, _) => self.value(x)?,
        };
        self.values[e.0 as usize] = Some(value);
        Ok(())
    }

    fn unary(&mut self, e: Ex, op: Unary, x: Ex) -> Result<Handle<Expression>, ShaderError> {
        let (expr, ty) = (self.value(x)?, self.kernel.ty(x));
        let convert = |kind, convert| Ok(Expression::As { expr, kind, convert });
        let lowered = match (op, ty.scalar) {
            (Unary::Neg, Scalar::F32) => Ok(Expression::Unary { op: UnaryOperator::Negate, expr }),
            (Unary::Not, Scalar::Bool) => Ok(Expression::Unary { op: UnaryOperator::LogicalNot, expr }),
            (Unary::Exp, Scalar::F32) => Ok(math1(MathFunction::Exp, expr)),
            (Unary::InverseSqrt, Scalar::F32) => Ok(math1(MathFunction::InverseSqrt, expr)),
            (Unary::Sqrt, Scalar::F32) => Ok(math1(MathFunction::Sqrt, expr)),
            (Unary::Tanh, Scalar::F32) => Ok(math1(MathFunction::Tanh, expr)),
            (Unary::Abs, Scalar::F32) => Ok(math1(MathFunction::Abs, expr)),
            (Unary::ToF32, Scalar::U32) => convert(ScalarKind::Float, Some(4)),
            (Unary::ToU32, Scalar::F32) => convert(ScalarKind::Uint, Some(4)),
            (Unary::Bitcast, Scalar::F32) => convert(ScalarKind::Uint, None),
            (Unary::Bitcast, Scalar::U32) => convert(ScalarKind::Float, None),
            (Unary::HalfLow | Unary::HalfHigh, Scalar::U32) => {
                let high = op == Unary::HalfHigh;
                return Ok(self
                    .each(ty, KType { scalar: Scalar::F32, ..ty }, [expr, expr], |l, [x, _]| l.unpack_half(x, high)));
            }
            _ => Err(self.type_error(e, format!("{op:?}"), x)),
        };
        lowered.map(|l| self.add(l))
    }

    fn binary(&mut self, e: Ex, op: Binary, a: Ex, b: Ex) -> Result<Handle<Expression>, ShaderError> {
        let ty = self.kernel.ty(a);
        let operator = match (op, ty.scalar) {
            (Binary::Add, Scalar::F32 | Scalar::U32) => BinaryOperator::Add,
            (Binary::Sub, Scalar::F32 | Scalar::U32) => BinaryOperator::Subtract,
            (Binary::Mul, Scalar::F32 | Scalar::U32) => BinaryOperator::Multiply,
            (Binary::Div, Scalar::F32 | Scalar::U32) => BinaryOperator::Divide,
            (Binary::Rem, Scalar::U32) => BinaryOperator::Modulo,
            (Binary::Min, Scalar::F32 | Scalar::U32) => return self.math2(MathFunction::Min, a, b),
            (Binary::Max, Scalar::F32 | Scalar::U32) => return self.math2(MathFunction::Max, a, b),
            (Binary::And, Scalar::Bool) if ty.width == 1 => BinaryOperator::LogicalAnd,
            (Binary::Or, Scalar::Bool) if ty.width == 1 => BinaryOperator::LogicalOr,
            (Binary::And, Scalar::U32) => BinaryOperator::And,
            (Binary::Or, Scalar::U32) => BinaryOperator::InclusiveOr,
            (Binary::Xor, Scalar::U32) => BinaryOperator::ExclusiveOr,
            (Binary::Shl, Scalar::U32) => BinaryOperator::ShiftLeft,
            (Binary::Shr, Scalar::U32) => BinaryOperator::ShiftRight,
            (Binary::Less, Scalar::F32 | Scalar::U32) => BinaryOperator::Less,
            (Binary::LessEqual, Scalar::F32 | Scalar::U32) => BinaryOperator::LessEqual,
            (Binary::Equal, _) => BinaryOperator::Equal,
            (Binary::PackHalf, Scalar::F32) => {
                let parts = [self.value(a)?, self.value(b)?];
                let packed = KType { scalar: Scalar::U32, ..ty };
                return Ok(self.each(ty, packed, parts, |l, [low, high]| l.pack_half(low, high)));
            }
            _ => return Err(self.type_error(e, format!("{op:?}"), a)),
        };
        let (left, right) = (self.value(a)?, self.value(b)?);
        Ok(self.op(operator, left, right))
    }

    /// Applies `f` to each element of vectors of type `from`, giving one of type `to`.
    fn each(
        &mut self,
        from: KType,
        to: KType,
        operands: [Handle<Expression>; 2],
        f: impl Fn(&mut Self, [Handle<Expression>; 2]) -> Handle<Expression>,
    ) -> Handle<Expression> {
        if from.width == 1 {
            return f(self, operands);
        }
        let components = (0..u32::from(from.width))
            .map(|index| {
                let parts = operands.map(|base| self.add(Expression::AccessIndex { base, index }));
                f(self, parts)
            })
            .collect();
        let ty = types::value(&mut self.module, to);
        self.add(Expression::Compose { ty, components })
    }

    fn load_element(&mut self, base: Handle<Expression>, index: Ex) -> Result<Handle<Expression>, ShaderError> {
        let index = self.value(index)?;
        let pointer = self.add(Expression::Access { base, index });
        Ok(self.add(Expression::Load { pointer }))
    }

    fn math2(&mut self, fun: MathFunction, a: Ex, b: Ex) -> Result<Handle<Expression>, ShaderError> {
        let (arg, arg1) = (self.value(a)?, Some(self.value(b)?));
        Ok(self.add(Expression::Math { fun, arg, arg1, arg2: None, arg3: None }))
    }

    /// A constant.
    pub(crate) fn literal(&mut self, literal: Literal) -> Handle<Expression> {
        self.add(Expression::Literal(literal))
    }

    /// A function of one operand.
    pub(crate) fn math(&mut self, fun: MathFunction, x: Handle<Expression>) -> Handle<Expression> {
        self.add(math1(fun, x))
    }

    /// An operator on two operands.
    pub(crate) fn op(
        &mut self,
        op: BinaryOperator,
        left: Handle<Expression>,
        right: Handle<Expression>,
    ) -> Handle<Expression> {
        self.add(Expression::Binary { op, left, right })
    }

    fn type_error(&self, e: Ex, op: String, operand: Ex) -> ShaderError {
        let KType { scalar, width } = self.kernel.ty(operand);
        let ty = if width == 1 { format!("{scalar:?}") } else { format!("{width} {scalar:?}") };
        ShaderError::Type { kernel: self.kernel.name.clone(), expr: e.0, op, ty }
    }
}

fn math1(fun: MathFunction, arg: Handle<Expression>) -> Expression {
    Expression::Math { fun, arg, arg1: None, arg2: None, arg3: None }
}
