//! Weights from wherever they lie to the device, in pieces, so that no weight is held twice. Knows layouts; never file formats.

use swiftlm_device::{Device, Slice, Usage};
use swiftlm_ir::plan::WeightBuffer;

use crate::executable::LoadError;

/// Most bytes of a weight that the host holds at a time.
pub const PIECE_BYTES: usize = 16 << 20;

/// Where weights come from.
pub trait WeightSource {
    /// Fills `into` with bytes `offset..offset + into.len()` of the weight as [`Format::layout`] of the whole places them.
    /// The range lies in one component but need not begin or end at a row.
    ///
    /// [`Format::layout`]: swiftlm_ir::quant::Format::layout
    ///
    /// # Errors
    /// A sentence saying what could not be read.
    fn read(&self, weight: &WeightBuffer, offset: usize, into: &mut [u8]) -> Result<(), String>;

    /// Where that byte of a weight lies, for people.
    fn place(&self, weight: &WeightBuffer, offset: usize) -> String {
        format!("byte {offset} of {}", weight.names.join(" | "))
    }
}

/// Rows of a weight that are bound together and so share a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    /// Index into the program's weights.
    pub(crate) weight: usize,
    /// First row.
    pub(crate) first: usize,
    /// Rows.
    pub(crate) count: usize,
}

/// Makes the buffer of a segment, laid out as a matrix of its own, and calls `progress` with the bytes of each piece.
pub(crate) fn upload(
    device: &mut dyn Device,
    source: &dyn WeightSource,
    weight: &WeightBuffer,
    segment: Segment,
    progress: &mut dyn FnMut(usize),
) -> Result<Slice, LoadError> {
    let name = weight.names.join(" | ");
    let (ty, end) = (weight.ty, segment.first.saturating_add(segment.count));
    if segment.count == 0 || end > ty.rows {
        let rows = ty.rows;
        return Err(LoadError::Program(format!(
            "rows {}..{end} of weight {name} are bound, but it has {rows}",
            segment.first
        )));
    }
    let whole = ty.format.layout(ty.rows, ty.cols);
    let own = ty.format.layout(segment.count, ty.cols);
    let limit = device.target().max_binding;
    if own.bytes > limit {
        return Err(LoadError::Program(format!(
            "weight {name} is bound as {} bytes, more than the device's limit of {limit}: compile it for this device",
            own.bytes
        )));
    }
    let buffer = device.alloc(own.bytes, Usage::Weights, &name)?;
    let mut piece = vec![0u8; PIECE_BYTES.min(own.bytes)];
    for (from, to) in whole.components.iter().zip(&own.components) {
        let start = from.offset + segment.first * from.row_bytes;
        let mut done = 0;
        while done < to.bytes {
            let bytes = PIECE_BYTES.min(to.bytes - done);
            // Components are padded to words in the layout, so the padding of the last piece stays in its component.
            let padded = bytes.next_multiple_of(4);
            piece[bytes..padded].fill(0);
            source
                .read(weight, start + done, &mut piece[..bytes])
                .map_err(|reason| LoadError::Weight { name: name.clone(), reason })?;
            device.write(buffer, to.offset + done, &piece[..padded])?;
            progress(bytes);
            done += bytes;
        }
    }
    Ok(Slice { buffer, offset: 0, bytes: own.bytes })
}
