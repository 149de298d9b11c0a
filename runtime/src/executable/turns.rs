//! The host's part of a step: experts are brought, and the launches with them run in turns.

use swiftlm_device::{Device, DeviceError, RecordingId, Slice};
use swiftlm_ir::plan::{Input, StepSizes};
use swiftlm_ir::template::ABSENT;

use super::{Executable, StepError};
use crate::experts::StoreError;

/// Up to so many tokens a turn takes what has come: its cost is that of the experts in it.
pub(super) const FEW_TOKENS: u32 = 8;
/// Experts of a turn with more tokens, at least: every turn prepares all of them.
const TURN: usize = 8;

/// Where the host takes part in a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct FetchSite {
    /// Layer of the store.
    pub(super) layer: usize,
    /// The chosen experts.
    pub(super) ids: Slice,
    /// Experts of a token.
    pub(super) top_k: usize,
    /// Experts of the layer.
    pub(super) experts: usize,
    /// What guesses the experts of the next layer of the store.
    pub(super) guess: Option<Guess>,
}

/// A guess at a choice that comes later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guess {
    /// The launches that make it.
    pub(super) recording: RecordingId,
    /// The guessed experts.
    pub(super) ids: Slice,
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Read(reason) => Self::Weights(reason),
            StoreError::Device(error) => Self::Device(error),
        }
    }
}

impl Executable {
    /// Brings the weights of a layer that takes turns.
    pub(super) fn bring(&mut self, layer: usize) -> Result<(), StepError> {
        let Some(layers) = &mut self.layers else {
            return Err(StepError::Batch("layers are brought, but nothing was given to read them from".to_owned()));
        };
        Ok(layers.bring(layer, self.device.as_mut())?)
    }

    /// Runs launches that read slots until every chosen expert had its turn: those in memory first, while the others are
    /// read.
    pub(super) fn turns(
        &mut self,
        site: FetchSite,
        recording: RecordingId,
        sizes: StepSizes,
        run: &mut dyn FnMut(&mut dyn Device, RecordingId) -> Result<(), DeviceError>,
    ) -> Result<(), StepError> {
        let slots_input = self.bindings.input(Input::Slots);
        let (device, ids, slots) = (self.device.as_mut(), &mut self.chosen, &mut self.slots);
        let Some(store) = &mut self.experts else {
            return Err(StepError::Batch("experts are fetched, but nothing was given to read them from".to_owned()));
        };
        ids.resize(sizes.tokens as usize * site.top_k, 0);
        device.read(Slice { bytes: ids.len() * 4, ..site.ids }, bytemuck::cast_slice_mut(ids))?;
        let mut chosen = ids.clone();
        chosen.sort_unstable();
        chosen.dedup();
        if let Some(id) = chosen.last().filter(|id| **id as usize >= site.experts) {
            return Err(StepError::Batch(format!("expert {id} was chosen: the layer has {}", site.experts)));
        }
        let least = if sizes.tokens > FEW_TOKENS { TURN } else { 1 };
        let mut ready = store.begin(site.layer, &chosen);
        // What is needed is being read by now; plans for many tokens have no guess.
        if let Some(guess) = site.guess.filter(|_| store.wants_guess(site.layer + 1)) {
            device.submit(&[guess.recording], sizes)?;
            slots.resize(ids.len(), 0);
            device.read(Slice { bytes: slots.len() * 4, ..guess.ids }, bytemuck::cast_slice_mut(slots))?;
            store.guess(site.layer + 1, slots, site.top_k);
        }
        let early = store.early(site.layer, &ready, device)?;
        ready.extend(early);
        loop {
            if !ready.is_empty() {
                slots.clear();
                slots.extend(ids.iter().map(|id| match ready.contains(id) {
                    true => store.slot(site.layer, *id).unwrap_or(ABSENT),
                    false => ABSENT,
                }));
                device.write(slots_input, 0, bytemuck::cast_slice(slots))?;
                run(device, recording)?;
            }
            ready = store.arrivals(site.layer, least, device)?;
            if ready.is_empty() {
                return Ok(());
            }
        }
    }
}
