//! Serving a mixture with some of its experts in memory, and with fewer experts of a token than the model says.

#[path = "common/binary.rs"]
mod binary;

use std::path::Path;

use binary::{Server, content};
use serde_json::{Value, json};
use swiftlm_driver::package::{PackOptions, pack};
use swiftlm_driver::precision::Precision;

const QUESTIONS: [&str; 3] = ["What is 2+2?", "Tell me a story about an owl.", "What is the capital of France?"];

fn answers(server: &Server) -> Vec<Value> {
    let ask = |question: &&str| server.ask(question, json!({"temperature": 0, "logprobs": true}));
    QUESTIONS.iter().map(ask).collect()
}

/// The demo model has some 6 MB of experts, eight in each layer.
#[test]
fn experts_from_disk_answer_the_same() {
    let whole = Server::start(&["--backend", "cpu"]);
    let expected = answers(&whole);
    for io in ["auto", "pread"] {
        let streamed = Server::start(&["--backend", "cpu", "--expert-budget", "2", "--io", io]);
        same(&expected, &answers(&streamed));
        let experts = reads(&streamed);
        assert!(io == "auto" || experts["read_by"] == "threads", "{experts}");
    }
    let whole = whole.health();
    assert_eq!((&whole["partition"]["ssd_stream"], &whole["experts"]), (&json!(false), &Value::Null));
}

/// Experts read before they are chosen change no answer; what became of them is told.
#[test]
fn experts_read_ahead_answer_the_same() {
    let expected = answers(&Server::start(&["--backend", "cpu"]));
    for wish in ["on", "auto"] {
        let server = Server::start(&["--backend", "cpu", "--expert-budget", "2", "--ssd-prefetch", wish]);
        same(&expected, &answers(&server));
        let prefetch = reads(&server)["prefetch"].clone();
        let number = |name: &str| prefetch[name].as_u64().unwrap_or_else(|| panic!("{name}: {prefetch}"));
        assert!(number("useful") > number("wasted"), "{prefetch}");
        assert!(number("guessed") >= number("useful") + number("wasted"), "{prefetch}");
        assert!(wish == "auto" || prefetch["on"] == true, "{prefetch}");
    }
    let without = Server::start(&["--backend", "cpu", "--expert-budget", "2"]);
    assert_eq!(reads(&without)["prefetch"], Value::Null);
}

fn same(a: &[Value], b: &[Value]) {
    for (a, b) in a.iter().zip(b) {
        assert!(!content(a).is_empty(), "{a}");
        assert_eq!(a["choices"], b["choices"]);
        assert!(b["swiftlm"]["lossy"].is_null(), "{b}");
    }
}

/// What a server that streams says of its experts.
fn reads(server: &Server) -> Value {
    let health = server.health();
    assert_eq!(health["partition"]["ssd_stream"], true);
    let experts = health["experts"].clone();
    let number = |name: &str| experts[name].as_u64().unwrap_or_else(|| panic!("{name}: {health}"));
    assert!(number("in_memory") < number("of") && number("reads") > 0, "{health}");
    assert!(experts["read_by"].as_str().is_some_and(|by| !by.is_empty()), "{health}");
    experts
}

/// From a package with records, from one that holds the model's own files, and from one whose weights stayed where they
/// were.
#[test]
fn packages_are_streamed() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    let expected = answers(&Server::start(&["--backend", "cpu"]));
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    for (name, repack, in_place) in [("records", true, false), ("files", false, false), ("elsewhere", false, true)] {
        let path = place.path().join(name);
        let mut options = PackOptions { repack, in_place, without_certificate: true, ..PackOptions::default() };
        options.program.build = Precision::Default.build(None, true);
        let hash = pack(&model, &path, &options).expect("the demo model is packed").hash;
        let (path, weights) = (path.to_string_lossy(), model.to_string_lossy());
        let mut flags = vec!["--backend", "cpu", "--expert-budget", "2", "--model", &path];
        if in_place {
            flags.extend(["--weights", &weights]);
        }
        let server = Server::start(&flags);
        same(&expected, &answers(&server));
        reads(&server);
        assert_eq!(server.health()["fingerprint"], hash.as_str(), "{name}");
    }
}

/// A request whose experts cannot be read fails, names the file, and the next one is answered.
#[test]
fn a_damaged_record_fails_its_request_only() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = place.path().join("package");
    let mut options = PackOptions { repack: true, without_certificate: true, ..PackOptions::default() };
    options.program.build = Precision::Default.build(None, true);
    pack(&model, &path, &options).expect("the demo model is packed");
    let records = path.join("experts.bin");
    let content = std::fs::read(&records).expect("the records");
    let modified = std::fs::metadata(&records).and_then(|m| m.modified()).expect("a time");
    let put = |bytes: &[u8]| {
        use std::io::Write;
        let mut file = std::fs::File::options().write(true).open(&records).expect("it opens");
        file.write_all(bytes).expect("it can be written");
        file.set_modified(modified).expect("a time can be set");
    };
    let server = Server::start(&["--backend", "cpu", "--expert-budget", "2", "--model", &path.to_string_lossy()]);
    let ask = || server.ask(QUESTIONS[1], json!({"temperature": 0}));
    let well = ask();
    assert!(!self::content(&well).is_empty(), "{well}");
    put(&content.iter().map(|byte| byte ^ 16).collect::<Vec<u8>>());
    let failed = ask().to_string();
    assert!(failed.contains("error") && failed.contains("experts.bin: byte"), "{failed}");
    put(&content);
    assert_eq!(ask()["choices"], well["choices"]);
}

#[test]
fn fewer_experts_are_named_everywhere() {
    let server = Server::start(&["--backend", "cpu", "--experts-per-token", "1"]);
    let lossy = json!("experts_per_token=1 of 2");
    assert_eq!(server.health()["lossy"], lossy);
    assert_eq!(server.ask(QUESTIONS[0], json!({}))["swiftlm"]["lossy"], lossy);
    let head = server.head_of(
        "POST /v1/chat/completions",
        &json!({"messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 2, "stream": true}),
    );
    assert!(head.contains("x-swiftlm-lossy: experts_per_token=1 of 2"), "{head}");
    // As many as the model routes to is the model itself.
    let server = Server::start(&["--backend", "cpu", "--experts-per-token", "2"]);
    assert_eq!(server.health()["lossy"], Value::Null);
}
