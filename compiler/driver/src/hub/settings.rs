//! Where the hub and its cache are, read from the variables that the official tools read.

use std::fmt;
use std::path::PathBuf;

use super::error::HubError;

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";

/// Settings of the hub client.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Root of all addresses: `HF_ENDPOINT`.
    pub endpoint: String,
    /// Directory of the cache: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, else the content of the file that logging in writes.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: use what the cache has and ask nobody.
    pub offline: bool,
    /// The directory that `~` stands for.
    pub home: Option<PathBuf>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, cache, token, offline, home: _ } = self;
        let token = token.is_some();
        write!(f, "Settings {{ endpoint: {endpoint:?}, cache: {cache:?}, token: {token}, offline: {offline} }}")
    }
}

impl Settings {
    /// Settings from the environment.
    ///
    /// # Errors
    /// Neither a cache nor a home directory is known.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(&|name| std::env::var(name).ok(), std::env::home_dir())
    }

    /// Settings from variables that `variable` looks up; empty ones count as absent.
    ///
    /// # Errors
    /// Neither a cache nor a home directory is known.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let yes = |name: &str| {
            set(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_ascii_lowercase().as_str()))
        };
        let expand = |value: String| match (value.strip_prefix("~/"), &home) {
            (Some(tail), Some(home)) => home.join(tail),
            _ => PathBuf::from(value),
        };
        let root = set("HF_HOME")
            .map(&expand)
            .or_else(|| set("XDG_CACHE_HOME").map(|d| expand(d).join("huggingface")))
            .or_else(|| home.as_ref().map(|h| h.join(".cache").join("huggingface")));
        let cache = set("HF_HUB_CACHE")
            .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
            .map(&expand)
            .or_else(|| root.as_ref().map(|r| r.join("hub")))
            .ok_or(HubError::NoHome)?;
        let file = || {
            let path = set("HF_TOKEN_PATH").map(&expand).or_else(|| root.as_ref().map(|r| r.join("token")))?;
            let text = std::fs::read_to_string(path).ok()?;
            Some(text.trim().to_owned()).filter(|t| !t.is_empty())
        };
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
        Ok(Self {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            cache,
            token: token.or_else(|| if yes("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { file() }),
            offline: yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE"),
            home,
        })
    }
}
