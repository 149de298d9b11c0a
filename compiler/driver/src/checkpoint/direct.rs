//! Weights read past the page cache: experts that are read again and again would only push out what else is kept, and lie
//! in memory twice.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use swiftlm_ir::plan::WeightBuffer;
use swiftlm_runtime::WeightSource;

use super::Checkpoint;
use super::files::{Blob, read_at};

/// What offsets, lengths and addresses of such reads are multiples of: no disk has larger blocks.
const BLOCK: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(vec![]) };
}

/// A checkpoint whose weights are read past the page cache where the system can.
#[derive(Debug)]
pub struct Uncached {
    checkpoint: Arc<Checkpoint>,
    /// Of each file.
    files: Vec<Option<File>>,
}

impl Uncached {
    /// Opens the files of the checkpoint in `dir` once more.
    pub fn open(checkpoint: Arc<Checkpoint>, dir: &Path) -> Self {
        let opened = |blob: &Blob| open(&dir.join(&blob.name), blob).ok();
        let files: Vec<Option<File>> = checkpoint.blobs.iter().map(opened).collect();
        if files.iter().any(Option::is_none) {
            tracing::info!("the file system cannot read past the page cache: experts are read through it");
        }
        Self { checkpoint, files }
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

#[cfg(target_os = "linux")]
pub(crate) fn open_uncached(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn open_uncached(_path: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

fn read(file: &File, blob: &Blob, offset: u64, into: &mut [u8]) -> Result<(), String> {
    let bytes = into.len();
    window(file, offset, bytes, |read| into.copy_from_slice(read))
        .map_err(|e| format!("{}: byte {offset} cannot be read: {e} (it had {} bytes)", blob.name, blob.bytes))?;
    blob.unchanged(offset)
}

/// Reads the blocks that hold `bytes` bytes from `offset` on, and hands these bytes over.
pub(crate) fn window(file: &File, offset: u64, bytes: usize, take: impl FnOnce(&[u8])) -> io::Result<()> {
    let before = (offset % BLOCK as u64) as usize;
    let blocks = (before + bytes).next_multiple_of(BLOCK);
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < blocks + BLOCK {
            scratch.resize(blocks + BLOCK, 0);
        }
        let aligned = scratch.as_ptr().align_offset(BLOCK);
        let scratch = &mut scratch[aligned..aligned + blocks];
        let mut done = 0;
        // Only the end of a file ends a read within a block.
        while done < before + bytes {
            match read_at(file, &mut scratch[done..], offset - before as u64 + done as u64) {
                Ok(n) if done + n >= before + bytes => done += n,
                Ok(n) if n < BLOCK => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends here"));
                }
                Ok(n) => done += n / BLOCK * BLOCK,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        take(&scratch[before..before + bytes]);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn any_range_is_read() {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        let content: Vec<u8> = (0..3 * BLOCK + 77).map(|i| (i * 31 % 251) as u8).collect();
        file.write_all(&content).expect("it can be written");
        let open = open_uncached(file.path()).unwrap_or_else(|_| File::open(file.path()).expect("it can be opened"));
        for (offset, bytes) in [(0, 1), (0, BLOCK), (5, 2 * BLOCK), (BLOCK - 1, 2), (3 * BLOCK, 77), (0, content.len())]
        {
            let mut got = vec![];
            window(&open, offset as u64, bytes, |read| got.extend_from_slice(read)).expect("it can be read");
            assert!(got == content[offset..offset + bytes], "{bytes} bytes at {offset}");
        }
        for (offset, bytes) in [(3 * BLOCK, 78), (4 * BLOCK, 1)] {
            assert!(
                window(&open, offset as u64, bytes, |_| ()).is_err(),
                "{bytes} bytes at {offset} lie behind the end"
            );
        }
    }
}
