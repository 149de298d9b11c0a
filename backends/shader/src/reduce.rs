//! Reductions over runs of lanes, in the one order that kernel IR declares: halving, far lanes first.
//!
//! Distances within a subgroup are shuffles. Farther ones go through shared memory, three distances per exchange: a lane
//! publishes its value, reads the values of the eight lanes that three halvings would combine, and combines them itself
//! in the same pairs. Sum and maximum commute, so every lane gets the bits that halving one by one would give.

use naga::{Barrier, BinaryOperator, Expression, GatherMode, Handle, Literal, MathFunction, Span, Statement};
use swiftlm_ir::kernel::{Expr, KType, Kernel, ReduceOp, Stmt};

use crate::lower::Lowering;
use crate::{ShaderError, types};

/// Halvings of one exchange through shared memory; eight reads for two barriers.
const HALVINGS_PER_EXCHANGE: usize = 3;

/// Bytes of shared memory that a kernel's reductions need beside its own arrays, on devices whose subgroups all have
/// `subgroup` lanes, or whatever their size with `None`.
pub fn scratch_bytes(kernel: &Kernel, subgroup: Option<u32>) -> usize {
    if kernel.exprs.iter().any(|e| exchanges(e, subgroup)) { 4 * kernel.lanes as usize } else { 0 }
}

/// Whether an expression uses the scratch.
fn exchanges(e: &Expr, subgroup: Option<u32>) -> bool {
    matches!(e, Expr::Reduce { width, .. } if *width > subgroup.unwrap_or(1))
}

impl Lowering<'_> {
    /// Whether some statement uses the scratch.
    pub(crate) fn exchanges_in(&self, body: &[Stmt]) -> bool {
        body.iter().any(|s| match s {
            Stmt::Eval(e) => self.kernel.exprs.get(e.0 as usize).is_some_and(|e| exchanges(e, self.options.subgroup)),
            Stmt::If { then, otherwise, .. } => self.exchanges_in(then) || self.exchanges_in(otherwise),
            Stmt::Loop { body, .. } => self.exchanges_in(body),
            Stmt::Store { .. } | Stmt::Set(..) | Stmt::SharedSet(..) | Stmt::Barrier => false,
        })
    }

    /// The reduction of `value` over the lane's run of `width`.
    pub(crate) fn reduce(
        &mut self,
        op: ReduceOp,
        value: Handle<Expression>,
        width: u32,
    ) -> Result<Handle<Expression>, ShaderError> {
        let lanes = self.kernel.lanes;
        if !width.is_power_of_two() || !lanes.is_multiple_of(width) {
            return Err(ShaderError::ReduceWidth { kernel: self.kernel.name.clone(), width, lanes });
        }
        let distances: Vec<u32> = (0..width.trailing_zeros()).rev().map(|bit| 1 << bit).collect();
        let subgroup = self.options.subgroup.unwrap_or(1);
        let (far, near): (Vec<u32>, Vec<u32>) = distances.into_iter().partition(|d| *d >= subgroup);
        let mut value = value;
        for round in far.chunks(HALVINGS_PER_EXCHANGE) {
            value = self.exchange(op, value, round)?;
        }
        for distance in near {
            let other = self.shuffle(value, distance);
            value = self.combine(op, value, other);
        }
        Ok(value)
    }

    /// Combines with the lanes at each of `distances`, farthest first, through shared memory.
    fn exchange(
        &mut self,
        op: ReduceOp,
        value: Handle<Expression>,
        distances: &[u32],
    ) -> Result<Handle<Expression>, ShaderError> {
        let (Some(scratch), Some(lane)) = (self.scratch, self.lane) else {
            return Err(self.unknown("reduction scratch", 0));
        };
        if self.scratch_busy {
            self.barrier(Barrier::WORK_GROUP);
        }
        let own = self.add(Expression::Access { base: scratch, index: lane });
        self.push(Statement::Store { pointer: own, value });
        self.barrier(Barrier::WORK_GROUP);
        // Lane `offsets[i]` away; a pair that the first distance combines is half the list apart.
        let offsets: Vec<u32> = (0..1u32 << distances.len())
            .map(|i| distances.iter().rev().enumerate().map(|(bit, d)| (i >> bit & 1) * d).sum())
            .collect();
        let mut parts: Vec<_> = offsets.iter().map(|o| self.published(scratch, lane, *o, value)).collect();
        while parts.len() > 1 {
            let right = parts.split_off(parts.len() / 2);
            parts = parts.iter().zip(right).map(|(a, b)| self.combine(op, *a, b)).collect();
        }
        self.scratch_busy = true;
        Ok(parts[0])
    }

    fn published(
        &mut self,
        scratch: Handle<Expression>,
        lane: Handle<Expression>,
        offset: u32,
        own: Handle<Expression>,
    ) -> Handle<Expression> {
        if offset == 0 {
            return own;
        }
        let right = self.literal(Literal::U32(offset));
        let index = self.op(BinaryOperator::ExclusiveOr, lane, right);
        let pointer = self.add(Expression::Access { base: scratch, index });
        self.add(Expression::Load { pointer })
    }

    fn shuffle(&mut self, argument: Handle<Expression>, distance: u32) -> Handle<Expression> {
        let mask = self.literal(Literal::U32(distance));
        let ty = types::value(&mut self.module, KType::F32);
        let result = self.function.expressions.append(Expression::SubgroupOperationResult { ty }, Span::UNDEFINED);
        self.push(Statement::SubgroupGather { mode: GatherMode::ShuffleXor(mask), argument, result });
        result
    }

    fn combine(&mut self, op: ReduceOp, a: Handle<Expression>, b: Handle<Expression>) -> Handle<Expression> {
        match op {
            ReduceOp::Sum => self.op(BinaryOperator::Add, a, b),
            ReduceOp::Max => {
                self.add(Expression::Math { fun: MathFunction::Max, arg: a, arg1: Some(b), arg2: None, arg3: None })
            }
        }
    }
}
