//! Bytes of weights straight from a checkpoint's files, one positioned read per contiguous piece, nothing kept.

use std::borrow::Cow;

use swiftlm_ir::graph::piece;
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

/// The tensor that holds a component of the weight whose primary tensor is `primary`: `x.weight` → `x.scales`.
fn tensor_name<'a>(primary: &'a str, component: &str) -> Cow<'a, str> {
    match primary.strip_suffix(".weight") {
        Some(module) if component != "weight" => Cow::Owned(format!("{module}.{component}")),
        _ => Cow::Borrowed(primary),
    }
}

impl Checkpoint {
    /// Where a component of the named weight lies, as [`piece`] reads its name.
    fn run(&self, name: &str, component: &str) -> Result<Run, String> {
        let (primary, slice) = piece(name);
        let tensor = tensor_name(primary, component);
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
            read(run.file, run.start + skip as u64, piece)?;
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
