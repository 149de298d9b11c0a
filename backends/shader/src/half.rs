//! Conversions between f32 and binary16. Shader languages leave rounding and subnormals of theirs to the device, so each
//! also exists as arithmetic that leaves nothing open.

use naga::{BinaryOperator as Op, Expression, Handle, Literal, MathFunction, ScalarKind};
use swiftlm_ir::kernel::{KType, Scalar};

use crate::lower::Lowering;
use crate::types;

impl Lowering<'_> {
    /// Two f32 rounded to nearest even, `low` in the low half.
    pub(crate) fn pack_half(&mut self, low: Handle<Expression>, high: Handle<Expression>) -> Handle<Expression> {
        if self.options.native_pack_half {
            let ty = types::value(&mut self.module, KType { scalar: Scalar::F32, width: 2 });
            let pair = self.add(Expression::Compose { ty, components: vec![low, high] });
            return self.math(MathFunction::Pack2x16float, pair);
        }
        let low = self.half_bits(low);
        let high = self.half_bits(high);
        let high = self.op_u32(Op::ShiftLeft, high, 16);
        self.op(Op::InclusiveOr, low, high)
    }

    /// The f32 of one half of a u32.
    pub(crate) fn unpack_half(&mut self, word: Handle<Expression>, high: bool) -> Handle<Expression> {
        if self.options.native_unpack_half {
            let pair = self.math(MathFunction::Unpack2x16float, word);
            return self.add(Expression::AccessIndex { base: pair, index: high.into() });
        }
        let bits = if high { self.op_u32(Op::ShiftRight, word, 16) } else { self.op_u32(Op::And, word, 0xffff) };
        self.half_value(bits)
    }

    /// Bits of an f32 rounded to nearest even binary16.
    fn half_bits(&mut self, x: Handle<Expression>) -> Handle<Expression> {
        let bits = self.add(Expression::As { expr: x, kind: ScalarKind::Uint, convert: None });
        let magnitude = self.op_u32(Op::And, bits, 0x7fff_ffff);
        // Normal results: re-bias the exponent by -112 and round by adding just under half a unit, or half if odd.
        let odd = self.op_u32(Op::ShiftRight, magnitude, 13);
        let odd = self.op_u32(Op::And, odd, 1);
        let normal = self.op_u32(Op::Add, magnitude, 0xfff_u32.wrapping_sub(112 << 23));
        let normal = self.op(Op::Add, normal, odd);
        let normal = self.op_u32(Op::ShiftRight, normal, 13);
        // Subnormal results: adding 0.5 leaves multiples of 2^-24 in the mantissa, rounded by the addition.
        let small = self.add(Expression::As { expr: magnitude, kind: ScalarKind::Float, convert: None });
        let half = self.literal(Literal::F32(0.5));
        let small = self.op(Op::Add, small, half);
        let small = self.add(Expression::As { expr: small, kind: ScalarKind::Uint, convert: None });
        let small = self.op_u32(Op::Subtract, small, 0.5_f32.to_bits());
        let (infinite, nan) = (self.literal(Literal::U32(0x7c00)), self.literal(Literal::U32(0x7e00)));
        let is_nan = self.op_u32(Op::Greater, magnitude, 0x7f80_0000);
        let large = self.add(Expression::Select { condition: is_nan, accept: nan, reject: infinite });
        // 65520 is halfway between the largest binary16 and the next power of two.
        let is_large = self.op_u32(Op::GreaterEqual, magnitude, 65520.0_f32.to_bits());
        let is_small = self.op_u32(Op::Less, magnitude, 113 << 23);
        let finite = self.add(Expression::Select { condition: is_small, accept: small, reject: normal });
        let rounded = self.add(Expression::Select { condition: is_large, accept: large, reject: finite });
        let sign = self.op_u32(Op::ShiftRight, bits, 16);
        let sign = self.op_u32(Op::And, sign, 0x8000);
        self.op(Op::InclusiveOr, rounded, sign)
    }

    /// The f32 of binary16 bits below 2^16.
    fn half_value(&mut self, bits: Handle<Expression>) -> Handle<Expression> {
        let magnitude = self.op_u32(Op::And, bits, 0x7fff);
        let shifted = self.op_u32(Op::ShiftLeft, magnitude, 13);
        let normal = self.op_u32(Op::Add, shifted, 112 << 23);
        let large = self.op_u32(Op::InclusiveOr, shifted, 0x7f80_0000);
        // Not by shifting the bits: the operand would be an f32 subnormal, which devices may take for zero.
        let small = self.add(Expression::As { expr: magnitude, kind: ScalarKind::Float, convert: Some(4) });
        let unit = self.literal(Literal::F32(2.0_f32.powi(-24)));
        let small = self.op(Op::Multiply, small, unit);
        let small = self.add(Expression::As { expr: small, kind: ScalarKind::Uint, convert: None });
        let is_large = self.op_u32(Op::GreaterEqual, magnitude, 0x7c00);
        let is_small = self.op_u32(Op::Less, magnitude, 0x400);
        let finite = self.add(Expression::Select { condition: is_small, accept: small, reject: normal });
        let value = self.add(Expression::Select { condition: is_large, accept: large, reject: finite });
        let sign = self.op_u32(Op::And, bits, 0x8000);
        let sign = self.op_u32(Op::ShiftLeft, sign, 16);
        let signed = self.op(Op::InclusiveOr, value, sign);
        self.add(Expression::As { expr: signed, kind: ScalarKind::Float, convert: None })
    }

    fn op_u32(&mut self, op: Op, left: Handle<Expression>, right: u32) -> Handle<Expression> {
        let right = self.literal(Literal::U32(right));
        self.op(op, left, right)
    }
}
