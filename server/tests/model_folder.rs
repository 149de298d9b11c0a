//! The text side of a model directory: where each thing is found, and what wrong files are answered with.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use swiftlm_server::text::template::Conversation;
use swiftlm_server::text::{TextError, TextModel};
use tempfile::TempDir;

fn folder(files: &[(&str, String)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let tokenizer =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden-tests/families/text/bytelevel/tokenizer.json");
    std::fs::copy(tokenizer, folder.path().join("tokenizer.json")).expect("copied");
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).expect("written");
    }
    folder
}

fn load(files: &[(&str, Value)]) -> Result<TextModel, TextError> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let files: Vec<_> = files.iter().map(|(name, value)| (*name, text(value))).collect();
    TextModel::load(folder(&files).path(), "makers/model")
}

fn render(model: &TextModel, tools: Option<&Value>) -> String {
    let (messages, variables) = (json!([{"role": "user", "content": "Hi"}]), Map::new());
    let conversation = Conversation { messages: &messages, tools, add_generation_prompt: false, variables: &variables };
    model.template.as_ref().expect("a template").render(&conversation).expect("renders")
}

#[test]
fn templates_in_all_places() {
    let named = json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]);
    let model = load(&[("tokenizer_config.json", json!({"chat_template": named}))]).expect("loads");
    assert_eq!((render(&model, None).as_str(), render(&model, Some(&json!([]))).as_str()), ("plain", "with tools"));
    let config = json!({"chat_template": "{{ bos_token }}{{ messages[0].content }}", "bos_token": {"content": "<s>"}});
    let model = load(&[("tokenizer_config.json", config.clone())]).expect("loads");
    assert_eq!(render(&model, None), "<s>Hi");
    let model =
        load(&[("tokenizer_config.json", config), ("chat_template.jinja", json!("file wins\n"))]).expect("loads");
    assert_eq!(render(&model, None), "file wins");
    assert!(load(&[]).expect("loads").template.is_none());
}

#[test]
fn stop_tokens_and_recommendations() {
    let generation =
        json!({"eos_token_id": [450, 452], "temperature": 0.7, "top_k": 20, "do_sample": true, "max_new_tokens": null});
    let config = json!({"eos_token": "<|im_end|>"});
    let model = load(&[("generation_config.json", generation), ("tokenizer_config.json", config)]).expect("loads");
    assert_eq!(model.stop_tokens, [450, 452]);
    assert_eq!((model.recommended.temperature, model.recommended.top_k), (Some(0.7), Some(20)));
    assert_eq!((model.recommended.top_p, model.recommended.max_tokens), (None, None));
    let greedy =
        load(&[("generation_config.json", json!({"do_sample": false})), ("config.json", json!({"eos_token_id": 450}))]);
    let greedy = greedy.expect("loads");
    assert_eq!((greedy.recommended.temperature, greedy.stop_tokens), (Some(0.0), vec![450]));
}

#[test]
fn wrong_files_are_named() {
    for (files, words) in [
        (vec![("chat_template.jinja", json!("a\n{% if %}"))], vec!["makers/model", "chat_template.jinja", "line 2"]),
        (vec![("chat_template.jinja", json!("\n\n{{ nothing.more }}"))], vec!["makers/model", "line 3"]),
        (vec![("tokenizer_config.json", json!({"chat_template": 1}))], vec!["tokenizer_config.json", "chat_template"]),
        (vec![("tokenizer_config.json", json!("{"))], vec!["tokenizer_config.json"]),
        (vec![("generation_config.json", json!({"top_p": 3}))], vec!["generation_config.json", "top_p"]),
        (vec![("tokenizer.json", json!("{}"))], vec!["tokenizer.json"]),
    ] {
        let message = load(&files).err().unwrap_or_else(|| panic!("{files:?} is taken")).to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    let empty = tempfile::tempdir().expect("a folder");
    assert!(TextModel::load(empty.path(), "m").expect_err("nothing there").to_string().contains("tokenizer.json"));
}

/// Damaged tokenizers are refused or read; they never end the process.
#[test]
fn damaged_tokenizers() {
    let good = std::fs::read(folder(&[]).path().join("tokenizer.json")).expect("readable");
    let (mut tried, mut refused) = (0, 0);
    for at in (0..good.len()).step_by(97) {
        for byte in [b'"', b'9', b'{', 0xFF] {
            let mut bad = good.clone();
            bad[at] = byte;
            tried += 1;
            match swiftlm_server::text::Tokenizer::from_bytes(&bad, &json!({})) {
                Err(_) => refused += 1,
                Ok(tokenizer) => {
                    let _ = tokenizer.encode("Grüße, world", true);
                }
            }
        }
    }
    assert!(tried > 300 && refused > 100, "{refused} of {tried}");
}
