//! One reply as it grows: ids to text, stop strings, and the scores of the tokens whose text may be shown.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use swiftlm_runtime::request::{ScoredToken, Ticket, Timings};

use crate::text::dialect::{Dialect, Segment, Splitter};
use crate::text::{StopMatcher, TextDecoder, Tokenizer};

/// The end of a token whose character is not complete.
const UNKNOWN: usize = usize::MAX;

/// A token with where its text begins, in characters.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// What the engine said.
    pub token: ScoredToken,
    /// Characters of the reply's text before it.
    pub offset: usize,
}

/// A piece of a reply that is final.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Which reply.
    pub index: usize,
    /// Its next parts.
    pub segments: Vec<Segment>,
    /// Tokens that end in what was shown so far; empty unless scores were asked for.
    pub tokens: Vec<TokenScore>,
}

impl Piece {
    /// Nothing to show.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.tokens.is_empty()
    }

    /// Its words.
    pub fn text(&self) -> String {
        let words = self.segments.iter().map(|segment| match segment {
            Segment::Content(text) => text.as_str(),
            _ => "",
        });
        words.collect()
    }
}

/// The state of one reply.
#[derive(Debug)]
pub struct Choice {
    index: usize,
    tokenizer: Arc<Tokenizer>,
    decoder: TextDecoder,
    matcher: StopMatcher,
    splitter: Splitter,
    scored: bool,
    /// Tokens not shown yet, with where their text ends, in bytes.
    waiting: VecDeque<(TokenScore, usize)>,
    decoded: usize,
    shown: usize,
    characters: usize,
    /// Dropped when nothing more is wanted of the engine.
    pub ticket: Option<Ticket>,
    /// Text of the prompt, to be shown before the reply.
    pub echo: Option<String>,
    /// Prompt tokens.
    pub prompt: usize,
    /// Generated tokens.
    pub tokens: usize,
    /// Of these, thoughts.
    pub thoughts: usize,
    /// The reply calls a function.
    pub calls: bool,
    /// What the engine measured; absent if the reply ended at a stop string.
    pub timings: Option<Timings>,
    /// When the request was handed over, when the first and when the last token came.
    pub started: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Choice {
    /// An empty reply.
    pub fn new(
        index: usize,
        tokenizer: &Arc<Tokenizer>,
        stops: Vec<String>,
        dialect: Dialect,
        scored: bool,
        prompt: usize,
    ) -> Self {
        Self {
            index,
            tokenizer: Arc::clone(tokenizer),
            decoder: TextDecoder::new(Arc::clone(tokenizer)).showing_special(dialect.shows_special()),
            matcher: StopMatcher::new(stops),
            splitter: Splitter::new(dialect),
            scored,
            waiting: VecDeque::new(),
            decoded: 0,
            shown: 0,
            characters: 0,
            ticket: None,
            echo: None,
            prompt,
            tokens: 0,
            thoughts: 0,
            calls: false,
            timings: None,
            started: Instant::now(),
            first: None,
            last: None,
        }
    }

    /// Shows the prompt, with its tokens' scores if there are any.
    pub fn show_prompt(&mut self, scores: Vec<ScoredToken>) -> Piece {
        let text = self.echo.take().unwrap_or_default();
        self.characters = text.chars().count();
        let mut decoder = TextDecoder::new(Arc::clone(&self.tokenizer));
        let mut offset = 0;
        let score = |token: ScoredToken| {
            let at = offset;
            offset += decoder.push(token.id).chars().count();
            TokenScore { token, offset: at }
        };
        let segments = if text.is_empty() { Vec::new() } else { vec![Segment::Content(text)] };
        Piece { index: self.index, segments, tokens: scores.into_iter().map(score).collect() }
    }

    /// Adds a token; true if a stop string is complete and the reply ends here. Also how long the token took.
    pub fn push(&mut self, token: ScoredToken) -> (Piece, bool, Duration) {
        let now = Instant::now();
        let took = now - self.last.unwrap_or(self.started);
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.tokens += 1;
        self.thoughts += usize::from(self.splitter.is_thinking());
        let text = self.decoder.push(token.id);
        let offset = self.characters;
        if self.scored {
            self.waiting.push_back((TokenScore { token, offset }, UNKNOWN));
        }
        self.settle(&text);
        let passed = self.matcher.push(&text);
        (self.piece(&passed.text, passed.matched), passed.matched, took)
    }

    /// What was held back, once the engine is done; true if it completes a stop string after all.
    pub fn finish(&mut self) -> (Piece, bool) {
        let rest = self.decoder.finish();
        self.settle(&rest);
        let passed = self.matcher.push(&rest);
        if passed.matched {
            return (self.piece(&passed.text, true), true);
        }
        let text = passed.text + &self.matcher.finish();
        let mut piece = self.piece(&text, true);
        piece.tokens.extend(self.waiting.drain(..).map(|(token, _)| token));
        (piece, false)
    }

    /// Whether the next token is the first.
    pub fn is_fresh(&self) -> bool {
        self.tokens == 0
    }

    /// Time from the first token to the last.
    pub fn decode_time(&self) -> Duration {
        match (self.timings, self.first, self.last) {
            (Some(timings), ..) => timings.decode,
            (None, Some(first), Some(last)) => last - first,
            _ => Duration::ZERO,
        }
    }

    /// Time from the beginning of the prompt's computation to the first token.
    pub fn prefill_time(&self) -> Duration {
        match (self.timings, self.first) {
            (Some(timings), _) => timings.prefill,
            (None, Some(first)) => first - self.started,
            _ => Duration::ZERO,
        }
    }

    /// A token that is a part of a character ends where the character does, so that a stop string's first bytes do not
    /// show in the scores.
    fn settle(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.decoded += text.len();
        self.characters += text.chars().count();
        for (_, end) in self.waiting.iter_mut().rev().take_while(|(_, end)| *end == UNKNOWN) {
            *end = self.decoded;
        }
    }

    /// What may be shown now; all of it, if this is the `end`.
    fn piece(&mut self, text: &str, end: bool) -> Piece {
        self.shown += text.len();
        let mut segments = self.splitter.push(text);
        if end {
            segments.extend(self.splitter.finish());
        }
        self.calls |= segments.iter().any(|segment| matches!(segment, Segment::Call { .. }));
        let mut tokens = Vec::new();
        while self.waiting.front().is_some_and(|(_, end)| *end <= self.shown) {
            tokens.extend(self.waiting.pop_front().map(|(token, _)| token));
        }
        Piece { index: self.index, segments, tokens }
    }
}
