//! Several names as one: `self_attn.{q,k,v}_proj.weight`, `mlp.experts.{0..8}.up_proj.weight`, and back.
//!
//! A string has at most one group. `{a..b}` are the numbers from `a` up to, not including, `b`; `{}` is no name at all.
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

/// The shortest text that [`split`] turns into these names.
pub fn join(names: &[String]) -> String {
    let [first, rest @ ..] = names else { return "{}".to_owned() };
    if rest.is_empty() {
        return escape(first);
    }
    let common =
        |a: &str, b: &str| a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    let prefix = rest.iter().map(|n| common(first, n)).min().unwrap_or(0);
    // A number is not cut in two.
    let prefix = first[..prefix].trim_end_matches(|c: char| c.is_ascii_digit());
    let backwards = |text: &str| text[prefix.len()..].chars().rev().collect::<String>();
    let suffix = rest.iter().map(|n| common(&backwards(first), &backwards(n))).min().unwrap_or(0);
    let suffix = first[first.len() - suffix..].trim_start_matches(|c: char| c.is_ascii_digit());
    let middles: Vec<&str> = names.iter().map(|n| &n[prefix.len()..n.len() - suffix.len()]).collect();
    let numbers: Option<Vec<u64>> = middles.iter().map(|m| number(m)).collect();
    let inside = match numbers {
        Some(n) if n.windows(2).all(|w| w[0].checked_add(1) == Some(w[1])) && n[n.len() - 1] < u64::MAX => {
            format!("{}..{}", n[0], n[n.len() - 1] + 1)
        }
        _ => middles.iter().map(|m| escape(m)).collect::<Vec<_>>().join(","),
    };
    format!("{}{{{inside}}}{}", escape(prefix), escape(suffix))
}

/// The names that a text between quotes stands for.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    // Parts of the text: before the group, its elements, after it.
    let (mut before, mut elements, mut after) = (String::new(), vec![String::new()], String::new());
    let (mut place, mut plain, mut commas) = (0, true, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let into = match place {
            0 => &mut before,
            1 => elements.last_mut().ok_or("an empty group")?,
            _ => &mut after,
        };
        match (c, place) {
            ('\\', _) => {
                plain &= place != 1;
                into.push(unescape(&mut chars)?);
            }
            ('{', 0) => place = 1,
            ('}', 1) => place = 2,
            ('{' | '}', _) => {
                return Err(format!("`{c}` does not belong here: a string has at most one group `{{…}}`"));
            }
            (',', 1) => {
                commas = true;
                elements.push(String::new());
            }
            (c, _) => into.push(c),
        }
    }
    match place {
        0 => return Ok(vec![before]),
        1 => return Err("the group `{…}` does not end".to_owned()),
        _ => {}
    }
    if !commas && elements[0].is_empty() {
        elements.clear();
    } else if !commas
        && plain
        && let Some((from, to)) = elements[0].split_once("..")
    {
        elements = range(from, to)?;
    }
    Ok(elements.into_iter().map(|e| format!("{before}{e}{after}")).collect())
}

fn range(from: &str, to: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("expected a range of numbers such as `0..8`, got `{from}..{to}`");
    let (from, to) = (number(from).ok_or_else(wrong)?, number(to).ok_or_else(wrong)?);
    match to.checked_sub(from) {
        Some(n) if n <= MOST => Ok((from..to).map(|n| n.to_string()).collect()),
        _ => Err(format!("expected a range of at most {MOST} numbers, got `{from}..{to}`")),
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
    fn characters_with_a_meaning_are_escaped() {
        check(&["{a..b},\"\\"], "\\{a..b\\}\\,\\\"\\\\");
        check(&["a\nb\u{7}"], "a\\nb\\u{7}");
        check(&["x,1", "x,2"], "x\\,{1..3}");
        check(&["0..3", "0..4"], "0..{3..5}");
    }

    #[test]
    fn broken_groups_are_refused() {
        for text in ["{", "}", "a{b", "{a}{b}", "\\", "\\x", "\\u{110000}", "\\u{", "{3..1}", "{0..99999999}", "{a..b}"]
        {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
