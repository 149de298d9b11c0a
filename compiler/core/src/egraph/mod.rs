//! Equality saturation for algebra whose best order is unclear. Never for effects, merging of siblings, or loops.

pub mod analysis;
pub mod cost;
pub mod explain;
pub mod extract;
pub mod lang;
pub mod run;
