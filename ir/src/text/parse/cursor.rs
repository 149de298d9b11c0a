//! A place in a list of tokens, with the questions that a parser asks of it.

use crate::text::error::TextError;
use crate::text::group;
use crate::text::lex::{Kind, Token, lex};

/// Errors after which the rest is not looked at.
const MOST_ERRORS: usize = 64;

/// What could not be parsed has been reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fail;

/// A result whose error has been reported.
pub(super) type Parsed<T> = Result<T, Fail>;

/// Tokens, the next one, and all that was wrong before.
#[derive(Debug)]
pub(super) struct Cursor<'s> {
    source: &'s str,
    tokens: Vec<Token<'s>>,
    at: usize,
    errors: Vec<TextError>,
}

impl<'s> Cursor<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        let mut errors = vec![];
        let tokens = lex(source, &mut errors);
        errors.truncate(MOST_ERRORS);
        Self { source, tokens, at: 0, errors }
    }

    /// All errors in the order of their places.
    pub(super) fn finish(mut self) -> Vec<TextError> {
        self.errors.sort_by_key(|e| (e.line, e.column));
        self.errors
    }

    /// Whether nothing more is worth saying.
    pub(super) fn exhausted(&self) -> bool {
        self.errors.len() >= MOST_ERRORS
    }

    pub(super) fn peek(&self) -> Token<'s> {
        self.tokens[self.at.min(self.tokens.len() - 1)].clone()
    }

    /// The tokens from the next one on.
    pub(super) fn rest(&self) -> &[Token<'s>] {
        &self.tokens[self.at.min(self.tokens.len() - 1)..]
    }

    pub(super) fn next(&mut self) -> Token<'s> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub(super) fn at_end(&self) -> bool {
        self.peek().kind == Kind::End
    }

    /// Where the cursor stands, for [`Self::recover`].
    pub(super) fn place(&self) -> usize {
        self.at
    }

    /// Goes on at the first line from here on whose first token pleases; moves on at least one token from `start`.
    pub(super) fn recover(&mut self, start: usize, pleases: impl Fn(&Token<'s>) -> bool) {
        self.at = self.at.max(start + 1);
        while !(self.at_end() || self.peek().first && pleases(&self.peek())) {
            self.at += 1;
        }
    }

    /// Reports what is wrong with a token.
    pub(super) fn wrong<T>(&mut self, token: &Token<'s>, message: String) -> Parsed<T> {
        if !self.exhausted() {
            self.errors.push(TextError::new(self.source, &token.span, message));
        }
        Err(Fail)
    }

    /// Reports that something else should stand here.
    pub(super) fn expected<T>(&mut self, what: &str) -> Parsed<T> {
        let token = self.peek();
        let got = match token.kind {
            Kind::End => "the end of the text".to_owned(),
            _ => format!("`{}`", &self.source[token.span.clone()]),
        };
        self.wrong(&token, format!("expected {what}, got {got}"))
    }

    pub(super) fn is(&self, kind: Kind, text: &str) -> bool {
        let token = self.peek();
        token.kind == kind && token.text == text
    }

    /// Takes a mark if it is next.
    pub(super) fn accept(&mut self, mark: &str) -> bool {
        let found = self.is(Kind::Mark, mark);
        self.at += usize::from(found);
        found
    }

    pub(super) fn mark(&mut self, mark: &str) -> Parsed<()> {
        if self.accept(mark) { Ok(()) } else { self.expected(&format!("`{mark}`")) }
    }

    /// Takes a given word.
    pub(super) fn keyword(&mut self, word: &str) -> Parsed<()> {
        if self.is(Kind::Word, word) {
            self.at += 1;
            return Ok(());
        }
        self.expected(&format!("`{word}`"))
    }

    /// Takes a token of a kind.
    pub(super) fn token(&mut self, kind: Kind, what: &str) -> Parsed<Token<'s>> {
        if self.peek().kind == kind { Ok(self.next()) } else { self.expected(what) }
    }

    /// Takes a whole number.
    pub(super) fn size(&mut self, what: &str) -> Parsed<usize> {
        let token = self.token(Kind::Number, what)?;
        match token.text.parse() {
            Ok(n) => Ok(n),
            Err(_) => self.wrong(&token, format!("expected {what}, got `{}`", token.text)),
        }
    }

    /// Takes a number.
    pub(super) fn float(&mut self, what: &str) -> Parsed<f64> {
        let token = self.peek();
        match (token.kind, token.text, token.text.parse()) {
            (Kind::Number, _, Ok(x)) | (Kind::Word, "inf" | "NaN", Ok(x)) => {
                self.at += 1;
                Ok(x)
            }
            _ => self.expected(what),
        }
    }

    /// The names that a token's text stands for.
    pub(super) fn names(&mut self, token: &Token<'s>) -> Parsed<Vec<String>> {
        match group::split(token.text) {
            Ok(names) => Ok(names),
            Err(message) => self.wrong(token, message),
        }
    }

    /// The one name that a token's text stands for.
    pub(super) fn name(&mut self, token: &Token<'s>) -> Parsed<String> {
        match self.names(token)?.as_mut_slice() {
            [name] => Ok(std::mem::take(name)),
            names => {
                let message = format!("expected one name, got {}", names.len());
                self.wrong(token, message)
            }
        }
    }

    /// Takes the name behind an `@`, if there is one.
    pub(super) fn location(&mut self) -> Parsed<String> {
        if self.peek().kind != Kind::At {
            return Ok(String::new());
        }
        let token = self.next();
        self.name(&token)
    }

    /// Takes `first, second, …` until `close`, which is taken, too. A comma before it is allowed.
    pub(super) fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = vec![];
        loop {
            if self.accept(close) {
                return Ok(items);
            }
            items.push(item(self)?);
            if !self.accept(",") {
                self.mark(close)?;
                return Ok(items);
            }
        }
    }
}
