//! JSON as Python's `json.dumps` writes it, which is what chat templates expect of `tojson`.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

/// The options of `json.dumps` that templates use.
#[derive(Clone, Debug, Default)]
pub struct JsonStyle {
    /// Spaces per level; `None` writes one line.
    pub indent: Option<usize>,
    /// Item and key separators, if not Python's own.
    pub separators: Option<(String, String)>,
    /// Write non-ASCII characters as `\u` escapes.
    pub ensure_ascii: bool,
}

/// Serialises `value` as `json.dumps` would.
pub fn dumps(value: &serde_json::Value, style: &JsonStyle) -> serde_json::Result<String> {
    let (item, key) = match &style.separators {
        Some((item, key)) => (item.as_str(), key.as_str()),
        None if style.indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let python = Python { item, key, indent: style.indent, ascii: style.ensure_ascii, level: 0, filled: false };
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, python))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// `value` with the keys of every object in order.
pub fn sorted(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        other => other,
    }
}

struct Python<'a> {
    item: &'a str,
    key: &'a str,
    indent: Option<usize>,
    ascii: bool,
    level: usize,
    filled: bool,
}

impl Python<'_> {
    fn line<W: ?Sized + io::Write>(&self, out: &mut W) -> io::Result<()> {
        match self.indent {
            Some(width) => write!(out, "\n{:1$}", "", width * self.level),
            None => Ok(()),
        }
    }

    fn open<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level -= 1;
        if self.filled {
            self.line(out)?;
        }
        self.filled = true;
        out.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.line(out)
    }
}

impl Formatter for Python<'_> {
    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        if !self.ascii {
            return out.write_all(text.as_bytes());
        }
        let mut units = [0; 2];
        for c in text.chars() {
            if c.is_ascii() {
                write!(out, "{c}")?;
            } else {
                for unit in c.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// Python's `repr` of a float: an exponent of at least two digits from 1e16 up and below 1e-4.
pub(super) fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let Some((mantissa, exponent)) = text.split_once('e') else { return text };
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    let text = value.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn writes_what_python_writes() {
        let value = json!({"a": [1, 2.0, "é\n\u{1}<"], "b": {}, "c": [], "d": {"e": null, "f": true}});
        let one_line = "{\"a\": [1, 2.0, \"é\\n\\u0001<\"], \"b\": {}, \"c\": [], \"d\": {\"e\": null, \"f\": true}}";
        assert_eq!(dumps(&value, &JsonStyle::default()).unwrap(), one_line);
        let style = JsonStyle { indent: Some(2), ..JsonStyle::default() };
        assert_eq!(dumps(&json!({"a": [1], "b": []}), &style).unwrap(), "{\n  \"a\": [\n    1\n  ],\n  \"b\": []\n}");
        let style = JsonStyle { ensure_ascii: true, ..JsonStyle::default() };
        assert_eq!(dumps(&json!("é😀"), &style).unwrap(), "\"\\u00e9\\ud83d\\ude00\"");
    }

    #[test]
    fn floats_are_pythons() {
        for (value, text) in [(1e16, "1e+16"), (1.5e-5, "1.5e-05"), (0.0, "0.0"), (1e15, "1000000000000000.0")] {
            assert_eq!(float(value), text);
        }
    }
}
