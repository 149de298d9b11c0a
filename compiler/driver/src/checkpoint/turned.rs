//! Rows of a weight that stand in another order in their file: dealt to parts in turn, or as columns.

use swiftlm_ir::graph::Piece;
use swiftlm_ir::quant::Component;

/// Fills a piece from a byte of what is stored.
type ReadStored<'a> = dyn Fn(usize, &mut [u8]) -> Result<(), String> + 'a;

/// Rows in another order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turned {
    /// As [`Piece`] has them.
    transposed: bool,
    dealt: usize,
    rows: usize,
    row_bytes: usize,
    cols: usize,
}

impl Turned {
    /// The order of `bytes` bytes of a component of the named piece, of rows of `cols` columns; `None` if it is the weight's.
    ///
    /// # Errors
    /// They are no such rows.
    pub(super) fn new(name: &str, component: &Component, cols: usize, bytes: usize) -> Result<Option<Self>, String> {
        let Piece { tensor, transposed, dealt, .. } = Piece::parse(name);
        if dealt == 1 && !transposed {
            return Ok(None);
        }
        let row_bytes = component.row_bytes;
        let rows = bytes / row_bytes.max(1);
        let whole = rows * row_bytes == bytes && rows.is_multiple_of(dealt);
        if !whole || transposed && (cols == 0 || !row_bytes.is_multiple_of(cols)) {
            return Err(format!("tensor `{tensor}`: {bytes} bytes are no rows of {cols} elements in another order"));
        }
        Ok(Some(Self { transposed, dealt, rows, row_bytes, cols }))
    }

    /// Bytes of all rows.
    pub(super) fn bytes(&self) -> usize {
        self.rows * self.row_bytes
    }

    /// Fills `into` with what the weight has from byte `skip` of these rows on; `read` is given a byte of them as they stand
    /// in the file, and what to fill from there.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn gather(&self, skip: usize, into: &mut [u8], read: &ReadStored<'_>) -> Result<(), String> {
        let Self { transposed, dealt, rows, row_bytes, cols } = *self;
        let order = Piece { tensor: "", slice: None, transposed, dealt };
        let wanted = skip / row_bytes..(skip + into.len()).div_ceil(row_bytes);
        let places: Vec<usize> = wanted.clone().map(|row| order.place(row, rows)).collect();
        let (low, high) = places.iter().fold((rows, 0), |(low, high), at| (low.min(*at), high.max(at + 1)));
        // Of columns that are rows, all of them hold some of each.
        let held = if transposed { 0..self.bytes() } else { low.min(high) * row_bytes..high * row_bytes };
        let mut stored = vec![0; held.len()];
        read(held.start, &mut stored)?;
        let mut gathered = vec![0; row_bytes];
        for (row, place) in wanted.zip(places) {
            let found = if transposed {
                let cell = row_bytes / cols;
                for (col, to) in gathered.chunks_exact_mut(cell).enumerate() {
                    to.copy_from_slice(&stored[(col * rows + place) * cell..][..cell]);
                }
                &gathered[..]
            } else {
                &stored[place * row_bytes - held.start..][..row_bytes]
            };
            // Of the first row and of the last, only a part may be wanted.
            let (start, end) = ((row * row_bytes).max(skip), ((row + 1) * row_bytes).min(skip + into.len()));
            into[start - skip..end - skip].copy_from_slice(&found[start - row * row_bytes..end - row * row_bytes]);
        }
        Ok(())
    }

    /// Brings all rows from the order of the file into the weight's.
    ///
    /// # Errors
    /// There are not so many bytes.
    pub(super) fn turn(&self, bytes: &mut [u8]) -> Result<(), String> {
        let stored = bytes.to_vec();
        let piece = |at: usize, len: usize| stored.get(at..at + len).ok_or_else(|| format!("{} bytes", stored.len()));
        self.gather(0, bytes, &|at, into| {
            into.copy_from_slice(piece(at, into.len())?);
            Ok(())
        })
    }
}
