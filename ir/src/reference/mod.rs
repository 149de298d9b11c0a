//! The host reference: every op as its formula says, slow and clear, the truth that kernels, rules and backends are
//! measured against.
//!
//! Tensors are stored as f32; inside an op everything is computed in f64 and rounded once at its end, so that what
//! differs from another implementation is that implementation's rounding. It knows no template, kernel or device and
//! shares no arithmetic with them. [`session::Session`] runs a whole module over its sequences; [`eval::eval_graph`]
//! runs one function on tensors at hand.

pub mod attend;
pub mod dense;
pub mod eval;
pub mod heads;
pub mod moe;
pub mod norm;
mod recurrent;
pub mod rope;
pub mod session;
pub mod state;
pub mod tensor;

pub use eval::eval_graph;
pub use session::{Session, WeightBytes};
pub use state::HostState;
pub use tensor::{HostData, HostTensor, HostValue, Step, Token};
