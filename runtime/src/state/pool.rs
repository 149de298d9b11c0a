//! The page pools: which pages are free, how many sequences hold each, and how many are promised.

use std::collections::BTreeSet;

use swiftlm_ir::ty::{PAGE_TOKENS, Window};

use super::recurrence::{Transfer, Units};
use super::ring::RingPool;
use super::{PageSet, Sequence};

/// The pools of all page sets.
#[derive(Clone, Debug)]
pub struct StatePool {
    pub(super) pages: PagePool,
    pub(super) rings: Vec<RingPool>,
    /// Of a program with recurrent states.
    pub(super) units: Option<Units>,
}

impl StatePool {
    /// Free pages of `sets`, for steps of at most `chunk` tokens.
    pub fn new(sets: &[PageSet], chunk: usize) -> Self {
        let rings = sets.iter().filter(|set| !set.window.is_all());
        Self {
            pages: PagePool::new(sets.iter().filter(|set| set.window.is_all()).map(|set| set.pages).sum()),
            rings: rings.map(|set| RingPool::new(*set, chunk)).collect(),
            units: None,
        }
    }

    /// The same for a program with recurrent states, of which `sequences` sequences and `snapshots` snapshots can be held.
    pub fn with_recurrences(self, sequences: usize, snapshots: usize) -> Self {
        Self { units: Some(Units::new(sequences, snapshots)), ..self }
    }

    /// Whether there are recurrent states.
    pub fn has_recurrences(&self) -> bool {
        self.units.is_some()
    }

    /// Copies of recurrent states that must be made, in this order, before the next step that any sequence takes part in.
    pub fn take_transfers(&mut self) -> Vec<Transfer> {
        self.units.as_mut().map(Units::take_transfers).unwrap_or_default()
    }

    /// Snapshots that can be taken before sequences give up earlier ones; `None` if there are no recurrent states.
    pub fn available_snapshots(&self) -> Option<usize> {
        self.units.as_ref().map(Units::snapshots)
    }

    /// Whether every state keeps every token, so that a sequence can be forked at the end of any of its pages.
    pub fn keeps_all(&self) -> bool {
        self.rings.is_empty() && self.units.is_none()
    }

    /// Whether a sequence of `tokens` tokens would have its pages if only `living` ones held any.
    pub fn fits_beside<'a>(&self, living: impl Iterator<Item = &'a Sequence>, tokens: usize) -> bool {
        let held: BTreeSet<u32> = living.flat_map(Sequence::whole_pages).copied().collect();
        tokens.div_ceil(PAGE_TOKENS) + self.pages.promised + held.len() <= self.pages.held.pages()
    }

    /// Pages of the states that keep every token, neither held nor promised.
    pub fn available(&self) -> usize {
        self.pages.available()
    }

    /// The same of the states with a window; `None` if there are none.
    pub fn available_in_ring(&self, window: Window) -> Option<usize> {
        self.rings.iter().find(|ring| ring.window() == window).map(RingPool::available)
    }
}

/// Pages, free or held.
#[derive(Clone, Debug)]
pub(super) struct Holders {
    free: Vec<u32>,
    holders: Vec<u32>,
}

impl Holders {
    /// So many free pages.
    pub(super) fn new(pages: usize) -> Self {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        Self { free: (0..pages).rev().collect(), holders: vec![0; pages as usize] }
    }

    /// All pages.
    pub(super) fn pages(&self) -> usize {
        self.holders.len()
    }

    /// Those that are free.
    pub(super) fn available(&self) -> usize {
        self.free.len()
    }

    /// A free page, which now has one holder.
    pub(super) fn take(&mut self) -> u32 {
        let page = self.free.pop().expect("promised pages are free");
        self.holders[page as usize] = 1;
        page
    }

    /// One more holder of a held page.
    pub(super) fn share(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        assert!(*holders > 0, "only held pages are shared");
        *holders += 1;
    }

    /// Whether others hold the page too.
    pub(super) fn is_shared(&self, page: u32) -> bool {
        self.holders[page as usize] > 1
    }

    /// One holder less.
    pub(super) fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders = holders.checked_sub(1).expect("only held pages are released");
        if *holders == 0 {
            self.free.push(page);
        }
    }
}

/// Pages of the states that keep every token.
///
/// A sequence is promised all pages it may ever need when it is admitted, so that no step can run out of pages.
#[derive(Clone, Debug)]
pub(super) struct PagePool {
    pub(super) held: Holders,
    promised: usize,
}

impl PagePool {
    fn new(pages: usize) -> Self {
        Self { held: Holders::new(pages), promised: 0 }
    }

    /// Pages that are neither held nor promised.
    pub(super) fn available(&self) -> usize {
        self.held.free.len() - self.promised
    }

    /// Promises pages; false if they are not available.
    pub(super) fn promise(&mut self, pages: usize) -> bool {
        let granted = pages <= self.available();
        self.promised += if granted { pages } else { 0 };
        granted
    }

    /// Takes promises back.
    pub(super) fn withdraw(&mut self, pages: usize) {
        self.promised = self.promised.checked_sub(pages).expect("only promised pages are withdrawn");
    }

    /// A page for one promise.
    pub(super) fn take(&mut self) -> u32 {
        self.withdraw(1);
        self.held.take()
    }
}
