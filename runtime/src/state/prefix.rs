//! The prefix cache: sequences are kept when they have ended, and prompts when they are computed, so that another that
//! begins alike starts behind what they have in common. What is kept takes only what living sequences leave.

use std::collections::VecDeque;

use swiftlm_ir::ty::PAGE_TOKENS;

use super::{Sequence, StatePool};

/// Lookups that are remembered.
const RECENT: usize = 32;

/// One sequence that is kept.
#[derive(Debug)]
struct Kept {
    tokens: Vec<u32>,
    sequence: Sequence,
    hits: u64,
    /// Whether it is known outside.
    saved: bool,
}

/// What is wanted of the cache for a request.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// Its prompt.
    pub prompt: &'a [u32],
    /// Most tokens of the prompt that may come from the cache; 0 if it shall be computed as a whole.
    pub most: usize,
    /// Tokens that its sequence must be able to grow to.
    pub tokens: usize,
}

/// One lookup and what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Most of them that were allowed to come from the cache.
    pub most: usize,
    /// Most that some kept sequence has in common with it.
    pub common: usize,
    /// Those that were taken: at most what is in common, in whole pages, and of states that do not keep every token only as
    /// far as a kept sequence went.
    pub taken: usize,
}

/// What the cache holds and how it did.
#[derive(Clone, Debug, Default)]
pub struct PrefixReport {
    /// Sequences that may be kept.
    pub limit: usize,
    /// Sequences that outlive the process, where there is a place for them.
    pub saved: Option<usize>,
    /// Tokens and uses of each kept one, the last used first.
    pub kept: Vec<(usize, u64)>,
    /// Prompts that were looked up.
    pub lookups: u64,
    /// Those that found something.
    pub hits: u64,
    /// Tokens that were taken and not computed.
    pub tokens: u64,
    /// Kept ones that were given up for room.
    pub evictions: u64,
    /// The last lookups, the latest last.
    pub recent: VecDeque<Found>,
}

/// Kept sequences, the one that was used longest ago first.
#[derive(Debug)]
pub struct PrefixCache {
    kept: Vec<Kept>,
    report: PrefixReport,
}

/// Tokens that both begin with.
pub fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Kept {
    /// Where a sequence of these tokens can go on from this one.
    fn serves(&self, prompt: &[u32], most: usize) -> usize {
        self.sequence.forks_at(common(&self.tokens, prompt).min(most))
    }
}

