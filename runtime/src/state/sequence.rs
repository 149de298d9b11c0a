//! One sequence's history: its pages and how many tokens of them are filled. Going back is an integer and some pages.

use swiftlm_ir::ty::PAGE_TOKENS;

use super::PagePool;

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
    length: usize,
}

impl Sequence {
    /// A sequence that can grow to `tokens` tokens, if the pool can promise that.
    pub fn open(pool: &mut PagePool, tokens: usize) -> Option<Self> {
        let promised = tokens.div_ceil(PAGE_TOKENS);
        pool.promise(promised).then_some(Self { pages: vec![], promised, length: 0 })
    }

    /// Tokens it holds.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Its pages in order of position.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Tokens that it can grow to.
    pub fn capacity(&self) -> usize {
        (self.pages.len() + self.promised) * PAGE_TOKENS
    }

    /// Makes room for `tokens` more tokens and counts them.
    ///
    /// # Errors
    /// The sequence is full; nothing has changed.
    pub fn append(&mut self, pool: &mut PagePool, tokens: usize) -> Result<(), StateError> {
        let (length, capacity) = (self.length, self.capacity());
        if tokens > capacity - length {
            return Err(StateError::Full { length, tokens, capacity });
        }
        self.length += tokens;
        while self.pages.len() * PAGE_TOKENS < self.length {
            self.promised -= 1;
            self.pages.push(pool.take());
        }
        Ok(())
    }

    /// The length now.
    pub fn mark(&self) -> Mark {
        Mark(self.length)
    }

    /// Forgets what was appended since the mark and gives the length from which to append again: the mark's, or less if
    /// the mark lies within a page that others hold too, for that page must not be written.
    ///
    /// Giving up a shared page frees nothing, so the capacity shrinks if the pool cannot promise another in its place.
    ///
    /// # Errors
    /// The mark lies beyond the end; nothing has changed.
    pub fn rewind(&mut self, pool: &mut PagePool, mark: Mark) -> Result<usize, StateError> {
        if mark.0 > self.length {
            return Err(StateError::Ahead { mark: mark.0, length: self.length });
        }
        let mut keep = mark.0.div_ceil(PAGE_TOKENS);
        self.length = mark.0;
        if !self.length.is_multiple_of(PAGE_TOKENS) && pool.is_shared(self.pages[keep - 1]) {
            keep -= 1;
            self.length = keep * PAGE_TOKENS;
        }
        for page in self.pages.drain(keep..) {
            pool.release(page);
            self.promised += usize::from(pool.promise(1));
        }
        Ok(self.length)
    }

    /// A sequence with the same history that can grow to `tokens` tokens. Full pages are shared; the tokens of a page
    /// that is only partly full are not part of the fork and must be appended to it again.
    pub fn fork(&self, pool: &mut PagePool, tokens: usize) -> Option<Self> {
        let shared = self.length / PAGE_TOKENS;
        let promised = tokens.div_ceil(PAGE_TOKENS).saturating_sub(shared);
        if !pool.promise(promised) {
            return None;
        }
        let pages = self.pages[..shared].to_vec();
        for page in &pages {
            pool.share(*page);
        }
        Some(Self { pages, promised, length: shared * PAGE_TOKENS })
    }

    /// Gives all pages and promises back.
    pub fn close(self, pool: &mut PagePool) {
        pool.withdraw(self.promised);
        for page in self.pages {
            pool.release(page);
        }
    }
}
