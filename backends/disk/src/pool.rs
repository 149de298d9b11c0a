//! Reads by threads, each of which waits for one at a time.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::file::{blocks, fill};
use super::shared::Shared;

/// Starts so many threads.
///
/// # Errors
/// The system has none.
pub(crate) fn start(shared: &Arc<Shared>, threads: usize) -> io::Result<Vec<JoinHandle<()>>> {
    let start = |i: usize| {
        let shared = Arc::clone(shared);
        std::thread::Builder::new().name(format!("swiftlm-disk-{i}")).spawn(move || run(&shared))
    };
    (0..threads).map(start).collect()
}

fn run(shared: &Arc<Shared>) {
    loop {
        let mut state = shared.lock();
        let (job, mut lease) = loop {
            if state.ended {
                return;
            }
            if let Some(next) = shared.take(&mut state) {
                break next;
            }
            state = shared.wait(state);
        };
        drop(state);
        let (first, ..) = blocks(job.request.start, job.request.bytes);
        let (window, wished) = lease.window();
        let result = fill(&shared.files[job.request.file], first, window, wished);
        job.finish(result.map(|()| lease));
    }
}
