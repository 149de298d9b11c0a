//! One sequence's history: its pages and how many tokens of them are filled. Going back is an integer and some pages.

use swiftlm_ir::ty::{PAGE_TOKENS, Window};

use super::StatePool;
use super::recurrence::Recurrence;
use super::ring::{Ring, RingPool};

/// Why a sequence cannot do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It would outgrow the pages it was promised.
    #[error("a sequence of {length} tokens cannot take {tokens} more: its pages hold {capacity}")]
    Full {
        /// Tokens now.
        length: usize,
        /// Tokens to be appended.
        tokens: usize,
        /// Tokens that its pages can hold.
        capacity: usize,
    },
    /// It would get more tokens than a step may bring, for which windows are kept.
    #[error("a step of {tokens} tokens: windows are kept for steps of at most {most}")]
    Step {
        /// Tokens to be appended.
        tokens: usize,
        /// Most tokens of a step.
        most: usize,
    },
    /// A mark lies beyond the end, because the sequence was rewound past it.
    #[error("a mark at {mark} tokens in a sequence of {length}")]
    Ahead {
        /// Tokens at the mark.
        mark: usize,
        /// Tokens now.
        length: usize,
    },
}

/// A length to come back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(usize);

/// The pages of one sequence. Ends with [`Self::close`]; dropping it instead leaks its pages.
#[derive(Debug)]
#[must_use]
pub struct Sequence {
    pages: Vec<u32>,
    promised: usize,
    rings: Vec<Ring>,
    recurrence: Option<Recurrence>,
    length: usize,
}

impl Sequence {
    /// A sequence that can grow to `tokens` tokens, if the pool can promise that.
    pub fn open(pool: &mut StatePool, tokens: usize) -> Option<Self> {
        Self::promise(pool, tokens.div_ceil(PAGE_TOKENS), 0)
    }

    /// An empty sequence that can grow to `blocks` blocks, of which it shares the first `shared` with others.
    fn promise(pool: &mut StatePool, blocks: usize, shared: usize) -> Option<Self> {
        let rings_fit = pool.rings.iter().all(|ring| ring.quota(blocks) <= ring.available());
        let promised = blocks - shared;
        if !rings_fit || promised > pool.pages.available() {
            return None;
        }
        let recurrence = match &mut pool.units {
            Some(units) => Some(Recurrence::open(units)?),
            None => None,
        };
        assert!(pool.pages.promise(promised), "available pages are promised");
        let open = |ring: &mut RingPool| Ring::open(ring, ring.quota(blocks));
        let rings = pool.rings.iter_mut().map(open).collect();
        Some(Self { pages: vec![], promised, rings, recurrence, length: 0 })
    }

    /// The unit of its recurrent states, if it has any.
    pub fn unit(&self) -> Option<u32> {
        self.recurrence.as_ref().map(Recurrence::unit)
    }

    /// Keeps what recurrent states hold now, so that the sequence can be taken back to this length. Of a sequence without
    /// such states nothing is needed. False if there is no room for it: then going back ends at an earlier snapshot.
    ///
    /// The copy is made before the next step: see [`StatePool::take_transfers`].
    pub fn snapshot(&mut self, pool: &mut StatePool) -> bool {
        let (Some(recurrence), Some(units)) = (&mut self.recurrence, &mut pool.units) else { return true };
        let length = self.length;
        length == 0 || recurrence.lengths().next() == Some(length) || recurrence.snapshot(units, length)
    }

    /// Tokens it holds.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Its pages of the states that keep every token.
    pub(super) fn whole_pages(&self) -> &[u32] {
        &self.pages
    }

    /// For each window its pages, in order of position; those that no token will look back at are out of date.
    pub fn tables(&self) -> impl Iterator<Item = (Window, &[u32])> {
        let rings = self.rings.iter().map(|ring| (ring.window(), ring.pages()));
        std::iter::once((Window::ALL, self.pages.as_slice())).chain(rings)
    }

