//! `kernel-dump`: prints any stage of a model's compilation, and looks at a step of it launch by launch.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use swiftlm_driver::dump::cli::Flags;

fn main() -> ExitCode {
    match Flags::parse().text().and_then(|text| Ok(std::io::stdout().lock().write_all(text.as_bytes())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed pipe (`| head`) is no failure worth words.
            let _ = writeln!(std::io::stderr(), "kernel-dump: {error}");
            ExitCode::FAILURE
        }
    }
}
