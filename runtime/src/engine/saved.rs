//! Kept sequences that outlive the process: written out while nothing runs, brought back when a prompt begins like one.

use std::io::{Read, Result, Write};

use swiftlm_ir::ty::PAGE_TOKENS;

use crate::executable::Executable;
use crate::state::{Lookup, PrefixCache, Sequence, StatePool, common};

/// Where they are written, as whoever offers it must do it. What it is written to is known behind it, and so is which model
/// and which way of storing keys and values it belongs to.
pub trait PrefixStore: Send {
    /// What is there: the number of each sequence and its tokens, the last used last.
    fn list(&mut self) -> Vec<(u64, Vec<u32>)>;

    /// Takes a sequence of these tokens, whose states `write` writes, and gives its number.
    ///
    /// # Errors
    /// It could not be written; nothing of it is left.
    fn save(&mut self, tokens: &[u32], write: &mut dyn FnMut(&mut dyn Write) -> Result<()>) -> Result<u64>;

    /// Has `read` read the states of a sequence.
    ///
    /// # Errors
    /// It could not be read, or is not what was written: then what was read must not be used.
    fn load(&mut self, number: u64, read: &mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()>;

    /// Forgets a sequence.
    fn remove(&mut self, number: u64);
}

/// One sequence outside.
#[derive(Debug)]
struct Known {
    number: u64,
    tokens: Vec<u32>,
}

/// The sequences outside, the last used last.
pub(super) struct Saved {
    store: Box<dyn PrefixStore>,
    known: Vec<Known>,
    limit: usize,
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saved").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Saved {
    /// What a store has, and at most `limit` sequences of it.
    pub(super) fn open(mut store: Box<dyn PrefixStore>, limit: usize) -> Self {
        let known = store.list().into_iter().map(|(number, tokens)| Known { number, tokens }).collect();
        let mut saved = Self { store, known, limit };
        saved.trim();
        saved
    }

    /// Sequences outside.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    fn trim(&mut self) {
        while self.known.len() > self.limit {
            self.forget(0);
        }
    }

    fn forget(&mut self, at: usize) {
        let known = self.known.remove(at);
        self.store.remove(known.number);
    }

    /// Keeps in memory the sequence outside that serves a lookup best, if none there serves it as well and there is room.
    pub(super) fn bring<'a>(
        &mut self,
        executable: &mut Executable,
        pool: &mut StatePool,
        prefixes: &mut PrefixCache,
        lookup: &Lookup<'_>,
        living: impl Iterator<Item = &'a Sequence>,
    ) {
        let all = pool.keeps_all();
        let serves = |known: &Known| match common(&known.tokens, lookup.prompt).min(lookup.most) {
            // Windows and recurrent states are as they were at its end.
            length if !all && length < known.tokens.len() => 0,
            length => length / PAGE_TOKENS,
        };
        let best = self.known.iter().map(serves).enumerate().max_by_key(|(_, pages)| *pages);
        let Some((at, pages)) = best else { return };
        if pages * PAGE_TOKENS <= prefixes.serves(lookup) {
            return;
        }
        let Some(sequence) = prefixes.restore(pool, self.known[at].tokens.len(), living) else { return };
        let number = self.known[at].number;
        // Copies that are still to be made must not come over what is read.
        let read = executable.transfer(&pool.take_transfers());
        let read = read.and_then(|()| self.store.load(number, &mut |from| executable.restore(&sequence, from)));
        match read {
            Ok(()) => {
                let known = self.known.remove(at);
                prefixes.keep_restored(known.tokens.clone(), sequence);
                self.known.push(known);
            }
            Err(error) => {
                tracing::warn!(number, %error, "a kept prompt cannot be read back and is forgotten");
                sequence.close(pool);
                self.forget(at);
            }
        }
    }

    /// Writes out what is kept and not yet outside.
    pub(super) fn write(&mut self, executable: &mut Executable, pool: &mut StatePool, prefixes: &mut PrefixCache) {
        let copied = executable.transfer(&pool.take_transfers());
        for (tokens, sequence) in prefixes.unsaved() {
            let saved = match &copied {
                Ok(()) => self.store.save(tokens, &mut |out| executable.save(sequence, out)),
                Err(error) => Err(std::io::Error::other(error.to_string())),
            };
            let number = match saved {
                Ok(number) => number,
                Err(error) => {
                    tracing::warn!(tokens = tokens.len(), %error, "a prompt cannot be kept outside memory");
                    continue;
                }
            };
            // What it serves as well is not needed twice.
            let all = pool.keeps_all();
            let replaced = |known: &Known| {
                let alike = common(&known.tokens, tokens) == known.tokens.len();
                alike && (all || known.tokens.len() == tokens.len())
            };
            while let Some(at) = self.known.iter().position(replaced) {
                let known = self.known.remove(at);
                if known.number != number {
                    self.store.remove(known.number);
                }
            }
            self.known.push(Known { number, tokens: tokens.to_vec() });
        }
        self.trim();
    }
}
