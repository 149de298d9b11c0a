//! What states hold of a sequence, written out and read back: pages as they are, whatever their format, and the unit of
//! recurrent states.

use std::io::{Error, Read, Result, Write};

use swiftlm_device::Slice;
use swiftlm_ir::ty::Window;

use super::Executable;
use super::recurrent::Held;
use crate::state::{Sequence, Transfer};

/// Bytes that are moved at a time, at most; more only where one page is larger.
const PIECE: usize = 1 << 20;

/// One part of a state that is made of pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct PagedPart {
    /// Tokens that its pages are kept for.
    pub(super) window: Window,
    /// All pages.
    pub(super) slice: Slice,
    /// Bytes of one.
    pub(super) page: usize,
}

impl Executable {
    /// Makes copies of recurrent states now, not before the next step.
    ///
    /// # Errors
    /// The device failed.
    pub fn transfer(&mut self, transfers: &[Transfer]) -> Result<()> {
        let Some(recurrences) = &mut self.recurrences else { return Ok(()) };
        for transfer in transfers {
            recurrences.copy(self.device.as_mut(), *transfer).map_err(Error::other)?;
            recurrences.held[transfer.to as usize] = recurrences.held[transfer.from as usize];
        }
        self.next.as_mut().map_or(Ok(()), |next| next.executable.transfer(transfers))
    }

    /// Writes out what others who go on behind a sequence's last full page look back at.
    ///
    /// # Errors
    /// The device failed, or the writer.
    pub fn save(&mut self, sequence: &Sequence, out: &mut dyn Write) -> Result<()> {
        let mut piece = vec![];
        for slice in self.places(sequence) {
            piece.resize(slice.bytes, 0);
            self.device.read(slice, &mut piece).map_err(Error::other)?;
            out.write_all(&piece)?;
        }
        self.next.as_mut().map_or(Ok(()), |next| next.executable.save(sequence, out))
    }

    /// Reads back what [`Self::save`] wrote for a sequence of that length, into the pages of this one.
    ///
    /// # Errors
    /// The device failed, or the reader: then what the sequence's pages hold is undefined.
    pub fn restore(&mut self, sequence: &Sequence, from: &mut dyn Read) -> Result<()> {
        let mut piece = vec![];
        for slice in self.places(sequence) {
            piece.resize(slice.bytes, 0);
            from.read_exact(&mut piece)?;
            self.device.write(slice.buffer, slice.offset, &piece).map_err(Error::other)?;
        }
        if let (Some(recurrences), Some(unit)) = (&mut self.recurrences, sequence.unit()) {
            recurrences.held[unit as usize] = Held::Tokens(sequence.length());
        }
        self.next.as_mut().map_or(Ok(()), |next| next.executable.restore(sequence, from))
    }

    /// Where it lies, pages that follow one another together.
    fn places(&self, sequence: &Sequence) -> Vec<Slice> {
        let needed = sequence.needed();
        let mut places = vec![];
        for PagedPart { window, slice, page } in &self.paged {
            let pages = needed.iter().find(|(of, _)| of == window).map_or(&[][..], |(_, pages)| pages);
            for run in pages.chunk_by(|a, b| a + 1 == *b) {
                for run in run.chunks((PIECE / page).max(1)) {
                    let offset = slice.offset + run[0] as usize * page;
                    places.push(Slice { offset, bytes: run.len() * page, ..*slice });
                }
            }
        }
        for (slice, bytes) in self.recurrences.iter().flat_map(|r| &r.parts) {
            places.extend(sequence.unit().map(|unit| Slice {
                offset: slice.offset + unit as usize * bytes,
                bytes: *bytes,
                ..*slice
            }));
        }
        places
    }
}
