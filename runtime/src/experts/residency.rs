//! Which experts of a layer are in which slot. The least recently used one makes room.

/// The slots of one layer. To begin with, expert `i` is in slot `i`.
#[derive(Clone, Debug)]
pub struct Residency {
    slot_of: Vec<Option<u32>>,
    slots: Vec<Slot>,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    expert: Option<u32>,
    used: u64,
}

impl Residency {
    /// `slots` slots, at least one, for `experts` experts.
    pub fn new(experts: usize, slots: usize) -> Self {
        let slot = |i: usize| Slot { expert: (i < experts).then_some(i as u32), used: 0 };
        let slot_of = (0..experts).map(|e| (e < slots).then_some(e as u32)).collect();
        Self { slot_of, slots: (0..slots.max(1)).map(slot).collect(), clock: 0 }
    }

    /// The slot of an expert that is in memory, which counts as a use.
    pub fn use_slot(&mut self, expert: u32) -> Option<u32> {
        let slot = (*self.slot_of.get(expert as usize)?)?;
        self.clock += 1;
        self.slots[slot as usize].used = self.clock;
        Some(slot)
    }

    /// The slot of an expert that is in memory.
    pub fn slot(&self, expert: u32) -> Option<u32> {
        *self.slot_of.get(expert as usize)?
    }

    /// Empties the slot that was not used for longest among those whose expert may go; `None` if none may.
    pub fn make_room(&mut self, may_go: impl Fn(u32) -> bool) -> Option<u32> {
        self.make_room_by(may_go, |_, used| used)
    }

    /// Empties the slot of the lowest rank among those whose expert may go: `rank` is given the expert and when it was
    /// used. `None` if none may.
    pub fn make_room_by(&mut self, may_go: impl Fn(u32) -> bool, rank: impl Fn(u32, u64) -> u64) -> Option<u32> {
        let candidates = self.slots.iter().enumerate().filter(|(_, slot)| slot.expert.is_none_or(&may_go));
        let rank = |slot: &Slot| slot.expert.map(|expert| rank(expert, slot.used));
        let (at, _) = candidates.min_by_key(|(_, slot)| rank(slot))?;
        if let Some(expert) = self.slots[at].expert.take() {
            self.slot_of[expert as usize] = None;
        }
        Some(at as u32)
    }

    /// Notes that an empty slot holds an expert now, which counts as a use.
    pub fn fill(&mut self, slot: u32, expert: u32) {
        self.clock += 1;
        self.slots[slot as usize] = Slot { expert: Some(expert), used: self.clock };
        self.slot_of[expert as usize] = Some(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_one_goes() {
        let mut r = Residency::new(5, 3);
        assert_eq!([r.use_slot(1), r.use_slot(0), r.use_slot(2), r.use_slot(3)], [Some(1), Some(0), Some(2), None]);
        assert_eq!(r.make_room(|_| true), Some(1));
        r.fill(1, 4);
        assert_eq!((r.slot(1), r.slot(4)), (None, Some(1)));
        assert_eq!(r.make_room(|expert| expert != 0), Some(2), "expert 0 may not go, 2 is older than 4");
        assert_eq!(r.make_room(|_| false), Some(2), "an empty slot needs nobody to go");
        r.fill(2, 2);
        assert_eq!(r.make_room(|_| false), None);
    }
}
