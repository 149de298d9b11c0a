//! Files that are made by a test and committed, for people to review and programs to read.

use std::path::{Path, PathBuf};

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("golden-tests lies in the workspace").to_path_buf()
}

/// Compares the file at `path` below the workspace with what it must be. With `SWIFTLM_BLESS` set it is written.
///
/// # Panics
/// It is stale; the message says which test of this crate writes it.
pub fn assert_fresh(path: &str, expected: &str, test: &str) {
    let at = workspace().join(path);
    if std::env::var_os("SWIFTLM_BLESS").is_some() {
        std::fs::write(&at, expected).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    let found = std::fs::read_to_string(&at).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
    assert!(
        found == expected,
        "{path} is stale, first at {differs:?}: SWIFTLM_BLESS=1 cargo test --workspace --test {test} writes it anew"
    );
}
