//! Files and how they are read past the page cache: in whole blocks.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::Path;

/// What offsets, lengths and addresses of reads past the page cache are multiples of: no disk has larger blocks.
pub const BLOCK: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(vec![]) };
}

/// Opens a file to be read past the page cache.
///
/// # Errors
/// It cannot be opened, or its file system or this system has no such reads.
#[cfg(target_os = "linux")]
pub fn open_uncached(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// Opens a file to be read past the page cache.
///
/// # Errors
/// This system has no such reads.
#[cfg(not(target_os = "linux"))]
pub fn open_uncached(_path: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reads some bytes from a place; 0 behind the end.
///
/// # Errors
/// The system's.
#[cfg(unix)]
pub fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, offset)
}

/// Reads some bytes from a place; 0 behind the end.
///
/// # Errors
/// The system's.
#[cfg(windows)]
pub fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, offset)
}

/// The first block that a range of a file touches, where the range begins in it, and the bytes of all blocks it touches.
pub(crate) fn blocks(start: u64, bytes: usize) -> (u64, usize, usize) {
    let before = (start % BLOCK as u64) as usize;
    (start - before as u64, before, before.saturating_add(bytes).div_ceil(BLOCK).saturating_mul(BLOCK))
}

/// That a file is shorter than what was asked of it.
pub(crate) fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends here")
}

/// What a read has of `wished` bytes after `done` came and `n` more: `None` once all are there.
///
/// # Errors
/// The file ends before.
pub(crate) fn progress(done: usize, n: usize, wished: usize) -> io::Result<Option<usize>> {
    // Only the end of a file ends a read within a block.
    match done + n {
        all if all >= wished => Ok(None),
        _ if n < BLOCK => Err(ended()),
        all => Ok(Some(all / BLOCK * BLOCK)),
    }
}

/// Fills `into`, whole blocks, from `offset` on, of which the first `wished` bytes must be there.
pub(crate) fn fill(file: &File, offset: u64, into: &mut [u8], wished: usize) -> io::Result<()> {
    let mut done = 0;
    loop {
        match read_at(file, &mut into[done..], offset + done as u64) {
            Ok(n) => match progress(done, n, wished)? {
                None => return Ok(()),
                Some(so_far) => done = so_far,
            },
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reads the blocks that hold `bytes` bytes from `offset` on, at once, and hands these bytes over.
///
/// # Errors
/// The file ends before, or the system's.
pub fn window(file: &File, offset: u64, bytes: usize, take: impl FnOnce(&[u8])) -> io::Result<()> {
    let (first, before, size) = blocks(offset, bytes);
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < size + BLOCK {
            scratch.resize(size + BLOCK, 0);
        }
        let aligned = scratch.as_ptr().align_offset(BLOCK);
        let scratch = &mut scratch[aligned..aligned + size];
        if bytes > 0 {
            fill(file, first, scratch, before + bytes)?;
        }
        take(&scratch[before..before + bytes]);
        Ok(())
    })
}
