//! Where sequences keep their history on the device: pages, who holds them, and the tables that kernels find them by.
//! Knows page numbers and token counts; never contents.

mod pool;
mod ring;
mod sequence;
mod sets;
mod table;

pub use pool::StatePool;
pub use ring::{LONGEST_REWIND, ring_pages};
pub use sequence::{Mark, Sequence, StateError};
pub use sets::{PageSet, page_sets};
pub use table::{TableRow, TableRows};
