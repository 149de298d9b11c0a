//! The language that everything else in swiftlm speaks.
//!
//! A *graph* ([`graph::Module`]) says what a model computes: typed values, pure ops, and a few effects (`kv.append!`)
//! that thread a state value from one version to the next. Sizes that vary from step to step are symbols
//! ([`dim::Dim::Sym`]): `T` tokens, `R` rows that want logits; everything else is a constant.
//! A *template* ([`template::Template`]) says what one launch computes, a *kernel* ([`kernel::Kernel`]) how a workgroup
//! computes it, and a *plan* ([`plan::Program`]) which launches make a step and where their operands lie.
//! Quantisation is a type ([`quant::Format`]): no op and no kernel has a quantised twin.
//!
//! This crate does no input or output, knows no device and reads no clock.

pub mod dim;
pub mod graph;
pub mod kernel;
pub mod map;
pub mod ops;
pub mod plan;
pub mod quant;
pub mod reference;
pub mod rounding;
pub mod template;
pub mod text;
pub mod ty;
pub mod verify;