impl PrefixCache {
    /// An empty cache of at most `limit` sequences; with 0 nothing is kept.
    pub fn new(limit: usize) -> Self {
        Self { kept: vec![], report: PrefixReport { limit, ..PrefixReport::default() } }
    }

    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.report.limit > 0
    }

    /// What it holds and how it did.
    pub fn report(&self) -> PrefixReport {
        let kept = self.kept.iter().rev().map(|kept| (kept.tokens.len(), kept.hits)).collect();
        PrefixReport { kept, ..self.report.clone() }
    }

    /// Tokens of a prompt that would be taken now.
    pub fn serves(&self, lookup: &Lookup<'_>) -> usize {
        self.best(lookup).map_or(0, |(_, length)| length)
    }

    fn best(&self, lookup: &Lookup<'_>) -> Option<(usize, usize)> {
        let served = self.kept.iter().map(|kept| kept.serves(lookup.prompt, lookup.most)).enumerate();
        served.filter(|(_, length)| *length > 0).max_by_key(|(_, length)| *length)
    }

    /// A sequence for a request, which begins with what a kept one has in common with the prompt. Where room is missing, kept
    /// ones are given up, those used longest ago first; none is if that would not help because of those of `living`.
    pub fn open<'a>(
        &mut self,
        pool: &mut StatePool,
        lookup: Lookup<'_>,
        living: impl Iterator<Item = &'a Sequence>,
    ) -> Option<Sequence> {
        let common = self.kept.iter().map(|kept| common(&kept.tokens, lookup.prompt)).max().unwrap_or(0);
        let open = |kept: &[Kept], pool: &mut StatePool, best: Option<(usize, usize)>| match best {
            Some((at, length)) => kept[at].sequence.fork(pool, length, lookup.tokens),
            None => Sequence::open(pool, lookup.tokens),
        };
        let (sequence, best) = self.with_room(pool, lookup.tokens, living, self.best(&lookup), open)?;
        let taken = sequence.length();
        if let Some((at, _)) = best {
            let mut kept = self.kept.remove(at);
            kept.hits += 1;
            self.kept.push(kept);
        }
        let report = &mut self.report;
        report.lookups += 1;
        report.hits += u64::from(taken > 0);
        report.tokens += taken as u64;
        if report.recent.len() == RECENT {
            report.recent.pop_front();
        }
        report.recent.push_back(Found { prompt: lookup.prompt.len(), most: lookup.most, common, taken });
        Some(sequence)
    }

    /// Makes a sequence of up to `tokens` tokens. As long as there is no room for it the one that was used longest ago is given
    /// up, `best` as the last; none if it would not help because of what `living` ones hold.
    fn with_room<'a>(
        &mut self,
        pool: &mut StatePool,
        tokens: usize,
        living: impl Iterator<Item = &'a Sequence>,
        mut best: Option<(usize, usize)>,
        make: impl Fn(&[Kept], &mut StatePool, Option<(usize, usize)>) -> Option<Sequence>,
    ) -> Option<(Sequence, Option<(usize, usize)>)> {
        let mut living = Some(living);
        loop {
            if let Some(sequence) = make(&self.kept, pool, best) {
                return Some((sequence, best));
            }
            if self.kept.is_empty() || living.take().is_some_and(|living| !pool.fits_beside(living, tokens)) {
                return None;
            }
            let at = usize::from(self.kept.len() > 1 && best.is_some_and(|(at, _)| at == 0));
            self.evict(pool, at);
            best = best.filter(|(best, _)| *best != at).map(|(best, length)| (best - usize::from(at < best), length));
        }
    }

    /// Room for a sequence of `length` tokens that comes from elsewhere; see [`Self::keep_restored`].
    pub fn restore<'a>(
        &mut self,
        pool: &mut StatePool,
        length: usize,
        living: impl Iterator<Item = &'a Sequence>,
    ) -> Option<Sequence> {
        let restore = |_: &[Kept], pool: &mut StatePool, _| Sequence::restore(pool, length);
        self.with_room(pool, length, living, None, restore).map(|(sequence, _)| sequence)
    }

    /// Keeps a sequence of these tokens that came from elsewhere.
    pub fn keep_restored(&mut self, tokens: Vec<u32>, sequence: Sequence) {
        self.kept.push(Kept { tokens, sequence, hits: 0, saved: true });
    }

    /// Those that nobody has asked for yet, to be known outside.
    pub fn unsaved(&mut self) -> impl Iterator<Item = (&[u32], &Sequence)> {
        self.kept.iter_mut().filter(|kept| !kept.saved).map(|kept| {
            kept.saved = true;
            (&*kept.tokens, &kept.sequence)
        })
    }

    /// Keeps what a living sequence of these tokens holds up to the end of its last full page before `most`, if it can be
    /// kept there and there is room for it.
    pub fn keep_copy(&mut self, pool: &mut StatePool, tokens: &[u32], sequence: &Sequence, most: usize) {
        let length = sequence.forks_at(most);
        if self.is_on()
            && length > 0
            && self.is_new(tokens, length, sequence)
            && let Some(copy) = sequence.fork(pool, length, length)
        {
            self.keep(pool, tokens, copy);
        }
    }

    /// Takes a sequence of these tokens that has ended, and keeps it if others could begin with it.
    pub fn keep(&mut self, pool: &mut StatePool, tokens: &[u32], mut sequence: Sequence) {
        let length = sequence.settle(pool);
        if !self.is_on() || length == 0 || !self.is_new(tokens, length, &sequence) {
            sequence.close(pool);
            return;
        }
        let tokens = tokens[..length].to_vec();
        // It takes the place of those that serve nobody whom it does not.
        let (kept, replaced) = std::mem::take(&mut self.kept).into_iter().partition(|kept: &Kept| {
            let own = kept.tokens.len();
            common(&kept.tokens, &tokens) < own
                || sequence.forks_at(own) < own
                || !sequence.reaches_as_far_as(&kept.sequence)
        });
        self.kept = kept;
        let mut hits = 0;
        for replaced in replaced {
            hits += replaced.hits;
            replaced.sequence.close(pool);
        }
        self.kept.push(Kept { tokens, sequence, hits, saved: false });
        while self.kept.len() > self.report.limit {
            self.evict(pool, 0);
        }
    }

    /// Whether no kept sequence serves whomever this one of these tokens would serve, kept at `length`.
    fn is_new(&self, tokens: &[u32], length: usize, sequence: &Sequence) -> bool {
        let serves = |kept: &Kept| kept.serves(tokens, length) >= length && kept.sequence.reaches_as_far_as(sequence);
        !self.kept.iter().any(serves)
    }

    fn evict(&mut self, pool: &mut StatePool, at: usize) {
        self.kept.remove(at).sequence.close(pool);
        self.report.evictions += 1;
    }

    /// Forgets everything.
    pub fn clear(&mut self, pool: &mut StatePool) {
        for kept in self.kept.drain(..) {
            kept.sequence.close(pool);
        }
    }
}

/// Tokens at a prompt's start that are kept once they are computed: its whole pages, without its last token, of which
/// whoever comes wants logits.
pub fn kept_of_prompt(tokens: usize) -> usize {
    tokens.saturating_sub(1) / PAGE_TOKENS * PAGE_TOKENS
}
