//! A program bound to a device: weights loaded, launches recorded, one submission per step. Knows packed tokens and page
//! tables; never requests, sampling or which sequence a token serves.

mod batch;
mod bindings;
mod fill;
mod inputs;
mod load;
mod next;
mod recordings;
mod recurrent;
mod saved;
mod stores;
mod turns;

use std::time::Instant;

use smallvec::SmallVec;
use swiftlm_device::{Device, DeviceError, RecordingId, Target};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::ty::PAGE_TOKENS;

pub use batch::{Batch, Row, StepOutput, TableUpdate, Want};
use bindings::Bindings;
use inputs::RopeRows;
pub use load::{ExecutableOptions, LoadError, Progress, Rest};
use next::Next;
use recordings::{Body, Head, Host, Label, Part};
use recurrent::Recurrences;
use saved::PagedPart;
use turns::FEW_TOKENS;

use crate::experts::{ExpertStats, PassingLayers, Store, Trace};
use crate::state::{PageSet, StatePool, recurrent_units};

/// What a step failed of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The batch would let kernels leave their buffers; nothing was run.
    #[error("the batch is wrong: {0}")]
    Batch(String),
    /// An expert or a layer could not be read; the device is well.
    #[error("weights could not be read: {0}")]
    Weights(String),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Time of one launch.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfiledLaunch {
    /// Path of the ops it came from, the call's scope included.
    pub loc: String,
    /// Name of its template.
    pub template: &'static str,
    /// Index of the call in the module's main sequence.
    pub call: usize,
    /// Index of the launch in the plan of the call's function.
    pub launch: usize,
    /// Nanoseconds by the device's own clock.
    pub nanoseconds: u64,
}

/// A page table on the device.
#[derive(Debug)]
struct PageTable {
    set: PageSet,
    /// Pages that each row holds now.
    held: Vec<usize>,
}

/// A loaded model on its device.
pub struct Executable {
    device: Box<dyn Device>,
    bindings: Bindings,
    bodies: Vec<Body>,
    heads: Vec<Head>,
    ropes: Vec<RopeRows>,
    /// One for the states of each window.
    tables: Vec<PageTable>,
    /// Every part of every state that is made of pages.
    paged: Vec<PagedPart>,
    /// Of a program with recurrent states.
    recurrences: Option<Recurrences>,
    max_sequences: usize,
    experts: Option<Store>,
    layers: Option<PassingLayers>,
    /// Experts that a layer chose, and the slots they are in.
    chosen: Vec<u32>,
    slots: Vec<u32>,
    output: StepOutput,
    vocabulary: usize,
    chunk: usize,
    max_rows: usize,
    kv_pages: usize,
    table_stride: usize,
    weight_bytes: usize,
    /// The calls that follow on another device.
    next: Option<Box<Next>>,
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executable").field("target", self.device.target()).finish_non_exhaustive()
    }
}

impl Executable {
    /// Facts of the device.
    pub fn target(&self) -> &Target {
        self.device.target()
    }

    /// Token ids are below this.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Most tokens of a step.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Most rows of a step that want logits.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Rows of the page table: sequences that can be alive at a time.
    pub fn max_sequences(&self) -> usize {
        self.max_sequences
    }

    /// Pages of the pool, for states that keep every token.
    pub fn kv_pages(&self) -> usize {
        self.kv_pages
    }

    /// The pages of every window; first those of states that keep every token.
    pub fn page_sets(&self) -> Vec<PageSet> {
        self.tables.iter().map(|table| table.set).collect()
    }

    /// Free pages and units: what sequences are opened in. Of the units so many are for snapshots only.
    pub fn state_pool(&self, snapshots: usize) -> StatePool {
        let pool = StatePool::new(&self.page_sets(), self.chunk);
        let units = recurrent_units(self.max_sequences);
        match &self.recurrences {
            Some(_) => pool.with_recurrences(units.saturating_sub(snapshots), snapshots.min(units)),
            None => pool,
        }
    }

