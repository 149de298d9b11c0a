//! Serving a mixture with some of its experts in memory, and with fewer experts of a token than the model says.

#[path = "common/binary.rs"]
mod binary;

use binary::{Server, content};
use serde_json::{Value, json};

const QUESTIONS: [&str; 3] = ["What is 2+2?", "Tell me a story about an owl.", "What is the capital of France?"];

fn answers(server: &Server) -> Vec<Value> {
    let ask = |question: &&str| server.ask(question, json!({"temperature": 0, "logprobs": true}));
    QUESTIONS.iter().map(ask).collect()
}

/// The demo model has some 6 MB of experts, eight in each layer.
#[test]
fn experts_from_disk_answer_the_same() {
    let whole = Server::start(&["--backend", "cpu"]);
    let streamed = Server::start(&["--backend", "cpu", "--expert-budget", "2"]);
    for (a, b) in answers(&whole).iter().zip(answers(&streamed)) {
        assert!(!content(a).is_empty(), "{a}");
        assert_eq!(a["choices"], b["choices"]);
        assert!(b["swiftlm"]["lossy"].is_null(), "{b}");
    }
    let (whole, streamed) = (whole.health(), streamed.health());
    assert_eq!((&whole["partition"]["ssd_stream"], &whole["experts"]), (&json!(false), &Value::Null));
    assert_eq!(streamed["partition"]["ssd_stream"], true);
    let experts = &streamed["experts"];
    let number = |name: &str| experts[name].as_u64().unwrap_or_else(|| panic!("{name}: {streamed}"));
    assert!(number("in_memory") < number("of") && number("reads") > 0, "{streamed}");
}

#[test]
fn fewer_experts_are_named_everywhere() {
    let server = Server::start(&["--backend", "cpu", "--experts-per-token", "1"]);
    let lossy = json!("experts_per_token=1 of 2");
    assert_eq!(server.health()["lossy"], lossy);
    assert_eq!(server.ask(QUESTIONS[0], json!({}))["swiftlm"]["lossy"], lossy);
    let head = server.head_of(
        "POST /v1/chat/completions",
        &json!({"messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 2, "stream": true}),
    );
    assert!(head.contains("x-swiftlm-lossy: experts_per_token=1 of 2"), "{head}");
    // As many as the model routes to is the model itself.
    let server = Server::start(&["--backend", "cpu", "--experts-per-token", "2"]);
    assert_eq!(server.health()["lossy"], Value::Null);
}
