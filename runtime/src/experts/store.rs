//! The store: slots of every layer, readers, and the account of what they did.

use std::sync::Arc;
use std::time::{Duration, Instant};

use swiftlm_device::{Device, DeviceError};

use super::ahead::{Guesses, Settled};
use super::layer::Layer;
use super::reader::{Bounds, GUESSED, Job, RECORDS, Reader, Record};
use super::source::ExpertSource;
use super::trial::Trial;
use super::{ExpertStats, Residency, Trace};

/// Experts of all layers.
#[derive(Debug)]
pub(crate) struct Store {
    layers: Arc<[Layer]>,
    residency: Vec<Residency>,
    reader: Reader,
    stats: ExpertStats,
    step: u64,
    /// Experts of the last choice that were in no slot.
    missing: Vec<u32>,
    /// Those that the step waits for.
    awaited: Vec<Job>,
    /// Those of them that were read ahead and are here.
    here: Vec<Record>,
    /// Where a program guesses.
    guesses: Option<Guesses>,
    /// What was chosen since it was asked to be written down.
    trace: Option<Trace>,
}

impl Store {
    /// Starts to read for a program's layers whose slots hold the first experts, and that may `guess`.
    ///
    /// # Errors
    /// The source does not have these experts, or the system cannot read so.
    pub(crate) fn start(source: &Arc<dyn ExpertSource>, layers: Vec<Layer>, guess: bool) -> Result<Self, String> {
        let layers: Arc<[Layer]> = layers.into();
        let residency = layers.iter().map(|l| Residency::new(l.experts, l.slots)).collect();
        let most = |of: fn(&Layer) -> usize| layers.iter().map(of).max().unwrap_or(0);
        let bounds = Bounds { records: RECORDS, guesses: if guess { GUESSED } else { 0 }, reading: usize::MAX };
        let reader = Reader::start(source, &layers, bounds)?;
        let (slots, experts) = (most(|l| l.slots), most(|l| l.experts));
        let stats = ExpertStats { slots, experts, read_by: reader.method(), ..ExpertStats::default() };
        let guesses = guess.then(|| Guesses::new(layers.len()));
        Ok(Self {
            reader,
            layers,
            residency,
            stats,
            step: 0,
            missing: vec![],
            awaited: vec![],
            here: vec![],
            guesses,
            trace: None,
        })
    }

    /// What it did so far.
    pub(crate) fn stats(&self) -> ExpertStats {
        ExpertStats { ahead: self.guesses.as_ref().map(Guesses::stats), ..self.stats }
    }

    /// Writes down what is chosen from now on.
    pub(crate) fn record(&mut self) {
        self.trace = Some(Trace { experts: self.stats.experts, choices: vec![] });
    }

    /// What was chosen since [`Self::record`].
    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// The slot of an expert, if it is in memory.
    pub(crate) fn slot(&self, layer: usize, expert: u32) -> Option<u32> {
        self.residency[layer].slot(expert)
    }

    /// Begins with a choice of distinct experts: gives those in memory, and asks for the others.
    pub(crate) fn begin(&mut self, layer: usize, chosen: &[u32]) -> Vec<u32> {
        self.abandon();
        self.step += 1;
        if let Some(trace) = &mut self.trace {
            trace.choices.push((layer, chosen.to_vec()));
        }
        let (residency, step) = (&mut self.residency[layer], self.step);
        let (present, missing): (Vec<u32>, Vec<u32>) = chosen.iter().partition(|e| residency.use_slot(**e).is_some());
        self.stats.hits += present.len() as u64;
        self.stats.misses += missing.len() as u64;
        while let Some(record) = self.next(false) {
            self.set_aside(record);
        }
        let settle = |guesses: &mut Guesses| guesses.settle(layer, &missing, &mut self.reader);
        let Settled { here, coming } = self.guesses.as_mut().map(settle).unwrap_or_default();
        self.awaited = here.iter().map(|record| record.job).chain(coming).collect();
        let job = |expert: &u32| Job { layer, expert: *expert, step, guess: false };
        let guessed = |expert: &&u32| self.awaited.iter().any(|job| job.expert == **expert);
        let jobs: Vec<Job> = missing.iter().filter(|expert| !guessed(expert)).map(job).collect();
        self.awaited.extend(&jobs);
        self.reader.ask(jobs);
        (self.here, self.missing) = (here, missing);
        present
    }

    /// Whether a guess at the next choice of `layer` is worth its launches.
    pub(crate) fn wants_guess(&mut self, layer: usize) -> bool {
        self.guesses.as_mut().is_some_and(|guesses| guesses.wanted(layer))
    }

    /// Takes a guess at the next choice of `layer`, `top_k` experts for each token.
    pub(crate) fn guess(&mut self, layer: usize, ids: &[u32], top_k: usize) {
        let Some((guesses, residency)) = self.guesses.as_mut().zip(self.residency.get(layer)) else { return };
        let beside = |expert: u32| expert as usize >= self.layers[layer].experts || residency.slot(expert).is_some();
        guesses.make((layer, self.step), ids, top_k, beside, &mut self.reader);
    }