    /// Tables for a sequence of up to `tokens` tokens that is alone: it has row 0, and where it outgrows the pages of a
    /// window, they are used again in turn, but for those of its first tokens where the window keeps them.
    pub fn alone(&self, tokens: usize) -> Vec<TableUpdate> {
        let blocks = tokens.div_ceil(PAGE_TOKENS).min(self.table_stride) as u32;
        let update = |set: PageSet| {
            let kept = set.window.first.div_ceil(PAGE_TOKENS).min(set.pages) as u32;
            let turns = (set.pages as u32 - kept).max(1);
            let page = |block: u32| if block < kept { block } else { kept + (block - kept) % turns };
            let pages = (0..blocks).map(page).collect();
            TableUpdate { window: set.window, row: 0, first: 0, pages }
        };
        self.page_sets().into_iter().map(update).collect()
    }

    /// The first token of a sequence that is alone.
    pub fn first_token(&self) -> Batch {
        Batch {
            ids: vec![0],
            positions: vec![0],
            sequences: vec![0],
            rows: vec![Row { token: 0, want: Want::Greedy }],
            table: self.alone(1),
            ..Batch::default()
        }
    }

    /// Tokens that one sequence can hold.
    pub fn context(&self) -> usize {
        self.table_stride.min(self.kv_pages) * PAGE_TOKENS
    }

    /// What was read of experts, if they take turns in memory.
    pub fn expert_stats(&self) -> Option<ExpertStats> {
        self.experts.as_ref().map(Store::stats)
    }

    /// What was read of layers, if they take turns in memory: slots are those that are there at a time.
    pub fn layer_stats(&self) -> Option<ExpertStats> {
        self.layers.as_ref().map(PassingLayers::stats)
    }

    /// Measures in the steps that follow whether it pays to read experts before they are chosen, where a program guesses
    /// them, and keeps what is faster. Without this they are read ahead as long as guesses are right often enough.
    pub fn measure_ahead(&mut self) {
        if let Some(store) = &mut self.experts {
            store.measure_ahead();
        }
    }

    /// Writes down the experts that steps choose from now on, if they take turns in memory.
    pub fn record_experts(&mut self) {
        if let Some(store) = &mut self.experts {
            store.record();
        }
    }

    /// What was written down since [`Self::record_experts`].
    pub fn expert_trace(&self) -> Option<&Trace> {
        self.experts.as_ref().and_then(Store::trace)
    }

    /// Bytes of the pages of all states on all devices.
    pub fn state_bytes(&self) -> usize {
        let next = self.next.as_ref().map_or(0, |next| next.executable.state_bytes());
        self.bindings.states().map(|slice| slice.bytes).sum::<usize>() + next
    }

