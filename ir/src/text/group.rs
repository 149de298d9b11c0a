//! Several names as one: `self_attn.{q,k,v}_proj.weight`, `mlp.experts.{0..8}.up_proj.weight`, and back.
//!
//! `{a..b}` are the numbers from `a` up to, not including, `b`; `{}` is no name at all. A string has at most one list and
//! one range; with both, `{gate,up}_proj#{0..8}`, every item of the list is named for a number before the next number is.
//! Characters that mean something here, and those that cannot be seen, are escaped by a backslash.

/// Names that a group may stand for: as many as a model may have experts or layers.
const MOST: u64 = 65_536;

/// A character as it stands between quotes.
fn escape_into(text: &mut String, c: char) {
    match c {
        '\\' | '"' | '{' | '}' | ',' => text.extend(['\\', c]),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        c if c.is_control() => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        c => text.push(c),
    }
}

/// A name as it stands between quotes.
pub fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    name.chars().for_each(|c| escape_into(&mut text, c));
    text
}

/// A number as it is written without leading zeros.
fn number(text: &str) -> Option<u64> {
    let n: u64 = text.parse().ok()?;
    (n.to_string() == text).then_some(n)
}

/// Names as what they share and where they differ.
struct Parts<'n> {
    prefix: &'n str,
    middles: Vec<&'n str>,
    suffix: &'n str,
}

impl<'n> Parts<'n> {
    fn of(names: &'n [impl AsRef<str>]) -> Option<Self> {
        let first = names.first()?.as_ref();
        let common = |a: &str, b: &str| -> usize {
            a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum()
        };
        let prefix = names.iter().map(|n| common(first, n.as_ref())).min()?;
        // A number is not cut in two.
        let prefix = first[..prefix].trim_end_matches(|c: char| c.is_ascii_digit());
        let backwards = |text: &str| text[prefix.len()..].chars().rev().collect::<String>();
        let suffix = names.iter().map(|n| common(&backwards(first), &backwards(n.as_ref()))).min()?;
        let suffix = first[first.len() - suffix..].trim_start_matches(|c: char| c.is_ascii_digit());
        let middle = |n: &'n str| &n[prefix.len()..n.len() - suffix.len()];
        Some(Self { prefix, middles: names.iter().map(|n| middle(n.as_ref())).collect(), suffix })
    }

    /// `a..b` if the middles are these numbers.
    fn range(&self) -> Option<String> {
        let numbers: Vec<u64> = self.middles.iter().map(|m| number(m)).collect::<Option<_>>()?;
        let end = numbers.last()?.checked_add(1)?;
        let counts = numbers.len() > 1 && numbers.windows(2).all(|w| w[0].checked_add(1) == Some(w[1]));
        counts.then(|| format!("{}..{end}", numbers[0]))
    }

    fn list(&self) -> String {
        self.middles.iter().map(|m| escape(m)).collect::<Vec<_>>().join(",")
    }
}

/// The text that [`split`] turns into these names.
pub fn join(names: &[String]) -> String {
    let Some(parts) = Parts::of(names) else { return "{}".to_owned() };
    if let [name] = names {
        return escape(name);
    }
    if parts.range().is_none()
        && let Some(text) = join_product(names)
    {
        return text;
    }
    let inside = parts.range().unwrap_or_else(|| parts.list());
    format!("{}{{{inside}}}{}", escape(parts.prefix), escape(parts.suffix))
}

/// How many names at the front differ only by a number that counts up; at least 1 if there is any.
pub fn counted(names: &[&str]) -> usize {
    let Some(parts) = names.get(..2).and_then(Parts::of).filter(|p| p.range().is_some()) else {
        return names.len().min(1);
    };
    let first = number(parts.middles[0]).unwrap_or(0);
    let expected = |i: usize| format!("{}{}{}", parts.prefix, first.saturating_add(i as u64), parts.suffix);
    names.iter().enumerate().take_while(|(i, name)| **name == expected(*i)).count()
}

/// Stands for the range while names are compared without it; no name that holds it is joined so.
const RANGE: char = '\u{0}';

