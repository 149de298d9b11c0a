//! `/v1/chat/completions`, whole replies.

mod common;

use common::Server;
use common::mock::REPLY;
use serde_json::{Value, json};
use swiftlm_server::state::Config;

fn server() -> Server {
    Server::start(Config::default())
}

#[test]
fn a_reply_has_everything() {
    let server = server();
    let reply = server.chat("Hi", json!({"model": "mock-1", "seed": 7, "temperature": 0.25}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "makers/mock-1");
    assert_eq!(body["system_fingerprint"], "fp_mock");
    assert!(body["id"].as_str().expect("an id").starts_with("chatcmpl-"));
    let choice = &body["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": REPLY, "refusal": null}));
    assert_eq!(choice["finish_reason"], "stop");
    let usage = &body["usage"];
    let sum =
        usage["prompt_tokens"].as_u64().expect("a number") + usage["completion_tokens"].as_u64().expect("a number");
    assert_eq!(usage["total_tokens"], sum);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(body["timings"]["predicted_ms"], 10.0);
    let effective = &body["swiftlm"]["effective"];
    // The request wins, then the model's recommendation (20), then the defaults.
    assert_eq!((&effective["temperature"], &effective["top_k"]), (&json!(0.25), &json!(20)));
    assert_eq!(
        (&effective["top_p"], &effective["seed"], &effective["max_tokens"]),
        (&json!(1.0), &json!(7), &json!(2048))
    );
    assert_eq!(reply.header("x-swiftlm-ignored"), None);
}

#[test]
fn sampling_fields_reach_the_engine() {
    let server = server();
    let fields = json!({
        "temperature": 1.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.1,
        "frequency_penalty": 0.2, "presence_penalty": -0.3, "seed": 5, "logit_bias": {"7": -100, "8": 2.5},
        "max_completion_tokens": 4, "ignore_eos": true, "n": 2,
    });
    let reply = server.chat("Hi", fields);
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.header("x-swiftlm-ignored"), None);
    let body = reply.json();
    assert_eq!(body["choices"][1]["index"], 1);
    assert_eq!(body["choices"][1]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 8);
    let request = server.mock.last.lock().expect("unpoisoned").clone().expect("a request");
    let sampling = request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (1.5, 0.5, 3));
    assert_eq!((sampling.min_p, sampling.typical_p, sampling.repetition_penalty), (0.1, 0.9, 1.1));
    assert_eq!((sampling.frequency_penalty, sampling.presence_penalty, sampling.seed), (0.2, -0.3, Some(6)));
    assert_eq!(sampling.logit_bias, [(7, -100.0), (8, 2.5), (452, -1e9)]);
    assert_eq!((request.max_new_tokens, request.stop_tokens.len()), (4, 0));
}

