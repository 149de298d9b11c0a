//! The `.slir` files below `../cases`, each with what its first line says is done with it.

use std::path::{Path, PathBuf};

/// A case.
#[derive(Clone, Debug)]
pub struct File {
    /// Path below `cases`, without its extension.
    pub name: String,
    /// Its text.
    pub source: String,
    /// What is done with it.
    pub commands: Vec<String>,
}

impl File {
    /// Whether it holds a module; a function alone otherwise.
    pub fn is_module(&self) -> bool {
        self.source.lines().any(|line| line.starts_with("slir "))
    }
}

/// All of them, by name.
pub fn all() -> Vec<File> {
    let mut found = vec![];
    files(&directory(), &mut found);
    assert!(!found.is_empty(), "golden-tests/cases holds files");
    found
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

fn files(below: &Path, found: &mut Vec<File>) {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(below).expect("cases can be listed").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files(&path, found);
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let first = source.lines().next().unwrap_or_default();
        let commands = first.strip_prefix("; test: ");
        let commands = commands.unwrap_or_else(|| panic!("{} does not begin with `; test: `", path.display()));
        let name = path.strip_prefix(directory()).expect("a file below cases").with_extension("");
        let name = name.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
        found.push(File { name, commands: commands.split_whitespace().map(str::to_owned).collect(), source });
    }
}
