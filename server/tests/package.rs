//! Serving a package: the same answers as from the model's directory, no compiler pass, and nothing damaged is served.

#[path = "common/binary.rs"]
mod binary;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use binary::{Server, content};
use serde_json::json;
use swiftlm_driver::package::{PackOptions, pack};
use swiftlm_driver::precision::Precision;
use tempfile::TempDir;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model")
}

/// A package of the demo model, its path, and its hash.
fn package(options: &PackOptions) -> (TempDir, String, String) {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("demo");
    let manifest = pack(&model(), &path, options).expect("the demo model is packed");
    (place, path.to_string_lossy().into_owned(), manifest.hash)
}

fn quick() -> PackOptions {
    PackOptions { without_certificate: true, ..PackOptions::default() }
}

/// Runs the binary to its end.
fn refused(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swiftlm"));
    command.args(["--port", "0", "--backend", "cpu"]).args(arguments).output().expect("the binary runs")
}

#[test]
fn answers_as_from_the_directory_without_compiling() {
    let directory = model().to_string_lossy().into_owned();
    for backend in ["cpu", "wgpu"] {
        let mut options = quick();
        options.program.build = Precision::Default.build(None, backend == "cpu");
        let (_place, path, hash) = package(&options);
        let start = |model: &str| Server::start(&["--model", model, "--backend", backend]);
        let (packed, compiled) = (start(&path), start(&directory));
        for question in ["What is 2+2?", "Tell me a story about an owl."] {
            let ask = |server: &Server| server.ask(question, json!({"temperature": 0, "logprobs": true}));
            let (a, b) = (ask(&packed), ask(&compiled));
            assert!(!content(&a).is_empty(), "{a}");
            assert_eq!(a["choices"], b["choices"], "{question} on {backend}");
            assert_eq!(a["system_fingerprint"], hash.as_str());
        }
        let (packed, compiled) = (packed.health(), compiled.health());
        assert_eq!((&packed["from_package"], &packed["compiler_passes"]), (&json!(true), &json!(0)), "{packed}");
        assert_eq!(compiled["from_package"], json!(false));
        assert!(compiled["compiler_passes"].as_u64() > Some(0), "{compiled}");
        assert_eq!(packed["fingerprint"], hash.as_str());
    }
}

#[test]
fn nothing_damaged_is_served() {
    let (_place, path, _) = package(&quick());
    let file = |name: &str| Path::new(&path).join(name);
    for name in ["program.bin", "manifest.json", "tokenizer.json", "weights.json"] {
        let whole = std::fs::read(file(name)).expect("it is there");
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        std::fs::write(file(name), damaged).expect("it can be written");
        let output = refused(&["--model", &path]);
        assert_eq!(output.status.code(), Some(4), "{name}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(name), "{name}: {output:?}");
        std::fs::write(file(name), whole).expect("it can be written");
    }
    let weights = std::fs::read(file("model.safetensors")).expect("it is there");
    std::fs::write(file("model.safetensors"), &weights[..weights.len() - 64]).expect("it can be written");
    let output = refused(&["--model", &path]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("model.safetensors"), "{output:?}");
}

#[test]
fn flags_that_a_package_was_not_made_for() {
    let (_place, path, _) = package(&PackOptions { in_place: true, ..quick() });
    let directory = model().to_string_lossy().into_owned();
    let with = |more: &[&str]| refused(&[&["--model", &path, "--weights", &directory], more].concat());
    for (flags, word) in [
        (["--kv", "q8"], "--kv"),
        (["--precision", "exact"], "--precision exact"),
        (["--precision", "fine"], "--precision fine"),
        (["--prefill-size", "64"], "--prefill-size 64"),
        (["--parallel", "100"], "--parallel 100"),
    ] {
        let output = with(&flags);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{flags:?}: {output:?}");
        assert!(words.contains(word) && words.contains("swiftlmc"), "{flags:?}: {words}");
    }
    let output = with(&["--info", "--prefill-size", "512", "--kv", "f16"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("KV pool"), "{output:?}");
    let output = refused(&["--model", &path]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--weights"), "{output:?}");
    let output = refused(&["--model", &directory, "--weights", &directory]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--weights"), "{output:?}");
}
