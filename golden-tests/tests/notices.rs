//! Licences of everything that is linked into `swiftlm`: each is allowed by `deny.toml`, comes from the registry, is not
//! banned, and stands in the notices that the binary prints.
//!
//! `SWIFTLM_BLESS=1 cargo test --workspace --test notices` rewrites the notices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use swiftlm_golden_tests::generated::{assert_fresh, workspace};

const NOTICES: &str = "server/third-party-notices.txt";

/// Packages that are linked into the server on any platform: normal dependencies, all the way down.
fn linked() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let arguments = ["metadata", "--format-version", "1", "--locked"];
    let output = Command::new(cargo).args(arguments).current_dir(workspace()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let list = |value: &Value| value.as_array().cloned().expect("a list");
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|p| (p["id"].to_string(), p)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|n| (n["id"].to_string(), n)).collect();
    let mut waiting: Vec<String> =
        packages.iter().filter(|(_, p)| p["name"] == "swiftlm-server").map(|(id, _)| id.clone()).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if seen.insert(id.clone()) {
            let normal = |d: &Value| list(&d["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            waiting.extend(list(&nodes[&id]["deps"]).iter().filter(|d| normal(d)).map(|d| d["pkg"].to_string()));
        }
    }
    let mut found: Vec<Value> = seen.iter().map(|id| packages[id].clone()).filter(|p| !p["source"].is_null()).collect();
    found.sort_by_key(|p| (text(p, "name").to_owned(), text(p, "version").to_owned()));
    assert!(found.len() > 100, "the server has dependencies");
    found
}

fn text<'p>(package: &'p Value, field: &str) -> &'p str {
    package[field].as_str().unwrap_or_default()
}

/// Data of others that is linked into the server, with its licence's file beside it.
const DATA: [(&str, &str, &str); 1] =
    [("Roboto 2.138 (a font, reduced to Latin letters)", "Apache-2.0", "server/assets/Roboto-Latin.LICENSE")];

/// `MIT/Apache-2.0` is an old spelling of `MIT OR Apache-2.0`.
fn licence(package: &Value) -> spdx::Expression {
    let expression = text(package, "license").replace('/', " OR ");
    let name = text(package, "name");
    spdx::Expression::parse(&expression).unwrap_or_else(|e| panic!("{name}: licence `{expression}`: {e}"))
}

/// Files of a package that state its licence: of several, where MIT is a choice, the MIT text alone.
fn licence_files(package: &Value) -> Vec<PathBuf> {
    let directory = Path::new(text(package, "manifest_path")).parent().expect("a manifest lies in a directory");
    let stated = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().to_uppercase()).unwrap_or_default();
        path.is_file() && ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"].iter().any(|s| name.starts_with(s))
    };
    let entries = fs::read_dir(directory).expect("a package's directory can be read").flatten().map(|e| e.path());
    let mut files: Vec<PathBuf> = entries.filter(stated).collect();
    files.sort();
    let mit = |requirement: &spdx::LicenseReq| requirement.license.id().is_some_and(|id| id.name == "MIT");
    let is_mit = |path: &&PathBuf| path.to_string_lossy().to_uppercase().ends_with("MIT");
    match files.iter().find(is_mit) {
        Some(file) if licence(package).evaluate(mit) => vec![file.clone()],
        _ => files,
    }
}

fn notices(packages: &[Value]) -> String {
    let mut texts: BTreeMap<String, (Vec<String>, String)> = BTreeMap::new();
    let mut add = |name: String, file: &Path| {
        let text = String::from_utf8_lossy(&fs::read(file).expect("a licence can be read")).into_owned();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        texts.entry(words).or_insert_with(|| (vec![], text)).0.push(name);
    };
    let mut out =
        "swiftlm is made with the packages and data below. Each is listed with its licence; the texts follow.\n\n"
            .to_owned();
    for package in packages {
        let name = format!("{} {}", text(package, "name"), text(package, "version"));
        out.push_str(&format!("{name}: {}\n", text(package, "license")));
        for file in licence_files(package) {
            add(name.clone(), &file);
        }
    }
    for (name, licence, file) in DATA {
        out.push_str(&format!("{name}: {licence}\n"));
        add(name.to_owned(), &workspace().join(file));
    }
    let mut by_package: Vec<(Vec<String>, String)> = texts.into_values().collect();
    by_package.sort();
    for (packages, text) in by_package {
        let lines: Vec<&str> = text.trim().lines().map(str::trim_end).collect();
        out.push_str(&format!("\n{}\n{}\n\n{}\n", "-".repeat(80), packages.join(", "), lines.join("\n")));
    }
    out
}

#[test]
fn the_notices_are_fresh() {
    assert_fresh(NOTICES, &notices(&linked()), "notices");
}

#[test]
fn every_licence_is_allowed_and_nothing_banned_is_linked() {
    let deny: toml::Table = fs::read_to_string(workspace().join("deny.toml"))
        .expect("there is a deny.toml")
        .parse()
        .expect("deny.toml is TOML");
    let words = |table: &str, key: &str| -> Vec<String> {
        let list = deny[table][key].as_array().expect("a list");
        list.iter().map(|word| word.as_str().expect("a string").to_owned()).collect()
    };
    let (allowed, banned) = (words("licenses", "allow"), words("bans", "deny"));
    assert!(allowed.len() > 3 && banned.len() > 1);
    let mut problems: Vec<String> = DATA
        .iter()
        .filter(|(_, licence, _)| !allowed.contains(&(*licence).to_owned()))
        .map(|(name, licence, _)| format!("{name}: licence `{licence}` is not allowed"))
        .collect();
    for package in linked() {
        let name = text(&package, "name").to_owned();
        if !licence(&package).evaluate(|requirement| allowed.contains(&requirement.to_string())) {
            problems.push(format!("{name}: licence `{}` is not allowed", text(&package, "license")));
        }
        if banned.contains(&name) {
            problems.push(format!("{name} is banned"));
        }
        if !text(&package, "source").starts_with("registry+") {
            problems.push(format!("{name} comes from {}, not from the registry", text(&package, "source")));
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
