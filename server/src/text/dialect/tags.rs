//! Replies whose parts stand between tags that are text: thoughts between `<think>` tags, tool calls in the Hermes format.
//! Whatever is not a well-formed call stays in the text.

use serde_json::Value;

use super::Segment;
use crate::text::stop::begun;

pub(super) const THINK: &str = "<think>";
pub(super) const THOUGHT: &str = "</think>";
const CALL: &str = "<tool_call>";
const CALLED: &str = "</tool_call>";

/// Which parts a reply may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// Tools were shown to the model.
    pub calls: bool,
    /// The model thinks between tags.
    pub thinks: bool,
    /// The prompt ends inside a thought.
    pub begins_thinking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Words,
    Thought,
    Call,
}

/// Splits a reply as its text comes.
#[derive(Clone, Debug)]
pub struct Splitter {
    tags: Tags,
    place: Place,
    held: String,
    /// White space here belongs to the tags, not to the words.
    trim: bool,
}

impl Splitter {
    /// At the beginning of a reply.
    pub(super) fn new(tags: Tags) -> Self {
        let place = if tags.begins_thinking { Place::Thought } else { Place::Words };
        Self { tags, place, held: String::new(), trim: tags.begins_thinking }
    }

    /// Whether the next words are thoughts.
    pub(super) fn is_thinking(&self) -> bool {
        self.place == Place::Thought
    }

    /// Adds text; what may be the beginning of a tag is held back.
    pub(super) fn push(&mut self, text: &str) -> Vec<Segment> {
        if self.tags == Tags::default() {
            return if text.is_empty() { Vec::new() } else { vec![Segment::Content(text.to_owned())] };
        }
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out) {}
        out
    }

    /// The rest, once no more text comes. A call that is not complete is text.
    pub(super) fn finish(&mut self) -> Vec<Segment> {
        let rest = std::mem::take(&mut self.held);
        let rest = if self.place == Place::Call { format!("{CALL}{rest}") } else { rest };
        let mut out = Vec::new();
        self.emit(&rest, &mut out);
        out
    }

    /// Handles the next tag; false if there is none yet.
    fn step(&mut self, out: &mut Vec<Segment>) -> bool {
        let tags: &[&str] = match self.place {
            Place::Words => match (self.tags.thinks, self.tags.calls) {
                (true, true) => &[THINK, CALL],
                (true, false) => &[THINK],
                (false, true) => &[CALL],
                (false, false) => &[],
            },
            Place::Thought => &[THOUGHT],
            Place::Call => &[CALLED],
        };
        let found = tags.iter().filter_map(|tag| self.held.find(tag).map(|at| (at, *tag))).min();
        let Some((at, tag)) = found else {
            if self.place != Place::Call {
                let keep = tags.iter().map(|tag| begun(&self.held, tag)).max().unwrap_or(0);
                let mut cut = self.held.len() - keep;
                // White space before a call belongs to it.
                if self.place == Place::Words && self.tags.calls {
                    cut = self.held[..cut].trim_end().len();
                }
                let rest = self.held.split_off(cut);
                let text = std::mem::replace(&mut self.held, rest);
                self.emit(&text, out);
            }
            return false;
        };
        let before = self.held[..at].to_owned();
        self.held.drain(..at + tag.len());
        match self.place {
            Place::Call => match parse(&before) {
                Some(call) => out.push(call),
                None => {
                    self.trim = false;
                    self.place = Place::Words;
                    self.emit(&format!("{CALL}{before}{CALLED}"), out);
                    return true;
                }
            },
            // Line ends between the words and a call belong to the call.
            _ if tag == CALL => self.emit(before.trim_end(), out),
            _ => self.emit(&before, out),
        }
        self.trim = true;
        self.place = match tag {
            THINK => Place::Thought,
            CALL => Place::Call,
            _ => Place::Words,
        };
        true
    }

    fn emit(&mut self, text: &str, out: &mut Vec<Segment>) {
        let text = if self.trim { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        self.trim = false;
        let text = text.to_owned();
        out.push(if self.place == Place::Thought { Segment::Reasoning(text) } else { Segment::Content(text) });
    }
}

fn parse(text: &str) -> Option<Segment> {
    let call: Value = serde_json::from_str(text.trim()).ok()?;
    let name = call.get("name")?.as_str()?.to_owned();
    let arguments = match call.get("arguments") {
        Some(arguments) => super::arguments(arguments)?,
        None => "{}".to_owned(),
    };
    Some(Segment::Call { name, arguments })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Dialect;
    use super::*;

    const ALL: Tags = Tags { calls: true, thinks: true, begins_thinking: false };

    fn split(tags: Tags, pieces: &[&str]) -> Vec<Segment> {
        super::super::split(Dialect::Tags(tags), pieces)
    }

    fn call(name: &str, arguments: &str) -> Segment {
        Segment::Call { name: name.into(), arguments: arguments.into() }
    }

    #[test]
    fn thoughts_words_and_calls() {
        let text = "<think>\nhm\n</think>\n\nLet me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
            <tool_call>{\"name\":\"now\"}</tool_call>";
        let expected = [
            Segment::Reasoning("hm\n".into()),
            Segment::Content("Let me see.".into()),
            call("add", "{\"a\":1}"),
            call("now", "{}"),
        ];
        assert_eq!(split(ALL, &[text]), expected);
        let begun = Tags { begins_thinking: true, ..ALL };
        assert_eq!(split(begun, &["a</think>b"]), [Segment::Reasoning("a".into()), Segment::Content("b".into())]);
    }

    #[test]
    fn what_is_no_call_stays() {
        for text in
            ["<tool_call>{\"name\": 1}</tool_call>", "a <tool_call>{", "1 < 2 <too", "<tool_call>x</tool_call> y"]
        {
            let words: String = split(ALL, &[text])
                .into_iter()
                .map(|segment| match segment {
                    Segment::Content(text) => text,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(words.replace(' ', ""), text.replace(' ', ""));
        }
        let text = "<think>a</think><tool_call>b";
        assert_eq!(split(Tags::default(), &[text]), [Segment::Content(text.into())]);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(parts in prop::collection::vec(
            prop::sample::select(vec!["<think>", "</think>", "<tool_call>", "</tool_call>", "{\"name\":\"f\"}", "a", "é", "<", "th", "\n"]), 0..10),
        ) {
            let text: String = parts.concat();
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            prop_assert_eq!(split(ALL, &letters), split(ALL, &[&text]));
        }
    }
}
