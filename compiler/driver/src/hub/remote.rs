//! Questions to the hub: which files a revision has, how large they are, and what their contents' digests are.

use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::error::HubError;
use super::name::{Repository, is_commit};
use super::settings::Settings;
use crate::checkpoint::shards;

/// Most bytes of a listing.
const LISTING_LIMIT: u64 = 64 << 20;

/// Longest wait for a connection, an answer, or the next bytes of one.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Path in the repository; never leaves it.
    pub(crate) name: String,
    /// Bytes and digest, where the listing has them.
    pub(crate) content: Option<Content>,
}

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Bytes.
    pub(crate) bytes: u64,
    /// Name in the cache: sha256 of a large file, git's hash of a small one.
    pub(crate) digest: String,
}

impl Content {
    /// The digest, if it is one of the content alone.
    pub(crate) fn sha256(&self) -> Option<&str> {
        (self.digest.len() == 64).then_some(&self.digest)
    }

    fn checked(bytes: u64, digest: &str) -> Option<Self> {
        let hex = matches!(digest.len(), 40 | 64) && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| Self { bytes, digest: digest.to_owned() })
    }
}

/// A revision as the hub knows it.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Full hash.
    pub(crate) commit: String,
    /// Its files.
    pub(crate) files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// A connection to the hub for one repository.
pub(crate) struct Remote {
    api: Api,
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    repository: Repository,
}

impl Remote {
    pub(crate) fn new(settings: &Settings, repository: &Repository) -> Result<Self, HubError> {
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_progress(false)
            .with_user_agent("swiftlm", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|e| HubError::Reply { what: settings.endpoint.clone(), reason: e.to_string() })?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .user_agent(concat!("swiftlm/", env!("CARGO_PKG_VERSION")))
            // Sizes and ranges are those of the files, not of a compressed form.
            .accept_encoding("identity")
            .build()
            .new_agent();
        let (endpoint, token) = (settings.endpoint.clone(), settings.token.clone());
        Ok(Self { api, agent, endpoint, token, repository: repository.clone() })
    }

    fn repo(&self, revision: &str) -> ApiRepo {
        self.api.repo(Repo::with_revision(self.repository.id.clone(), RepoType::Model, revision.to_owned()))
    }

    /// What the revision holds.
    pub(crate) fn list(&self) -> Result<Listing, HubError> {
        let what = self.repository.to_string();
        let request = self.repo(&self.repository.revision).info_request().query("blobs", "true");
        let request = request.config().http_status_as_error(false).timeout_global(Some(2 * PATIENCE)).build();
        let unreachable = |e: ureq::Error| HubError::Unreachable { what: what.clone(), reason: e.to_string() };
        let mut response = request.call().map_err(unreachable)?;
        self.refused(&what, &response)?;
        let text = response.body_mut().with_config().limit(LISTING_LIMIT).read_to_string().map_err(unreachable)?;
        let reply = |reason: String| HubError::Reply { what: what.clone(), reason };
        let info: Info = serde_json::from_str(&text).map_err(|e| reply(e.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(reply(format!("`{}` is no commit", info.sha)));
        }
        let mut files = vec![];
        for sibling in info.siblings {
            if shards::leaves(&sibling.rfilename) {
                return Err(reply(format!("`{}` is no path of a file", sibling.rfilename)));
            }
            let content = match &sibling.lfs {
                Some(lfs) => Content::checked(lfs.size, &lfs.sha256),
                None => sibling.size.zip(sibling.blob_id.as_deref()).and_then(|(n, id)| Content::checked(n, id)),
            };
            files.push(RemoteFile { name: sibling.rfilename, content });
        }
        Ok(Listing { commit: info.sha, files })
    }

    /// Size and digest of a file, asked for one by one: mirrors may list names only.
    pub(crate) fn content(&self, commit: &str, file: &str) -> Result<Content, HubError> {
        let what = format!("{}: {file}", self.repository);
        let mut url = self.url(commit, file);
        // Renamed repositories redirect within the hub; a redirect elsewhere leads to the content itself, whose headers
        // are those of a store.
        for _ in 0..5 {
            let mut request = self.agent.head(&url);
            if let Some(token) = &self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let request = request.config().max_redirects(0).build();
            let response =
                request.call().map_err(|e| HubError::Unreachable { what: what.clone(), reason: e.to_string() })?;
            self.refused(&what, &response)?;
            let header = |name: &str| text(response.headers(), name);
            if let (true, Some(path)) = (response.status().is_redirection(), header("location"))
                && path.starts_with('/')
                && !path.starts_with("//")
                && header("x-linked-etag").is_none()
            {
                url = format!("{}{path}", origin(&self.endpoint));
                continue;
            }
            let tag = header("x-linked-etag").or_else(|| header("etag")).unwrap_or_default();
            let tag = tag.trim_start_matches("W/").trim_matches('"');
            let bytes = header("x-linked-size").or_else(|| header("content-length")).and_then(|n| n.parse().ok());
            let content = bytes.and_then(|n| Content::checked(n, tag));
            return content.ok_or_else(|| HubError::Reply {
                what,
                reason: "size or digest are missing (headers x-linked-size, x-linked-etag)".to_owned(),
            });
        }
        Err(HubError::Reply { what, reason: "too many redirects".to_owned() })
    }

    fn url(&self, commit: &str, file: &str) -> String {
        let escape = |b: u8| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        };
        self.repo(commit).url(&file.bytes().map(escape).collect::<String>())
    }

    /// Asks for a file from byte `start` on.
    pub(crate) fn get(&self, commit: &str, file: &str, start: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(self.url(commit, file));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        request.call()
    }

    /// The error that an answer's status means, if it means one.
    pub(crate) fn refused(&self, what: &str, response: &Response<Body>) -> Result<(), HubError> {
        let status = response.status().as_u16();
        let code = text(response.headers(), "x-error-code").unwrap_or_default();
        let (what, endpoint) = (what.to_owned(), self.endpoint.clone());
        let page = format!("{endpoint}/{}", self.repository.id);
        match status {
            200..=399 => Ok(()),
            401 if code == "RepoNotFound" => Err(HubError::NotFound { what, endpoint }),
            404 => Err(HubError::NotFound { what, endpoint }),
            401 | 403 => {
                let remedy = match (&self.token, code.as_str()) {
                    (_, "GatedRepo") => {
                        format!("accept its terms at {page} and set HF_TOKEN to a token of that account")
                    }
                    (None, _) => "set HF_TOKEN to a token that may read it".to_owned(),
                    (Some(_), _) => {
                        "the token in HF_TOKEN or of the last login may not read it: set another".to_owned()
                    }
                };
                Err(HubError::Denied { model: what, status, remedy })
            }
            _ => Err(HubError::Status { what, status }),
        }
    }
}

/// A header as text.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// Scheme and host of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |i| i + 3);
    url[host..].find('/').map_or(url, |i| &url[..host + i])
}
