//! The binary as a new user runs it: the demo model, asked over HTTP, on the CPU and on the Vulkan adapter.

#[path = "common/binary.rs"]
mod binary;

use binary::{Server, content};
use serde_json::{Value, json};

fn lines(file: &str) -> Vec<Value> {
    let path = format!("{}/demo/eval/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the demo model has questions");
    text.lines().map(|l| serde_json::from_str(l).expect("one JSON object a line")).collect()
}

#[test]
fn answers_on_the_cpu() {
    let server = Server::start(&["--backend", "cpu"]);
    assert_eq!(content(&server.ask("What is 2+2?", json!({}))), "2 + 2 equals 4.");
    let questions: Vec<Value> = lines("arithmetic.jsonl").into_iter().take(20).collect();
    let right = questions
        .iter()
        .filter(|q| content(&server.ask(q["prompt"].as_str().expect("a question"), json!({}))) == q["answer"]);
    assert!(right.count() >= 19, "arithmetic is held to 95 %");
}

/// A number told at the start of 4096 tokens is recalled, through eight prefill chunks; memory stays within the promise.
#[test]
fn recalls_a_passkey_within_its_memory() {
    let server = Server::start(&["--backend", "cpu"]);
    let question = lines("passkey.jsonl").into_iter().find(|q| q["tokens"] == 4096).expect("one of 4096 tokens");
    let reply = server.ask(question["prompt"].as_str().expect("a prompt"), json!({}));
    assert_eq!(content(&reply), question["answer"]);
    assert!(reply["usage"]["prompt_tokens"].as_u64() > Some(4000), "{reply}");
    let weights = include_bytes!("../demo/model/model.safetensors").len() as u64;
    let kv = 4200 * 3072;
    if let Some(resident) = server.resident() {
        assert!(resident < weights + kv + (200 << 20), "{} MiB are resident", resident >> 20);
    }
}

/// The same with older tokens in codes of 3 bits, which is said.
#[test]
fn recalls_a_passkey_from_an_archive() {
    for (flags, codes) in [(&["--turbo-kv", "k3v3"][..], "turbo3"), (&["--turbo-kv"], "turbo4")] {
        let server = Server::start(&[&["--backend", "cpu"], flags].concat());
        let kv = &server.health()["kv"];
        let layers = kv["layers"].as_u64();
        assert!(layers > Some(0) && kv["archive"]["layers"].as_u64() == layers, "{kv}");
        assert_eq!((&kv["keys"], &kv["archive"]["keys"]), (&json!("f16"), &json!(codes)));
        let question = lines("passkey.jsonl").into_iter().find(|q| q["tokens"] == 4096).expect("one of 4096 tokens");
        let reply = server.ask(question["prompt"].as_str().expect("a prompt"), json!({}));
        assert_eq!(content(&reply), question["answer"]);
        assert_eq!(reply["swiftlm"]["kv"], format!("{codes}/{codes}"));
    }
    let plain = Server::start(&["--backend", "cpu"]);
    assert!(plain.health()["kv"]["archive"].is_null());
    assert!(plain.ask("Hi", json!({}))["swiftlm"]["kv"].is_null());
}

#[test]
fn answers_on_wgpu_as_on_the_cpu() {
    let (gpu, cpu) = (Server::start(&["--backend", "wgpu"]), Server::start(&["--backend", "cpu"]));
    for question in ["What is 2+2?", "What is the capital of France?", "Tell me a story about an owl."] {
        let ask = |server: &Server| content(&server.ask(question, json!({"temperature": 0}))).to_owned();
        assert_eq!(ask(&gpu), ask(&cpu), "{question}");
    }
}
