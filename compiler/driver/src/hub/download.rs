//! One file into the cache: continued where it was cut, checked for size and digest, and only then given its name.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::cache::Cached;
use super::error::HubError;
use super::remote::{Content, Remote, text};

/// Attempts in a row that may bring nothing.
const ATTEMPTS: u32 = 5;

/// Wait after the first attempt that brought nothing; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// Why an attempt ended.
enum Stop {
    /// It may be tried again.
    Cut(String),
    /// It may not.
    Failed(HubError),
}

impl From<HubError> for Stop {
    fn from(error: HubError) -> Self {
        Self::Failed(error)
    }
}

/// Makes sure that the cache holds a content, downloading what it lacks. `progress` gets the bytes that are there.
pub(crate) fn fetch(
    remote: &Remote,
    cached: &Cached,
    commit: &str,
    file: &str,
    content: &Content,
    progress: &mut dyn FnMut(u64),
) -> Result<(), HubError> {
    let blob = cached.blob(&content.digest);
    let complete = || fs::metadata(&blob).is_ok_and(|m| m.len() == content.bytes);
    if complete() {
        progress(content.bytes);
        return Ok(());
    }
    let _lock = cached.lock(&content.digest)?;
    if complete() {
        progress(content.bytes);
        return Ok(());
    }
    let part = blob.with_extension("incomplete");
    let failed = |error: io::Error| HubError::Cache { path: part.clone(), error };
    let result = pull(remote, commit, file, content, &part, progress).and_then(|()| verify(file, content, &part));
    if let Err(e) = result {
        // What was cut is kept for the next time; what is wrong would stay wrong.
        if matches!(e, HubError::WrongSize { .. } | HubError::WrongContent { .. }) {
            fs::remove_file(&part).or_else(absent).map_err(failed)?;
        }
        return Err(e);
    }
    fs::rename(&part, &blob).map_err(failed)
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn pull(
    remote: &Remote,
    commit: &str,
    file: &str,
    content: &Content,
    part: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(), HubError> {
    let failed = |error: io::Error| HubError::Cache { path: part.to_path_buf(), error };
    let mut out = File::options().create(true).append(true).open(part).map_err(failed)?;
    let mut done = out.metadata().map_err(failed)?.len();
    if done > content.bytes {
        out.set_len(0).map_err(failed)?;
        done = 0;
    }
    let (mut idle, mut best) = (0, done);
    while done < content.bytes {
        progress(done);
        match attempt(remote, commit, file, content, part, &mut out, &mut done, progress) {
            Ok(()) => {}
            Err(Stop::Failed(e)) => return Err(e),
            Err(Stop::Cut(reason)) => {
                tracing::info!(file, done, total = content.bytes, reason, "connection lost; continuing");
                idle = if done > best { 0 } else { idle + 1 };
                best = best.max(done);
                if idle == ATTEMPTS {
                    return Err(HubError::Unreachable { what: file.to_owned(), reason });
                }
                if idle > 0 {
                    std::thread::sleep(PAUSE * 2u32.pow(idle - 1));
                }
            }
        }
    }
    progress(done);
    out.sync_all().map_err(failed)
}

/// One request: appends to the file what comes and counts it in `done`.
#[expect(clippy::too_many_arguments, reason = "the state of one loop, used nowhere else")]
fn attempt(
    remote: &Remote,
    commit: &str,
    file: &str,
    content: &Content,
    part: &Path,
    out: &mut File,
    done: &mut u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Stop> {
    let failed = |error: io::Error| Stop::Failed(HubError::Cache { path: part.to_path_buf(), error });
    let expected = content.bytes;
    let wrong = |got: u64| Stop::Failed(HubError::WrongSize { file: file.to_owned(), expected, got });
    let response = remote.get(commit, file, *done).map_err(|e| Stop::Cut(e.to_string()))?;
    let status = response.status().as_u16();
    match status {
        408 | 429 | 500..=599 => return Err(Stop::Cut(format!("the hub answered {status}"))),
        // The part is longer than the file the server has.
        416 => {
            let total = text(response.headers(), "content-range").and_then(|r| r.rsplit_once('/')?.1.parse().ok());
            return Err(wrong(total.unwrap_or(0)));
        }
        _ => remote.refused(file, &response)?,
    }
    match declared(&response) {
        (Some(start), _) if start != *done => {
            let reason = format!("asked for bytes from {done} on, got them from {start} on");
            return Err(HubError::Reply { what: file.to_owned(), reason }.into());
        }
        (_, Some(total)) if total != expected => return Err(wrong(total)),
        (Some(_), _) => {}
        // The server sends the whole, whatever was asked for.
        (None, _) => {
            out.set_len(0).map_err(failed)?;
            *done = 0;
        }
    }
    let mut body = response.into_body().into_reader();
    let mut piece = vec![0; PIECE];
    while *done < expected {
        let n = match body.read(&mut piece) {
            Ok(0) => return Err(Stop::Cut(format!("ended after {done} of {expected} bytes"))),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Stop::Cut(e.to_string())),
        };
        if n as u64 > expected - *done {
            return Err(wrong(*done + n as u64));
        }
        out.write_all(&piece[..n]).map_err(failed)?;
        *done += n as u64;
        progress(*done);
    }
    match body.read(&mut piece) {
        Ok(0) | Err(_) => Ok(()),
        Ok(n) => Err(wrong(expected + n as u64)),
    }
}

/// First byte of a partial answer, and the size of the whole file if the server says it.
fn declared(response: &Response<Body>) -> (Option<u64>, Option<u64>) {
    let header = |name| text(response.headers(), name);
    if response.status().as_u16() != 206 {
        return (None, header("content-length").and_then(|n| n.parse().ok()));
    }
    let range = header("content-range").unwrap_or_default();
    let (span, total) = range.trim_start_matches("bytes ").split_once('/').unwrap_or_default();
    // Without a range that can be read the bytes have no place: 2⁶⁴ − 1 is none that was asked for.
    let start = span.split_once('-').and_then(|s| s.0.trim().parse().ok()).unwrap_or(u64::MAX);
    (Some(start), total.trim().parse().ok())
}

fn verify(file: &str, content: &Content, part: &Path) -> Result<(), HubError> {
    let failed = |error: io::Error| HubError::Cache { path: part.to_path_buf(), error };
    let Some(expected) = content.sha256() else { return Ok(()) };
    let mut from = File::open(part).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).map_err(failed)? {
            0 => break,
            n => hash.update(&piece[..n]),
        }
    }
    let got: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if got == expected {
        return Ok(());
    }
    Err(HubError::WrongContent { file: file.to_owned(), expected: expected.to_owned(), got })
}
