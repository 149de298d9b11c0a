//! Bodies nobody would write: each is answered with JSON and the server lives on.

mod common;

use std::sync::OnceLock;

use common::Server;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use swiftlm_server::state::Config;

const PATHS: [&str; 5] = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/apply-template"];
const NAMES: [&str; 33] = [
    "messages",
    "role",
    "content",
    "type",
    "text",
    "prompt",
    "tokens",
    "model",
    "temperature",
    "top_p",
    "top_k",
    "n",
    "seed",
    "stop",
    "max_tokens",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "echo",
    "tools",
    "tool_choice",
    "tool_calls",
    "function",
    "arguments",
    "name",
    "response_format",
    "chat_template_kwargs",
    "stream",
    "stream_options",
    "include_usage",
    "min_p",
    "ignore_eos",
    "0",
];

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(Config::default()))
}

fn check(path: &str, body: &[u8]) -> Result<(), TestCaseError> {
    let reply = server().raw("POST", path, "Content-Type: application/json\r\n", body);
    prop_assert!([200, 400, 404].contains(&reply.status), "{} for {}", reply.status, String::from_utf8_lossy(body));
    if reply.status == 200 && reply.body.starts_with(": connected") {
        prop_assert!(reply.body.ends_with("data: [DONE]\n\n"));
    } else {
        let value: Value = serde_json::from_str(&reply.body).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(value.get("error").is_some(), reply.status != 200);
    }
    Ok(())
}

fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["user", "assistant", "text", "auto", "[a-z<|>é]{0,12}", "\\PC{0,8}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..4).prop_map(Value::from),
        (-2.0..3.0).prop_map(|number: f64| json!(number)),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from), object(inner),]
    })
}

fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let entry = (prop::sample::select(&NAMES[..]).prop_map(str::to_owned), value);
    prop::collection::vec(entry, 0..6).prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(path in prop::sample::select(&PATHS[..]), body in prop::collection::vec(any::<u8>(), 0..64)) {
        check(path, &body)?;
    }

    #[test]
    fn any_objects(path in prop::sample::select(&PATHS[..]), body in object(any_value())) {
        check(path, body.to_string().as_bytes())?;
    }

    /// A sound request with one field of it replaced: this comes further than noise does.
    #[test]
    fn one_wrong_field(path in prop::sample::select(&PATHS[..]), name in prop::sample::select(&NAMES[..]), value in any_value()) {
        let mut body = json!({
            "messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "content": "Hi", "tokens": [1], "max_tokens": 4,
        });
        body[name] = value;
        check(path, body.to_string().as_bytes())?;
    }

    /// A sound request cut or with one byte changed.
    #[test]
    fn damaged(path in prop::sample::select(&PATHS[..]), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let body = json!({"messages": [{"role": "user", "content": "Grüße"}], "prompt": "Hi", "max_tokens": 4, "stop": ["a"]});
        let mut bytes = body.to_string().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        check(path, &bytes)?;
    }
}

/// More are tried by setting the variable.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150)
}

#[test]
fn nesting_is_bounded() {
    let body = "[".repeat(100_000);
    check("/v1/completions", body.as_bytes()).expect("answered");
    check("/v1/completions", format!("{{\"prompt\":{body}").as_bytes()).expect("answered");
}
