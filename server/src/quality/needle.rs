//! A passkey told somewhere in a long text and asked for at its end: the test of passkey retrieval (Mohtashami and Jaggi,
//! 2023), with its filler.

use serde_json::{Map, json};

use super::QualityError;
use crate::text::TextModel;
use crate::text::template::Conversation;

/// Sentences that the key is hidden among, again and again.
const FILLER: [&str; 5] =
    ["The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again."];
/// What is asked at the end.
const QUESTION: &str = "What is the passkey?";
/// Beginning of the answer, where a model has no chat template and continues a text.
const ANSWER: &str = "The passkey is";
/// Tokens of an answer at most.
pub(super) const ANSWER_TOKENS: usize = 32;

/// A key and where it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Needle {
    /// Five digits.
    pub key: String,
    /// Share of the filler that comes before it.
    pub place: f64,
}

impl Needle {
    /// Needles at the middles of `places` equal parts of a text, each with a key of its own.
    pub fn spread(places: usize) -> Vec<Self> {
        let needle = |i: usize| Self {
            key: (10_000 + (i + 1) * 48_611 % 90_000).to_string(),
            place: (i as f64 + 0.5) / places as f64,
        };
        (0..places).map(needle).collect()
    }

    /// What a user says: `sentences` of filler, the key among them, and the question.
    pub fn text(&self, sentences: usize) -> String {
        let before = (sentences as f64 * self.place).round() as usize;
        let mut lines: Vec<String> = (0..sentences).map(|i| FILLER[i % FILLER.len()].to_owned()).collect();
        lines.insert(before.min(sentences), format!("The passkey is {}.", self.key));
        format!("{}\n\n{QUESTION}", lines.join(" "))
    }

    /// The longest prompt that holds, with its answer, no more than `depth` tokens.
    pub(super) fn prompt(&self, text: &TextModel, model: &str, depth: usize) -> Result<Vec<u32>, QualityError> {
        let fits = |sentences: usize| -> Result<Result<Vec<u32>, usize>, QualityError> {
            let ids = ids(text, model, &self.text(sentences))?;
            let tokens = ids.len() + ANSWER_TOKENS;
            Ok(if tokens <= depth { Ok(ids) } else { Err(tokens) })
        };
        let mut best = fits(0)?.map_err(|least| QualityError::Depth { depth, least })?;
        // Each sentence is a token at least.
        let (mut low, mut high) = (0, depth);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match fits(middle)? {
                Ok(ids) => (low, best) = (middle, ids),
                Err(_) => high = middle - 1,
            }
        }
        Ok(best)
    }
}

/// Whether an answer names the key: as a number of its own, not as a part of another.
pub fn found(answer: &str, key: &str) -> bool {
    answer.split(|c: char| !c.is_ascii_digit()).any(|number| number == key)
}

/// Tokens of a user's question: in the model's own chat template, or as a text to be continued where it has none.
fn ids(text: &TextModel, model: &str, question: &str) -> Result<Vec<u32>, QualityError> {
    let Some(template) = &text.template else {
        return Ok(text.tokenizer.encode(&format!("{question}\n{ANSWER}"), true)?);
    };
    let messages = json!([{"role": "user", "content": question}]);
    let variables = Map::from_iter([("enable_thinking".to_owned(), false.into())]);
    let conversation =
        Conversation { messages: &messages, tools: None, add_generation_prompt: true, variables: &variables };
    let wrong = |e: crate::text::template::TemplateError| QualityError::Template {
        model: model.to_owned(),
        reason: e.to_string(),
    };
    Ok(text.tokenizer.encode(&template.render(&conversation).map_err(wrong)?, false)?)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_wrong_key_is_not_counted() {
        assert!(found("The passkey is 12345.", "12345"));
        for answer in
            ["The passkey is 12346.", "The passkey is 123456.", "The passkey is 9 12 345.", "", "I do not know."]
        {
            assert!(!found(answer, "12345"), "{answer}");
        }
    }

    #[test]
    fn keys_differ_and_lie_apart() {
        let needles = Needle::spread(5);
        let mut keys: Vec<&str> = needles.iter().map(|n| n.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!((keys.len(), keys.iter().all(|key| key.len() == 5)), (5, true));
        let at = |n: &Needle| n.text(1000).find(&n.key).expect("the key is told");
        assert!(needles.windows(2).all(|two| at(&two[0]) + 3000 < at(&two[1])), "a fifth of the text lies between");
    }

    /// The held-out prompts that the demo model was judged by have the same form.
    #[test]
    fn prompts_are_as_the_demo_model_was_taught() {
        let lines = include_str!("../../demo/eval/passkey.jsonl").lines();
        for line in lines {
            let line: Value = serde_json::from_str(line).expect("one JSON object a line");
            let (prompt, answer) = (line["prompt"].as_str().expect("text"), line["answer"].as_str().expect("text"));
            let key: String = answer.chars().filter(char::is_ascii_digit).collect();
            assert!(found(answer, &key));
            let ours = Needle { key, place: 0.5 }.text(10);
            let told = ours.split_inclusive(". ").find(|sentence| sentence.contains("passkey")).expect("it is told");
            assert!(prompt.contains(told), "{told}");
            assert!(prompt.ends_with(ours.split_once("\n\n").expect("two paragraphs").1));
        }
    }
}
