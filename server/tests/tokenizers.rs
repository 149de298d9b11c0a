//! Tokenizers against the cases that the reference library made, and incremental decoding against decoding at once.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use serde_json::{Value, json};
use swiftlm_server::text::{TextDecoder, Tokenizer};

const NAMES: [&str; 3] = ["bytelevel", "sentencebpe", "unigram"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden-tests/families/text")
}

fn tokenizer(name: &str) -> Arc<Tokenizer> {
    static ALL: OnceLock<Vec<Arc<Tokenizer>>> = OnceLock::new();
    let load = |name: &str| Tokenizer::from_file(&folder().join(name).join("tokenizer.json"), &json!({})).map(Arc::new);
    let all = ALL.get_or_init(|| NAMES.iter().map(|name| load(name).expect("the tokenizer loads")).collect());
    let at = NAMES.iter().position(|known| *known == name).expect("a known tokenizer");
    Arc::clone(&all[at])
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> String {
    stream_showing(tokenizer, ids, false)
}

fn stream_showing(tokenizer: &Arc<Tokenizer>, ids: &[u32], special: bool) -> String {
    let mut decoder = TextDecoder::new(Arc::clone(tokenizer)).showing_special(special);
    let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
    text.push_str(&decoder.finish());
    text
}

#[test]
fn cases_of_the_reference() {
    let cases = std::fs::read(folder().join("cases.json")).expect("the cases");
    let cases: Vec<Value> = serde_json::from_slice(&cases).expect("JSON");
    assert!(cases.len() > 100);
    for case in &cases {
        let tokenizer = tokenizer(case["tokenizer"].as_str().expect("a name"));
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        // Some cases are for decoding only.
        if let Some(text) = case["text"].as_str() {
            let special = case["add_special_tokens"].as_bool().expect("a flag");
            assert_eq!(tokenizer.encode(text, special).expect("encodes"), ids, "{case}");
        }
        assert_eq!(tokenizer.decode_all(&ids), case["decoded"], "{case}");
        assert_eq!(tokenizer.decode(&ids), case["decoded_without_special"], "{case}");
        assert_eq!(stream(&tokenizer, &ids), case["decoded_without_special"], "{case}");
        if case["tokenizer"] == "bytelevel" {
            assert_eq!(stream_showing(&tokenizer, &ids, true), case["decoded"], "{case}");
        }
    }
}

#[test]
fn a_million_spaces_do_not_hang() {
    for name in NAMES {
        let text = " ".repeat(1_000_000) + "x";
        assert!(!tokenizer(name).encode(&text, false).expect("encodes").is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any ids at all, broken characters and special tokens included.
    #[test]
    fn pieces_add_up(name in prop::sample::select(&NAMES[..]), ids in prop::collection::vec(any::<u32>(), 0..40)) {
        let tokenizer = tokenizer(name);
        let ids: Vec<u32> = ids.iter().map(|id| id % (tokenizer.vocabulary() as u32)).collect();
        prop_assert_eq!(stream(&tokenizer, &ids), tokenizer.decode(&ids));
    }

    /// Text of a reply, whose characters are never split.
    #[test]
    fn text_comes_back(name in prop::sample::select(&NAMES[..]), text in "(?s)[ a-zéß漢😀\n.,▁]{0,40}") {
        let tokenizer = tokenizer(name);
        let ids = tokenizer.encode(&text, false).expect("encodes");
        prop_assert_eq!(stream(&tokenizer, &ids), tokenizer.decode(&ids));
        let mut decoder = TextDecoder::new(Arc::clone(&tokenizer));
        for id in ids {
            prop_assert!(!decoder.push(id).contains(char::REPLACEMENT_CHARACTER));
        }
    }
}
