//! A kernel as a naga module: its globals, its entry point, and the state that statements and expressions share.

use naga::{
    AddressSpace, ArraySize, Binding, Block, BuiltIn, EntryPoint, Expression, Function, FunctionArgument,
    GlobalVariable, Handle, LocalVariable, MemoryDecorations, Module, Range, ResourceBinding, ShaderStage, Span,
    Statement, StorageAccess, Type,
};
use swiftlm_ir::kernel::{Access, Ex, Expr, KType, Kernel, Stmt};

use crate::{ENTRY_POINT, ShaderError, reduce, types};

/// What a shader may take for granted about the device that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerOptions {
    /// Size of every subgroup, a power of two, where the device has one fixed size and lane `l` is invocation
    /// `l % size` of subgroup `l / size`; reductions then shuffle.
    pub subgroup: Option<u32>,
    /// Bytes of shared memory of a workgroup.
    pub shared_bytes: usize,
    /// The device's own f32 → binary16 conversion rounds to nearest even and keeps subnormals; without it the conversion
    /// is integer arithmetic.
    pub native_pack_half: bool,
    /// The device's own binary16 → f32 conversion keeps subnormals; without it likewise.
    pub native_unpack_half: bool,
}

impl Default for LowerOptions {
    /// A device that keeps to the usual: 32 KiB of shared memory, exact conversions, no subgroups.
    fn default() -> Self {
        Self { subgroup: None, shared_bytes: 32 << 10, native_pack_half: true, native_unpack_half: true }
    }
}

/// The module of a verified kernel: entry point `main` of `(lanes, 1, 1)` invocations, argument `i` at binding `i` of
/// group 0, the step's sizes as immediates.
///
/// # Errors
/// The kernel is malformed or needs more shared memory than there is.
pub fn lower(kernel: &Kernel, options: &LowerOptions) -> Result<Module, ShaderError> {
    let needed = reduce::scratch_bytes(kernel, options.subgroup)
        + kernel.shared.iter().map(|s| s.elem.bytes() * s.len as usize).sum::<usize>();
    if needed > options.shared_bytes {
        let available = options.shared_bytes;
        return Err(ShaderError::SharedMemory { kernel: kernel.name.clone(), needed, available });
    }
    let mut lowering = Lowering::new(kernel, options);
    lowering.block(&kernel.body)?;
    Ok(lowering.finish())
}

/// A module under construction.
pub(crate) struct Lowering<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) options: &'a LowerOptions,
    pub(crate) module: Module,
    pub(crate) function: Function,
    /// The block that statements are appended to.
    pub(crate) current: Block,
    /// Kernel expressions evaluated so far.
    pub(crate) values: Vec<Option<Handle<Expression>>>,
    /// Counters of the loops that enclose the current statement, by loop.
    pub(crate) counters: Vec<Option<Handle<Expression>>>,
    /// Pointers to private variables.
    pub(crate) vars: Vec<Handle<Expression>>,
    /// Pointers to arguments.
    pub(crate) args: Vec<Handle<Expression>>,
    /// Pointers to shared arrays.
    pub(crate) shared: Vec<Handle<Expression>>,
    /// Pointer to the step's sizes, if used.
    pub(crate) immediates: Option<Handle<Expression>>,
    /// Workgroup index, if used.
    pub(crate) group: Option<Handle<Expression>>,
    /// Lane index, if used.
    pub(crate) lane: Option<Handle<Expression>>,
    /// Pointer to what reductions exchange through, if any does.
    pub(crate) scratch: Option<Handle<Expression>>,
    /// Whether a lane may still read the scratch of an earlier reduction.
    pub(crate) scratch_busy: bool,
    /// Whether some argument is both written and read.
    pub(crate) rereads_arguments: bool,
}

impl<'a> Lowering<'a> {
    fn new(kernel: &'a Kernel, options: &'a LowerOptions) -> Self {
        let mut l = Self {
            kernel,
            options,
            module: Module::default(),
            function: Function { name: Some(kernel.name.clone()), ..Function::default() },
            current: Block::new(),
            values: vec![None; kernel.exprs.len()],
            counters: vec![None; kernel.loops as usize],
            vars: vec![],
            args: vec![],
            shared: vec![],
            immediates: None,
            group: None,
            lane: None,
            scratch: None,
            scratch_busy: false,
            rereads_arguments: rereads_arguments(kernel),
        };
        l.declare_globals();
        l.declare_builtins();
        l
    }

    fn declare_globals(&mut self) {
        for (i, arg) in self.kernel.args.iter().enumerate() {
            let access = match arg.access {
                Access::Read => StorageAccess::LOAD,
                Access::ReadWrite => StorageAccess::LOAD | StorageAccess::STORE,
            };
            let ty = types::argument(&mut self.module, arg);
            let binding = ResourceBinding { group: 0, binding: i as u32 };
            let pointer = self.global(&arg.name, AddressSpace::Storage { access }, ty, Some(binding));
            self.args.push(pointer);
        }
        if self.uses(|e| matches!(e, Expr::Immediate(_))) {
            let ty = types::immediates(&mut self.module);
            self.immediates = Some(self.global("step", AddressSpace::Immediate, ty, None));
        }
        for (i, s) in self.kernel.shared.iter().enumerate() {
            let pointer = self.workgroup_array(&format!("shared{i}"), s.elem, s.len);
            self.shared.push(pointer);
        }
        if reduce::scratch_bytes(self.kernel, self.options.subgroup) > 0 {
            self.scratch = Some(self.workgroup_array("reduce", KType::F32, self.kernel.lanes));
        }
        for (i, ty) in self.kernel.vars.iter().enumerate() {
            let pointer = self.local(&format!("v{i}"), *ty);
            self.vars.push(pointer);
        }
    }

