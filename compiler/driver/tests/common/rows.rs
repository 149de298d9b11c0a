//! The golden rows as files.

use std::fs;
use std::path::{Path, PathBuf};

/// Name and content of each file of a checkpoint.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// The directory of golden rows.
pub(crate) fn families() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden-tests/families")
}

/// Names in a directory, sorted.
pub(crate) fn list(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory can be listed");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry can be read").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The files of a row, those of its reference left out.
pub(crate) fn contents(row: &str) -> Files {
    let dir = families().join(row);
    let read = |n: String| (n.clone(), fs::read(dir.join(n)).expect("a file of a row can be read"));
    let own = |n: &String| !n.starts_with("reference") && n != "row.json";
    list(&dir).into_iter().filter(own).map(read).collect()
}
