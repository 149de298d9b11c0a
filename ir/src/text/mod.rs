//! Texts: modules (`.slir`) that print and parse, plans and kernels that print. They are what people review and report.
//!
//! A module reads so; a name in braces stands for several (merged weights, identical layers):
//!
//! ```text
//! slir 1
//! vocabulary 256
//!
//! rope 0 = magnitude 1 [
//!   1, 0.01,
//! ]
//!
//! state 0..8 = paged(heads=2, dim=4, k=f16, v=f16)
//!
//! func @layer0(%x: flow f32[T,64], %state: state paged(heads=2, dim=4, k=f16, v=f16) @self_attn) {
//!   w"input_layernorm.weight": f32[1,64]                     ; a vector is one row
//!   w"self_attn.{q,k,v}_proj.weight": affine4_g64_bf16[80,64]
//!   %input_layernorm = rms_norm %x, w"input_layernorm.weight" {eps=1e-6, offset=0} : f32[T,64] @input_layernorm
//!   …
//!   return %add_2, %kv_append
//! }
//!
//! main {
//!   call @embed ""
//!   call @layer0 "model.layers.{0..8}" state 0..8
//!   call @head ""
//! }
//! ```
//!
//! Printing is canonical; parsing what was printed gives an equal module. Types may be left out where they follow.
//! Nothing here judges a module: that is [`verify`](crate::verify).

mod error;
pub mod group;
mod kernel;
mod lex;
pub mod names;
mod parse;
mod plan;
mod print;

pub use error::{TextError, point};
pub use kernel::print_kernel;
pub use parse::{parse, parse_graph};
pub use plan::{print_plan, print_program};
pub use print::{print, print_graph};
