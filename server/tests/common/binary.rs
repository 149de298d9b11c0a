//! The binary as a process of its own, asked over HTTP.

#![allow(dead_code, reason = "each test file is a crate that uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// A running server.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_swiftlm"))
            .args(["--port", "0", "--log-format", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        let mut events = lines.map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let last =
            events.find(|e| e["event"] == "ready" || e["event"] == "exiting").expect("it gets ready or says why not");
        assert_eq!(last["event"], "ready", "{last}");
        let url = last["address"].as_str().expect("ready names the address");
        let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        // Nobody reads on; the process must not stop at a full pipe.
        std::thread::spawn(move || events.for_each(drop));
        Self { child, address }
    }

    /// The reply to a question of a user.
    pub(crate) fn ask(&self, content: &str, more: Value) -> Value {
        let mut body = json!({"messages": [{"role": "user", "content": content}], "max_tokens": 40});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.exchange("POST /v1/chat/completions", &body.to_string())
    }

    /// What `/health` says.
    pub(crate) fn health(&self) -> Value {
        self.get("/health")
    }

    /// What a path says.
    pub(crate) fn get(&self, path: &str) -> Value {
        self.exchange(&format!("GET {path}"), "")
    }

    /// Status and headers of a reply.
    pub(crate) fn head_of(&self, what: &str, body: &Value) -> String {
        let reply = self.reply(what, &body.to_string());
        reply.split_once("\r\n\r\n").expect("a head and a body").0.to_owned()
    }

    fn exchange(&self, what: &str, body: &str) -> Value {
        let reply = self.reply(what, body);
        let body = reply.split_once("\r\n\r\n").expect("a head and a body").1;
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {reply}"))
    }

    fn reply(&self, what: &str, body: &str) -> String {
        let host = &self.address;
        let mut stream = TcpStream::connect(host).expect("it listens");
        let head = format!(
            "{what} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).expect("it reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it answers");
        reply
    }

    /// Bytes resident now, where the system tells.
    pub(crate) fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text of a reply.
pub(crate) fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("an answer: {reply}"))
}
