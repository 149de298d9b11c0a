//! Words, numbers, strings and marks of a text. Comments run from `;` to the end of the line and are skipped.

use std::ops::Range;

use super::error::TextError;

/// Kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `rms_norm`, `kv.append!`, `affine4_g64_bf16`.
    Word,
    /// `8`, `-0.5`, `1e-6`.
    Number,
    /// `"…"`; the token's text is what stands between the quotes, escapes as they are.
    String,
    /// `%name`; the text is the name.
    Value,
    /// `@name` or `@"name"`; the text is the name, escapes as they are.
    At,
    /// One of `{}[](),:=` or `->` or `..`.
    Mark,
    /// Behind the last token.
    End,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token<'s> {
    /// Its kind.
    pub(super) kind: Kind,
    /// What matters of it.
    pub(super) text: &'s str,
    /// Its bytes in the source.
    pub(super) span: Range<usize>,
    /// Whether it is the first of its line.
    pub(super) first: bool,
}

/// A character of words and names.
fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '!' | '#' | '-')
}

/// Whether `name` may stand behind `@` without quotes.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(in_word)
}

/// Cuts a text into tokens; the last is [`Kind::End`]. What is no token is an error and is left out.
pub(super) fn lex<'s>(source: &'s str, errors: &mut Vec<TextError>) -> Vec<Token<'s>> {
    let mut tokens: Vec<Token<'s>> = vec![];
    let (mut at, mut first) = (0, true);
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        if c == '\n' {
            first = true;
        }
        if c.is_whitespace() {
            at += c.len_utf8();
        } else if c == ';' {
            at += rest.find('\n').unwrap_or(rest.len());
        } else {
            match token(rest) {
                Ok((kind, text, len)) => {
                    tokens.push(Token { kind, text, span: at..at + len, first });
                    at += len;
                }
                Err((message, len)) => {
                    errors.push(TextError::new(source, &(at..at + len), message));
                    at += len;
                }
            }
            first = false;
        }
    }
    tokens.push(Token { kind: Kind::End, text: "", span: source.len()..source.len(), first: true });
    tokens
}

/// The token that `rest` begins with and its length, or what is wrong and how much of it.
fn token(rest: &str) -> Result<(Kind, &str, usize), (String, usize)> {
    let run = |text: &str| text.find(|c| !in_word(c)).unwrap_or(text.len());
    let c = rest.chars().next().unwrap_or(' ');
    let second = rest.chars().nth(1).unwrap_or(' ');
    match c {
        '"' => string(rest).map(|inside| (Kind::String, inside, inside.len() + 2)),
        '@' if second == '"' => match string(&rest[1..]) {
            Ok(inside) => Ok((Kind::At, inside, inside.len() + 3)),
            Err((message, len)) => Err((message, len + 1)),
        },
        '@' | '%' => match run(&rest[1..]) {
            0 => Err((format!("expected a name after `{c}`"), 1)),
            n => Ok((if c == '@' { Kind::At } else { Kind::Value }, &rest[1..=n], n + 1)),
        },
        '-' if second == '>' => Ok((Kind::Mark, &rest[..2], 2)),
        '.' if second == '.' => Ok((Kind::Mark, &rest[..2], 2)),
        '{' | '}' | '[' | ']' | '(' | ')' | ',' | ':' | '=' => Ok((Kind::Mark, &rest[..1], 1)),
        '0'..='9' | '-' => {
            let n = number(rest);
            Ok((Kind::Number, &rest[..n], n))
        }
        c if in_word(c) => {
            let n = run(rest);
            Ok((Kind::Word, &rest[..n], n))
        }
        c => Err((format!("`{}` means nothing here", c.escape_default()), c.len_utf8())),
    }
}

/// What stands between the quotes that `rest` begins with.
fn string(rest: &str) -> Result<&str, (String, usize)> {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return Ok(&rest[1..i]),
            '\n' => break,
            c => escaped = c == '\\' && !escaped,
        }
    }
    Err(("this string does not end on its line".to_owned(), rest.find('\n').unwrap_or(rest.len())))
}

/// Length of a number: letters and digits, a point that no second point follows, a sign behind an `e`.
fn number(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut n = 1;
    while let Some(c) = bytes.get(n) {
        let part = match c {
            b'.' => bytes.get(n + 1) != Some(&b'.'),
            b'+' | b'-' => bytes[n - 1].eq_ignore_ascii_case(&b'e'),
            c => c.is_ascii_alphanumeric(),
        };
        if !part {
            break;
        }
        n += 1;
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let mut errors = vec![];
        let tokens = lex(source, &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        tokens.iter().map(|t| format!("{:?} {}", t.kind, t.text)).collect()
    }

    #[test]
    fn marks_and_numbers_do_not_swallow_one_another() {
        assert_eq!(texts("0..32"), ["Number 0", "Mark ..", "Number 32", "End "]);
        assert_eq!(texts("-1.5e-7,"), ["Number -1.5e-7", "Mark ,", "End "]);
        assert_eq!(texts("->-inf"), ["Mark ->", "Number -inf", "End "]);
        assert_eq!(texts("w\"a\\\"b\" ; rest"), ["Word w", "String a\\\"b", "End "]);
        assert_eq!(texts("@\"a b\" @c.d %e"), ["At a b", "At c.d", "Value e", "End "]);
    }
}
