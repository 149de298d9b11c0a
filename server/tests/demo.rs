//! The binary as a new user runs it: the demo model, asked over HTTP, on the CPU and on the Vulkan adapter.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
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

    fn ask(&self, content: &str, more: Value) -> Value {
        let mut body = json!({"messages": [{"role": "user", "content": content}], "max_tokens": 40});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let (body, host) = (body.to_string(), &self.address);
        let mut stream = TcpStream::connect(host).expect("it listens");
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("it reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it answers");
        let body = reply.split_once("\r\n\r\n").expect("a head and a body").1;
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {reply}"))
    }

    /// Bytes resident now, where the system tells.
    fn resident(&self) -> Option<u64> {
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

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("an answer: {reply}"))
}

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

#[test]
fn answers_on_wgpu_as_on_the_cpu() {
    let (gpu, cpu) = (Server::start(&["--backend", "wgpu"]), Server::start(&["--backend", "cpu"]));
    for question in ["What is 2+2?", "What is the capital of France?", "Tell me a story about an owl."] {
        let ask = |server: &Server| content(&server.ask(question, json!({"temperature": 0}))).to_owned();
        assert_eq!(ask(&gpu), ask(&cpu), "{question}");
    }
}
