//! Types of a kernel as types of a naga module. Layout only; no expressions.

use std::num::NonZeroU32;

use naga::{ArraySize, Handle, Module, Scalar, Span, StructMember, Type, TypeInner, VectorSize};
use swiftlm_ir::kernel::{KArg, KType, Length, Scalar as KScalar};

/// naga refuses larger types; longer arrays become runtime-sized.
const MAX_ARRAY_BYTES: u64 = i32::MAX as u64;

/// Names of the fields of the immediates, in the order of [`swiftlm_ir::plan::StepSizes`].
const IMMEDIATE_FIELDS: [&str; 3] = ["tokens", "rows", "table_stride"];

/// naga's scalar.
pub(crate) fn scalar(s: KScalar) -> Scalar {
    match s {
        KScalar::F32 => Scalar::F32,
        KScalar::U32 => Scalar::U32,
        KScalar::Bool => Scalar::BOOL,
    }
}

/// naga's vector size; `None` for scalars.
pub(crate) fn vector_size(width: u8) -> Option<VectorSize> {
    match width {
        2 => Some(VectorSize::Bi),
        4 => Some(VectorSize::Quad),
        _ => None,
    }
}

/// A scalar or vector type.
pub(crate) fn value(module: &mut Module, ty: KType) -> Handle<Type> {
    let scalar = scalar(ty.scalar);
    insert(
        module,
        None,
        vector_size(ty.width).map_or(TypeInner::Scalar(scalar), |size| TypeInner::Vector { size, scalar }),
    )
}

/// An array of `len` elements without padding.
pub(crate) fn array(module: &mut Module, elem: KType, size: ArraySize) -> Handle<Type> {
    let base = value(module, elem);
    insert(module, None, TypeInner::Array { base, size, stride: elem.bytes() as u32 })
}

/// The array behind an argument: of fixed size where the kernel knows one, since a runtime-sized array costs MSL a
/// further buffer.
pub(crate) fn argument(module: &mut Module, arg: &KArg) -> Handle<Type> {
    let fixed = match arg.len {
        Length::Elements(n) if n.saturating_mul(arg.elem.bytes() as u64) <= MAX_ARRAY_BYTES => {
            u32::try_from(n).ok().and_then(NonZeroU32::new)
        }
        _ => None,
    };
    array(module, arg.elem, fixed.map_or(ArraySize::Dynamic, ArraySize::Constant))
}

/// The struct of the step's sizes.
pub(crate) fn immediates(module: &mut Module) -> Handle<Type> {
    let ty = value(module, KType::U32);
    let member = |(i, name): (usize, &&str)| StructMember {
        name: Some((*name).to_owned()),
        ty,
        binding: None,
        offset: 4 * i as u32,
    };
    let members: Vec<_> = IMMEDIATE_FIELDS.iter().enumerate().map(member).collect();
    let span = 4 * members.len() as u32;
    insert(module, Some("StepSizes".to_owned()), TypeInner::Struct { members, span })
}

/// Three u32, as builtins give workgroup indices.
pub(crate) fn u32x3(module: &mut Module) -> Handle<Type> {
    insert(module, None, TypeInner::Vector { size: VectorSize::Tri, scalar: Scalar::U32 })
}

fn insert(module: &mut Module, name: Option<String>, inner: TypeInner) -> Handle<Type> {
    module.types.insert(Type { name, inner }, Span::UNDEFINED)
}
