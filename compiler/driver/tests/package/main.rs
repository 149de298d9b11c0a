//! Packages: made alike anywhere, whole or refused, and never a panic whatever they hold.

mod damaged;
mod forged;
mod made;
mod numbers;
mod programs;
mod records;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use swiftlm_driver::package::{PackOptions, pack};
use tempfile::TempDir;

/// A directory of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A golden row.
fn row(name: &str) -> PathBuf {
    repository("golden-tests/families").join(name)
}

/// A package in a directory of its own.
struct Made {
    place: TempDir,
}

impl Made {
    fn new(model: &Path, options: &PackOptions) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        pack(model, &place.path().join("package"), options).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
        Self { place }
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("package")
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    fn write(&self, file: &str, content: &[u8]) {
        fs::write(self.path().join(file), content).unwrap_or_else(|e| panic!("{file}: {e}"));
    }

    /// Changes one byte.
    fn flip(&self, file: &str, at: usize) {
        let mut content = self.read(file);
        content[at] ^= 0x20;
        self.write(file, &content);
    }

    /// Paths of all files, sorted.
    fn files(&self) -> Vec<String> {
        let mut files = vec![];
        let mut waiting = vec![self.path()];
        while let Some(place) = waiting.pop() {
            for entry in fs::read_dir(place).expect("a package can be listed").flatten() {
                let path = entry.path();
                match path.is_dir() {
                    true => waiting.push(path),
                    false => {
                        let below = path.strip_prefix(self.path()).expect("it lies below");
                        files.push(below.to_string_lossy().replace('\\', "/"));
                    }
                }
            }
        }
        files.sort();
        files
    }

    /// Lets the manifest say of each file what is so now, after `change`: what a forger would do.
    fn forge(&self, change: impl FnOnce(&mut Value)) {
        let mut manifest: Value = serde_json::from_slice(&self.read("manifest.json")).expect("a manifest is JSON");
        for file in manifest["files"].as_array_mut().expect("a list of files") {
            let content = self.read(file["path"].as_str().expect("a path"));
            file["bytes"] = content.len().into();
            file["sha256"] = sha256(&content).into();
        }
        change(&mut manifest);
        manifest["hash"] = "".into();
        let text = |manifest: &Value| serde_json::to_string_pretty(manifest).expect("JSON can be written") + "\n";
        manifest["hash"] = sha256(text(&manifest).as_bytes()).into();
        self.write("manifest.json", text(&manifest).as_bytes());
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
