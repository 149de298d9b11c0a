//! Bytes of weights straight from a checkpoint's files or records, one positioned read per contiguous piece, nothing kept.

use std::borrow::Cow;

use swiftlm_ir::graph::Piece;
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_ir::quant::Component;
use swiftlm_runtime::WeightSource;

use super::Checkpoint;
use super::records::{InRecords, Last};
use super::turned::Turned;

/// Fills a piece from a place in the file of that number.
pub(crate) type ReadPiece<'a> = dyn Fn(usize, u64, &mut [u8]) -> Result<(), String> + 'a;

/// Where bytes lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Home {
    /// One after another in a file.
    File { file: usize, start: u64 },
    /// From a byte of rows on that stand in another order in a file.
    Turned { file: usize, start: u64, rows: Turned, skip: usize },
    /// From a byte of a component of a matrix of records on, as if its experts' rows followed one another.
    Records { place: InRecords, component: usize, start: usize },
}

impl Home {
    /// So many bytes further on.
    fn skip(self, bytes: usize) -> Self {
        match self {
            Self::File { file, start } => Self::File { file, start: start + bytes as u64 },
            Self::Turned { file, start, rows, skip } => Self::Turned { file, start, rows, skip: skip + bytes },
            Self::Records { place, component, start } => Self::Records { place, component, start: start + bytes },
        }
    }
}

/// Bytes that follow one another.
struct Run {
    home: Home,
    bytes: usize,
}

/// The tensor that holds a component of the weight whose primary tensor is `primary`: `x.weight` → `x.scales`,
/// `x_blocks` → `x_scales`.
pub(crate) fn tensor_name<'a>(primary: &'a str, component: &str) -> Cow<'a, str> {
    let part = |suffix: &str, join: &str| Some(format!("{}{join}{component}", primary.strip_suffix(suffix)?));
    match component {
        "weight" => Cow::Borrowed(primary),
        _ => part(".weight", ".").or_else(|| part("_blocks", "_")).map_or(Cow::Borrowed(primary), Cow::Owned),
    }
}

impl Checkpoint {
    /// Where a component of the named weight lies, in whatever order its rows are.
    fn run(&self, name: &str, component: &Component, cols: usize) -> Result<Run, String> {
        if let Some(run) = self.recorded(name, component.name) {
            return Ok(run);
        }
        let Piece { tensor, slice, .. } = Piece::parse(name);
        let tensor = tensor_name(tensor, component.name);
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
        let bytes = usize::try_from(bytes).map_err(|e| format!("tensor `{tensor}`: {e}"))?;
        let file = *file;
        let home = match Turned::new(name, component, cols, bytes)? {
            Some(rows) => Home::Turned { file, start, rows, skip: 0 },
            None => Home::File { file, start },
        };
        Ok(Run { home, bytes })
    }

    /// Where it lies, if it is in records.
    fn recorded(&self, name: &str, component: &str) -> Option<Run> {
        let (place, row_bytes) = self.records.as_ref()?.find(name)?;
        let (i, row_bytes) =
            row_bytes.iter().enumerate().find_map(|(i, (n, b))| (*n == component).then_some((i, *b)))?;
        let home = Home::Records { place, component: i, start: place.first * row_bytes };
        Some(Run { home, bytes: place.rows * row_bytes })
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
        let mut rest = into;
        // Names that follow one another often have rows of the same expert.
        let mut last = Last::default();
        for (home, bytes) in self.spans(weight, offset, rest.len())? {
            let (piece, behind) = rest.split_at_mut(bytes);
            rest = behind;
            match (home, &self.records) {
                (Home::File { file, start }, _) => read(file, start, piece)?,
                (Home::Turned { file, start, rows, skip }, _) => {
                    rows.gather(skip, piece, &|at, stored| read(file, start + at as u64, stored))?;
                }
                (Home::Records { place, component, start }, Some(records)) => {
                    records.read(place, component, start, piece, read, &mut last)?;
                }
                (Home::Records { .. }, None) => return Err("there are no records".to_owned()),
            }
        }
        Ok(())
    }

    /// Where bytes of a weight lie: homes and how many bytes of each, in order.
    pub(super) fn spans(
        &self,
        weight: &WeightBuffer,
        offset: usize,
        bytes: usize,
    ) -> Result<Vec<(Home, usize)>, String> {
        let (component, mut skip) = self.component(weight, offset, bytes)?;
        let (mut spans, mut left) = (vec![], bytes);
        for name in &weight.names[self.first_name(weight, &component, &mut skip)?..] {
            let run = self.run(name, &component, weight.ty.cols)?;
            if skip >= run.bytes {
                skip -= run.bytes;
                continue;
            }
            let here = left.min(run.bytes - skip);
            spans.push((run.home.skip(skip), here));
            (skip, left) = (0, left - here);
            if left == 0 {
                break;
            }
        }
        Ok(spans)
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
        if stacked && self.run(&weight.names[0], component, weight.ty.cols)?.bytes == each {
            let first = (*skip / each).min(weight.names.len() - 1);
            *skip -= first * each;
            return Ok(first);
        }
        let runs: Vec<Run> =
            weight.names.iter().map(|n| self.run(n, component, weight.ty.cols)).collect::<Result<_, _>>()?;
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
        let at = self.spans(weight, offset, 1).ok().and_then(|spans| match (spans.first()?.0, &self.records) {
            (Home::File { file, start } | Home::Turned { file, start, .. }, _) => Some(self.name(file, start)),
            (Home::Records { place, component, start }, Some(records)) => {
                let (file, start) = records.position(place, component, start);
                Some(self.name(file, start))
            }
            _ => None,
        });
        at.unwrap_or_else(|| weight.names.join(" | "))
    }
}

impl Checkpoint {
    /// Names a place, for people.
    pub(super) fn name(&self, file: usize, start: u64) -> String {
        self.blobs.get(file).map_or_else(String::new, |blob| format!("{}: byte {start}", blob.name))
    }
}
