//! A server on a free port, and an HTTP client that sees every byte.

#![allow(dead_code, unreachable_pub, reason = "each test file is a crate that uses a part of it")]

pub mod mock;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use swiftlm_server::app;
use swiftlm_server::events::Events;
use swiftlm_server::flags::LogFormat;
use swiftlm_server::progress::Progress;
use swiftlm_server::state::{AppState, Config};

use mock::Mock;

pub struct Server {
    pub address: SocketAddr,
    pub state: AppState,
    pub mock: Arc<Mock>,
}

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }

    /// The data of each server-sent event.
    pub fn events(&self) -> Vec<String> {
        self.body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    /// Chunks without the final `[DONE]`, which must be there.
    pub fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{}", self.body);
        events.iter().map(|event| serde_json::from_str(event).expect("each event is JSON")).collect()
    }
}

impl Server {
    pub fn start(config: Config) -> Self {
        Self::with(config, 64, true)
    }

    pub fn with(config: Config, limit: usize, ready: bool) -> Self {
        let (model, mock) = mock::model(limit);
        let state = AppState::new(config, Progress::new(Events::new(LogFormat::Text)));
        if ready {
            state.set_model(model);
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let shared = state.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                sender.send(listener.local_addr().expect("an address")).expect("the test waits");
                let (_stop, stopped) = tokio::sync::watch::channel(false);
                app::listen(listener, shared, stopped).await;
            });
        });
        Self { address: receiver.recv().expect("the server starts"), state, mock }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream
    }

    /// Sends a request and reads the whole reply.
    pub fn raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let mut stream = self.connect();
        let host = if headers.to_ascii_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("the server reads");
        // A server that refuses by the head need not read the body.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        parse(&bytes)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.raw("GET", path, "", b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.raw("POST", path, "Content-Type: application/json\r\n", body.to_string().as_bytes())
    }

    /// A chat of one message, with further fields.
    pub fn chat(&self, content: &str, more: Value) -> Reply {
        self.post("/v1/chat/completions", &with(json!({"messages": [{"role": "user", "content": content}]}), more))
    }

    pub fn complete(&self, more: Value) -> Reply {
        self.post("/v1/completions", &with(json!({"prompt": "Once"}), more))
    }
}

fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().cloned().unwrap_or_default() {
        body[name] = value;
    }
    body
}

fn parse(bytes: &[u8]) -> Reply {
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let at = at.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let mut rest = &bytes[at + 4..];
    let mut body = Vec::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
            let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16).expect("a chunk size");
            body.extend_from_slice(&rest[end + 2..end + 2 + size]);
            rest = &rest[end + 4 + size..];
        }
    } else {
        body.extend_from_slice(rest);
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Reply { status, head, body: String::from_utf8(body).expect("replies are UTF-8") }
}
