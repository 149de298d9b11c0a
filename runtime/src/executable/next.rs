//! Calls that follow on another device: the value between two calls is carried over, and all else is theirs.

use swiftlm_device::{Device, Slice};
use swiftlm_ir::dim::Dim;
use swiftlm_ir::plan::Program;
use swiftlm_ir::ty::Type;

use super::{Batch, Executable, LoadError, ProfiledLaunch, StepError, StepOutput};

/// The second half of an executable.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) executable: Executable,
    /// Bytes of what one token brings.
    token_bytes: usize,
    carried: Vec<u8>,
}

impl Next {
    /// What call `first` and those behind it do with the result of the call before.
    ///
    /// # Errors
    /// That call has no result that could be carried.
    pub(super) fn new(program: &Program, first: usize, executable: Executable) -> Result<Self, LoadError> {
        let before = &program.module.funcs[program.module.main[first - 1].func];
        let ty = before.results.first().map(|result| &before.value(*result).ty);
        let width = ty.and_then(|ty| match ty {
            Type::Tensor(ty) => ty.shape.last(),
            _ => None,
        });
        let Some(Dim::Const(width)) = width else {
            return Err(LoadError::Program(format!("call {} hands nothing on", first - 1)));
        };
        Ok(Self { executable, token_bytes: width * 4, carried: vec![] })
    }

    /// As [`Executable::step`], after the calls before.
    pub(super) fn step(
        &mut self,
        from: &mut dyn Device,
        arena: Slice,
        batch: &Batch,
    ) -> Result<&StepOutput, StepError> {
        self.carry(from, arena, batch)?;
        self.executable.step(batch)
    }

    /// As [`Executable::profile_step`], after the calls before.
    pub(super) fn profile_step(
        &mut self,
        from: &mut dyn Device,
        arena: Slice,
        batch: &Batch,
    ) -> Result<Vec<ProfiledLaunch>, StepError> {
        self.carry(from, arena, batch)?;
        self.executable.profile_step(batch)
    }

    /// Values between calls lie at the start of either arena.
    fn carry(&mut self, from: &mut dyn Device, arena: Slice, batch: &Batch) -> Result<(), StepError> {
        let bytes = batch.ids.len() * self.token_bytes;
        self.carried.resize(bytes, 0);
        from.read(Slice { bytes, ..arena }, &mut self.carried)?;
        let to = self.executable.bindings.arena();
        Ok(self.executable.device.write(to.buffer, to.offset, &self.carried)?)
    }
}
