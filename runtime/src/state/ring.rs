//! Rings: a state with a window gives a page back once no query can look back at it, so a sequence holds a bounded
//! number of pages however long it grows. Positions and page tables stay as they are elsewhere; entries of blocks that
//! were given back are never read.

use swiftlm_ir::ty::{PAGE_TOKENS, Window};

use super::PageSet;
use super::pool::Holders;

/// Tokens before the last step that a sequence can always be rewound to and go on from. Who goes further back starts
/// from the beginning.
pub const LONGEST_REWIND: usize = PAGE_TOKENS;

/// Most pages that one sequence holds at a time of a ring, in steps of at most `chunk` tokens: those of its first tokens,
/// and a token of the step's first position, or of one [`LONGEST_REWIND`] before it, looks back `window` tokens, itself
/// included.
pub fn ring_pages(window: Window, chunk: usize) -> usize {
    first_blocks(window) + (window.last.saturating_add(LONGEST_REWIND + chunk) - 2).div_ceil(PAGE_TOKENS) + 1
}

/// Blocks at a sequence's start that a ring never gives back.
fn first_blocks(window: Window) -> usize {
    window.first.div_ceil(PAGE_TOKENS)
}

/// The first block that a token appended at `length` looks back at, those of the first tokens aside.
fn first_needed(window: Window, length: usize) -> usize {
    ((length + 1).saturating_sub(window.last) / PAGE_TOKENS).max(first_blocks(window))
}

/// The blocks of a sequence of `blocks` full ones that whoever goes on with it looks back at.
fn needed(window: Window, blocks: usize) -> impl Iterator<Item = usize> {
    let (first, from) = (first_blocks(window), first_needed(window, blocks * PAGE_TOKENS));
    (0..blocks).filter(move |block| *block < first || *block >= from)
}

/// The pages of one ring of all sequences.
///
/// A sequence reserves the most pages it can hold when it is admitted, shared ones included, so that no step can run out
/// of pages whoever gives up a shared one first.
#[derive(Clone, Debug)]
pub(super) struct RingPool {
    held: Holders,
    window: Window,
    /// Most pages that one sequence holds.
    most: usize,
    /// Most tokens of a step.
    chunk: usize,
    reserved: usize,
}

impl RingPool {
    pub(super) fn new(set: PageSet, chunk: usize) -> Self {
        let most = ring_pages(set.window, chunk);
        Self { held: Holders::new(set.pages), window: set.window, most, chunk, reserved: 0 }
    }

    pub(super) fn window(&self) -> Window {
        self.window
    }

    pub(super) fn chunk(&self) -> usize {
        self.chunk
    }

    /// Pages that nobody has reserved.
    pub(super) fn available(&self) -> usize {
        self.held.pages() - self.reserved
    }

    /// What a sequence that grows to so many pages reserves.
    pub(super) fn quota(&self, pages: usize) -> usize {
        pages.min(self.most)
    }
}

/// One sequence's pages of a ring.
#[derive(Debug)]
pub(super) struct Ring {
    window: Window,
    /// Page of each block of positions.
    pages: Vec<u32>,
    /// Blocks before this one were given back, but for those of the first tokens.
    dead: usize,
    quota: usize,
}

impl Ring {
    /// A ring that reserves `quota` pages, which are available.
    pub(super) fn open(pool: &mut RingPool, quota: usize) -> Self {
        pool.reserved += quota;
        Self { window: pool.window, pages: vec![], dead: first_blocks(pool.window), quota }
    }

    pub(super) fn window(&self) -> Window {
        self.window
    }

    /// Page of each block; those of early blocks may have been given back.
    pub(super) fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// The pages that it holds.
    pub(super) fn held(&self) -> Vec<u32> {
        self.held_of(self.pages.len()).map(|block| self.pages[block]).collect()
    }

    /// The blocks that it holds of the first `blocks`.
    fn held_of(&self, blocks: usize) -> impl Iterator<Item = usize> + use<> {
        let (first, dead) = (first_blocks(self.window), self.dead);
        (0..blocks).filter(move |block| *block < first || *block >= dead)
    }

    /// Makes room for `tokens` more tokens than `length`, at most a step's.
    pub(super) fn append(&mut self, pool: &mut RingPool, length: usize, tokens: usize) {
        let readable = (length + 1).saturating_sub(self.window.last + LONGEST_REWIND);
        while (self.dead + 1) * PAGE_TOKENS <= readable {
            pool.held.release(self.pages[self.dead]);
            self.dead += 1;
        }
        while self.pages.len() * PAGE_TOKENS < length + tokens {
            self.pages.push(pool.held.take());
        }
        assert!(self.held_of(self.pages.len()).count() <= self.quota, "a ring holds no more pages than it reserved");
    }

    /// Whether a token appended at `length` finds all that it looks back at.
    pub(super) fn reaches(&self, length: usize) -> bool {
        self.dead <= first_needed(self.window, length)
    }

    /// Whether it holds every block of early ones that another holds.
    pub(super) fn reaches_as_far_as(&self, other: &Self) -> bool {
        self.dead <= other.dead
    }

    /// Gives up all blocks but the first `keep`.
    pub(super) fn truncate(&mut self, pool: &mut RingPool, keep: usize) {
        for block in self.held_of(self.pages.len()).filter(|block| *block >= keep) {
            pool.held.release(self.pages[block]);
        }
        self.pages.truncate(keep);
        self.dead = self.dead.min(keep).max(first_blocks(self.window));
    }

    /// Takes the first `blocks` blocks of another ring, as far as it has not given them back.
    pub(super) fn share(&mut self, pool: &mut RingPool, other: &Self, blocks: usize) {
        self.pages = other.pages[..blocks].to_vec();
        self.dead = other.dead.min(blocks).max(first_blocks(self.window));
        for page in self.held() {
            pool.held.share(page);
        }
    }

    /// The pages that whoever goes on behind its first `blocks` blocks looks back at.
    pub(super) fn needed(&self, blocks: usize) -> Vec<u32> {
        needed(self.window, blocks).map(|block| self.pages[block]).collect()
    }

    /// A ring of `blocks` full blocks with pages of its own for those that are looked back at, as [`Self::needed`] gives
    /// them, if the pool has them.
    pub(super) fn restore(pool: &mut RingPool, blocks: usize) -> Option<Self> {
        let quota = needed(pool.window, blocks).count();
        if quota > pool.available() {
            return None;
        }
        let mut ring = Self::open(pool, quota);
        // What was given back is never read, so any page stands for it.
        ring.pages = vec![0; blocks];
        ring.dead = first_needed(pool.window, blocks * PAGE_TOKENS).min(blocks).max(first_blocks(pool.window));
        for block in needed(pool.window, blocks) {
            ring.pages[block] = pool.held.take();
        }
        Some(ring)
    }

    /// Reserves no more than it holds.
    pub(super) fn settle(&mut self, pool: &mut RingPool) {
        let held = self.held_of(self.pages.len()).count();
        pool.reserved -= self.quota - held;
        self.quota = held;
    }

    /// Gives all pages and the reservation back.
    pub(super) fn close(mut self, pool: &mut RingPool) {
        self.truncate(pool, 0);
        pool.reserved = pool.reserved.checked_sub(self.quota).expect("only reserved pages are given back");
    }
}
