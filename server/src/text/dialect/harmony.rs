//! OpenAI's harmony format, which gpt-oss speaks: a reply is messages, each with a header that names its channel and, for a
//! call, whom it is for: `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`. The prompt
//! ends with `<|start|>assistant`, so a reply begins inside a header.

use serde_json::Value;

use super::Segment;
use crate::text::stop::begun;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
/// Before the format of a call's arguments.
const CONSTRAIN: &str = "<|constrain|>";
/// What a message ends with: another follows, a function is called, nothing follows.
const ENDS: [&str; 3] = ["<|end|>", "<|call|>", "<|return|>"];
/// Functions that a client offers are named below this.
const FUNCTIONS: &str = "functions.";

/// What the vocabulary of a model has that speaks so.
pub(super) const MARKS: [&str; 4] = [START, CHANNEL, MESSAGE, ENDS[0]];

/// Where the next text belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Header,
    Words,
    Thought,
    /// Arguments of the function of this name.
    Call(String),
}

/// Splits a reply into its messages.
#[derive(Clone, Debug)]
pub struct Messages {
    place: Place,
    held: String,
}

impl Messages {
    pub(super) fn new() -> Self {
        Self { place: Place::Header, held: String::new() }
    }

    pub(super) fn is_thinking(&self) -> bool {
        self.place == Place::Thought
    }

    pub(super) fn push(&mut self, text: &str) -> Vec<Segment> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out) {}
        out
    }

    /// The rest. The mark behind a call is what stops a reply, so a call ends here. A header that nothing follows, as of a
    /// model that leaves it out, is text.
    pub(super) fn finish(&mut self) -> Vec<Segment> {
        let mut out = Vec::new();
        let rest = std::mem::take(&mut self.held);
        let text = rest.trim();
        if self.place != Place::Header {
            self.emit(rest, &mut out);
        } else if !text.is_empty() && !text.starts_with(START) && !text.starts_with(CHANNEL) {
            out.push(Segment::Content(rest));
        }
        self.place = Place::Header;
        out
    }

    /// Handles the next mark; false if there is none yet.
    fn step(&mut self, out: &mut Vec<Segment>) -> bool {
        let header = self.place == Place::Header;
        // A message that another one begins in was not ended.
        let marks: &[&str] = if header { &[MESSAGE] } else { &[ENDS[0], ENDS[1], ENDS[2], START] };
        let found = marks.iter().filter_map(|mark| self.held.find(mark).map(|at| (at, *mark))).min();
        let Some((at, mark)) = found else {
            if matches!(self.place, Place::Words | Place::Thought) {
                let keep = marks.iter().map(|mark| begun(&self.held, mark)).max().unwrap_or(0);
                let rest = self.held.split_off(self.held.len() - keep);
                let text = std::mem::replace(&mut self.held, rest);
                self.emit(text, out);
            }
            return false;
        };
        let before = self.held[..at].to_owned();
        self.held.drain(..at + mark.len());
        if header {
            self.place = place(&before);
        } else {
            self.emit(before, out);
            self.place = Place::Header;
        }
        true
    }

    fn emit(&self, text: String, out: &mut Vec<Segment>) {
        if text.is_empty() && !matches!(self.place, Place::Call(_)) {
            return;
        }
        out.push(match &self.place {
            Place::Thought => Segment::Reasoning(text),
            Place::Call(name) => match call(name, &text) {
                Some(call) => call,
                None if text.is_empty() => return,
                None => Segment::Content(text),
            },
            Place::Header | Place::Words => Segment::Content(text),
        });
    }
}

/// Where the text behind a header belongs. Words of a channel that is not known are for the user.
fn place(header: &str) -> Place {
    let header = header.rsplit(START).next().unwrap_or_default().replace(CONSTRAIN, " ");
    let channel = header.split_once(CHANNEL).and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_default();
    let marked = header.replace(CHANNEL, " ");
    let recipient = marked.split_whitespace().find_map(|word| word.strip_prefix("to="));
    match (recipient.and_then(|name| name.strip_prefix(FUNCTIONS)), channel) {
        (Some(name), _) if !name.is_empty() => Place::Call(name.to_owned()),
        (_, "analysis") => Place::Thought,
        _ => Place::Words,
    }
}

fn call(name: &str, text: &str) -> Option<Segment> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let arguments = super::arguments(&serde_json::from_str::<Value>(text).ok()?)?;
    Some(Segment::Call { name: name.to_owned(), arguments })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Dialect, split};
    use super::*;

    fn of(text: &str) -> Vec<Segment> {
        split(Dialect::Harmony, &[text])
    }

    fn content(text: &str) -> Segment {
        Segment::Content(text.to_owned())
    }

    fn thought(text: &str) -> Segment {
        Segment::Reasoning(text.to_owned())
    }

    #[test]
    fn channels_say_what_words_are() {
        let text = "<|channel|>analysis<|message|>Simple.<|end|><|start|>assistant<|channel|>final<|message|>Four.";
        assert_eq!(of(text), [thought("Simple."), content("Four.")]);
        // A preamble before a call is for the user.
        let text = "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant<|channel|>commentary to=functions.look \
            <|constrain|>json<|message|>{\"at\": 1}<|call|>";
        let call = Segment::Call { name: "look".to_owned(), arguments: "{\"at\":1}".to_owned() };
        assert_eq!(of(text), [content("Let me look."), call.clone()]);
        // The mark behind a call ends the reply before it is seen; the recipient may stand by the role.
        let text = " to=functions.look<|channel|>commentary json<|message|>{\"at\": 1}";
        assert_eq!(of(text), [call]);
        let text = "<|channel|>commentary to=functions.now<|message|><|call|>";
        assert_eq!(of(text), [Segment::Call { name: "now".to_owned(), arguments: "{}".to_owned() }]);
    }

    #[test]
    fn nothing_that_is_said_is_lost() {
        assert_eq!(of("Hello."), [content("Hello.")]);
        assert_eq!(of("<|channel|>final<|message|>a < b <|en"), [content("a < b <|en")]);
        assert_eq!(of("<|channel|>commentary to=functions.f<|message|>not JSON<|call|>"), [content("not JSON")]);
        assert_eq!(of("<|channel|>analysis to=python<|message|>1 + 1<|call|>"), [thought("1 + 1")]);
        assert_eq!(
            of("<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b"),
            [thought("a"), content("b")]
        );
        assert_eq!(of("<|channel|>fin"), [], "a header that was cut");
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(parts in prop::collection::vec(
            prop::sample::select(vec![START, CHANNEL, MESSAGE, CONSTRAIN, ENDS[0], ENDS[1], "assistant", "analysis", "final", " to=functions.f ", "{}", "é", "<|", "\n"]), 0..14),
        ) {
            let text: String = parts.concat();
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            prop_assert_eq!(split(Dialect::Harmony, &letters), of(&text));
        }
    }
}
