//! Who may ask what, and how refusals look.

mod common;

use common::Server;
use serde_json::json;
use swiftlm_server::state::Config;

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn keys() {
    let server = Server::start(Config { keys: vec!["one".into(), "two".into()], ..Config::default() });
    for (header, status) in [
        ("", 401),
        ("Authorization: Bearer one\r\n", 200),
        ("Authorization: Bearer two\r\n", 200),
        ("x-api-key: two\r\n", 200),
        ("Authorization: Bearer on\r\n", 401),
        ("Authorization: Bearer onee\r\n", 401),
        ("Authorization: one\r\n", 401),
    ] {
        let reply = server.raw("GET", "/v1/models", header, b"");
        assert_eq!(reply.status, status, "{header}");
        if status == 401 {
            assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
        }
    }
    for open in ["/health", "/metrics"] {
        assert_eq!(server.get(open).status, 200, "{open}");
    }
}

#[test]
fn rebound_names_and_foreign_pages() {
    let server = Server::start(Config { cors: vec!["https://app.example".into()], ..Config::default() });
    for (header, status) in [
        ("Host: evil.example\r\n", 403),
        ("Host: 127.0.0.1:1\r\n", 200),
        ("Host: [::1]\r\n", 200),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: http://localhost:3000\r\n", 200),
        ("Origin: https://app.example\r\n", 200),
    ] {
        assert_eq!(server.raw("GET", "/v1/models", header, b"").status, status, "{header}");
    }
    let reply = server.raw("OPTIONS", "/v1/models", "Origin: https://app.example\r\n", b"");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, Some("https://app.example")));
    let closed = Server::start(Config::default());
    assert_eq!(closed.raw("OPTIONS", "/v1/models", "", b"").status, 405);
    assert_eq!(closed.get("/v1/models").header("access-control-allow-origin"), None);
}

#[test]
fn statuses() {
    let server = Server::start(Config::default());
    for (method, path, headers, body, status, code) in [
        ("GET", "/nowhere", "", "", 404, "not_found"),
        ("GET", "/v1/chat/completions", "", "", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", "", "{}", 415, "unsupported_media_type"),
        ("POST", "/v1/chat/completions", "Content-Type: text/plain\r\n", "{}", 415, "unsupported_media_type"),
        ("POST", "/v1/chat/completions", JSON, "{", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", JSON, "[]", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", JSON, "\u{FEFF}{}", 400, "invalid_json"),
    ] {
        let reply = server.raw(method, path, headers, body.as_bytes());
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (status, Some(code)), "{method} {path}");
        assert!(reply.header("x-request-id").is_some());
    }
    let reply = server.raw("POST", "/v1/chat/completions", JSON, &vec![b' '; (100 << 20) + 1]);
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (413, Some("body_too_large")));
}

#[test]
fn a_full_queue_and_a_loading_model() {
    let server = Server::with(Config::default(), 2, true);
    let reply = server.chat("prefill(300)", json!({"n": 3}));
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")), "{}", reply.body);
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");

    let loading = Server::with(Config::default(), 1, false);
    let health = loading.get("/health");
    assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("loading")));
    for reply in [loading.get("/v1/models"), loading.chat("Hi", json!({}))] {
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (503, Some("model_loading")));
    }
}

#[test]
fn health_and_metrics() {
    let server = Server::start(Config::default());
    server.chat("Hi", json!({}));
    let health = server.get("/health").json();
    assert_eq!((&health["status"], &health["model"]), (&json!("ok"), &json!("makers/mock-1")));
    assert_eq!(health["stats"]["requests_total"], 1);
    assert!(health["stats"]["tokens_generated"].as_u64() > Some(3));
    assert_eq!(health["partition"]["strategy"], "cpu");
    let metrics = server.get("/metrics").body;
    for line in [
        "swiftlm_requests_total 1",
        "swiftlm_requests_active 0",
        "swiftlm_steps_total 3",
        "swiftlm_time_to_first_token_seconds_count 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    for name in [
        "swiftlm_tokens_generated_total",
        "swiftlm_tokens_per_second",
        "swiftlm_memory_active_bytes",
        "swiftlm_uptime_seconds",
        "swiftlm_ssd_prefetch_useful_total",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
    assert!(metrics.ends_with("# EOF\n"));
}
