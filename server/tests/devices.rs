//! Serving with some layers on a GPU and the others on the CPU.

#[path = "common/binary.rs"]
mod binary;

use std::process::Command;

use binary::{Server, content};
use serde_json::json;

#[test]
fn layers_on_two_devices_answer_the_same() {
    let ask = |server: &Server| {
        let reply = server.ask("What is 2+2?", json!({"temperature": 0}));
        (content(&reply).to_owned(), server.health()["partition"].clone())
    };
    let (expected, cpu) = ask(&Server::start(&["--backend", "cpu"]));
    assert!(expected.contains('4'), "{expected}");
    assert_eq!((&cpu["strategy"], &cpu["gpu_layers"]), (&json!("cpu"), &json!(0)));
    let total = cpu["total_layers"].as_u64().expect("a number");
    let (answer, split) = ask(&Server::start(&["--backend", "wgpu", "--gpu-layers", "2"]));
    assert_eq!(answer, expected);
    assert_eq!((&split["strategy"], &split["gpu_layers"]), (&json!("split"), &json!(2)));
    assert_eq!(split["cpu_layers"], json!(total - 2));
    let (answer, none) = ask(&Server::start(&["--backend", "wgpu", "--gpu-layers", "0"]));
    assert_eq!((answer, &none["strategy"]), (expected, &json!("cpu")));
}

/// What cannot be had together is said, and nothing is served otherwise than asked.
#[test]
fn contradictions_are_refused() {
    for (arguments, word) in [
        (&["--backend", "cpu", "--gpu-layers", "2"][..], "no GPU is used"),
        (&["--backend", "wgpu", "--gpu-layers", "2", "--expert-budget", "2"], "one device"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_swiftlm")).args(arguments).arg("--info").output();
        let output = output.expect("the binary runs");
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{arguments:?}: {output:?}");
    }
}
