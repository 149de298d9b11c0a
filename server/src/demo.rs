//! The demo model inside the binary: what is served when no `--model` is given.

use std::path::{Path, PathBuf};

/// Its id.
pub const NAME: &str = "swiftlm-demo";

/// Unix time at which it was trained.
pub const CREATED: u64 = 1_795_473_500;

/// Name and content of each of its files.
pub const FILES: [(&str, &[u8]); 6] = [
    ("config.json", include_bytes!("../demo/model/config.json")),
    ("generation_config.json", include_bytes!("../demo/model/generation_config.json")),
    ("tokenizer.json", include_bytes!("../demo/model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../demo/model/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../demo/model/chat_template.jinja")),
    ("model.safetensors", include_bytes!("../demo/model/model.safetensors")),
];

/// A model directory.
#[derive(Debug)]
pub enum Directory {
    /// The user's.
    Existing(PathBuf),
    /// Ours, gone when dropped.
    Temporary(tempfile::TempDir),
}

impl Directory {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Existing(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// Writes the demo model to a directory of its own, from where it is loaded as any other.
///
/// # Errors
/// The system's temporary directory cannot be written.
pub fn unpack() -> std::io::Result<Directory> {
    let dir = tempfile::Builder::new().prefix("swiftlm-demo-").tempdir()?;
    for (name, bytes) in FILES {
        std::fs::write(dir.path().join(name), bytes)?;
    }
    Ok(Directory::Temporary(dir))
}
