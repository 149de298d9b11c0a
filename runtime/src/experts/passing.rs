//! The store of layers that take turns: a layer is an expert that every token goes to, so what comes next is known, and is
//! read while what is there is computed with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use swiftlm_device::Device;

use super::ExpertStats;
use super::layer::Layer;
use super::layers::{AHEAD, READING};
use super::reader::{Bounds, Job, Reader, Record};
use super::source::ExpertSource;
use super::store::StoreError;

/// Layers that share rooms, in the order in which every step wants them.
#[derive(Debug)]
pub(crate) struct PassingLayers {
    layers: Arc<[Layer]>,
    /// The room of each, by number.
    room_of: Vec<usize>,
    /// The layer that is in each room.
    rooms: Vec<Option<usize>>,
    reader: Reader,
    /// Layers that are on their way or came, in order.
    asked: VecDeque<usize>,
    came: Vec<Record>,
    /// Goes up when what was asked for is wanted no more.
    turn: u64,
    stats: ExpertStats,
}

impl PassingLayers {
    /// Starts to read. `rooms` gives each layer the number of its room, in which the first one of it is; of all layers of
    /// the model so many are `in_memory` at a time.
    ///
    /// # Errors
    /// The source does not have these layers, or the system cannot read so.
    pub(crate) fn start(
        source: &Arc<dyn ExpertSource>,
        layers: Vec<Layer>,
        room_of: Vec<usize>,
        (in_memory, all): (usize, usize),
    ) -> Result<Self, String> {
        let layers: Arc<[Layer]> = layers.into();
        // Layers are put together from pieces, and of such the reader has half as many.
        let reader = Reader::start(source, &layers, Bounds { records: 2 * AHEAD, guesses: 0, reading: READING })?;
        let rooms = room_of.iter().max().map_or(0, |last| last + 1);
        let first = |room: usize| room_of.iter().position(|of| *of == room);
        let stats = ExpertStats { slots: in_memory, experts: all, read_by: reader.method(), ..ExpertStats::default() };
        let rooms = (0..rooms).map(first).collect();
        Ok(Self { layers, room_of, rooms, reader, asked: VecDeque::new(), came: vec![], turn: 0, stats })
    }

    /// What it did so far; a hit is a layer that was still in its room.
    pub(crate) fn stats(&self) -> ExpertStats {
        self.stats
    }

    /// Has a layer in its room, and those that follow on their way. What was submitted with its room before must have been
    /// submitted: a device writes after it.
    ///
    /// # Errors
    /// The layer could not be read, or the device failed; the step is over then.
    pub(crate) fn bring(&mut self, layer: usize, device: &mut dyn Device) -> Result<(), StoreError> {
        let room = self.room_of[layer];
        if self.rooms[room] == Some(layer) {
            self.stats.hits += 1;
            self.ask_behind(layer);
            return Ok(());
        }
        self.stats.misses += 1;
        if self.asked.front() != Some(&layer) {
            self.forget();
            self.ask(layer);
        }
        let record = self.wait(layer)?;
        self.asked.pop_front();
        self.rooms[room] = None;
        let taken = self.take(layer, &record, device);
        self.reader.give_back(record);
        taken.inspect_err(|_| self.forget())?;
        self.rooms[room] = Some(layer);
        self.ask_behind(layer);
        Ok(())
    }

    fn take(&mut self, layer: usize, record: &Record, device: &mut dyn Device) -> Result<(), StoreError> {
        record.result.as_ref().map_err(|reason| StoreError::Read(reason.clone()))?;
        self.stats.bytes += record.bytes.as_ref().len() as u64;
        self.stats.reading += record.time;
        self.layers[layer].put(0, record, device)
    }

    /// The layer that is wanted after this one and will not be in its room.
    fn behind(&self, layer: usize) -> Option<usize> {
        let shared = |at: &usize| self.room_of.iter().filter(|room| **room == self.room_of[*at]).count() > 1;
        (layer + 1..self.layers.len()).chain(0..layer).find(shared)
    }

    /// Asks for those that follow a layer, as far as reads go ahead.
    fn ask_behind(&mut self, layer: usize) {
        while self.asked.len() < AHEAD {
            let last = self.asked.back().copied().unwrap_or(layer);
            match self.behind(last) {
                // Behind the last comes the first again.
                Some(next) if next != layer && !self.asked.contains(&next) => self.ask(next),
                _ => break,
            }
        }
    }

    fn ask(&mut self, layer: usize) {
        self.asked.push_back(layer);
        self.reader.ask([Job { layer, expert: 0, step: self.turn, guess: false }]);
    }

    /// The record of a layer that was asked for.
    fn wait(&mut self, layer: usize) -> Result<Record, StoreError> {
        loop {
            if let Some(at) = self.came.iter().position(|record| record.job.layer == layer) {
                return Ok(self.came.swap_remove(at));
            }
            let start = Instant::now();
            let record = self.reader.next(true);
            self.stats.stalled += start.elapsed();
            match record {
                Some(record) if record.job.step == self.turn => self.came.push(record),
                Some(stale) => self.reader.give_back(stale),
                None => return Err(StoreError::Read("what reads layers is gone".to_owned())),
            }
        }
    }

    /// Wants nothing any more that was asked for.
    fn forget(&mut self) {
        self.turn += 1;
        self.asked.clear();
        self.reader.forget();
        for record in std::mem::take(&mut self.came) {
            self.reader.give_back(record);
        }
    }
}
