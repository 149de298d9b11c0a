//! The process from its first line to its exit code, with the mock engine behind it.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

struct Process {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Process {
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        // The example lies beside the folder of the test binaries.
        let test = std::env::current_exe().expect("a path");
        let path = test.parent().and_then(|deps| deps.parent()).expect("a folder").join("examples/mock_server");
        let mut command = Command::new(&path);
        command.args(arguments).args(["--port", "0", "--log-format", "json"]).envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the example is built");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    fn event(&mut self, name: &str) -> Value {
        let mut line = String::new();
        while self.lines.read_line(&mut line).expect("readable") > 0 {
            let event: Value = serde_json::from_str(&line).expect("each line is JSON");
            if event["event"] == name {
                return event;
            }
            line.clear();
        }
        panic!("no event {name}");
    }

    fn signal(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    fn code(&mut self) -> i32 {
        self.child.wait().expect("it ends").code().expect("an exit code")
    }

    fn send(address: &str, content: &str) -> TcpStream {
        let body = format!(r#"{{"stream":true,"max_tokens":50,"messages":[{{"role":"user","content":"{content}"}}]}}"#);
        let mut stream = TcpStream::connect(address.trim_start_matches("http://")).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("written");
        stream
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn ready_then_drained() {
    let mut process = Process::start(&["serve", "--drain-seconds", "10"], &[]);
    let address = process.event("ready")["address"].as_str().expect("an address").to_owned();
    let stream = Process::send(&address, "slow()");
    std::thread::sleep(Duration::from_millis(200));
    process.signal();
    std::thread::sleep(Duration::from_millis(200));
    assert!(read(Process::send(&address, "Hi")).starts_with("HTTP/1.1 503"));
    let text = read(stream);
    assert!(text.contains("\"finish_reason\":\"length\"") && text.contains("[DONE]"), "{text}");
    assert_eq!(process.event("exiting")["reason"], "requested");
    assert_eq!(process.code(), 0);
}

#[test]
fn what_does_not_finish_is_called_off() {
    let mut process = Process::start(&["--drain-seconds", "0"], &[("SWIFTLM_TEMP", "0.5")]);
    let address = process.event("ready")["address"].as_str().expect("an address").to_owned();
    let stream = Process::send(&address, "slow()");
    std::thread::sleep(Duration::from_millis(200));
    process.signal();
    let text = read(stream);
    assert!(text.contains("shutting_down") && text.contains("[DONE]"), "{text}");
    assert_eq!(process.code(), 0);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut process = Process::start(&["serve", "--drain-seconds", "100"], &[("SWIFTLM_TEMP", "0.5")]);
    let address = process.event("ready")["address"].as_str().expect("an address").to_owned();
    let _stream = Process::send(&address, "slow()");
    std::thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    process.signal();
    std::thread::sleep(Duration::from_millis(100));
    process.signal();
    process.code();
    assert!(began.elapsed() < Duration::from_millis(900));
}

#[test]
fn models_that_cannot_be_served() {
    for (model, code) in [("missing", 4), ("large", 5)] {
        let mut process = Process::start(&["--model", model], &[]);
        assert_eq!(process.event("exiting")["code"], code);
        assert_eq!(process.code(), code);
    }
    let mut process = Process::start(&["--model", "slow"], &[]);
    std::thread::sleep(Duration::from_millis(300));
    process.signal();
    assert_eq!(process.code(), 0);
}
