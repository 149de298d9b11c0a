//! Many reads of files at the same time, past the page cache where the file system allows it, by io_uring or by threads.
//! Knows files, places and bytes; it must never know what they hold.
//!
//! All reads share one range of memory, so what they take is known beforehand. What was read is lent from it: a
//! [`Lease`] gives its part back when it is dropped, and a read waits until there is room.

mod file;
mod pool;
#[cfg(target_os = "linux")]
mod ring;
mod shared;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use file::{BLOCK, open_uncached, read_at, window};
use shared::{Job, Shared};
pub use shared::{Lease, Request, room};

/// What becomes of a read: called on a thread of the disk, with the bytes or the system's words.
pub type Done = Box<dyn FnOnce(io::Result<Lease>) + Send>;

/// How files shall be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// By the best that the system allows.
    #[default]
    Best,
    /// By io_uring, or not at all.
    Uring,
    /// By threads.
    Threads,
}

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// io_uring.
    Uring {
        /// Whether the kernel keeps the memory of all reads mapped.
        registered: bool,
    },
    /// Threads that each wait for a read.
    Threads,
}

impl Method {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring { registered: true } => "io_uring, registered buffers",
            Self::Uring { registered: false } => "io_uring",
            Self::Threads => "threads",
        }
    }
}

/// Why files cannot be read so.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system has no memory or no thread.
    #[error("{what}: {error}")]
    System {
        /// What could not be had.
        what: &'static str,
        /// The system's words.
        error: io::Error,
    },
    /// io_uring was asked for.
    #[error("io_uring cannot be used ({0}); let files be read by threads")]
    Uring(String),
}

/// Open files and what reads them.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    method: Method,
    refused: Option<String>,
}

impl Disk {
    /// Starts to read `files`, up to `depth` reads at the same time, in `bytes` bytes of memory: [`room`] says how many of
    /// them a read takes.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn start(files: Vec<File>, wish: Wish, depth: usize, bytes: usize) -> Result<Self, DiskError> {
        Self::start_with(files, wish, depth.clamp(1, 1024), bytes, true)
    }

    /// As [`Self::start`]; without `register` the kernel maps the memory for each read anew.
    fn start_with(files: Vec<File>, wish: Wish, depth: usize, bytes: usize, register: bool) -> Result<Self, DiskError> {
        let no_memory = || DiskError::System { what: "memory for reads", error: io::ErrorKind::OutOfMemory.into() };
        let shared = Arc::new(Shared::new(files, bytes).ok_or_else(no_memory)?);
        let refused = match wish {
            Wish::Threads => None,
            Wish::Best | Wish::Uring => match Self::by_ring(&shared, depth, register) {
                Ok((thread, registered, refused)) => {
                    let method = Method::Uring { registered };
                    return Ok(Self { shared, threads: vec![thread], method, refused });
                }
                Err(refused) if wish == Wish::Uring => return Err(DiskError::Uring(refused)),
                Err(refused) => Some(format!("io_uring cannot be used ({refused})")),
            },
        };
        let threads = pool::start(&shared, depth).map_err(|error| DiskError::System { what: "threads", error })?;
        Ok(Self { shared, threads, method: Method::Threads, refused })
    }

    /// The thread, whether buffers are registered, and if they are not, why.
    #[cfg(target_os = "linux")]
    fn by_ring(
        shared: &Arc<Shared>,
        depth: usize,
        register: bool,
    ) -> Result<(JoinHandle<()>, bool, Option<String>), String> {
        ring::start(shared, depth, register)
    }

    #[cfg(not(target_os = "linux"))]
    fn by_ring(
        _shared: &Arc<Shared>,
        _depth: usize,
        _register: bool,
    ) -> Result<(JoinHandle<()>, bool, Option<String>), String> {
        Err("it is Linux' own".to_owned())
    }

    /// Asks for a read, after those that were asked for before.
    pub fn read(&self, request: Request, done: Done) {
        self.shared.ask(Job { request, done });
    }

    /// How files are read.
    pub fn method(&self) -> Method {
        self.method
    }

    /// What would be better, and why it is not so.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

impl Drop for Disk {
    /// Waits for the reads that were begun; those that were not are forgotten.
    fn drop(&mut self) {
        self.shared.end();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}