#[test]
fn stops_end_the_text_across_tokens() {
    let server = server();
    for (stop, text) in [
        (json!("world"), "Hello, "),
        (json!(["equals 4", "2 +"]), "Hello, world! "),
        (json!(["😀"]), "Hello, world! 2 + 2 equals 4. Grüße "),
        (json!(["nowhere"]), REPLY),
    ] {
        let body = server.chat("Hi", json!({"stop": stop, "logprobs": true})).json();
        assert_eq!(body["choices"][0]["message"]["content"], text, "{stop}");
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
        let tokens = body["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token["bytes"].as_array().expect("bytes").clone())
            .map(|byte| byte.as_u64().expect("a byte") as u8)
            .collect();
        assert!(text.as_bytes().starts_with(&bytes), "{stop}: scores show {:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn scores_have_openais_shape() {
    let body = server().chat("say(Hi é)", json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 3})).json();
    let tokens = body["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    assert_eq!(tokens.len(), 3);
    assert_eq!(tokens[0]["logprob"], -0.5);
    assert_eq!(tokens[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(tokens[0]["top_logprobs"][1]["logprob"], -2.0);
}

/// Nothing is accepted and ignored.
#[test]
fn fields_act_or_are_named() {
    let server = server();
    let reply = server.chat(
        "Hi",
        json!({"user": "me", "metadata": {"a": 1}, "temprature": 1, "model": "gpt-4",
        "enable_thinking": true, "chat_template_kwargs": {"mood": 1}, "reasoning_effort": "low", "böse\r\n": 1}),
    );
    assert_eq!(reply.status, 200, "{}", reply.body);
    let ignored = reply.header("x-swiftlm-ignored").expect("the header");
    assert_eq!(
        ignored,
        "b?se??, chat_template_kwargs.mood, enable_thinking, metadata, model, reasoning_effort, temprature, user"
    );
    for (field, value) in [
        ("response_format", json!({"type": "json_object"})),
        ("grammar", json!("root ::= x")),
        ("kv_bits", json!(4)),
        ("thinking_budget", json!(5)),
        ("xtc_probability", json!(0.5)),
        ("mirostat", json!(2)),
        ("dry_multiplier", json!(1)),
        ("top_n_sigma", json!(1)),
        ("tool_choice", json!("required")),
        ("functions", json!([])),
        ("return_tokens", json!(true)),
    ] {
        let reply = server.chat("Hi", json!({field: value}));
        assert_eq!(reply.status, 400, "{field}");
        let error = &reply.json()["error"];
        assert_eq!((&error["param"], &error["code"]), (&json!(field), &json!("unsupported_parameter")), "{error}");
    }
    let neutral = json!({"response_format": {"type": "text"}, "grammar": "", "mirostat": 0, "xtc_probability": 0, "tools": [],
        "logit_bias": {}, "stop": null, "tool_choice": "auto", "return_tokens": false, "cache_prompt": false});
    let reply = server.chat("Hi", neutral);
    assert_eq!((reply.status, reply.header("x-swiftlm-ignored")), (200, None));
}

#[test]
fn errors_name_the_field() {
    let server = server();
    let user = json!({"role": "user", "content": "Hi"});
    for (fields, param) in [
        (json!({"temperature": 3}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": -1}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"stop": [""]}), "stop"),
        (json!({"stop": 1}), "stop"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias.1"),
        (json!({"logit_bias": {"100000": 1}}), "logit_bias.100000"),
        (json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": 2}), "logprobs"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"stream": true, "stream_options": {"include_usage": 1}}), "stream_options.include_usage"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": "Hi"}), "messages"),
        (json!({"messages": [1]}), "messages[0]"),
        (json!({"messages": [user, {"role": "critic", "content": ""}]}), "messages[1].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}), "messages[0].content[0].type"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0].content[0].image_url",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
        (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs.messages"),
        (json!({"kv_bits": 3}), "kv_bits"),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort"),
    ] {
        let reply = server.chat("Hi", fields.clone());
        let error = reply.json();
        assert_eq!((reply.status, error["error"]["param"].as_str()), (400, Some(param)), "{fields} {error}");
        assert_eq!(error["error"]["type"], "invalid_request_error");
    }
    assert_eq!(server.chat("Hi", json!({"kv_bits": 3})).json()["error"]["code"], "invalid_kv_bits");
}

#[test]
fn messages_in_all_shapes_reach_the_template() {
    let server = server();
    let messages = json!([
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
        {"role": "assistant", "content": null},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "add"}}]);
    let body = json!({"messages": messages, "tools": tools});
    let reply = server.post("/apply-template", &body).json();
    let expected = "<|im_start|>system\nBe\nbrief.<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\n4<|im_end|>\n\
        tools: [{\"type\": \"function\", \"function\": {\"name\": \"add\"}}]\n<|im_start|>assistant\n";
    assert_eq!(reply["prompt"], expected);
    let text = server.post("/detokenize", &json!({"tokens": reply["tokens"]})).json();
    assert_eq!(text["content"], expected);
    let without =
        server.post("/apply-template", &json!({"messages": messages, "tools": tools, "tool_choice": "none"})).json();
    assert!(!without["prompt"].as_str().expect("a text").contains("add"));
}

#[test]
fn the_context_is_a_limit_before_the_work() {
    let server = server();
    let reply = server.chat(&"many words ".repeat(4000), json!({}));
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["code"]), (400, &json!("context_length_exceeded")));
    assert!(error["message"].as_str().expect("a text").contains("4096"));
    // A reply may not be longer than what is left, and says so.
    let body = server.chat("Hi", json!({"max_tokens": 100_000})).json();
    let left = 4096 - body["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert_eq!(body["swiftlm"]["effective"]["max_tokens"], left);
}

#[test]
fn failures_of_the_engine_are_ours() {
    let server = server();
    let reply = server.chat("fail()", json!({}));
    let error = reply.json();
    assert_eq!((reply.status, &error["error"]["type"]), (500, &json!("server_error")));
    let id = reply.header("x-request-id").expect("an id");
    assert!(error["error"]["message"].as_str().expect("a text").contains(id));
}

#[test]
fn models_and_names() {
    let server = Server::start(Config { strict_model: true, aliases: vec!["gpt".into()], ..Config::default() });
    let list = server.get("/v1/models").json();
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["created"]), (&json!("makers/mock-1"), &json!(1_700_000_000)));
    assert_eq!(list["data"][0]["capabilities"]["tools"], true);
    for name in ["makers/mock-1", "mock-1", "gpt"] {
        assert_eq!(server.get(&format!("/v1/models/{name}")).status, 200, "{name}");
        assert_eq!(server.chat("Hi", json!({"model": name})).status, 200, "{name}");
    }
    assert_eq!(server.get("/v1/models/other").json()["error"]["code"], "model_not_found");
    assert_eq!(server.chat("Hi", json!({"model": "other"})).status, 404);
}

#[test]
fn tokens_there_and_back() {
    let server = server();
    let reply = server.post("/tokenize", &json!({"content": "Grüße 😀", "with_pieces": true, "odd": 1}));
    assert_eq!(reply.header("x-swiftlm-ignored"), Some("odd"));
    let tokens = reply.json()["tokens"].as_array().expect("a list").clone();
    let ids: Vec<Value> = tokens.iter().map(|token| token["id"].clone()).collect();
    assert_eq!(server.post("/detokenize", &json!({"tokens": ids})).json()["content"], "Grüße 😀");
    assert_eq!(server.post("/detokenize", &json!({"tokens": [456]})).json()["error"]["param"], "tokens");
    assert_eq!(server.post("/tokenize", &json!({})).json()["error"]["param"], "content");
}

#[test]
fn thoughts_and_calls_are_parts_of_the_message() {
    let server = server();
    let tools = json!([{"type": "function", "function": {"name": "add"}}]);
    let said = "say(<think>two numbers</think>Sure.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 2}}\n</tool_call>)";
    let body = server.chat(said, json!({"tools": tools})).json();
    let (message, reason) = (&body["choices"][0]["message"], &body["choices"][0]["finish_reason"]);
    assert_eq!((&message["content"], reason), (&json!("Sure."), &json!("tool_calls")), "{body}");
    assert_eq!(message["reasoning_content"], "two numbers");
    assert_eq!(message["tool_calls"][0]["function"], json!({"name": "add", "arguments": "{\"a\":2}"}));
    assert!(body["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64() > Some(2));

    let chunks = server.chat(said, json!({"tools": tools, "stream": true})).chunks();
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let all = |name: &str| deltas.iter().filter_map(|delta| delta[name].as_str()).collect::<String>();
    assert_eq!((all("content").as_str(), all("reasoning_content").as_str()), ("Sure.", "two numbers"));
    let calls: Vec<&Value> =
        deltas.iter().map(|delta| &delta["tool_calls"][0]).filter(|call| !call.is_null()).collect();
    assert_eq!(
        (&calls[0]["function"]["name"], &calls[1]["function"]["arguments"]),
        (&json!("add"), &json!("{\"a\":2}"))
    );
    assert!(calls[0]["id"].is_string() && calls[1].get("id").is_none());

    // Without tools there are no calls, whatever the model says.
    let body = server.chat("say(<tool_call>{\"name\":\"add\"}</tool_call>)", json!({})).json();
    assert_eq!(body["choices"][0]["message"]["content"], "<tool_call>{\"name\":\"add\"}</tool_call>");
}
