//! What `--model` may name: a directory, or a repository of the hub at a revision. Touches no network.

use std::path::{Path, PathBuf};

use super::error::HubError;

/// Branch that is meant where none is given.
const DEFAULT_REVISION: &str = "main";

/// A model as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// An existing directory.
    Directory(PathBuf),
    /// A repository.
    Repository(Repository),
}

/// A repository at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository {
    /// `org/name`, or `name` for the oldest ones.
    pub(crate) id: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.id)?;
        if self.revision == DEFAULT_REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl Repository {
    /// Whether the revision is a commit, which never changes.
    pub(crate) fn pinned(&self) -> bool {
        is_commit(&self.revision)
    }
}

/// Whether a text is the full hash of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

/// Reads the name of a model; `home` stands for `~`.
pub(crate) fn parse(model: &str, home: Option<&Path>) -> Result<Name, HubError> {
    let tail = model.strip_prefix("~/").or_else(|| model.strip_prefix("~\\")).or((model == "~").then_some(""));
    let path = match (tail, home) {
        (Some(tail), Some(home)) => home.join(tail),
        _ => PathBuf::from(model),
    };
    if path.is_dir() {
        return Ok(Name::Directory(path));
    }
    if path.is_absolute() || model.starts_with(['.', '~']) || model.contains('\\') || model.ends_with('/') {
        return Err(HubError::NoDirectory(path));
    }
    let (id, revision) = model.split_once('@').unwrap_or((model, DEFAULT_REVISION));
    let bad = |reason| HubError::BadId { model: model.to_owned(), reason };
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let parts: Vec<&str> = id.split('/').collect();
    if parts.len() > 2 || parts.iter().any(|p| p.is_empty()) {
        return Err(bad("expected one name, or two with a slash between"));
    }
    if id.len() > 96 || !parts.iter().all(|p| p.bytes().all(word)) {
        return Err(bad("names have up to 96 letters, digits, `-`, `_` and `.`"));
    }
    if id.contains("--")
        || id.contains("..")
        || parts.iter().any(|p| p.starts_with(['-', '.']) || p.ends_with(['-', '.']))
    {
        return Err(bad("names do not begin or end with `-` or `.`, nor contain `--` or `..`"));
    }
    let steps: Vec<&str> = revision.split('/').collect();
    if steps.iter().any(|s| s.is_empty() || s.starts_with('.') || !s.bytes().all(|b| word(b) || b == b'+')) {
        return Err(bad("a revision is a branch, a tag or a commit"));
    }
    Ok(Name::Repository(Repository { id: id.to_owned(), revision: revision.to_owned() }))
}