    fn declare_builtins(&mut self) {
        if self.uses(|e| matches!(e, Expr::GroupId(_))) {
            let ty = types::u32x3(&mut self.module);
            self.group = Some(self.builtin("group", ty, BuiltIn::WorkGroupId));
        }
        if self.scratch.is_some() || self.uses(|e| matches!(e, Expr::Lane)) {
            let ty = types::value(&mut self.module, KType::U32);
            self.lane = Some(self.builtin("lane", ty, BuiltIn::LocalInvocationIndex));
        }
    }

    fn uses(&self, what: impl Fn(&Expr) -> bool) -> bool {
        self.kernel.exprs.iter().any(what)
    }

    fn builtin(&mut self, name: &str, ty: Handle<Type>, builtin: BuiltIn) -> Handle<Expression> {
        let binding = Some(Binding::BuiltIn(builtin));
        self.function.arguments.push(FunctionArgument { name: Some(name.to_owned()), ty, binding });
        self.add(Expression::FunctionArgument(self.function.arguments.len() as u32 - 1))
    }

    fn global(
        &mut self,
        name: &str,
        space: AddressSpace,
        ty: Handle<Type>,
        binding: Option<ResourceBinding>,
    ) -> Handle<Expression> {
        let variable = GlobalVariable {
            name: Some(name.to_owned()),
            space,
            binding,
            ty,
            init: None,
            memory_decorations: MemoryDecorations::empty(),
        };
        let handle = self.module.global_variables.append(variable, Span::UNDEFINED);
        self.add(Expression::GlobalVariable(handle))
    }

    fn workgroup_array(&mut self, name: &str, elem: KType, len: u32) -> Handle<Expression> {
        let size = std::num::NonZeroU32::new(len).unwrap_or(std::num::NonZeroU32::MIN);
        let ty = types::array(&mut self.module, elem, ArraySize::Constant(size));
        self.global(name, AddressSpace::WorkGroup, ty, None)
    }

    /// A private variable of a lane.
    pub(crate) fn local(&mut self, name: &str, ty: KType) -> Handle<Expression> {
        let ty = types::value(&mut self.module, ty);
        let variable = LocalVariable { name: Some(name.to_owned()), ty, init: None };
        let handle = self.function.local_variables.append(variable, Span::UNDEFINED);
        self.add(Expression::LocalVariable(handle))
    }

    /// Appends an expression, evaluated here.
    pub(crate) fn add(&mut self, e: Expression) -> Handle<Expression> {
        let evaluated_before = e.needs_pre_emit();
        let handle = self.function.expressions.append(e, Span::UNDEFINED);
        if !evaluated_before {
            self.push(Statement::Emit(Range::new_from_bounds(handle, handle)));
        }
        handle
    }

    /// Appends a statement.
    pub(crate) fn push(&mut self, s: Statement) {
        self.current.push(s, Span::UNDEFINED);
    }

    /// The value of a kernel expression.
    pub(crate) fn value(&self, e: Ex) -> Result<Handle<Expression>, ShaderError> {
        self.values.get(e.0 as usize).copied().flatten().ok_or_else(|| self.unknown("expression", e.0))
    }

    /// Looks a handle up.
    pub(crate) fn find(
        &self,
        among: &[Handle<Expression>],
        what: &'static str,
        index: u32,
    ) -> Result<Handle<Expression>, ShaderError> {
        among.get(index as usize).copied().ok_or_else(|| self.unknown(what, index))
    }

    /// The error for a handle that leads nowhere.
    pub(crate) fn unknown(&self, what: &'static str, index: u32) -> ShaderError {
        ShaderError::Unknown { kernel: self.kernel.name.clone(), what, index }
    }

    fn finish(mut self) -> Module {
        self.push(Statement::Return { value: None });
        self.function.body = self.current;
        self.module.entry_points.push(EntryPoint {
            name: ENTRY_POINT.to_owned(),
            stage: ShaderStage::Compute,
            early_depth_test: None,
            workgroup_size: [self.kernel.lanes, 1, 1],
            workgroup_size_overrides: None,
            function: self.function,
            mesh_info: None,
            task_payload: None,
            incoming_ray_payload: None,
        });
        self.module
    }
}

fn rereads_arguments(kernel: &Kernel) -> bool {
    kernel.exprs.iter().any(|e| matches!(e, Expr::Load { arg, .. } if writes(&kernel.body, *arg)))
}

fn writes(body: &[Stmt], argument: u32) -> bool {
    body.iter().any(|s| match s {
        Stmt::Store { arg, .. } => *arg == argument,
        Stmt::If { then, otherwise, .. } => writes(then, argument) || writes(otherwise, argument),
        Stmt::Loop { body, .. } => writes(body, argument),
        Stmt::Eval(_) | Stmt::Set(..) | Stmt::SharedSet(..) | Stmt::Barrier => false,
    })
}
