//! Bytes of weights straight from a checkpoint's files, one positioned read per contiguous piece, nothing kept.

use std::borrow::Cow;

use swiftlm_ir::graph::Piece;
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_ir::quant::Component;
use swiftlm_runtime::WeightSource;

use super::Checkpoint;

/// Fills a piece from a place in the file of that number.
pub(super) type ReadPiece<'a> = dyn Fn(usize, u64, &mut [u8]) -> Result<(), String> + 'a;

/// Bytes that follow one another in a file.
struct Run {
    file: usize,
    start: u64,
    bytes: usize,
}

/// The tensor that holds a component of the weight whose primary tensor is `primary`: `x.weight` → `x.scales`,
/// `x_blocks` → `x_scales`.
fn tensor_name<'a>(primary: &'a str, component: &str) -> Cow<'a, str> {
    let part = |suffix: &str, join: &str| Some(format!("{}{join}{component}", primary.strip_suffix(suffix)?));
    match component {
        "weight" => Cow::Borrowed(primary),
        _ => part(".weight", ".").or_else(|| part("_blocks", "_")).map_or(Cow::Borrowed(primary), Cow::Owned),
    }
}

impl Checkpoint {
    /// Where a component of the named weight lies, in whatever order its rows are.
    fn run(&self, name: &str, component: &str) -> Result<Run, String> {
        let Piece { tensor, slice, .. } = Piece::parse(name);
        let tensor = tensor_name(tensor, component);
        let (file, placed) =
            self.tensors.get(tensor.as_ref()).ok_or_else(|| format!("tensor `{tensor}` is missing"))?;
        let (start, bytes) = match slice {
            None => (placed.start, placed.bytes),
            Some((i, count)) => {
                let extent = placed.shape.first().copied().unwrap_or(0);
                let slices = count.unwrap_or(extent);
                if i >= slices {
                    return Err(format!("tensor `{tensor}` has {slices} slices, none of number {i}"));
                }
                if !extent.is_multiple_of(slices) {
                    return Err(format!(
                        "tensor `{tensor}`: an extent of {extent} does not divide into {slices} slices"
                    ));
                }
                let bytes = placed.bytes / slices as u64;
                (placed.start + i as u64 * bytes, bytes)
            }
        };
        Ok(Run { file: *file, start, bytes: usize::try_from(bytes).map_err(|e| format!("tensor `{tensor}`: {e}"))? })
    }
}

/// What the rows of a component are made of.
#[derive(Clone, Copy)]
struct Cells {
    row_bytes: usize,
    cols: usize,
}

