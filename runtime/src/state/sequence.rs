//! One sequence's history: its pages and how many tokens of them are filled. Going back is an integer and some pages.

use swiftlm_ir::ty::{PAGE_TOKENS, Window};

use super::StatePool;
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
        if !rings_fit || !pool.pages.promise(promised) {
            return None;
        }
        let open = |ring: &mut RingPool| Ring::open(ring, ring.quota(blocks));
        Some(Self { pages: vec![], promised, rings: pool.rings.iter_mut().map(open).collect(), length: 0 })
    }

    /// Tokens it holds.
    pub fn length(&self) -> usize {
        self.length
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
    /// before the last step.
    ///
    /// Giving up a shared page frees nothing, so the capacity shrinks if the pool cannot promise another in its place.
    ///
    /// # Errors
    /// The mark lies beyond the end; nothing has changed.
    pub fn rewind(&mut self, pool: &mut StatePool, mark: Mark) -> Result<usize, StateError> {
        if mark.0 > self.length {
            return Err(StateError::Ahead { mark: mark.0, length: self.length });
        }
        let mut keep = mark.0.div_ceil(PAGE_TOKENS);
        self.length = mark.0;
        // A block's pages of rings are shared only where its page is.
        if !self.length.is_multiple_of(PAGE_TOKENS) && pool.pages.held.is_shared(self.pages[keep - 1]) {
            keep -= 1;
            self.length = keep * PAGE_TOKENS;
        }
        if !self.rings.iter().all(|ring| ring.reaches(self.length)) {
            (keep, self.length) = (0, 0);
        }
        for page in self.pages.drain(keep..) {
            pool.pages.held.release(page);
            self.promised += usize::from(pool.pages.promise(1));
        }
        for (ring, pool) in self.rings.iter_mut().zip(&mut pool.rings) {
            ring.truncate(pool, keep);
        }
        Ok(self.length)
    }

    /// A sequence with the same history that can grow to `tokens` tokens. Full pages are shared; the tokens of a page
    /// that is only partly full are not part of the fork and must be appended to it again. Where a window that ends
    /// before that page is no longer held, the fork is empty.
    pub fn fork(&self, pool: &mut StatePool, tokens: usize) -> Option<Self> {
        let full = self.length / PAGE_TOKENS;
        let reached = self.rings.iter().all(|ring| ring.reaches(full * PAGE_TOKENS));
        let shared = if reached { full } else { 0 };
        let mut fork = Self::promise(pool, tokens.div_ceil(PAGE_TOKENS).max(shared), shared)?;
        fork.pages = self.pages[..shared].to_vec();
        fork.length = shared * PAGE_TOKENS;
        for page in &fork.pages {
            pool.pages.held.share(*page);
        }
        for ((ring, own), pool) in fork.rings.iter_mut().zip(&self.rings).zip(&mut pool.rings) {
            ring.share(pool, own, shared);
        }
        Some(fork)
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
    }
}
