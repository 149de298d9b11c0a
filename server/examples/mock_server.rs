//! The server with an engine that has no model, for trying clients and the life of the process. It takes the flags of
//! `swiftlm`; `--model missing` cannot be loaded, `--model large` does not fit, `--model slow` takes a while.

use std::process::ExitCode;
use std::time::Duration;

use swiftlm_server::app;
use swiftlm_server::load::LoadError;

#[path = "../tests/common/mock.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod mock;

fn main() -> ExitCode {
    app::run(std::env::args().collect(), |flags, progress| {
        match flags.model.as_deref() {
            Some("missing") => {
                let reason = "there is no such directory".to_owned();
                return Err(LoadError::Model { model: "missing".to_owned(), reason });
            }
            Some("large") => {
                return Err(LoadError::Memory("needs 9 GB, there are 8; --ctx-size 1024 would fit".to_owned()));
            }
            Some("slow") => std::thread::sleep(Duration::from_secs(2)),
            _ => {}
        }
        progress.report("load", 1.0);
        Ok(mock::model(64).0)
    })
}
