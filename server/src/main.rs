//! The command `swiftlm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    swiftlm_server::app::run(arguments.collect(), swiftlm_server::load::load)
}
