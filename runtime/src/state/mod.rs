//! Where sequences keep their history on the device: pages, who holds them, and the table that kernels find them by.
//! Knows page numbers and token counts; never contents.

mod pool;
mod sequence;
mod table;

pub use pool::PagePool;
pub use sequence::{Mark, Sequence, StateError};
pub use table::{TableRow, TableRows};