/// A list and a range at once.
fn join_product(names: &[String]) -> Option<String> {
    if names.iter().any(|n| n.contains(RANGE)) {
        return None;
    }
    let periods = (2..=names.len() / 2).filter(|p| names.len().is_multiple_of(*p)).take(LISTS);
    for period in periods {
        let columns: Vec<Vec<&str>> =
            (0..period).map(|j| names.iter().skip(j).step_by(period).map(String::as_str).collect()).collect();
        let parts: Vec<Parts<'_>> = columns.iter().filter_map(|c| Parts::of(c)).collect();
        let range = parts.first()?.range();
        if range.is_none() || parts.iter().any(|p| p.range() != range) {
            continue;
        }
        let templates: Vec<String> = parts.iter().map(|p| format!("{}{RANGE}{}", p.prefix, p.suffix)).collect();
        let parts = Parts::of(&templates)?;
        if parts.middles.iter().any(|m| m.contains(RANGE)) {
            continue;
        }
        let fill = |text: &str| -> String {
            let filled: Vec<String> = text.split(RANGE).map(escape).collect();
            filled.join(&format!("{{{}}}", range.as_deref().unwrap_or_default()))
        };
        return Some(format!("{}{{{}}}{}", fill(parts.prefix), parts.list(), fill(parts.suffix)));
    }
    None
}

/// Periods that are tried: as many tensors as are ever merged, and some.
const LISTS: usize = 8;

/// A piece of a text between quotes.
enum Piece {
    Plain(String),
    List(Vec<String>),
    Range(u64, u64),
}

/// The names that a text between quotes stands for.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut pieces = vec![];
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(unescape(&mut chars)?),
            '{' => {
                pieces.push(Piece::Plain(std::mem::take(&mut plain)));
                pieces.push(group(&mut chars)?);
            }
            '}' => return Err("`}` ends no group `{…}`".to_owned()),
            c => plain.push(c),
        }
    }
    pieces.push(Piece::Plain(plain));
    let lists = pieces.iter().filter(|p| matches!(p, Piece::List(_))).count();
    let ranges = pieces.iter().filter(|p| matches!(p, Piece::Range(..))).count();
    if lists > 1 || ranges > 1 {
        return Err("expected at most one list `{a,b}` and one range `{0..8}`".to_owned());
    }
    let items = pieces.iter().find_map(|p| if let Piece::List(items) = p { Some(items.len()) } else { None });
    let numbers = pieces.iter().find_map(|p| if let Piece::Range(from, to) = p { Some(*from..*to) } else { None });
    let (items, numbers) = (items.unwrap_or(1), numbers.unwrap_or(0..1));
    if (numbers.end - numbers.start).saturating_mul(items as u64) > MOST {
        return Err(format!("expected a text that stands for at most {MOST} names"));
    }
    let name = |number: u64, item: usize| -> String {
        let piece = |p: &Piece| match p {
            Piece::Plain(text) => text.clone(),
            Piece::List(items) => items[item].clone(),
            Piece::Range(..) => number.to_string(),
        };
        pieces.iter().map(piece).collect()
    };
    Ok(numbers.flat_map(|n| (0..items).map(move |i| (n, i))).map(|(n, i)| name(n, i)).collect())
}

/// A group, its `{` being read already.
fn group(chars: &mut std::str::Chars<'_>) -> Result<Piece, String> {
    let (mut items, mut item, mut commas, mut plain) = (vec![], String::new(), false, true);
    loop {
        match chars.next() {
            None | Some('{') => return Err("a group `{…}` does not end".to_owned()),
            Some('}') => break,
            Some('\\') => {
                plain = false;
                item.push(unescape(chars)?);
            }
            Some(',') => {
                commas = true;
                items.push(std::mem::take(&mut item));
            }
            Some(c) => item.push(c),
        }
    }
    if commas || !plain {
        items.push(item);
    } else if let Some((from, to)) = item.split_once("..") {
        return range(from, to);
    } else if !item.is_empty() {
        items.push(item);
    }
    Ok(Piece::List(items))
}

