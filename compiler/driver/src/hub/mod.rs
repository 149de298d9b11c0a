//! Models by name: a directory of the user's, a snapshot in the cache that the official tools share, or a download.
//!
//! The crate `hf-hub` knows the hub's addresses and the cache's layout; the bytes are fetched here, because it neither
//! continues a cut file safely nor compares sizes and digests. Nothing here looks into a file of weights.

mod cache;
mod download;
mod error;
mod name;
mod remote;
mod settings;

use std::path::PathBuf;

pub use error::HubError;
pub use settings::Settings;

use crate::checkpoint::shards;
use cache::Cached;
use name::{Name, Repository};
use remote::{Content, Remote};

/// Files beside the weights that a model may have.
pub(crate) const TEXTS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    shards::INDEX,
];

/// How far a download is. Bytes that were there already count as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file at hand.
    pub file: &'a str,
    /// Its bytes that are there.
    pub done: u64,
    /// Its bytes.
    pub total: u64,
    /// Bytes of all files that are there.
    pub all_done: u64,
    /// Bytes of all files.
    pub all_total: u64,
}

/// The directory of a model: an existing directory (`~` expands), or the snapshot of the repository `org/name[@revision]`,
/// downloaded as far as the cache lacks it, with the settings of the environment.
///
/// # Errors
/// What could not be had, and the remedy.
pub fn resolve(model: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, HubError> {
    resolve_with(&Settings::from_env()?, model, progress)
}

/// [`resolve`] with given settings.
///
/// # Errors
/// What could not be had, and the remedy.
pub fn resolve_with(
    settings: &Settings,
    model: &str,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, HubError> {
    let repository = match name::parse(model, settings.home.as_deref())? {
        Name::Directory(path) => return Ok(path),
        Name::Repository(repository) => repository,
    };
    let cached = Cached::new(&settings.cache, &repository);
    let known = cached.known();
    if let Some((snapshot, lacking)) = &known
        && lacking.is_empty()
        && (settings.offline || repository.pinned())
    {
        return Ok(snapshot.clone());
    }
    if settings.offline {
        let lacking = known.map_or_else(|| "no snapshot of it is there".to_owned(), |k| k.1.join(", "));
        return Err(HubError::Offline { model: repository.to_string(), cache: settings.cache.clone(), lacking });
    }
    match (download(settings, &repository, &cached, progress), known) {
        (Err(e @ (HubError::Unreachable { .. } | HubError::Status { .. })), Some((snapshot, lacking)))
            if lacking.is_empty() =>
        {
            tracing::warn!(model = %repository, error = %e, "using the cached snapshot");
            Ok(snapshot)
        }
        (result, _) => result,
    }
}

fn download(
    settings: &Settings,
    repository: &Repository,
    cached: &Cached,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, HubError> {
    let remote = Remote::new(settings, repository)?;
    let listing = remote.list()?;
    let commit = &listing.commit;
    let content = |file: &str| -> Result<Content, HubError> {
        let listed = listing.files.iter().find(|f| f.name == file).and_then(|f| f.content.clone());
        listed.map_or_else(|| remote.content(commit, file), Ok)
    };
    let names: Vec<String> = listing.files.iter().map(|f| f.name.clone()).collect();
    let mut lacking = vec![];
    if !names.iter().any(|n| n == "config.json") {
        lacking.push("it has no config.json".to_owned());
    }
    let mut index = None;
    if names.iter().any(|n| n == shards::INDEX) {
        let wanted = content(shards::INDEX)?;
        download::fetch(&remote, cached, commit, shards::INDEX, &wanted, &mut |_| {})?;
        let path = cached.blob(&wanted.digest);
        index = Some(std::fs::read_to_string(&path).map_err(|error| HubError::Cache { path, error })?);
    }
    let weights = shards::select(&names, index.as_deref()).map_or_else(
        |problems| {
            lacking.extend(problems);
            vec![]
        },
        |shards| shards.files,
    );
    lacking
        .extend(weights.iter().filter(|w| !names.contains(w)).map(|w| format!("it has no {w}, which its index names")));
    if !lacking.is_empty() {
        return Err(HubError::NoModel { model: repository.to_string(), lacking });
    }
    let texts = TEXTS.iter().filter(|t| names.iter().any(|n| n == *t)).map(|t| (*t).to_owned());
    let files: Vec<(String, Content)> =
        texts.chain(weights).map(|file| content(&file).map(|c| (file, c))).collect::<Result<_, _>>()?;
    let all_total = files.iter().map(|f| f.1.bytes).fold(0u64, u64::saturating_add);
    let mut before = 0u64;
    for (file, content) in &files {
        let total = content.bytes;
        let mut report = |done| {
            progress(Progress { file, done, total, all_done: before.saturating_add(done), all_total });
        };
        if cached.holds(commit, file, total) {
            report(total);
        } else {
            download::fetch(&remote, cached, commit, file, content, &mut report)?;
            cached.link(commit, file, &content.digest)?;
        }
        before = before.saturating_add(total);
    }
    cached.note(commit)?;
    Ok(cached.snapshot(commit))
}
