//! Statements of a kernel as statements of a naga function.

use naga::{Barrier, BinaryOperator, Block, Expression, Handle, Literal, Statement, UnaryOperator};
use swiftlm_ir::kernel::{Ex, KType, LoopId, Stmt};

use crate::ShaderError;
use crate::lower::Lowering;

impl Lowering<'_> {
    /// Lowers statements into the current block.
    pub(crate) fn block(&mut self, body: &[Stmt]) -> Result<(), ShaderError> {
        body.iter().try_for_each(|s| self.stmt(s))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<(), ShaderError> {
        match stmt {
            Stmt::Eval(e) => self.eval(*e)?,
            Stmt::Store { arg, index, value } => {
                let base = self.find(&self.args, "argument", *arg)?;
                self.store_element(base, *index, *value)?;
            }
            Stmt::Set(var, value) => {
                let pointer = self.find(&self.vars, "variable", var.0)?;
                let value = self.value(*value)?;
                self.push(Statement::Store { pointer, value });
            }
            Stmt::SharedSet(shared, index, value) => {
                let base = self.find(&self.shared, "shared array", shared.0)?;
                self.store_element(base, *index, *value)?;
            }
            Stmt::If { cond, then, otherwise } => self.branch(*cond, then, otherwise)?,
            Stmt::Loop { id, from, to, step, body } => self.counted_loop(*id, *from, *to, *step, body)?,
            // Text writers make two barriers of both flags; a kernel that reads nothing it wrote needs one.
            Stmt::Barrier if self.rereads_arguments => self.barrier(Barrier::WORK_GROUP | Barrier::STORAGE),
            Stmt::Barrier => self.barrier(Barrier::WORK_GROUP),
        }
        Ok(())
    }

    /// All lanes arrive. Whatever memory it orders, no lane still reads the scratch of reductions after it.
    pub(crate) fn barrier(&mut self, memory: Barrier) {
        self.push(Statement::ControlBarrier(memory));
        self.scratch_busy = false;
    }

    fn store_element(&mut self, base: Handle<Expression>, index: Ex, value: Ex) -> Result<(), ShaderError> {
        let (index, value) = (self.value(index)?, self.value(value)?);
        let pointer = self.add(Expression::Access { base, index });
        self.push(Statement::Store { pointer, value });
        Ok(())
    }

    /// Lowers `f` into a block of its own.
    fn nested(&mut self, f: impl FnOnce(&mut Self) -> Result<(), ShaderError>) -> Result<Block, ShaderError> {
        let outer = std::mem::take(&mut self.current);
        let done = f(self);
        let inner = std::mem::replace(&mut self.current, outer);
        done.map(|()| inner)
    }

    fn branch(&mut self, cond: Ex, then: &[Stmt], otherwise: &[Stmt]) -> Result<(), ShaderError> {
        let condition = self.value(cond)?;
        let busy_before = self.scratch_busy;
        let accept = self.nested(|l| l.block(then))?;
        let busy_after = std::mem::replace(&mut self.scratch_busy, busy_before);
        let reject = self.nested(|l| l.block(otherwise))?;
        self.scratch_busy |= busy_after;
        self.push(Statement::If { condition, accept, reject });
        Ok(())
    }

    /// The increment is the body's last statement: naga's `continuing` block would cost MSL a flag per iteration.
    fn counted_loop(&mut self, id: LoopId, from: Ex, to: Ex, step: u32, body: &[Stmt]) -> Result<(), ShaderError> {
        let (from, to) = (self.value(from)?, self.value(to)?);
        if id.0 as usize >= self.counters.len() {
            return Err(self.unknown("loop", id.0));
        }
        let pointer = self.local(&format!("i{}", id.0), KType::U32);
        self.push(Statement::Store { pointer, value: from });
        let busy_before = self.scratch_busy;
        // The second turn meets what the first left.
        self.scratch_busy |= self.exchanges_in(body);
        let body = self.nested(|l| {
            let counter = l.add(Expression::Load { pointer });
            let more = l.op(BinaryOperator::Less, counter, to);
            let done = l.add(Expression::Unary { op: UnaryOperator::LogicalNot, expr: more });
            let leave = Block::from_vec(vec![Statement::Break]);
            l.push(Statement::If { condition: done, accept: leave, reject: Block::new() });
            l.counters[id.0 as usize] = Some(counter);
            l.block(body)?;
            let step = l.literal(Literal::U32(step));
            let value = l.op(BinaryOperator::Add, counter, step);
            l.push(Statement::Store { pointer, value });
            Ok(())
        })?;
        self.counters[id.0 as usize] = None;
        self.scratch_busy |= busy_before;
        self.push(Statement::Loop { body, continuing: Block::new(), break_if: None });
        Ok(())
    }
}
