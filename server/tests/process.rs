//! The binary: exit codes and what it says.

use std::process::{Command, Output};

fn swiftlm(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swiftlm"));
    command.args(arguments).envs(variables.iter().copied()).output().expect("the binary runs")
}

#[test]
fn bad_flags() {
    for (arguments, word) in [
        (&["--nonsense"][..], "nonsense"),
        (&["--temp", "9"], "temp"),
        (&["--num-draft-tokens", "4"], "num-draft-tokens"),
        (&["--gpu-layers", "some"], "gpu-layers"),
        (&["--turbo-kv", "k9v9"], "k9v9"),
        (&["--turbo-kv", "k4v4", "--kv", "q8"], "--kv"),
        (&["doctor"], "doctor"),
        (&["--api-key-file", "does-not-exist"], "does-not-exist"),
        (&["--host", "999.0.0.1"], "999.0.0.1"),
    ] {
        let output = swiftlm(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{arguments:?}: {output:?}");
    }
    assert_eq!(swiftlm(&[], &[("SWIFTLM_TOP_K", "0")]).status.code(), Some(2));
    assert_eq!(swiftlm(&[], &[("SWIFTLM_TEMP", "hot")]).status.code(), Some(2));
    assert_eq!(swiftlm(&["--help"], &[]).status.code(), Some(0));
}

#[test]
fn a_port_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = swiftlm(&["--port", &port, "--log-format", "json"], &[]);
    assert_eq!(output.status.code(), Some(3));
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let event: serde_json::Value = serde_json::from_str(line.trim()).expect("one JSON line");
    assert_eq!((&event["event"], &event["code"]), (&"exiting".into(), &3.into()));
}

#[test]
fn a_model_that_is_not_there() {
    let output = swiftlm(&["--port", "0", "--model", "./no-such-model"], &[]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-model"));
}
