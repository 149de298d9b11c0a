//! Where sequences keep their history on the device: pages, who holds them, and the tables that kernels find them by; and
//! what recurrences leave, with its snapshots.
//! Knows page numbers and token counts; never contents.

mod pool;
mod prefix;
mod recurrence;
mod ring;
mod sequence;
mod sets;
mod table;

pub use pool::StatePool;
pub use prefix::{Found, Lookup, PrefixCache, PrefixReport, common, kept_of_prompt};
pub use recurrence::{SNAPSHOTS_PER_SEQUENCE, Transfer, recurrent_units};
pub use ring::{LONGEST_REWIND, ring_pages};
pub use sequence::{Mark, Sequence, StateError};
pub use sets::{PageSet, page_sets};
pub use table::{TableRow, TableRows};
