//! Experts on their way: what is asked of the source for each, and what is made of the pieces that come. So many are on
//! their way at a time, in memory that is bounded: a disk that is faster than the step waits for it.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use swiftlm_device::Order;

use super::layer::Layer;
use super::source::{ExpertSource, Extent, Located, Read, Reads, extent_bytes};

/// Records that are on their way or wait to be taken: twice what keeps a disk busy. Those that are put together from
/// pieces are half as many, since the pieces take memory, too.
pub(super) const RECORDS: usize = 16;
/// As many more for guesses that are on their way or wait to be chosen.
pub(super) const GUESSED: usize = 8;
/// A guess is begun with while fewer records than this are on their way: a disk takes up what it is asked for in order, and
/// what is needed shall not wait behind what may not be.
const QUIET: usize = 3;

/// An expert of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) layer: usize,
    pub(super) expert: u32,
    /// The choice at which it was asked for; what an earlier one left behind is not mistaken for this one's.
    pub(super) step: u64,
    /// Whether it was asked for before it was chosen.
    pub(super) guess: bool,
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
        write!(f, "Record {{ {:?}, {:?} }}", self.job, self.result)
    }
}

/// What a reader may take at a time. Of records that are put together half as many, since their pieces take memory, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Records that are needed.
    pub(super) records: usize,
    /// Records that may be.
    pub(super) guesses: usize,
    /// Memory of reads, in bytes; more only where the largest one needs more.
    pub(super) reading: usize,
}

/// How many records take memory, and may.
#[derive(Debug)]
struct Room {
    taken: usize,
    most: usize,
}

impl Room {
    fn is_full(&self) -> bool {
        self.taken >= self.most
    }
}

/// What waits and what is on its way.
pub(super) struct Reader {
    source: Arc<dyn ExpertSource>,
    layers: Arc<[Layer]>,
    waiting: VecDeque<Job>,
    /// What is begun with when nothing waits and little is on its way.
    guesses: VecDeque<Job>,
    /// On their way.
    flying: usize,
    /// On their way, or not given back yet: those that were needed when they were asked for.
    begun: Room,
    /// The guesses among them.
    guessed: Room,
    /// For records that are put together.
    buffers: Vec<Vec<u8>>,
    done: Receiver<Record>,
    sender: Sender<Record>,
    /// The last: what it still does, it does for the others.
    reads: Box<dyn Reads>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader {{ {} waiting, {} on their way, {} }}", self.waiting.len(), self.flying, self.reads.method())
    }
}

impl Reader {
    /// Starts to read for these layers.
    ///
    /// # Errors
    /// The source does not have their experts, or cannot start.
    pub(super) fn start(source: &Arc<dyn ExpertSource>, layers: &Arc<[Layer]>, bounds: Bounds) -> Result<Self, String> {
        let mut whole = true;
        let (mut largest, mut room) = (0, 0);
        for layer in layers.iter() {
            let located = layer.locate(source.as_ref(), 0)?;
            whole &= located.whole(layer.expert_bytes());
            largest = largest.max(layer.expert_bytes());
            room = located.pieces.iter().map(|piece| extent_bytes(piece.extent.bytes)).fold(room, usize::max);
        }
        let share = |records: usize| if whole { records } else { records / 2 };
        let begun = Room { taken: 0, most: share(bounds.records) };
        let guessed = Room { taken: 0, most: share(bounds.guesses) };
        let all = (begun.most + guessed.most) * extent_bytes(largest);
        let reads = source.start(room.max(bounds.reading.min(all)))?;
        let (sender, done) = mpsc::channel();
        let (source, layers) = (Arc::clone(source), Arc::clone(layers));
        let (waiting, guesses) = (VecDeque::new(), VecDeque::new());
        Ok(Self { source, layers, waiting, guesses, flying: 0, begun, guessed, buffers: vec![], done, sender, reads })
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

    /// Asks for experts that may be chosen, when there is nothing better to do.
    pub(super) fn guess(&mut self, jobs: impl IntoIterator<Item = Job>) {
        self.guesses.extend(jobs);
        self.begin();
    }

    /// Whether a guess had not been begun with; then it is forgotten.
    pub(super) fn cancel(&mut self, job: Job) -> bool {
        let before = self.guesses.len();
        self.guesses.retain(|guess| *guess != job);
        self.guesses.len() < before
    }

    /// Forgets what was not begun with.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.guesses.clear();
    }

    /// The next expert that came; waits for it if `wait`. `None` if there is none.
    pub(super) fn next(&mut self, wait: bool) -> Option<Record> {
        // Nothing can come where nothing is on its way.
        let record = if wait && self.flying > 0 { self.done.recv().ok() } else { self.done.try_recv().ok() }?;
        self.flying -= 1;
        self.begin();
        Some(record)
    }

    /// Takes a record back, and its memory.
    pub(super) fn give_back(&mut self, record: Record) {
        if let Bytes::Made(buffer) = record.bytes {
            self.buffers.push(buffer);
        }
        self.room(record.job).taken -= 1;
        self.begin();
    }

    fn room(&mut self, job: Job) -> &mut Room {
        if job.guess { &mut self.guessed } else { &mut self.begun }
    }

    /// What can be begun with, before all guesses what is needed.
    fn next_job(&mut self) -> Option<Job> {
        if !self.waiting.is_empty() {
            return if self.begun.is_full() { None } else { self.waiting.pop_front() };
        }
        if self.guessed.is_full() || self.flying >= QUIET { None } else { self.guesses.pop_front() }
    }

    fn begin(&mut self) {
        while let Some(job) = self.next_job() {
            self.room(job).taken += 1;
            self.flying += 1;
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
