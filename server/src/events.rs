//! What the process tells the one who started it: sentences on a terminal, JSON lines for a program.

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use crate::flags::LogFormat;

/// Writes events to standard output.
#[derive(Clone, Copy, Debug)]
pub struct Events {
    format: LogFormat,
}

impl Events {
    /// In this format.
    pub fn new(format: LogFormat) -> Self {
        Self { format }
    }

    /// A step of loading.
    pub fn progress(&self, phase: &str, fraction: f64) {
        match self.format {
            LogFormat::Json => self.line(&json!({"event": phase, "progress": fraction})),
            LogFormat::Text if std::io::stderr().is_terminal() => {
                let width = 30;
                let done = "#".repeat((fraction * f64::from(width)) as usize);
                let end = if fraction >= 1.0 { "\n" } else { "" };
                // A terminal that went away is no reason to stop.
                let _ = write!(std::io::stderr(), "\r{phase:>8} [{done:<30}] {:3.0} %{end}", fraction * 100.0);
            }
            LogFormat::Text => {}
        }
    }

    /// The server answers at `address`.
    pub fn ready(&self, address: &str, model: &str, seconds: f64, key: bool) {
        match self.format {
            LogFormat::Json => self.line(
                &json!({"event": "ready", "address": address, "model": model, "seconds": (seconds * 1e3).round() / 1e3}),
            ),
            LogFormat::Text => {
                let key = if key { " -H 'Authorization: Bearer KEY'" } else { "" };
                let body = json!({"messages": [{"role": "user", "content": "What is 2+2?"}]});
                self.text(&format!(
                    "{model} is ready at {address} after {seconds:.1} s\n\
                     curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
                ));
            }
        }
    }

    /// The process ends.
    pub fn exiting(&self, reason: &str, code: u8) {
        match self.format {
            LogFormat::Json => self.line(&json!({"event": "exiting", "reason": reason, "code": code})),
            LogFormat::Text if code == 0 => self.text(&format!("swiftlm ends: {reason}")),
            LogFormat::Text => {
                let _ = writeln!(std::io::stderr(), "swiftlm: {reason}");
            }
        }
    }

    /// Plain text that was asked for, such as a plan.
    pub fn text(&self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    fn line(&self, event: &Value) {
        self.text(&event.to_string());
    }
}
