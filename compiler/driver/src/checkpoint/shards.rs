//! Which files hold a checkpoint's tensors: one file, those that an index names, or those whose names count themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use super::files::Folder;
use super::header::Pairs;

/// The only file of a small checkpoint.
const SINGLE: &str = "model.safetensors";

/// The file that says which tensor lies in which file of a large one.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Most files a checkpoint may be said to have.
const SHARD_LIMIT: usize = 10_000;

/// Files to open and what is known of them beforehand.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shards {
    /// Names, sorted.
    pub(crate) files: Vec<String>,
    /// File of each tensor that an index names.
    pub(crate) promised: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: Pairs<String>,
}

/// Finds the files of a directory.
///
/// # Errors
/// Everything wrong with the index or the names.
pub(crate) fn find(folder: &Folder) -> Result<Shards, Vec<String>> {
    let names = folder.names().map_err(|e| vec![format!("cannot be listed: {e}")])?;
    let index = if names.iter().any(|n| n == INDEX) { folder.text(INDEX).map_err(|e| vec![e])? } else { None };
    select(&names, index.as_deref())
}

/// Picks the files among `names`. A single `model.safetensors` goes before an index, as the reference implementation
/// has it.
///
/// # Errors
/// Everything wrong with the index or the names.
pub(crate) fn select(names: &[String], index: Option<&str>) -> Result<Shards, Vec<String>> {
    match index {
        _ if names.iter().any(|n| n == SINGLE) => Ok(Shards { files: vec![SINGLE.to_owned()], promised: vec![] }),
        Some(text) => indexed(text),
        None => counted(names),
    }
}

fn indexed(text: &str) -> Result<Shards, Vec<String>> {
    let index: Index = serde_json::from_str(text).map_err(|e| vec![format!("{INDEX}: {e}")])?;
    let mut problems = vec![];
    let mut files = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (tensor, file) in &index.weight_map.0 {
        if !seen.insert(tensor) {
            problems.push(format!("{INDEX}: tensor `{tensor}` is given twice"));
        }
        if leaves(file) {
            problems.push(format!("{INDEX}: tensor `{tensor}`: `{file}` is no path below the model's directory"));
        } else {
            files.insert(file.clone());
        }
    }
    if index.weight_map.0.is_empty() {
        problems.push(format!("{INDEX}: `weight_map` is empty"));
    }
    if files.len() > SHARD_LIMIT {
        problems.push(format!("{INDEX}: names {} files, more than {SHARD_LIMIT}", files.len()));
    }
    if problems.is_empty() {
        Ok(Shards { files: files.into_iter().collect(), promised: index.weight_map.0 })
    } else {
        Err(problems)
    }
}

/// Whether a path could lead out of the directory it is relative to. Backslashes are refused everywhere, so that a
/// checkpoint means the same on every system.
pub(crate) fn leaves(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    parts.peek().is_none() || path.contains(['\\', '\0', ':']) || !parts.all(|p| matches!(p, Component::Normal(_)))
}

/// `(prefix, number, total)` of `model-00002-of-00005.safetensors`.
fn parse(name: &str) -> Option<(&str, usize, usize)> {
    let (front, total) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (prefix, number) = front.rsplit_once('-')?;
    let digits = |s: &str| (s.len() >= 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten();
    Some((prefix, digits(number)?, digits(total)?))
}

fn counted(names: &[String]) -> Result<Shards, Vec<String>> {
    let mut sets: BTreeMap<(&str, usize), BTreeSet<usize>> = BTreeMap::new();
    for (prefix, number, total) in names.iter().filter_map(|n| parse(n)) {
        sets.entry((prefix, total)).or_default().insert(number);
    }
    if sets.len() > 1 {
        let found: Vec<String> = sets.keys().map(|(p, t)| format!("{p}-*-of-{t:05}.safetensors")).collect();
        return Err(vec![format!("holds several checkpoints: {}; add {INDEX}", found.join(", "))]);
    }
    let Some(((prefix, total), numbers)) = sets.into_iter().next() else {
        return Err(vec![format!(
            "{SINGLE} is missing, and there is no {INDEX} and no model-00001-of-*.safetensors either"
        )]);
    };
    if total > SHARD_LIMIT {
        return Err(vec![format!("{total} shards are more than {SHARD_LIMIT}")]);
    }
    let name = |number: usize| format!("{prefix}-{number:05}-of-{total:05}.safetensors");
    let missing = (1..=total).filter(|n| !numbers.contains(n));
    let mut problems: Vec<String> = missing.map(|n| format!("{} is missing", name(n))).collect();
    problems.extend(
        numbers.iter().filter(|n| **n == 0 || **n > total).map(|n| format!("{}: there is no such shard", name(*n))),
    );
    if problems.is_empty() {
        Ok(Shards { files: numbers.into_iter().map(name).collect(), promised: vec![] })
    } else {
        Err(problems)
    }
}
