//! Experts on their way: what is asked of the source for each, and what is made of the pieces that come. So many are on
//! their way at a time, in memory that is bounded: a disk that is faster than the step waits for it.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use swiftlm_device::Order;

use super::source::{ExpertSource, Extent, Located, Read, Reads, extent_bytes};
use super::store::Layer;

/// Records that are on their way or wait to be taken: twice what keeps a disk busy. Those that are put together from
/// pieces are half as many, since the pieces take memory, too.
pub(super) const RECORDS: usize = 16;

/// An expert of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) layer: usize,
    pub(super) expert: u32,
    /// The step that asked; what an earlier one left behind is not mistaken for this one's.
    pub(super) step: u64,
}

/// The bytes of a record.
pub(super) enum Bytes {
    /// As they were read.
    Read(Read),
    /// Put together.
    Made(Vec<u8>),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Read(read) => (**read).as_ref(),
            Self::Made(bytes) => bytes,
        }
    }
}

/// An expert that came: its rows of each weight of the layer, one after another as matrices of their own.
pub(super) struct Record {
    pub(super) job: Job,
    pub(super) bytes: Bytes,
    /// The order of each matrix.
    pub(super) orders: Arc<[Order]>,
    /// Why it could not be read.
    pub(super) result: Result<(), String>,
    pub(super) time: Duration,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record {{ {:?} }}", self.job)
    }
}

/// What waits and what is on its way.
pub(super) struct Reader {
    source: Arc<dyn ExpertSource>,
    layers: Arc<[Layer]>,
    waiting: VecDeque<Job>,
    /// On their way, or not given back yet.
    begun: usize,
    most: usize,
    /// For records that are put together.
    buffers: Vec<Vec<u8>>,
    done: Receiver<Record>,
    sender: Sender<Record>,
    /// The last: what it still does, it does for the others.
    reads: Box<dyn Reads>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader {{ {} waiting, {} begun, {} }}", self.waiting.len(), self.begun, self.reads.method())
    }
}

impl Reader {
    /// Starts to read for these layers, so many records at a time, in `reading` bytes of memory where the largest read needs
    /// no more; records that are put together take memory beside it.
    ///
    /// # Errors
    /// The source does not have their experts, or cannot start.
    pub(super) fn start(
        source: &Arc<dyn ExpertSource>,
        layers: &Arc<[Layer]>,
        records: usize,
        reading: usize,
    ) -> Result<Self, String> {
        let mut whole = true;
        let (mut largest, mut room) = (0, 0);
        for layer in layers.iter() {
            let located = layer.locate(source.as_ref(), 0)?;
            whole &= located.whole(layer.expert_bytes());
            largest = largest.max(layer.expert_bytes());
            room = located.pieces.iter().map(|piece| extent_bytes(piece.extent.bytes)).fold(room, usize::max);
        }
        let most = if whole { records } else { records / 2 };
        let reads = source.start(room.max(reading.min(most * extent_bytes(largest))))?;
        let (sender, done) = mpsc::channel();
        let (source, layers) = (Arc::clone(source), Arc::clone(layers));
        Ok(Self { source, layers, waiting: VecDeque::new(), begun: 0, most, buffers: vec![], done, sender, reads })
    }

