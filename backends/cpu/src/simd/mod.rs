//! Micro-kernels: what a template computes, by hand, over vectors of 16 floats.
//!
//! A token's result is the same, bit for bit, alone and in any batch, and for any number of threads: the order of every
//! sum is fixed by positions alone. Nothing here knows kernel IR; nothing but arithmetic on the arguments happens here.

#![allow(unsafe_code, reason = "vector instructions and memory shared by threads; extents are checked per launch")]
#![allow(unsafe_op_in_unsafe_fn, reason = "a micro-kernel is unsafe throughout: its contract stands at the function")]
#![allow(clippy::missing_safety_doc, reason = "the contract of `Task::run` and `Isa` holds for every function")]
#![allow(clippy::needless_range_loop, reason = "indices run over several register arrays at once")]

mod ahead;
mod archive;
mod archived;
mod attend;
mod bias;
mod context;
mod delta;
mod direct;
mod embed;
mod epilogue;
mod experts;
mod heads;
mod integer;
pub(crate) mod isa;
mod latent;
mod linear;
mod map;
mod math;
mod matrix;
mod norm;
mod packed;
mod pages;
mod pairs;
mod panel;
mod product;
mod quantize;
mod recurrence;
mod rope;
mod route;
mod scores;
mod segments;
mod share;
mod short_conv;
mod ssm;
mod sums;
mod tile;
mod turn;
mod weights;
mod whole;

use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::Template;

pub(crate) use context::{Context, Faults, Needs};
pub(crate) use packed::{has_blocks, replace, settle, suits, turn};

/// A launch of one template.
pub(crate) trait Micro: Send {
    /// Scratch for a step of these sizes.
    fn needs(&self, sizes: &StepSizes, threads: usize) -> Needs;

    /// Computes it. `scratch` holds the launch's floats, 64-byte aligned.
    ///
    /// # Errors
    /// An argument that is too small, or data that points outside of its target.
    fn run(&self, ctx: &Context<'_>, scratch: *mut f32) -> Result<(), String>;
}

/// The micro-kernel of a template; `None` where there is none for its parameters.
pub(crate) fn micro(template: &Template) -> Option<Box<dyn Micro>> {
    Some(match template {
        Template::RmsNorm(t) => Box::new(norm::NormMicro::new(t)?),
        Template::Linear(t) => Box::new(linear::LinearMicro::new(t)?),
        Template::Embed(t) => Box::new(t.clone()),
        Template::Rope(t) => Box::new(t.clone()),
        Template::HeadLinear(t) => Box::new(heads::HeadMicro::new(t)?),
        Template::LatentAppend(t) => Box::new(t.clone()),
        Template::Rotate(t) => Box::new(t.clone()),
        Template::Archive(t) => Box::new(t.clone()),
        Template::Append(t) => Box::new(t.clone()),
        Template::RopeAppend(t) => Box::new(t.clone()),
        Template::Attend(t) => Box::new(t.clone()),
        Template::ShortConv(t) => Box::new(short_conv::ConvMicro::new(t)?),
        Template::Delta(t) => Box::new(t.clone()),
        Template::Ssm(t) => Box::new(ssm::SsmMicro::new(t)?),
        Template::Rows(t) => Box::new(t.clone()),
        Template::Route(t) => Box::new(t.clone()),
        Template::ExpertLinear(t) => Box::new(experts::ExpertMicro::new(t)?),
        Template::Combine(t) => Box::new(map::CombineMicro::new(t)?),
        Template::ArgMax(t) => Box::new(t.clone()),
        Template::Map(t) => Box::new(map::MapMicro::new(t)?),
    })
}
