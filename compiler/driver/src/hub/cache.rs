//! The cache as the official tools lay it out: contents by digest under `blobs`, snapshots of commits that link to them,
//! and refs from branches to commits. Whatever they downloaded is found, and they find what is downloaded here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{CacheRepo, Repo, RepoType};

use super::error::HubError;
use super::name::{Repository, is_commit};
use crate::checkpoint;

/// The part of the cache that belongs to a repository.
pub(crate) struct Cached {
    /// Of all repositories.
    cache: PathBuf,
    /// Of this one.
    root: PathBuf,
    folder: String,
    repository: Repository,
    layout: CacheRepo,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> HubError {
    move |error| HubError::Cache { path: path.to_path_buf(), error }
}

fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(failed(parent))
}

impl Cached {
    /// The place of a repository; nothing is created.
    pub(crate) fn new(cache: &Path, repository: &Repository) -> Self {
        let repo = Repo::with_revision(repository.id.clone(), RepoType::Model, repository.revision.clone());
        let folder = repo.folder_name();
        let layout = hf_hub::Cache::new(cache.to_path_buf()).repo(repo);
        let root = cache.join(&folder);
        Self { cache: cache.to_path_buf(), root, folder, repository: repository.clone(), layout }
    }

    /// The snapshot of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    /// The content with a digest.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.layout.blob_path(digest)
    }

    /// The snapshot that the revision means as far as the cache knows, and what it lacks to be a model.
    pub(crate) fn known(&self) -> Option<(PathBuf, Vec<String>)> {
        let commit = if self.repository.pinned() {
            self.repository.revision.clone()
        } else {
            fs::read_to_string(self.root.join("refs").join(&self.repository.revision)).ok()?.trim().to_owned()
        };
        let snapshot = self.snapshot(&commit);
        (is_commit(&commit) && snapshot.is_dir()).then(|| {
            let lacking = checkpoint::lacking(&snapshot);
            (snapshot, lacking)
        })
    }

    /// Notes which commit the revision means.
    pub(crate) fn note(&self, commit: &str) -> Result<(), HubError> {
        let known = fs::read_to_string(self.root.join("refs").join(&self.repository.revision));
        if self.repository.pinned() || known.is_ok_and(|c| c.trim() == commit) {
            return Ok(());
        }
        self.layout.create_ref(commit).map_err(failed(&self.root.join("refs")))
    }

    /// Waits until no other process downloads this content, and keeps others out while the file lives.
    pub(crate) fn lock(&self, digest: &str) -> Result<File, HubError> {
        let path = self.cache.join(".locks").join(&self.folder).join(format!("{digest}.lock"));
        make_parent(&path)?;
        make_parent(&self.blob(digest))?;
        let file = File::options().create(true).append(true).open(&path).map_err(failed(&path))?;
        match file.lock() {
            // Some network file systems have no locks; the renames at the end keep even those whole.
            Err(e) if e.kind() != io::ErrorKind::Unsupported => Err(failed(&path)(e)),
            _ => Ok(file),
        }
    }

    /// Whether a commit's snapshot has a file of this size, by link or in person.
    pub(crate) fn holds(&self, commit: &str, file: &str, bytes: u64) -> bool {
        fs::metadata(self.snapshot(commit).join(file)).is_ok_and(|m| m.len() == bytes)
    }

    /// Makes `file` of a commit's snapshot the content with a digest.
    pub(crate) fn link(&self, commit: &str, file: &str, digest: &str) -> Result<(), HubError> {
        let (blob, link) = (self.blob(digest), self.snapshot(commit).join(file));
        make_parent(&link)?;
        match fs::remove_file(&link) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&link)(e)),
            _ => {}
        }
        let up = "../".repeat(1 + file.split('/').count());
        symlink(Path::new(&format!("{up}blobs/{digest}")), &link)
            .or_else(|_| fs::hard_link(&blob, &link))
            .or_else(|_| fs::copy(&blob, &link).map(|_| ()))
            .map_err(failed(&link))
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}
