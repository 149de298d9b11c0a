//! Weights read past the page cache: experts that are read again and again would only push out what else is kept, and lie
//! in memory twice.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use swiftlm_device::Order;
use swiftlm_disk::{BLOCK, Disk, Lease, Request, Wish, open_uncached, window};
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_runtime::WeightSource;
use swiftlm_runtime::experts::{Done, ExpertSource, Extent, Located, Part, Piece, Place, Reads, Restore};

use super::Checkpoint;
use super::files::Blob;
use super::source::Home;
use super::turned::Turned;

/// Reads that a disk is given at the same time.
const DEPTH: usize = 16;

/// Pieces that touch are one read, up to so many bytes.
const MOST_TOGETHER: usize = 8 << 20;

/// Rows of a record that stand in another order, by their first byte.
type TurnedRows = Vec<(usize, Turned)>;

/// A checkpoint whose weights are read past the page cache where the system can.
#[derive(Debug)]
pub struct Uncached {
    checkpoint: Arc<Checkpoint>,
    /// Of each file.
    files: Vec<Option<File>>,
    wish: Wish,
}

impl Uncached {
    /// Opens the files of the checkpoint once more; those of its records lie in `records`, all others in `dir`.
    pub fn open(checkpoint: Arc<Checkpoint>, dir: &Path, records: &Path, wish: Wish) -> Self {
        let of_records = checkpoint.records.as_ref().map(|records| records.file);
        let place = |i: usize| if of_records == Some(i) { records } else { dir };
        let opened = |(i, blob): (usize, &Blob)| open(&place(i).join(&blob.name), blob).ok();
        let files: Vec<Option<File>> = checkpoint.blobs.iter().enumerate().map(opened).collect();
        if files.iter().any(Option::is_none) {
            tracing::info!("the file system cannot read past the page cache: experts are read through it");
        }
        Self { checkpoint, files, wish }
    }
}

impl WeightSource for Uncached {
    fn read(&self, weight: &WeightBuffer, offset: usize, into: &mut [u8]) -> Result<(), String> {
        self.checkpoint.read_with(weight, offset, into, &|file, start, piece| match &self.files[file] {
            Some(direct) => read(direct, &self.checkpoint.blobs[file], start, piece),
            None => self.checkpoint.blobs[file].read(start, piece),
        })
    }

    fn place(&self, weight: &WeightBuffer, offset: usize) -> String {
        self.checkpoint.place(weight, offset)
    }
}

/// Opens the file of `blob` once more, if it is still that file and a block of it can be read.
fn open(path: &Path, blob: &Blob) -> io::Result<File> {
    let file = open_uncached(path)?;
    let facts = file.metadata()?;
    if facts.len() != blob.bytes || facts.modified().ok() != blob.modified {
        return Err(io::Error::other("another file has its name now"));
    }
    // Some file systems take the flag and refuse the read.
    window(&file, 0, BLOCK.min(blob.bytes as usize), |_| ())?;
    Ok(file)
}

fn read(file: &File, blob: &Blob, offset: u64, into: &mut [u8]) -> Result<(), String> {
    let bytes = into.len();
    window(file, offset, bytes, |read| into.copy_from_slice(read)).map_err(|e| failed(blob, offset, &e))?;
    blob.unchanged(offset)
}

fn failed(blob: &Blob, offset: u64, error: &io::Error) -> String {
    format!("{}: byte {offset} cannot be read: {error} (it had {} bytes)", blob.name, blob.bytes)
}

