//! Server-sent events, and clients that go away.

mod common;

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::Server;
use common::mock::REPLY;
use serde_json::{Value, json};
use swiftlm_server::state::Config;

fn server() -> Server {
    Server::start(Config { keepalive: Duration::from_millis(100), ..Config::default() })
}

fn text(chunks: &[Value], index: u64) -> String {
    let choices = chunks.iter().filter_map(|chunk| chunk["choices"].get(0)).filter(|choice| choice["index"] == index);
    choices.filter_map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str())).collect()
}

#[test]
fn chunks_in_order() {
    let reply = server().chat("Hi", json!({"stream": true, "stream_options": {"include_usage": true}}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert!(reply.body.starts_with(": connected\n\ndata: "), "{}", reply.body);
    assert!(reply.body.ends_with("\n\ndata: [DONE]\n\n") && !reply.body.contains('\r'));
    let chunks = reply.chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(chunks.iter().filter(|chunk| chunk["choices"][0]["delta"].get("role").is_some()).count(), 1);
    assert_eq!(text(&chunks, 0), REPLY);
    let (usage, rest) = chunks.split_last().expect("chunks");
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["completion_tokens"].as_u64() > Some(5));
    assert!(usage["timings"].is_object() && usage["swiftlm"]["effective"].is_object());
    let (last, before) = rest.split_last().expect("chunks");
    assert_eq!((&last["choices"][0]["finish_reason"], &last["choices"][0]["delta"]), (&json!("stop"), &json!({})));
    assert!(before.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null() && chunk["usage"].is_null()));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["created"] == chunks[0]["created"]));
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["model"] == "makers/mock-1"));
    assert!(before.iter().all(|chunk| !text(std::slice::from_ref(chunk), 0).contains('\u{FFFD}')));
}

#[test]
fn streams_say_what_whole_replies_say() {
    let server = server();
    for fields in [
        json!({"stop": ["2 equals", "ß"]}),
        json!({"n": 3}),
        json!({"max_tokens": 5}),
        json!({"logprobs": true, "top_logprobs": 1, "stop": "world"}),
        json!({"logprobs": true}),
    ] {
        let whole = server.chat("Hi", fields.clone()).json();
        let mut streamed = fields.clone();
        streamed["stream"] = true.into();
        let chunks = server.chat("Hi", streamed).chunks();
        for (index, choice) in whole["choices"].as_array().expect("a list").iter().enumerate() {
            let of_choice =
                || chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == index);
            assert_eq!(text(&chunks, index as u64), choice["message"]["content"].as_str().expect("a text"), "{fields}");
            let reasons: Vec<_> = of_choice().map(|choice| &choice["finish_reason"]).filter(|r| !r.is_null()).collect();
            assert_eq!(reasons, [&choice["finish_reason"]], "{fields}");
            let scores: Vec<Value> = of_choice()
                .flat_map(|choice| choice["logprobs"]["content"].as_array().cloned().unwrap_or_default())
                .collect();
            assert_eq!(scores, choice["logprobs"]["content"].as_array().cloned().unwrap_or_default(), "{fields}");
        }
    }
}

#[test]
fn silence_is_filled_and_progress_is_told() {
    let server = server();
    let fields = json!({"stream": true, "return_progress": true, "max_tokens": 2});
    let reply = server.chat("prefill(350)", fields);
    assert!(reply.body.matches(": keepalive\n\n").count() >= 2, "{}", reply.body);
    let progress: Vec<Value> = reply
        .body
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("event: prefill_progress\ndata: "))
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect();
    assert_eq!(progress.len(), 2);
    assert_eq!(
        (&progress[1]["fraction"], &progress[1]["status"], &progress[1]["choices"]),
        (&json!(1.0), &json!("done"), &json!([]))
    );
    let reply = server.chat("Hi", json!({"stream": true}));
    assert!(!reply.body.contains("prefill_progress"));
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true}).to_string();
    let headers = "Content-Type: application/json\r\nX-SwiftLM-Prefill-Progress: on\r\n";
    assert!(server.raw("POST", "/v1/chat/completions", headers, body.as_bytes()).body.contains("prefill_progress"));
}

#[test]
fn a_failure_in_mid_stream_is_an_event() {
    let reply = server().chat("fail()", json!({"stream": true}));
    assert_eq!(reply.status, 200);
    let chunks = reply.chunks();
    let error = &chunks.last().expect("chunks")["error"];
    assert_eq!(error["code"], "internal_error");
    assert!(error["message"].as_str().expect("a text").contains("the device was lost"));
}

/// A client that goes away, streaming or not, ends its request in the engine.
#[test]
fn cancellation() {
    let server = server();
    for (count, stream) in [(1, true), (2, false)] {
        let body = json!({"messages": [{"role": "user", "content": "slow()"}], "stream": stream}).to_string();
        let mut socket = server.connect();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).expect("written");
        socket.write_all(body.as_bytes()).expect("written");
        if stream {
            let mut some = [0; 400];
            socket.read_exact(&mut some).expect("the stream begins");
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(server.state.metrics().requests_active(), 1);
        drop(socket);
        let began = Instant::now();
        while server.mock.cancelled.load(Ordering::Acquire) < count {
            assert!(began.elapsed() < Duration::from_secs(3), "stream {stream}: the engine still works");
            std::thread::sleep(Duration::from_millis(5));
        }
        while server.state.metrics().requests_active() > 0 {
            assert!(began.elapsed() < Duration::from_secs(3));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Once a stop string is complete the engine is called off.
#[test]
fn stops_end_the_work() {
    let server = server();
    let body = server.chat("slow()", json!({"stop": "world"})).json();
    assert_eq!(body["choices"][0]["message"]["content"], "Hello, ");
    let began = Instant::now();
    while server.mock.cancelled.load(Ordering::Acquire) == 0 {
        assert!(began.elapsed() < Duration::from_secs(3));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn draining_ends_streams_with_an_error() {
    let server = server();
    let state = server.state.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        state.drain();
        state.abort();
    });
    let chunks = server.chat("slow()", json!({"stream": true})).chunks();
    assert_eq!(chunks.last().expect("chunks")["error"]["code"], "shutting_down");
    assert_eq!(server.chat("Hi", json!({})).status, 503);
}