    /// Measures from now on whether guesses pay, and then reads ahead or not.
    pub(crate) fn measure_ahead(&mut self) {
        self.guesses.iter_mut().for_each(|guesses| guesses.trial = Trial::start());
    }

    /// A step with few tokens took so long for each.
    pub(crate) fn stepped(&mut self, time: Duration) {
        let Some(guesses) = &mut self.guesses else { return };
        if guesses.trial.note(time)
            && let Some([without, with]) = guesses.trial.measured()
        {
            let (without_ms, with_ms) = (without.as_secs_f64() * 1e3, with.as_secs_f64() * 1e3);
            let on = guesses.trial.on();
            tracing::info!(without_ms, with_ms, on, "measured whether experts are better read ahead");
        }
    }

    /// Experts of the choice that were read ahead, now in slots. Those in `kept` are still to be computed with.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn early(
        &mut self,
        layer: usize,
        kept: &[u32],
        device: &mut dyn Device,
    ) -> Result<Vec<u32>, StoreError> {
        let mut arrived: Vec<u32> = vec![];
        while !self.here.is_empty() {
            let may_go = |expert| !arrived.contains(&expert) && !kept.contains(&expert);
            let Some(slot) = self.residency[layer].make_room(may_go) else { break };
            let Some(record) = self.here.pop() else { break };
            arrived.push(self.fill(layer, slot, record, device)?);
        }
        Ok(arrived)
    }

    /// Experts that came since, now in slots; waits for `least` if so many are awaited and slots last. None once all came.
    /// To be called when those that came before were computed with: they may make room.
    ///
    /// # Errors
    /// An expert could not be read, or the device failed; the step is over then.
    pub(crate) fn arrivals(
        &mut self,
        layer: usize,
        least: usize,
        device: &mut dyn Device,
    ) -> Result<Vec<u32>, StoreError> {
        let mut arrived: Vec<u32> = vec![];
        while !self.awaited.is_empty() {
            let Some(slot) = self.residency[layer].make_room(|expert| !arrived.contains(&expert)) else { break };
            let wait = arrived.len() < least.max(1);
            let start = Instant::now();
            let record = self.here.pop().or_else(|| self.next(wait));
            if wait {
                self.stats.stalled += start.elapsed();
            }
            let Some(record) = record else {
                if wait {
                    return Err(StoreError::Read("what reads experts is gone".to_owned()));
                }
                break;
            };
            if self.awaited.contains(&record.job) {
                arrived.push(self.fill(layer, slot, record, device)?);
            } else {
                self.set_aside(record);
            }
        }
        Ok(arrived)
    }

    /// Puts an awaited record into an empty slot.
    fn fill(&mut self, layer: usize, slot: u32, record: Record, device: &mut dyn Device) -> Result<u32, StoreError> {
        let (job, taken) = (record.job, self.take(layer, slot, &record, device));
        self.reader.give_back(record);
        self.awaited.retain(|awaited| *awaited != job);
        if let Err(e) = taken {
            self.abandon();
            return Err(e);
        }
        let residency = &mut self.residency[layer];
        residency.fill(slot, job.expert);
        if self.awaited.is_empty() {
            // Which came first decides nothing: they make room in the order in which a replay has them.
            for expert in &self.missing {
                residency.use_slot(*expert);
            }
        }
        Ok(job.expert)
    }

    /// Forgets what a step that failed still waits for.
    fn abandon(&mut self) {
        self.here.drain(..).for_each(|record| self.reader.give_back(record));
        if !self.awaited.is_empty() {
            self.awaited.clear();
            self.guesses.iter_mut().for_each(|guesses| guesses.drop_all(&mut self.reader));
            self.reader.forget();
        }
    }

    /// A record that the step does not wait for: a guess, or what an earlier step left behind.
    fn set_aside(&mut self, record: Record) {
        match &mut self.guesses {
            Some(guesses) => guesses.came(record, &mut self.reader),
            None => self.reader.give_back(record),
        }
    }

    /// What came, put to account.
    fn next(&mut self, wait: bool) -> Option<Record> {
        let record = self.reader.next(wait)?;
        if record.result.is_ok() {
            self.stats.bytes += record.bytes.as_ref().len() as u64;
            self.stats.reading += record.time;
        }
        Some(record)
    }

    fn take(&mut self, layer: usize, slot: u32, record: &Record, device: &mut dyn Device) -> Result<(), StoreError> {
        record.result.as_ref().map_err(|reason| StoreError::Read(reason.clone()))?;
        self.layers[layer].put(slot, record, device)
    }
}

/// Why an expert is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// It could not be read.
    #[error("{0}")]
    Read(String),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