    /// Bytes of the weights on all devices.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes + self.next.as_ref().map_or(0, |next| next.executable.weight_bytes())
    }

    /// Runs one step as one submission of each device and reads back what its rows want.
    ///
    /// # Errors
    /// The batch is wrong, or the device failed; after the latter the states of the batch's sequences are undefined.
    pub fn step(&mut self, batch: &Batch) -> Result<&StepOutput, StepError> {
        let start = Instant::now();
        let sizes = self.prepare(batch)?;
        let mut recordings: SmallVec<[RecordingId; 2]> = SmallVec::new();
        for at in 0..self.body(batch)?.parts.len() {
            let Part { recording, host, .. } = self.body(batch)?.parts[at];
            if host.is_some() {
                self.device.submit(&recordings, sizes)?;
                recordings.clear();
            }
            match host {
                Some(Host::Fetch(site)) => {
                    self.turns(site, recording, sizes, &mut |device, recording| device.submit(&[recording], sizes))?;
                }
                Some(Host::Bring(layer)) => {
                    self.bring(layer)?;
                    recordings.push(recording);
                }
                None => recordings.push(recording),
            }
        }
        if self.next.is_none() && !batch.rows.is_empty() {
            recordings.push(self.head(batch)?.recording);
        }
        self.device.submit(&recordings, sizes)?;
        let Self { next: Some(next), device, bindings, recurrences, .. } = self else {
            self.read_results(batch)?;
            self.recurrences.iter_mut().for_each(Recurrences::finish);
            if let Some(store) = self.experts.as_mut().filter(|_| sizes.tokens <= FEW_TOKENS) {
                store.stepped(start.elapsed() / sizes.tokens.max(1));
            }
            return Ok(&self.output);
        };
        let output = next.step(device.as_mut(), bindings.arena(), batch)?;
        recurrences.iter_mut().for_each(Recurrences::finish);
        Ok(output)
    }

    /// Like [`Self::step`] with every launch timed; gives no results.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn profile_step(&mut self, batch: &Batch) -> Result<Vec<ProfiledLaunch>, StepError> {
        let sizes = self.prepare(batch)?;
        let mut parts: Vec<(RecordingId, Option<Host>)> =
            self.body(batch)?.parts.iter().map(|part| (part.recording, part.host)).collect();
        if self.next.is_none() && !batch.rows.is_empty() {
            parts.push((self.head(batch)?.recording, None));
        }
        let mut launches = vec![];
        for (recording, host) in parts {
            let mut times = vec![];
            let mut run = |device: &mut dyn Device, recording| {
                times.extend(device.profile(recording, sizes)?);
                Ok(())
            };
            match host {
                Some(Host::Fetch(site)) => self.turns(site, recording, sizes, &mut run)?,
                Some(Host::Bring(layer)) => {
                    self.bring(layer)?;
                    run(self.device.as_mut(), recording)?;
                }
                None => run(self.device.as_mut(), recording)?,
            }
            let labels = self.labels(recording);
            launches.extend(times.iter().filter_map(|time| {
                let Label { loc, template, place: (call, launch) } = labels.get(time.launch)?;
                let (call, launch) = (*call, *launch);
                Some(ProfiledLaunch { loc: loc.clone(), template, call, launch, nanoseconds: time.nanoseconds })
            }));
        }
        if let Some(next) = &mut self.next {
            launches.extend(next.profile_step(self.device.as_mut(), self.bindings.arena(), batch)?);
        }
        self.recurrences.iter_mut().for_each(Recurrences::finish);
        Ok(launches)
    }

    /// Runs one token through body and head, so that whatever the device makes on first use is made. Uses page 0 and
    /// row 0 of the page tables, which must not be in use.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn warm_up(&mut self) -> Result<(), StepError> {
        self.step(&self.first_token())?;
        self.forget_first_row();
        Ok(())
    }

    fn forget_first_row(&mut self) {
        self.tables.iter_mut().for_each(|table| table.held[0] = 0);
        if let Some(next) = &mut self.next {
            next.executable.forget_first_row();
        }
    }

    /// Checks a batch and writes its inputs.
    fn prepare(&mut self, batch: &Batch) -> Result<StepSizes, StepError> {
        self.check(batch).map_err(StepError::Batch)?;
        self.check_recurrences(batch).map_err(StepError::Batch)?;
        self.write_recurrences(batch)?;
        self.write_inputs(batch)?;
        Ok(StepSizes {
            tokens: batch.ids.len() as u32,
            rows: batch.rows.len() as u32,
            table_stride: self.table_stride as u32,
            last_position: batch.positions.iter().copied().max().unwrap_or(0),
            segments: self.recurrences.as_ref().map_or(0, |r| r.runs() as u32),
        })
    }

    fn body(&self, batch: &Batch) -> Result<&Body, StepError> {
        let class = ShapeClass::of(batch.ids.len());
        let missing = || StepError::Batch(format!("no plan for {} tokens", batch.ids.len()));
        self.bodies.iter().find(|b| b.class == class).ok_or_else(missing)
    }

    fn head(&self, batch: &Batch) -> Result<&Head, StepError> {
        let class = ShapeClass::of(batch.rows.len());
        let missing = || StepError::Batch(format!("no plan for {} rows", batch.rows.len()));
        self.heads.iter().find(|h| h.class == class).ok_or_else(missing)
    }
}