    /// How it reads, for people.
    pub(super) fn method(&self) -> &'static str {
        self.reads.method()
    }

    /// Asks for experts, in this order.
    pub(super) fn ask(&mut self, jobs: impl IntoIterator<Item = Job>) {
        self.waiting.extend(jobs);
        self.begin();
    }

    /// Forgets what was not begun with.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// The next expert that came; waits for it if `wait`. `None` if there is none.
    pub(super) fn next(&self, wait: bool) -> Option<Record> {
        // Nothing can come where nothing is on its way.
        if wait && self.begun > 0 { self.done.recv().ok() } else { self.done.try_recv().ok() }
    }

    /// Takes a record back, and its memory.
    pub(super) fn give_back(&mut self, record: Record) {
        if let Bytes::Made(buffer) = record.bytes {
            self.buffers.push(buffer);
        }
        self.begun = self.begun.saturating_sub(1);
        self.begin();
    }

    fn begin(&mut self) {
        while self.begun < self.most
            && let Some(job) = self.waiting.pop_front()
        {
            self.begun += 1;
            let layer = &self.layers[job.layer];
            let located = layer.locate(self.source.as_ref(), job.expert as usize);
            let bytes = self.buffers.pop().unwrap_or_default();
            let arrival = Arc::new(Arrival {
                job,
                begin: Instant::now(),
                pieces: Mutex::new(Pieces { bytes, left: 1, failed: None }),
                source: Arc::clone(&self.source),
                layers: Arc::clone(&self.layers),
                sender: self.sender.clone(),
            });
            match located {
                Ok(located) => self.read(&arrival, &located),
                Err(reason) => arrival.end(Bytes::Made(vec![]), [].into(), Err(reason)),
            }
        }
    }

    /// Asks for all pieces of a record at once: they keep a disk busy also where nothing else is missing.
    fn read(&self, arrival: &Arc<Arrival>, located: &Arc<Located>) {
        let size = self.layers[arrival.job.layer].expert_bytes();
        if !located.whole(size) {
            let mut pieces = arrival.lock();
            pieces.bytes.resize(size, 0);
            pieces.left = located.pieces.len();
        }
        for (i, piece) in located.pieces.iter().enumerate() {
            let (arrival, located) = (Arc::clone(arrival), Arc::clone(located));
            self.reads.read(piece.extent, Box::new(move |read| arrival.take(&located, i, size, read)));
        }
    }
}

/// A record that is on its way.
struct Arrival {
    job: Job,
    begin: Instant,
    pieces: Mutex<Pieces>,
    source: Arc<dyn ExpertSource>,
    layers: Arc<[Layer]>,
    sender: Sender<Record>,
}

struct Pieces {
    bytes: Vec<u8>,
    left: usize,
    failed: Option<String>,
}

impl Arrival {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece came, or did not.
    fn take(&self, located: &Located, i: usize, size: usize, read: Result<Read, String>) {
        let orders = Arc::clone(&located.orders);
        let first = located.pieces[0].extent;
        if located.whole(size) {
            return match read {
                Ok(read) => {
                    let result = self.check(located, first, (*read).as_ref());
                    self.end(Bytes::Read(read), orders, result);
                }
                Err(reason) => self.end(Bytes::Made(vec![]), orders, Err(reason)),
            };
        }
        let mut pieces = self.lock();
        match read {
            Ok(read) => {
                for place in &located.pieces[i].places {
                    let from = &(*read).as_ref()[place.from..place.from + place.bytes];
                    pieces.bytes[place.to..place.to + place.bytes].copy_from_slice(from);
                }
            }
            Err(reason) => drop(pieces.failed.get_or_insert(reason)),
        }
        pieces.left -= 1;
        if pieces.left > 0 {
            return;
        }
        let (mut bytes, failed) = (std::mem::take(&mut pieces.bytes), pieces.failed.take());
        drop(pieces);
        let mut result = failed.map_or_else(|| self.check(located, first, &bytes), Err);
        if let (Ok(()), Some(restore)) = (&result, &located.restore) {
            result = restore(&mut bytes);
        }
        self.end(Bytes::Made(bytes), orders, result);
    }

    fn check(&self, located: &Located, first: Extent, bytes: &[u8]) -> Result<(), String> {
        let Job { layer, expert, .. } = self.job;
        let sound = self.layers[layer].check(expert, crc32fast::hash(bytes), located.checksum);
        sound.map_err(|reason| format!("{}: {} {reason}", self.source.name(first), self.layers[layer].name_of(expert)))
    }

    fn end(&self, bytes: Bytes, orders: Arc<[Order]>, result: Result<(), String>) {
        let record = Record { job: self.job, bytes, orders, result, time: self.begin.elapsed() };
        // Nobody waits where the store is gone.
        let _ = self.sender.send(record);
    }
}
