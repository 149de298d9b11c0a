//! Threads that read experts, several at a time, so that a disk sees a queue. They hold a fixed number of buffers: a disk
//! that is faster than the step waits for it.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ExpertSource;
use super::store::Layer;

/// Reads that go on at the same time.
const THREADS: usize = 8;
/// Buffers: a thread reads into one while another waits to be taken.
const BUFFERS: usize = 2 * THREADS;

/// An expert of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) layer: usize,
    pub(super) expert: u32,
    /// The step that asked; what an earlier one left behind is not mistaken for this one's.
    pub(super) step: u64,
}

/// An expert that was read: its rows of each weight of the layer, one after another as matrices of their own.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) job: Job,
    pub(super) bytes: Vec<u8>,
    /// Why it could not be read.
    pub(super) result: Result<(), String>,
    pub(super) time: Duration,
}

/// What waits, and the buffers that are free.
#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    buffers: Vec<Vec<u8>>,
    ended: bool,
}

/// The threads and their queue.
#[derive(Debug)]
pub(super) struct Reader {
    waiting: Arc<(Mutex<Waiting>, Condvar)>,
    done: Receiver<Record>,
    threads: Vec<JoinHandle<()>>,
}

impl Reader {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system has no thread.
    pub(super) fn start(source: &ExpertSource, layers: &Arc<[Layer]>) -> std::io::Result<Self> {
        let waiting = Waiting { buffers: vec![vec![]; BUFFERS], ..Waiting::default() };
        let waiting = Arc::new((Mutex::new(waiting), Condvar::new()));
        let (sender, done) = mpsc::channel();
        let start = |i: usize| {
            let (source, layers) = (Arc::clone(source), Arc::clone(layers));
            let (waiting, sender) = (Arc::clone(&waiting), sender.clone());
            let thread = std::thread::Builder::new().name(format!("swiftlm-expert-{i}"));
            thread.spawn(move || read_all(&source, &layers, &waiting, &sender))
        };
        let threads = (0..THREADS).map(start).collect::<std::io::Result<_>>()?;
        Ok(Self { waiting, done, threads })
    }

    /// Asks for experts, in this order.
    pub(super) fn ask(&self, jobs: impl IntoIterator<Item = Job>) {
        let (waiting, changed) = &*self.waiting;
        waiting.lock().unwrap_or_else(PoisonError::into_inner).jobs.extend(jobs);
        changed.notify_all();
    }

    /// Forgets what no thread has begun with.
    pub(super) fn forget(&self) {
        self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner).jobs.clear();
    }

    /// The next expert that was read; waits for it if `wait`. `None` if there is none, or the threads are gone.
    pub(super) fn next(&self, wait: bool) -> Option<Record> {
        if wait { self.done.recv().ok() } else { self.done.try_recv().ok() }
    }

    /// Gives a buffer back.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let (waiting, changed) = &*self.waiting;
        waiting.lock().unwrap_or_else(PoisonError::into_inner).buffers.push(buffer);
        changed.notify_one();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let (waiting, changed) = &*self.waiting;
        waiting.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

fn read_all(source: &ExpertSource, layers: &[Layer], waiting: &(Mutex<Waiting>, Condvar), done: &Sender<Record>) {
    loop {
        let mut w = waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (job, mut bytes) = loop {
            if w.ended {
                return;
            }
            if !w.jobs.is_empty()
                && let Some(buffer) = w.buffers.pop()
                && let Some(job) = w.jobs.pop_front()
            {
                break (job, buffer);
            }
            w = waiting.1.wait(w).unwrap_or_else(PoisonError::into_inner);
        };
        drop(w);
        let start = Instant::now();
        let result = layers[job.layer].read(source.as_ref(), job.expert, &mut bytes);
        if done.send(Record { job, bytes, result, time: start.elapsed() }).is_err() {
            return;
        }
    }
}