    /// For each window the pages that it holds, in order of position.
    pub fn held(&self) -> impl Iterator<Item = (Window, Vec<u32>)> + '_ {
        let rings = self.rings.iter().map(|ring| (ring.window(), ring.held()));
        std::iter::once((Window::ALL, self.pages.clone())).chain(rings)
    }

    /// Tokens that it can grow to.
    pub fn capacity(&self) -> usize {
        (self.pages.len() + self.promised) * PAGE_TOKENS
    }

    /// Makes room for a step's `tokens` more tokens and counts them.
    ///
    /// # Errors
    /// The sequence is full, or the tokens are more than a step's; nothing has changed.
    pub fn append(&mut self, pool: &mut StatePool, tokens: usize) -> Result<(), StateError> {
        let (length, capacity) = (self.length, self.capacity());
        if tokens > capacity - length {
            return Err(StateError::Full { length, tokens, capacity });
        }
        if let Some(most) = pool.rings.iter().map(RingPool::chunk).find(|most| tokens > *most) {
            return Err(StateError::Step { tokens, most });
        }
        for (ring, pool) in self.rings.iter_mut().zip(&mut pool.rings) {
            ring.append(pool, length, tokens);
        }
        self.length += tokens;
        while self.pages.len() * PAGE_TOKENS < self.length {
            self.promised -= 1;
            self.pages.push(pool.pages.take());
        }
        Ok(())
    }

    /// The length now.
    pub fn mark(&self) -> Mark {
        Mark(self.length)
    }

    /// Forgets what was appended since the mark and gives the length from which to append again: the mark's; or less if
    /// the mark lies within a page that others hold too, for that page must not be written; or 0 if a window that ends
    /// there is no longer held, which is so at most for marks further than [`LONGEST_REWIND`](super::LONGEST_REWIND)
    /// before the last step. Of a sequence with recurrent states it is the longest at or before all these of which there is
    /// a [`Self::snapshot`], or 0.
    ///
    /// Giving up a shared page frees nothing, so the capacity shrinks if the pool cannot promise another in its place.
    ///
    /// # Errors
    /// The mark lies beyond the end; nothing has changed.
    pub fn rewind(&mut self, pool: &mut StatePool, mark: Mark) -> Result<usize, StateError> {
        if mark.0 > self.length {
            return Err(StateError::Ahead { mark: mark.0, length: self.length });
        }
        let before = self.length;
        self.length = self.rests(pool, mark.0);
        if !self.rings.iter().all(|ring| ring.reaches(self.length)) {
            self.length = 0;
        }
        if let (Some(recurrence), Some(units)) = (&mut self.recurrence, &mut pool.units)
            && self.length < before
        {
            recurrence.restore(units, self.length);
        }
        let keep = self.length.div_ceil(PAGE_TOKENS);
        for page in self.pages.drain(keep..) {
            pool.pages.held.release(page);
            self.promised += usize::from(pool.pages.promise(1));
        }
        for (ring, pool) in self.rings.iter_mut().zip(&mut pool.rings) {
            ring.truncate(pool, keep);
        }
        Ok(self.length)
    }

    /// The longest length up to `mark` that the sequence can be at, as far as pages and recurrent states decide it: the
    /// last page is full or its own, and what recurrences were then is known.
    fn rests(&self, pool: &StatePool, mark: usize) -> usize {
        // A block's pages of rings are shared only where its page is.
        let own = |length: usize| {
            length.is_multiple_of(PAGE_TOKENS) || !pool.pages.held.is_shared(self.pages[length / PAGE_TOKENS])
        };
        match &self.recurrence {
            Some(recurrence) if mark < self.length || !own(mark) => {
                recurrence.lengths().find(|length| *length <= mark && own(*length)).unwrap_or(0)
            }
            _ if own(mark) => mark,
            _ => mark / PAGE_TOKENS * PAGE_TOKENS,
        }
    }

    /// The longest length up to `most` at which a [`Self::fork`] can go on: the end of a page that is full. Where a window
    /// that ends there is no longer held it is 0. Of a sequence with recurrent states it is its own length or that of a
    /// [`Self::snapshot`].
    pub fn forks_at(&self, most: usize) -> usize {
        let most = most.min(self.length);
        let length = match &self.recurrence {
            Some(recurrence) => {
                let known = |length: &usize| *length <= most && length.is_multiple_of(PAGE_TOKENS);
                std::iter::once(self.length).chain(recurrence.lengths()).find(known).unwrap_or(0)
            }
            None => most / PAGE_TOKENS * PAGE_TOKENS,
        };
        if self.rings.iter().all(|ring| ring.reaches(length)) { length } else { 0 }
    }

    /// Whether its windows go back as far as those of another with the same history.
    pub fn reaches_as_far_as(&self, other: &Self) -> bool {
        self.rings.iter().zip(&other.rings).all(|(own, other)| own.reaches_as_far_as(other))
    }

    /// A sequence with the same history up to [`Self::forks_at`] `most`, which shares its pages and can grow to `tokens`
    /// tokens; tokens behind are not part of it and must be appended again.
    pub fn fork(&self, pool: &mut StatePool, most: usize, tokens: usize) -> Option<Self> {
        let shared = self.forks_at(most) / PAGE_TOKENS;
        let mut fork = Self::promise(pool, tokens.div_ceil(PAGE_TOKENS).max(shared), shared)?;
        fork.pages = self.pages[..shared].to_vec();
        fork.length = shared * PAGE_TOKENS;
        for page in &fork.pages {
            pool.pages.held.share(*page);
        }
        for ((ring, own), pool) in fork.rings.iter_mut().zip(&self.rings).zip(&mut pool.rings) {
            ring.share(pool, own, shared);
        }
        if let (Some(own), Some(fork_of), Some(units)) = (&self.recurrence, &mut fork.recurrence, &mut pool.units) {
            fork_of.follow(units, own, shared * PAGE_TOKENS);
        }
        Some(fork)
    }

    /// Forgets the tokens behind [`Self::forks_at`] its length and gives promises back: it will not grow, but others may
    /// fork from it. Gives its length.
    pub fn settle(&mut self, pool: &mut StatePool) -> usize {
        let rest = Mark(self.forks_at(self.length));
        let length = self.rewind(pool, rest).unwrap_or(0);
        pool.pages.withdraw(std::mem::take(&mut self.promised));
        for (ring, pool) in self.rings.iter_mut().zip(&mut pool.rings) {
            ring.settle(pool);
        }
        length
    }

    /// For each window the pages, in order of position, that whoever goes on behind the last full page looks back at.
    pub fn needed(&self) -> Vec<(Window, Vec<u32>)> {
        let blocks = self.length / PAGE_TOKENS;
        let rings = self.rings.iter().map(|ring| (ring.window(), ring.needed(blocks)));
        std::iter::once((Window::ALL, self.pages[..blocks].to_vec())).chain(rings).collect()
    }

    /// A sequence of `length` tokens in full pages of its own, whose contents come from elsewhere: those of
    /// [`Self::needed`], and of the unit. It does not grow, but others may fork from it.
    pub fn restore(pool: &mut StatePool, length: usize) -> Option<Self> {
        let blocks = length / PAGE_TOKENS;
        if blocks > pool.pages.available() {
            return None;
        }
        let recurrence = match &mut pool.units {
            Some(units) => Some(Recurrence::open(units)?),
            None => None,
        };
        let mut restored = Self { pages: vec![], promised: 0, rings: vec![], recurrence, length: blocks * PAGE_TOKENS };
        assert!(pool.pages.promise(blocks), "available pages are promised");
        restored.pages = (0..blocks).map(|_| pool.pages.take()).collect();
        for ring in &mut pool.rings {
            match Ring::restore(ring, blocks) {
                Some(ring) => restored.rings.push(ring),
                None => {
                    restored.close(pool);
                    return None;
                }
            }
        }
        Some(restored)
    }

    /// Gives all pages and promises back.
    pub fn close(self, pool: &mut StatePool) {
        pool.pages.withdraw(self.promised);
        for page in self.pages {
            pool.pages.held.release(page);
        }
        for (ring, pool) in self.rings.into_iter().zip(&mut pool.rings) {
            ring.close(pool);
        }
        if let (Some(recurrence), Some(units)) = (self.recurrence, &mut pool.units) {
            recurrence.close(units);
        }
    }
}
