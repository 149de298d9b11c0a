//! Why a model could not be had from the hub, and what to do about it. Never holds a token.

use std::path::PathBuf;

/// Why a model could not be found or downloaded.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A path that is no directory.
    #[error("there is no directory {}; give a model directory or a hub id such as org/name", .0.display())]
    NoDirectory(PathBuf),
    /// Neither a path nor an id.
    #[error("`{model}` is neither a directory nor a hub id (org/name or org/name@revision): {reason}")]
    BadId {
        /// As given.
        model: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The user's directory is not known, so neither is the cache.
    #[error("the cache has no place: set HF_HOME")]
    NoHome,
    /// The network may not be used and the cache does not have it all.
    #[error("HF_HUB_OFFLINE is set and the cache {} lacks {model}: {lacking}; unset it or download the model first", .cache.display())]
    Offline {
        /// Id and revision.
        model: String,
        /// The cache's directory.
        cache: PathBuf,
        /// What is not there.
        lacking: String,
    },
    /// 401 or 403.
    #[error("{model}: access denied ({status}): {remedy}")]
    Denied {
        /// Id and revision.
        model: String,
        /// HTTP status.
        status: u16,
        /// What to do.
        remedy: String,
    },
    /// 404, or 401 with a code that says so.
    #[error("{what} was not found at {endpoint}: check the spelling; if the repository is private, set HF_TOKEN")]
    NotFound {
        /// Repository, revision or file.
        what: String,
        /// The hub.
        endpoint: String,
    },
    /// Another status.
    #[error("{what}: the hub answered {status}; try again later")]
    Status {
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// No answer, again and again.
    #[error("{what}: {reason}; check the network, proxy and HF_ENDPOINT, and start again: what is there is kept")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// Why.
        reason: String,
    },
    /// An answer that makes no sense.
    #[error("{what}: the hub's answer cannot be used: {reason}")]
    Reply {
        /// What was asked for.
        what: String,
        /// Why.
        reason: String,
    },
    /// The server sends another length than the repository declares.
    #[error("{file}: wrong size: expected {expected} bytes, got {got}; nothing was kept, try again")]
    WrongSize {
        /// File of the repository.
        file: String,
        /// Declared bytes.
        expected: u64,
        /// Bytes the server has.
        got: u64,
    },
    /// The right length with another content.
    #[error("{file}: wrong content: expected sha256 {expected}, got {got}; nothing was kept, try again")]
    WrongContent {
        /// File of the repository.
        file: String,
        /// Declared digest.
        expected: String,
        /// Digest of what came.
        got: String,
    },
    /// A repository without what a model needs.
    #[error("{model} is no model that can be loaded: {}", .lacking.join("; "))]
    NoModel {
        /// Id and revision.
        model: String,
        /// What it lacks.
        lacking: Vec<String>,
    },
    /// The cache cannot be written or read.
    #[error("{}: {error}", .path.display())]
    Cache {
        /// File or directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}
