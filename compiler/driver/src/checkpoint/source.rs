//! Bytes of weights straight from a checkpoint's files, one positioned read per contiguous piece, nothing kept.

use std::borrow::Cow;

use swiftlm_ir::plan::WeightBuffer;
use swiftlm_runtime::WeightSource;

use super::Checkpoint;

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
    /// Where a component of the named weight lies; `name#i` is slice `i` of the outermost extent.
    fn run(&self, name: &str, component: &str) -> Result<Run, String> {
        let slice = name.rsplit_once('#').and_then(|(base, i)| Some((base, i.parse::<usize>().ok()?)));
        let tensor = tensor_name(slice.map_or(name, |s| s.0), component);
        let (file, placed) =
            self.tensors.get(tensor.as_ref()).ok_or_else(|| format!("tensor `{tensor}` is missing"))?;
        let (start, bytes) = match slice {
            None => (placed.start, placed.bytes),
            Some((_, i)) => {
                let slices = placed.shape.first().copied().unwrap_or(0);
                if i >= slices {
                    return Err(format!("tensor `{tensor}` has {slices} slices, none of number {i}"));
                }
                let bytes = placed.bytes / slices as u64;
                (placed.start + i as u64 * bytes, bytes)
            }
        };
        Ok(Run { file: *file, start, bytes: usize::try_from(bytes).map_err(|e| format!("tensor `{tensor}`: {e}"))? })
    }
}

impl WeightSource for Checkpoint {
    fn read(&self, weight: &WeightBuffer, offset: usize, into: &mut [u8]) -> Result<(), String> {
        let layout = weight.ty.format.layout(weight.ty.rows, weight.ty.cols);
        let end = offset.saturating_add(into.len());
        let component = layout.components.iter().find(|c| c.offset <= offset && end <= c.offset + c.bytes);
        let component =
            component.ok_or_else(|| format!("bytes {offset}..{end} lie in no one component of the weight"))?;
        let runs: Vec<Run> = weight.names.iter().map(|n| self.run(n, component.name)).collect::<Result<_, _>>()?;
        let held: usize = runs.iter().map(|r| r.bytes).sum();
        if held != component.bytes {
            return Err(format!(
                "`{}` of {} {} rows of {} columns: expected {} bytes, the tensors hold {held}",
                component.name, weight.ty.rows, weight.ty.format, weight.ty.cols, component.bytes
            ));
        }
        let (mut skip, mut rest) = (offset - component.offset, into);
        for run in runs {
            if skip >= run.bytes {
                skip -= run.bytes;
                continue;
            }
            let (piece, behind) = rest.split_at_mut(rest.len().min(run.bytes - skip));
            self.blobs[run.file].read(run.start + skip as u64, piece)?;
            (skip, rest) = (0, behind);
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
