//! `/v1/completions`.

mod common;

use common::Server;
use common::mock::REPLY;
use serde_json::{Value, json};
use swiftlm_server::state::Config;

fn server() -> Server {
    Server::start(Config::default())
}

#[test]
fn prompts_in_all_shapes() {
    let server = server();
    for (prompt, texts) in [
        (json!("Once"), vec![REPLY]),
        (json!(["say(One)", "say(Two)"]), vec!["One", "Two"]),
        (json!([10, 11]), vec![REPLY]),
        (json!([[10, 11], [12]]), vec![REPLY, REPLY]),
    ] {
        let body = server.complete(json!({"prompt": prompt})).json();
        let got: Vec<_> =
            body["choices"].as_array().expect("a list").iter().map(|c| c["text"].as_str().expect("a text")).collect();
        assert_eq!(got, texts, "{prompt}");
        assert_eq!(
            (&body["object"], &body["choices"][0]["finish_reason"]),
            (&json!("text_completion"), &json!("stop"))
        );
    }
    let body = server.complete(json!({"prompt": ["say(One)", "say(Two)"], "n": 2})).json();
    let texts: Vec<_> = body["choices"].as_array().expect("a list").iter().map(|c| c["text"].clone()).collect();
    assert_eq!(texts, ["One", "One", "Two", "Two"]);
    for prompt in
        [json!(null), json!([]), json!([[]]), json!(""), json!([1, "a"]), json!([-1]), json!([999]), json!({})]
    {
        let reply = server.complete(json!({"prompt": prompt}));
        assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("prompt")), "{prompt}");
    }
    assert_eq!(server.complete(json!({"suffix": "end"})).json()["error"]["param"], "suffix");
    assert_eq!(server.complete(json!({"best_of": 3})).json()["error"]["param"], "best_of");
}

#[test]
fn echo_scores_the_prompt_too() {
    let server = server();
    let body = server.complete(json!({"prompt": "Once é", "echo": true, "logprobs": 2, "max_tokens": 3})).json();
    let choice = &body["choices"][0];
    let text = choice["text"].as_str().expect("a text");
    assert!(text.starts_with("Once éH"), "{text}");
    let scores = &choice["logprobs"];
    let count = body["usage"]["total_tokens"].as_u64().expect("a number") as usize;
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(scores[list].as_array().map(Vec::len), Some(count), "{list}");
    }
    assert_eq!((&scores["token_logprobs"][0], &scores["top_logprobs"][0]), (&Value::Null, &Value::Null));
    assert_eq!(scores["token_logprobs"][1], -0.5);
    let characters: Vec<char> = text.chars().collect();
    for (token, offset) in
        scores["tokens"].as_array().expect("a list").iter().zip(scores["text_offset"].as_array().expect("a list"))
    {
        let token = token.as_str().expect("a text");
        if !token.starts_with("bytes:") {
            let at: String = characters[offset.as_u64().expect("a number") as usize..].iter().collect();
            assert!(at.starts_with(token), "{token:?} is not at {offset}");
        }
    }
    let scored = server.complete(json!({"prompt": "Once", "echo": true, "logprobs": 0, "max_tokens": 0})).json();
    assert_eq!(
        (&scored["choices"][0]["text"], &scored["choices"][0]["finish_reason"]),
        (&json!("Once"), &json!("length"))
    );
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    let plain = server.complete(json!({"prompt": "Once", "echo": true, "max_tokens": 1})).json();
    assert!(plain["choices"][0]["text"].as_str().expect("a text").starts_with("OnceH"));
}

#[test]
fn streams() {
    let server = server();
    let fields = json!({"prompt": "Once", "echo": true, "logprobs": 1, "max_tokens": 6});
    let whole = server.complete(fields.clone()).json();
    let mut streamed = fields;
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({"include_usage": true});
    let chunks = server.complete(streamed).chunks();
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, whole["choices"][0]["text"].as_str().expect("a text"));
    let offsets: Vec<Value> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["text_offset"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(Value::Array(offsets), whole["choices"][0]["logprobs"]["text_offset"]);
    assert_eq!(chunks.last().expect("chunks")["usage"], whole["usage"]);
}
