//! What a chat model's reply means: words, thoughts, calls of functions. Which marks say so differs between models; whatever is
//! not well formed stays in the text, so nothing a model says is lost.

mod harmony;
mod tags;

use serde_json::Value;

pub use tags::Tags;

use super::tokenizer::Tokenizer;
use harmony::Messages;

/// A part of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Words for the user.
    Content(String),
    /// Thoughts.
    Reasoning(String),
    /// A function to be called.
    Call {
        /// Its name.
        name: String,
        /// Its arguments, a JSON object.
        arguments: String,
    },
}

/// How a reply is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Words, with thoughts and calls between tags that are text.
    Tags(Tags),
    /// Messages to one of several channels, between special tokens (OpenAI's harmony format, of gpt-oss).
    Harmony,
}

impl Default for Dialect {
    fn default() -> Self {
        Self::Tags(Tags::default())
    }
}

impl Dialect {
    /// That of a chat model's reply to `prompt`, by the marks in its vocabulary. `calls` says whether tools were shown to it.
    pub fn of(tokenizer: &Tokenizer, prompt: &str, calls: bool) -> Self {
        if harmony::MARKS.iter().all(|mark| tokenizer.id(mark).is_some()) {
            return Self::Harmony;
        }
        // Only a model with the tag in its vocabulary was taught to think.
        let thinks = tokenizer.id(tags::THOUGHT).is_some();
        Self::Tags(Tags { calls, thinks, begins_thinking: thinks && prompt.trim_end().ends_with(tags::THINK) })
    }

    /// Whether special tokens are marks that the text must show.
    pub fn shows_special(self) -> bool {
        self == Self::Harmony
    }
}

/// Splits a reply as its text comes.
#[derive(Clone, Debug)]
pub enum Splitter {
    /// By tags.
    Tags(tags::Splitter),
    /// By messages.
    Harmony(Messages),
}

impl Splitter {
    /// At the beginning of a reply.
    pub fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Tags(tags) => Self::Tags(tags::Splitter::new(tags)),
            Dialect::Harmony => Self::Harmony(Messages::new()),
        }
    }

    /// Whether the next words are thoughts.
    pub fn is_thinking(&self) -> bool {
        match self {
            Self::Tags(splitter) => splitter.is_thinking(),
            Self::Harmony(messages) => messages.is_thinking(),
        }
    }

    /// Adds text; what may be the beginning of a mark is held back.
    pub fn push(&mut self, text: &str) -> Vec<Segment> {
        match self {
            Self::Tags(splitter) => splitter.push(text),
            Self::Harmony(messages) => messages.push(text),
        }
    }

    /// The rest, once no more text comes.
    pub fn finish(&mut self) -> Vec<Segment> {
        match self {
            Self::Tags(splitter) => splitter.finish(),
            Self::Harmony(messages) => messages.finish(),
        }
    }
}

/// The text of a JSON object that `arguments` is, or is the text of.
fn arguments(arguments: &Value) -> Option<String> {
    match arguments {
        Value::Object(_) => Some(arguments.to_string()),
        Value::String(text) => Some(serde_json::from_str::<Value>(text).ok().filter(Value::is_object)?.to_string()),
        _ => None,
    }
}

/// The parts of a reply that comes in `pieces`, neighbours of a kind joined, so that cuts do not show.
#[cfg(test)]
fn split(dialect: Dialect, pieces: &[&str]) -> Vec<Segment> {
    let mut splitter = Splitter::new(dialect);
    let mut all: Vec<Segment> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
    all.extend(splitter.finish());
    let mut joined: Vec<Segment> = Vec::new();
    for segment in all {
        match (joined.last_mut(), segment) {
            (Some(Segment::Content(text)), Segment::Content(more)) => text.push_str(&more),
            (Some(Segment::Reasoning(text)), Segment::Reasoning(more)) => text.push_str(&more),
            (_, segment) => joined.push(segment),
        }
    }
    joined
}