impl Uncached {
    /// An expert's record, if there are records of these parts.
    fn record(&self, parts: &[Part<'_>], expert: usize) -> Option<Located> {
        let records = self.checkpoint.records.as_ref()?;
        let at = records.layer_of(parts.iter().map(|part| part.weight))?;
        let layer = &records.layers[at];
        let checksum = Some(*layer.crc32.get(expert)?);
        let bytes = layer.bytes();
        let start = layer.offset + expert as u64 * layer.stride;
        let extent = Extent { file: records.file, start, bytes };
        let pieces = vec![Piece { extent, places: vec![Place { from: 0, to: 0, bytes }] }];
        let orders = records.orders(at);
        let as_kept = |(order, part): (&Order, &Part<'_>)| *order == Order::Rows || *order == part.order;
        if orders.iter().zip(parts).all(as_kept) {
            return Some(Located { pieces, orders, checksum, restore: None });
        }
        let orders = parts.iter().map(|_| Order::Rows).collect();
        Some(Located { pieces, orders, checksum, restore: Some(records.restore(at)) })
    }

    /// The pieces of an expert in a checkpoint's own files, in the order of files, those that touch as one; and which bytes
    /// of the record then still have their rows in another order.
    fn pieces(&self, parts: &[Part<'_>], expert: usize) -> Result<(Vec<Piece>, TurnedRows), String> {
        let (mut pieces, mut record, mut turned) = (vec![], 0, vec![]);
        for part in parts {
            let ty = part.weight.ty;
            let (whole, own) = (ty.format.layout(ty.rows, ty.cols), ty.format.layout(part.rows, ty.cols));
            for (from, to) in whole.components.iter().zip(&own.components) {
                let mut at = record + to.offset;
                let first = from.offset + expert * part.rows * from.row_bytes;
                for (home, bytes) in self.checkpoint.spans(part.weight, first, to.bytes)? {
                    let (file, start) = match home {
                        Home::File { file, start } => (file, start),
                        Home::Turned { file, start, rows, skip: 0 } if rows.bytes() == bytes => {
                            turned.push((at, rows));
                            (file, start)
                        }
                        Home::Turned { .. } => {
                            let name = part.weight.names.first().map_or("", String::as_str);
                            return Err(format!(
                                "`{name}`: its experts do not begin with rows of their own, so all must fit memory"
                            ));
                        }
                        Home::Records { .. } => {
                            let wrong = "the records are not of this program's experts: make the package again";
                            return Err(wrong.to_owned());
                        }
                    };
                    pieces.push((Extent { file, start, bytes }, Place { from: 0, to: at, bytes }));
                    at += bytes;
                }
            }
            record += own.bytes;
        }
        pieces.sort_unstable_by_key(|(extent, _)| (extent.file, extent.start));
        let mut joined: Vec<Piece> = vec![];
        for (extent, place) in pieces {
            match joined.last_mut() {
                Some(Piece { extent: last, places })
                    if (last.file, last.start + last.bytes as u64) == (extent.file, extent.start)
                        && last.bytes + extent.bytes <= MOST_TOGETHER =>
                {
                    places.push(Place { from: last.bytes, ..place });
                    last.bytes += extent.bytes;
                }
                _ => joined.push(Piece { extent, places: vec![place] }),
            }
        }
        Ok((joined, turned))
    }
}

/// Brings rows of a record into the weight's order.
fn restore(turned: TurnedRows) -> Restore {
    let turn = move |record: &mut [u8]| {
        turned.iter().try_for_each(|(at, rows)| {
            let own = record.get_mut(*at..at + rows.bytes()).ok_or("a record that is too short")?;
            rows.turn(own)
        })
    };
    Arc::new(turn)
}

impl ExpertSource for Uncached {
    fn locate(&self, parts: &[Part<'_>], expert: usize) -> Result<Located, String> {
        if let Some(located) = self.record(parts, expert) {
            return Ok(located);
        }
        let (pieces, turned) = self.pieces(parts, expert)?;
        let orders = parts.iter().map(|_| Order::Rows).collect();
        let restore = if turned.is_empty() { None } else { Some(restore(turned)) };
        Ok(Located { pieces, orders, checksum: None, restore })
    }

    fn start(&self, bytes: usize) -> Result<Box<dyn Reads>, String> {
        let again = |(direct, blob): (&Option<File>, &Blob)| match direct {
            Some(file) => file.try_clone().map_err(|e| format!("{}: {e}", blob.name)),
            None => blob.reopened(),
        };
        let files = self.files.iter().zip(&self.checkpoint.blobs).map(again).collect::<Result<_, _>>()?;
        let disk = Disk::start(files, self.wish, DEPTH, bytes).map_err(|e| format!("{e} (--io)"))?;
        match disk.refused() {
            Some(reason) => {
                tracing::warn!(by = disk.method().name(), "experts are read otherwise than is best: {reason}")
            }
            None => tracing::info!(by = disk.method().name(), "experts are read from disk"),
        }
        Ok(Box::new(OfCheckpoint { disk, checkpoint: Arc::clone(&self.checkpoint) }))
    }

    fn name(&self, extent: Extent) -> String {
        self.checkpoint.name(extent.file, extent.start)
    }
}

/// A disk whose files must stay what they were.
struct OfCheckpoint {
    disk: Disk,
    checkpoint: Arc<Checkpoint>,
}

impl Reads for OfCheckpoint {
    fn read(&self, extent: Extent, done: Done) {
        let Extent { file, start, bytes } = extent;
        let checkpoint = Arc::clone(&self.checkpoint);
        let finish = move |result: io::Result<Lease>| {
            let Some(blob) = checkpoint.blobs.get(file) else { return done(Err(format!("there is no file {file}"))) };
            let read = result.map_err(|e| failed(blob, start, &e));
            done(read.and_then(|lease| {
                blob.unchanged(start)?;
                Ok(Box::new(lease) as swiftlm_runtime::experts::Read)
            }));
        };
        self.disk.read(Request { file, start, bytes }, Box::new(finish));
    }

    fn method(&self) -> &'static str {
        self.disk.method().name()
    }
}
