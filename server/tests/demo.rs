//! The binary as a new user runs it: the demo model, asked over HTTP, on the CPU and on the Vulkan adapter.

#[path = "common/binary.rs"]
mod binary;

use std::time::Duration;

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

/// A conversation goes on where it was, in another process too, and `/cache` says what was found.
#[test]
fn conversations_are_not_computed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("a plain path");
    let flags = ["--backend", "cpu", "--prompt-cache-dir", dir];
    let story = "Tell me a story about an owl and a fox who meet at the river. ".repeat(8);
    let greedy = |more: Value| json!({"temperature": 0, "max_tokens": 60, "cache_prompt": more});
    let cached = |reply: &Value| reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
    let plain = Server::start(&["--backend", "cpu", "--prompt-cache-entries", "0"]);
    let expected = plain.ask(&story, greedy(json!(true)));
    let again = plain.ask(&story, greedy(json!(true)));
    assert_eq!((cached(&expected), cached(&again)), (0, 0));
    let server = Server::start(&flags);
    for (more, least) in [(true, None), (true, Some(64)), (false, None)] {
        let reply = server.ask(&story, greedy(json!(more)));
        assert_eq!(content(&reply), content(&expected));
        assert_eq!(cached(&reply) >= 64, least.is_some(), "{reply}");
        let usage = &reply["usage"];
        assert_eq!(reply["timings"]["prompt_n"], json!(usage["prompt_tokens"].as_u64().unwrap_or(0) - cached(&reply)));
    }
    let wait = |_| {
        std::thread::sleep(Duration::from_millis(20));
        server.get("/cache")
    };
    let report = (0..500).map(wait).find(|report| report["files"] == 1).expect("it is written");
    assert_eq!((&report["lookups"], &report["hits"]), (&json!(4), &json!(1)), "{report}");
    assert_eq!(report["recent"][0]["reason"], "the request wants its whole prompt computed");
    assert!(report["recent"][1]["reason"].as_str().is_some_and(|why| why.contains("all whole pages")), "{report}");
    // As a crash would end it.
    drop(server);
    let next = Server::start(&flags);
    let reply = next.ask(&story, greedy(json!(true)));
    assert_eq!(content(&reply), content(&expected));
    assert!(cached(&reply) >= 64, "{reply}");
}

#[test]
fn answers_on_wgpu_as_on_the_cpu() {
    let (gpu, cpu) = (Server::start(&["--backend", "wgpu"]), Server::start(&["--backend", "cpu"]));
    for question in ["What is 2+2?", "What is the capital of France?", "Tell me a story about an owl."] {
        let ask = |server: &Server| content(&server.ask(question, json!({"temperature": 0}))).to_owned();
        assert_eq!(ask(&gpu), ask(&cpu), "{question}");
    }
}
