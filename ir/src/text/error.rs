//! What is wrong with a text, and where: the line is quoted, a caret stands below the place.

use std::ops::Range;

use super::print_graph;
use crate::graph::Graph;
use crate::verify::VerifyError;

/// One thing that is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Characters meant, at least 1; a place that spans lines ends with its first.
    pub width: usize,
    /// The line.
    pub text: String,
    /// What was expected and what was found.
    pub message: String,
}

impl TextError {
    /// An error about the bytes `span` of `source`, which lie on character boundaries.
    pub(super) fn new(source: &str, span: &Range<usize>, message: String) -> Self {
        let before = &source[..span.start];
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let end = source[span.start..].find('\n').map_or(source.len(), |i| span.start + i);
        let width = source[span.start..span.end.min(end).max(span.start)].chars().count().max(1);
        let column = source[start..span.start].chars().count() + 1;
        let line = before.matches('\n').count() + 1;
        Self { line, column, width, text: source[start..end].trim_end_matches('\r').to_owned(), message }
    }
}

/// What the verifier says of one of these functions: its line as the text has it, with a caret below the value; only the
/// words where they are about something else.
pub fn point(funcs: &[Graph], error: &VerifyError) -> String {
    let pointed = || {
        let text = print_graph(funcs.iter().find(|g| g.name == error.func)?);
        let start = text.find(&format!("{} = ", error.value)).filter(|_| error.value.starts_with('%'))?;
        Some(TextError::new(&text, &(start..start + error.value.len()), error.to_string()).to_string())
    };
    pointed().unwrap_or_else(|| error.to_string())
}

impl std::error::Error for TextError {}

impl std::fmt::Display for TextError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "line {}, column {}: {}", self.line, self.column, self.message)?;
        writeln!(f, "  | {}", self.text)?;
        // Tabs stay tabs, so that the caret stands where the eye expects it.
        let indent: String =
            (self.text.chars().take(self.column - 1)).map(|c| if c == '\t' { c } else { ' ' }).collect();
        write!(f, "  | {indent}{}", "^".repeat(self.width))
    }
}
