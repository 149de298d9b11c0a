//! What whoever reads shares with whoever asks: the files, what waits, and the memory that reads go to.

#![allow(unsafe_code, reason = "leases are parts of one range of memory that kernel and callers see in turn")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::fs::File;
use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{fmt, io};

use super::Done;
use super::file::{BLOCK, blocks};

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which of the files.
    pub file: usize,
    /// First byte.
    pub start: u64,
    /// Bytes, at least one.
    pub bytes: usize,
}

/// Memory that a read of so many bytes takes, wherever they begin.
pub fn room(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK).saturating_add(1).saturating_mul(BLOCK)
}

/// A read that waits.
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) done: Done,
}

impl Job {
    /// Hands over what came of it.
    pub(crate) fn finish(self, result: io::Result<Lease>) {
        // What others do with it must not end the thread that reads, nor free memory that it reads into.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.done)(result)));
    }
}

/// What changes.
pub(crate) struct State {
    jobs: VecDeque<Job>,
    /// Free ranges of the memory, ascending, none touching another.
    free: Vec<Range<usize>>,
    pub(crate) ended: bool,
    /// Whether whoever reads waits for the kernel and must be woken.
    pub(crate) asleep: bool,
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) files: Vec<File>,
    memory: NonNull<u8>,
    bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes who waits for the kernel.
    pub(crate) waker: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

// SAFETY: the memory is reached through leases only, each of which has a range of its own.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files, {} bytes", self.files.len(), self.bytes)
    }
}

impl Shared {
    /// `None` where the system has no such memory.
    pub(crate) fn new(files: Vec<File>, bytes: usize) -> Option<Self> {
        let bytes = bytes.max(BLOCK).checked_next_multiple_of(BLOCK)?;
        let layout = Layout::from_size_align(bytes, BLOCK).ok()?;
        // SAFETY: the size is not 0.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let whole = std::iter::once(0..bytes).collect();
        let state = State { jobs: VecDeque::new(), free: whole, ended: false, asleep: false };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Some(Self { files, memory, bytes, state, changed, waker: OnceLock::new() })
    }

    /// All of the memory, for a kernel that wants to map it once.
    #[cfg(target_os = "linux")]
    pub(crate) fn whole(&self) -> (*mut u8, usize) {
        (self.memory.as_ptr(), self.bytes)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells one who reads that there is something to do, if there is.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if state.jobs.is_empty() && !state.ended {
            return;
        }
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        self.changed.notify_one();
        if let Some(waker) = self.waker.get().filter(|_| asleep) {
            waker();
        }
    }

    pub(crate) fn ask(&self, job: Job) {
        let Request { file, bytes, start } = job.request;
        let (_, _, size) = blocks(start, bytes);
        if file >= self.files.len() || bytes == 0 || size > self.bytes {
            let reason =
                format!("{bytes} bytes of file {file}: there are {} files, {} bytes", self.files.len(), self.bytes);
            return job.finish(Err(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        let mut state = self.lock();
        state.jobs.push_back(job);
        self.wake(state);
    }

    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let forgotten = std::mem::take(&mut state.jobs);
        self.wake(state);
        self.changed.notify_all();
        drop(forgotten);
    }

    /// The next read, with memory for it, if there is one and room.
    pub(crate) fn take(self: &Arc<Self>, state: &mut State) -> Option<(Job, Lease)> {
        let Request { start, bytes, .. } = state.jobs.front()?.request;
        let (_, before, size) = blocks(start, bytes);
        let at = state.free.iter().position(|range| range.len() >= size)?;
        let range = &mut state.free[at];
        let begin = range.start;
        range.start += size;
        if range.start >= range.end {
            state.free.remove(at);
        }
        let job = state.jobs.pop_front()?;
        Some((job, Lease { shared: Arc::clone(self), range: begin..begin + size, before, bytes }))
    }

    fn give_back(&self, range: Range<usize>) {
        let mut state = self.lock();
        let at = state.free.partition_point(|free| free.start < range.start);
        state.free.insert(at, range);
        for i in [at, at.wrapping_sub(1)] {
            if i < state.free.len() - 1 && state.free[i].end == state.free[i + 1].start {
                state.free[i].end = state.free.remove(i + 1).end;
            }
        }
        self.wake(state);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(self.bytes, BLOCK) {
            // SAFETY: allocated with this layout; no lease is left, since each holds this.
            unsafe { dealloc(self.memory.as_ptr(), layout) }
        }
    }
}

/// Bytes that were read, lent from the memory of the disk that read them.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    /// Whole blocks of the memory.
    range: Range<usize>,
    before: usize,
    bytes: usize,
}

impl Lease {
    /// The blocks that the read goes to, and how many bytes of them it must fill.
    pub(crate) fn window(&mut self) -> (&mut [u8], usize) {
        let wished = self.before + self.bytes;
        // SAFETY: the range lies in the memory, and is this lease's own.
        let blocks = unsafe {
            std::slice::from_raw_parts_mut(self.shared.memory.as_ptr().add(self.range.start), self.range.len())
        };
        (blocks, wished)
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.range.start + self.before;
        // SAFETY: as in `window`.
        unsafe { std::slice::from_raw_parts(self.shared.memory.as_ptr().add(start), self.bytes) }
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.give_back(self.range.clone());
    }
}
