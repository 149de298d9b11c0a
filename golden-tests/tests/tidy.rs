//! Repository checks: layering, file sizes, module docs, and words that must not appear where they do not belong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each crate may depend on inside the workspace; arrows point down only.
const LAYERS: &[(&str, &[&str])] = &[
    ("ir", &[]),
    ("models", &["ir"]),
    ("compiler/core", &["ir"]),
    ("backends/device", &["ir"]),
    ("backends/shader", &["ir"]),
    ("backends/cpu", &["ir", "device"]),
    ("backends/disk", &[]),
    ("backends/gpu", &["ir", "device", "shader"]),
    ("runtime", &["ir", "device"]),
    ("compiler/driver", &["ir", "models", "compiler", "device", "shader", "gpu", "cpu", "disk", "runtime"]),
    ("server", &["ir", "driver", "runtime", "device", "gpu", "cpu"]),
    (
        "golden-tests",
        &["ir", "models", "compiler", "device", "shader", "gpu", "cpu", "disk", "runtime", "driver", "server"],
    ),
];

/// Outside libraries that only the crates named here may use.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("naga", &["backends/shader", "backends/gpu"]),
    ("wgpu", &["backends/gpu"]),
    ("egg", &["compiler/core"]),
    ("io-uring", &["backends/disk"]),
    ("axum", &["server"]),
    ("tokenizers", &["server"]),
    ("minijinja", &["server"]),
    ("hf-hub", &["compiler/driver"]),
];

/// Crates that may contain `unsafe`.
const UNSAFE: &[&str] = &["backends/cpu", "backends/gpu", "backends/disk"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("golden-tests lies in the workspace").to_path_buf()
}

/// Files below `dir` with one of the extensions, build outputs and data left out.
fn files(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of the repository can be read").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", ".git", ".cache", "node_modules"].contains(&name.as_str()) {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|e| extensions.contains(&e.to_string_lossy().as_ref())) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = vec![];
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]"
                || line.contains("'.dependencies]")
                || line.contains("\".dependencies]");
        } else if inside && let Some((name, _)) = line.split_once(['.', '=', ' ']) {
            names.push(name.trim().to_owned());
        }
    }
    names
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn layers_point_down_only() {
    let allowed: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut problems = vec![];
    for manifest in files(&root(), &["toml"]) {
        if manifest.file_name().is_none_or(|n| n != "Cargo.toml") || manifest.parent() == Some(&root()) {
            continue;
        }
        let dir = manifest.parent().expect("a manifest lies in a directory");
        let name = dir.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
        let Some(may) = allowed.get(name.as_str()) else {
            problems.push(format!("{name}: not in the table of layers (golden-tests/tests/tidy.rs)"));
            continue;
        };
        let text = fs::read_to_string(&manifest).expect("a manifest can be read");
        for dependency in dependencies(&text) {
            if let Some(member) = dependency.strip_prefix("swiftlm-")
                && !may.contains(&member)
            {
                problems.push(format!("{name}: must not depend on {dependency}"));
            }
            if let Some((_, users)) = ONLY_IN.iter().find(|(library, _)| *library == dependency)
                && !users.contains(&name.as_str())
                && name != "golden-tests"
            {
                problems.push(format!("{name}: must not use {dependency}; only {} may", users.join(", ")));
            }
        }
    }
    report(problems);
}

#[test]
fn files_are_short_and_introduced() {
    let mut problems = vec![];
    for path in files(&root(), &["rs"]) {
        let text = fs::read_to_string(&path).expect("a source file can be read");
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        let lines = text.lines().count();
        if lines > 500 {
            problems.push(format!("{name}: {lines} lines; 500 at most, and 300 is better"));
        }
        let family = name.contains("models/src/families/");
        if family && lines > 120 {
            problems.push(format!("{name}: {lines} lines; a family file has 120 at most"));
        }
        if !text.starts_with("//!") {
            problems.push(format!("{name}: must open with `//!` saying what it is"));
        }
    }
    report(problems);
}

#[test]
fn unsafe_stays_where_it_is_needed_and_is_reasoned() {
    let mut problems = vec![];
    for path in files(&root(), &["rs"]) {
        let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&path).expect("a source file can be read");
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let block = code.contains("unsafe {") || code.contains("unsafe impl");
            if !block || name.ends_with("tests/tidy.rs") {
                continue;
            }
            if !UNSAFE.iter().any(|c| name.starts_with(c)) {
                problems.push(format!("{name}:{}: unsafe code belongs to {} only", i + 1, UNSAFE.join(", ")));
            }
            let reasoned = lines[i.saturating_sub(6)..=i].iter().any(|l| l.contains("SAFETY:"));
            if !reasoned {
                problems.push(format!("{name}:{}: an unsafe block needs a `// SAFETY:` reason", i + 1));
            }
        }
    }
    report(problems);
}

#[test]
fn blocks_know_no_family() {
    let families: Vec<String> = files(&root().join("models/src/families"), &["rs"])
        .iter()
        .filter_map(|p| p.file_stem().map(|s| s.to_string_lossy().into_owned()))
        .filter(|s| s != "mod")
        .collect();
    let mut problems = vec![];
    for path in files(&root().join("models/src/blocks"), &["rs"]) {
        let text = fs::read_to_string(&path).expect("a source file can be read");
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default().to_lowercase();
            let words: Vec<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            for family in families.iter().filter(|f| words.contains(&f.as_str())) {
                problems.push(format!("{}:{}: names the family `{family}`", path.display(), i + 1));
            }
        }
    }
    report(problems);
}

/// Programs are loaded as data: graphs are read from texts in tests only.
#[test]
fn no_program_parses_a_graph() {
    let mut problems = vec![];
    for path in files(&root(), &["rs"]) {
        let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&path).expect("a source file can be read");
        let tests = name.starts_with("ir/") || name.starts_with("golden-tests/") || name.contains("/tests/");
        if !tests && text.contains("text::parse") {
            problems.push(format!("{name}: parses a graph's text"));
        }
    }
    report(problems);
}

#[test]
fn every_family_has_a_row() {
    let rows = root().join("golden-tests/families");
    let missing: Vec<String> = swiftlm_models::families::FAMILIES
        .iter()
        .map(|(family, _)| *family)
        .filter(|family| !rows.join(family).join("reference.safetensors").exists())
        .map(|family| format!("golden-tests/families/{family}: no row of reference logits"))
        .collect();
    report(missing);
}

#[test]
fn the_readme_names_every_family() {
    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let list: Vec<String> =
        swiftlm_models::families::FAMILIES.iter().map(|(family, _)| format!("`{family}`")).collect();
    assert!(
        readme.contains(&format!("Families: {},", list.join(", "))),
        "README.md must say: Families: {},",
        list.join(", ")
    );
}

#[test]
fn no_machine_paths() {
    let mut problems = vec![];
    let markers = [concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/op", "t/"), concat!("/ro", "ot/")];
    for path in files(&root(), &["rs", "md", "py", "toml", "sh", "json", "slir", "snap"]) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for marker in markers.iter().filter(|m| text.contains(*m)) {
            problems.push(format!("{}: names a machine path ({marker})", path.display()));
        }
    }
    report(problems);
}