/// Fills `into` with what a weight has from byte `skip` of a run on, whose rows stand in another order in the file.
fn reordered(
    run: &Run,
    order: Piece<'_>,
    cells: Cells,
    skip: usize,
    into: &mut [u8],
    read: &ReadPiece<'_>,
) -> Result<(), String> {
    let Cells { row_bytes, cols } = cells;
    let rows = run.bytes / row_bytes.max(1);
    let whole = rows * row_bytes == run.bytes && rows.is_multiple_of(order.dealt);
    if into.is_empty() || !whole || order.transposed && !row_bytes.is_multiple_of(cols.max(1)) {
        let (tensor, bytes) = (order.tensor, run.bytes);
        return Err(format!("tensor `{tensor}`: {bytes} bytes are no rows of {cols} elements in another order"));
    }
    let wanted = skip / row_bytes..(skip + into.len()).div_ceil(row_bytes);
    let places: Vec<usize> = wanted.clone().map(|row| order.place(row, rows)).collect();
    let (low, high) = places.iter().fold((rows, 0), |(low, high), at| (low.min(*at), high.max(at + 1)));
    // Of columns that are rows, all of them hold some of each.
    let held = if order.transposed { 0..run.bytes } else { low * row_bytes..high * row_bytes };
    let mut stored = vec![0; held.len()];
    read(run.file, run.start + held.start as u64, &mut stored)?;
    let mut gathered = vec![0; row_bytes];
    for (row, place) in wanted.zip(places) {
        let found = if order.transposed {
            let cell = row_bytes / cols.max(1);
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

impl Checkpoint {
    /// Fills `into` with bytes of a weight; `read` is given a file, a place in it and the piece to fill.
    pub(super) fn read_with(
        &self,
        weight: &WeightBuffer,
        offset: usize,
        into: &mut [u8],
        read: &ReadPiece<'_>,
    ) -> Result<(), String> {
        let (component, mut skip) = self.component(weight, offset, into.len())?;
        let mut rest = into;
        for name in &weight.names[self.first_name(weight, &component, &mut skip)?..] {
            let run = self.run(name, component.name)?;
            if skip >= run.bytes {
                skip -= run.bytes;
                continue;
            }
            let (piece, behind) = rest.split_at_mut(rest.len().min(run.bytes - skip));
            let order = Piece::parse(name);
            if order.dealt == 1 && !order.transposed {
                read(run.file, run.start + skip as u64, piece)?;
            } else {
                let cells = Cells { row_bytes: component.row_bytes, cols: weight.ty.cols };
                reordered(&run, order, cells, skip, piece, read)?;
            }
            (skip, rest) = (0, behind);
            if rest.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The component that bytes of a weight lie in, and how far inside they begin.
    fn component(&self, weight: &WeightBuffer, offset: usize, bytes: usize) -> Result<(Component, usize), String> {
        let layout = weight.ty.format.layout(weight.ty.rows, weight.ty.cols);
        let end = offset.saturating_add(bytes);
        let found = layout.components.into_iter().find(|c| c.offset <= offset && end <= c.offset + c.bytes);
        let found = found.ok_or_else(|| format!("bytes {offset}..{end} lie in no one component of the weight"))?;
        let skip = offset - found.offset;
        Ok((found, skip))
    }

    /// The first name that bytes `skip` of a component and those behind it can lie in; `skip` becomes relative to it.
    /// Slices of stacked tensors are alike, so those before need not be looked up.
    fn first_name(&self, weight: &WeightBuffer, component: &Component, skip: &mut usize) -> Result<usize, String> {
        let each = component.bytes / weight.names.len().max(1);
        let stacked = each > 0 && weight.names.iter().all(|name| name.contains('#'));
        if stacked && self.run(&weight.names[0], component.name)?.bytes == each {
            let first = (*skip / each).min(weight.names.len() - 1);
            *skip -= first * each;
            return Ok(first);
        }
        let runs: Vec<Run> = weight.names.iter().map(|n| self.run(n, component.name)).collect::<Result<_, _>>()?;
        let held: usize = runs.iter().map(|run| run.bytes).sum();
        if held != component.bytes {
            return Err(format!(
                "`{}` of {} {} rows of {} columns: expected {} bytes, the tensors hold {held}",
                component.name, weight.ty.rows, weight.ty.format, weight.ty.cols, component.bytes
            ));
        }
        Ok(0)
    }
}

impl WeightSource for Checkpoint {
    fn read(&self, weight: &WeightBuffer, offset: usize, into: &mut [u8]) -> Result<(), String> {
        self.read_with(weight, offset, into, &|file, start, piece| self.blobs[file].read(start, piece))
    }

    fn place(&self, weight: &WeightBuffer, offset: usize) -> String {
        let at = self.component(weight, offset, 0).and_then(|(component, mut skip)| {
            let first = self.first_name(weight, &component, &mut skip)?;
            for name in &weight.names[first..] {
                let run = self.run(name, component.name)?;
                if skip < run.bytes {
                    return Ok(format!("{}: byte {}", self.blobs[run.file].name, run.start + skip as u64));
                }
                skip -= run.bytes;
            }
            Err("no tensor".to_owned())
        });
        at.unwrap_or_else(|_| weight.names.join(" | "))
    }
}
