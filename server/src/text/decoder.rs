//! Token ids to text, one id at a time, never splitting a character, and in sum exactly what decoding all at once gives.
//! The window technique: a tokenizer's decoder may look at neighbours (leading spaces, bytes of one character), so a few
//! ids before the new one are decoded again and only the difference is passed on.

use std::sync::Arc;

use super::tokenizer::Tokenizer;

/// The state of one reply.
#[derive(Clone, Debug)]
pub struct TextDecoder {
    tokenizer: Arc<Tokenizer>,
    /// Ids decoded again each time: those of the last piece, then the ones not passed on yet.
    window: Vec<u32>,
    /// How many of them belong to the last piece.
    passed: usize,
    /// Their text.
    prefix: String,
    /// Whether special tokens are written out.
    special: bool,
}

impl TextDecoder {
    /// An empty reply.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, window: Vec::new(), passed: 0, prefix: String::new(), special: false }
    }

    /// The same, with special tokens written out or not.
    pub fn showing_special(self, special: bool) -> Self {
        Self { special, ..self }
    }

    /// Text that is final once `id` is known; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_special(id) {
            return if self.special { self.finish() + &self.tokenizer.decode_all(&[id]) } else { String::new() };
        }
        self.window.push(id);
        // Byte tokens are judged as a run: one wrong byte turns the whole run into replacement characters.
        if self.tokenizer.is_byte_fallback(id) { String::new() } else { self.pass(false) }
    }

    /// The rest, once no more ids come: bytes that never became a character are replacement characters.
    pub fn finish(&mut self) -> String {
        let rest = self.pass(true);
        (self.window, self.passed, self.prefix) = (Vec::new(), 0, String::new());
        rest
    }

    fn pass(&mut self, last: bool) -> String {
        let text = self.tokenizer.decode(&self.window);
        if !last && (text.len() <= self.prefix.len() || text.ends_with(char::REPLACEMENT_CHARACTER)) {
            return String::new();
        }
        let Some(piece) = text.strip_prefix(self.prefix.as_str()).map(str::to_owned) else { return String::new() };
        self.window.drain(..self.passed);
        self.passed = self.window.len();
        self.prefix = self.tokenizer.decode(&self.window);
        piece
    }
}
