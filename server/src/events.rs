//! What the process tells the one who started it: sentences on a terminal, JSON lines for a program.

use std::io::Write;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
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

    /// A step of loading, as a line of JSON; people see [`Self::bar`].
    pub fn progress(&self, phase: &str, fraction: f64) {
        if self.format == LogFormat::Json {
            self.line(&json!({"event": phase, "progress": fraction}));
        }
    }

    /// A bar of 100 steps for a phase of loading. It draws on a terminal only.
    pub fn bar(&self, phase: &str) -> ProgressBar {
        let target = match self.format {
            LogFormat::Json => ProgressDrawTarget::hidden(),
            LogFormat::Text => ProgressDrawTarget::stderr(),
        };
        let style = ProgressStyle::with_template("{prefix:>8} [{bar:30}] {percent:>3} % {elapsed}");
        let bar = ProgressBar::with_draw_target(Some(100), target).with_prefix(phase.to_owned());
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("##-"))
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