fn range(from: &str, to: &str) -> Result<Piece, String> {
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from < to => Ok(Piece::Range(from, to)),
        _ => Err(format!("expected a range of numbers such as `0..8`, got `{from}..{to}`")),
    }
}

/// The character that an escape stands for, the backslash being read already.
fn unescape(chars: &mut std::str::Chars<'_>) -> Result<char, String> {
    match chars.next() {
        Some(c @ ('\\' | '"' | '{' | '}' | ',')) => Ok(c),
        Some('n') => Ok('\n'),
        Some('r') => Ok('\r'),
        Some('t') => Ok('\t'),
        Some('u') => {
            let rest = chars.as_str();
            let hex = rest.strip_prefix('{').and_then(|r| r.split_once('}'));
            let code = hex.and_then(|(hex, rest)| Some((u32::from_str_radix(hex, 16).ok()?, rest)));
            match code.and_then(|(code, rest)| Some((char::from_u32(code)?, rest))) {
                Some((c, rest)) => {
                    *chars = rest.chars();
                    Ok(c)
                }
                None => Err("expected a code point such as `\\u{1b}`".to_owned()),
            }
        }
        _ => Err("expected `\\`, `\"`, `{`, `}`, `,`, `n`, `r`, `t` or `u{…}` after a backslash".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], text: &str) {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        assert_eq!(join(&names), text);
        assert_eq!(split(text), Ok(names));
    }

    #[test]
    fn names_that_differ_in_one_place_share_the_rest() {
        check(&["a.weight"], "a.weight");
        check(&["a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight"], "a.{q,k,v}_proj.weight");
        check(&["e.9.up", "e.10.up", "e.11.up"], "e.{9..12}.up");
        check(&["e.10.up", "e.11.up"], "e.{10..12}.up");
        check(&["e.10.up", "e.12.up"], "e.{10,12}.up");
        check(&["s.up#0", "s.up#1"], "s.up#{0..2}");
        check(&["e.01", "e.02"], "e.{01,02}");
        check(&["a", "a"], "a{,}");
        check(&["a", "ab"], "a{,b}");
        check(&["", ""], "{,}");
        check(&[], "{}");
        check(&[""], "");
        check(&["éa", "èa"], "{é,è}a");
    }

    #[test]
    fn a_list_in_a_range_takes_both_apart() {
        check(&["gate#0", "up#0", "gate#1", "up#1"], "{gate,up}#{0..2}");
        check(&["e.3.gate.w", "e.3.up.w", "e.4.gate.w", "e.4.up.w"], "e.{3..5}.{gate,up}.w");
        check(&["a1", "a2", "a1", "a2"], "a{1,2,1,2}");
        check(&["a1", "b1", "a3", "b3"], "{a1,b1,a3,b3}");
        check(&["x1y1", "x1y2", "x2y1", "x2y2"], "x{1..3}y{1,2}");
    }

    #[test]
    fn layers_are_counted_as_far_as_they_go() {
        assert_eq!(counted(&["l.8", "l.9", "l.10", "l.12"]), 3);
        assert_eq!(counted(&["l.1", "l.1"]), 1);
        assert_eq!(counted(&["l.1.a", "l.2.b"]), 1);
        assert_eq!((counted(&["x"]), counted(&[])), (1, 0));
    }

    #[test]
    fn characters_with_a_meaning_are_escaped() {
        check(&["{a..b},\"\\"], "\\{a..b\\}\\,\\\"\\\\");
        check(&["a\nb\u{7}"], "a\\nb\\u{7}");
        check(&["x,1", "x,2"], "x\\,{1..3}");
        check(&["0..3", "0..4"], "0..{3..5}");
    }

    #[test]
    fn broken_groups_are_refused() {
        for text in [
            "{",
            "}",
            "a{b",
            "{a}{b}",
            "{0..2}{0..2}",
            "\\",
            "\\x",
            "\\u{110000}",
            "\\u{",
            "{3..1}",
            "{0..99999999}",
            "{a..b}",
        ] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
