//! A hub on the loopback interface: listing, redirects to a store, ranges, and the faults that a test asks for.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest, Sha256};

/// The commit that `main` means.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The only repository.
pub(crate) const ID: &str = "test-org/tiny.model";

/// What the server does wrong with the next answers that carry a file.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Sends this many bytes of the body and closes the connection.
    Cut(usize),
    /// Sends this length and as many bytes of nothing.
    Length(usize),
    /// Sends other bytes of the right length.
    Content,
    /// Sends the whole file, whatever range was asked for.
    Whole,
    /// Answers with a status.
    Status(u16),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// What the server has, does and has seen.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Faults of answers with data to come, by file.
    pub(crate) faults: BTreeMap<String, VecDeque<Fault>>,
    /// Status and `x-error-code` of every listing.
    pub(crate) refusal: Option<(u16, &'static str)>,
    /// Whether the listing says sizes and digests.
    pub(crate) bare: bool,
    pub(crate) seen: Vec<Request>,
}

/// A running hub and, on another port and under another host name, its store.
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

/// Whether a file lies in the store, as large ones do.
fn stored(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// The digest that names a content: sha256 in the store, else 40 digits as git has them.
pub(crate) fn digest(name: &str, content: &[u8]) -> String {
    let hash: String = Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect();
    if stored(name) { hash } else { hash[..40].to_owned() }
}

impl Hub {
    /// Starts a hub with files.
    pub(crate) fn start(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let state = Arc::new(Mutex::new(State { files: files.into_iter().collect(), ..State::default() }));
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let (hub, store) = (listen(), listen());
        let port = |l: &TcpListener| l.local_addr().expect("a bound socket has an address").port();
        let endpoint = format!("http://127.0.0.1:{}", port(&hub));
        let redirect = format!("http://localhost:{}", port(&store));
        for listener in [hub, store] {
            let (state, redirect) = (state.clone(), redirect.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, redirect) = (state.clone(), redirect.clone());
                    std::thread::spawn(move || serve(&state, &redirect, stream));
                }
            });
        }
        Self { endpoint, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no handler panicked")
    }

    /// The requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().seen)
    }

    /// Lets the next answers with the data of a file go wrong.
    pub(crate) fn fail(&self, file: &str, faults: &[Fault]) {
        self.state().faults.insert(file.to_owned(), faults.iter().cloned().collect());
    }
}

fn serve(state: &Mutex<State>, redirect: &str, mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().expect("a socket can be cloned")).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers: BTreeMap<String, String> = lines
        .take_while(|l| !l.is_empty())
        .filter_map(|l| l.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())))
        .collect();
    let mut words = first.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let request = Request {
        method: word(),
        path: word(),
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
    };
    let mut state = state.lock().expect("no handler panicked");
    state.seen.push(request.clone());
    let (head, body) = answer(&mut state, redirect, &request);
    drop(state);
    // A client may close as soon as it has read enough.
    let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(&body);
    }
    let _ = stream.flush();
}

fn answer(state: &mut State, redirect: &str, request: &Request) -> (String, Vec<u8>) {
    let empty = |status: u16, more: &str| (format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{more}"), vec![]);
    if request.path.starts_with("/api/") {
        if let Some((status, code)) = state.refusal {
            return empty(status, &format!("X-Error-Code: {code}\r\n"));
        }
        let known = [
            format!("/api/models/{ID}/revision/main?blobs=true"),
            format!("/api/models/{ID}/revision/{COMMIT}?blobs=true"),
        ];
        if !known.contains(&request.path) {
            return empty(404, "X-Error-Code: RevisionNotFound\r\n");
        }
        let body = listing(state).to_string().into_bytes();
        return (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len()), body);
    }
    if let Some(file) = request.path.strip_prefix(&format!("/{ID}/resolve/{COMMIT}/")) {
        let Some(content) = state.files.get(file).cloned() else {
            return empty(404, "X-Error-Code: EntryNotFound\r\n");
        };
        let digest = digest(file, &content);
        if stored(file) {
            let linked = format!("X-Linked-Etag: \"{digest}\"\r\nX-Linked-Size: {}\r\n", content.len());
            return empty(302, &format!("X-Repo-Commit: {COMMIT}\r\n{linked}Location: {redirect}/store/{file}\r\n"));
        }
        return data(state, request, file, &content, &format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{digest}\"\r\n"));
    }
    match request.path.strip_prefix("/store/").and_then(|f| Some((f, state.files.get(f).cloned()?))) {
        Some((file, content)) => data(state, request, file, &content, "ETag: \"of the store\"\r\n"),
        None => empty(404, ""),
    }
}

fn listing(state: &State) -> serde_json::Value {
    let siblings: Vec<serde_json::Value> = state
        .files
        .iter()
        .map(|(name, content)| match (state.bare, stored(name)) {
            (true, _) => serde_json::json!({"rfilename": name}),
            (_, true) => serde_json::json!({"rfilename": name, "size": content.len(), "blobId": "f".repeat(40),
                "lfs": {"sha256": digest(name, content), "size": content.len(), "pointerSize": 134}}),
            _ => serde_json::json!({"rfilename": name, "size": content.len(), "blobId": digest(name, content)}),
        })
        .collect();
    serde_json::json!({"id": ID, "sha": COMMIT, "private": false, "siblings": siblings})
}

fn data(state: &mut State, request: &Request, file: &str, content: &[u8], more: &str) -> (String, Vec<u8>) {
    let fault = if request.method == "HEAD" { None } else { state.faults.get_mut(file).and_then(VecDeque::pop_front) };
    let start = request.range.as_ref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|_| !matches!(fault, Some(Fault::Whole)));
    let total = content.len();
    if start.is_some_and(|s| s >= total) {
        return (format!("HTTP/1.1 416 X\r\nContent-Length: 0\r\nContent-Range: bytes */{total}\r\n"), vec![]);
    }
    let mut body = content[start.unwrap_or(0)..].to_vec();
    let mut length = body.len();
    match fault {
        Some(Fault::Cut(bytes)) => body.truncate(bytes),
        Some(Fault::Length(bytes)) => {
            body = vec![0; bytes];
            length = bytes;
        }
        Some(Fault::Content) => body[length / 2] ^= 1,
        Some(Fault::Status(status)) => return (format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n"), vec![]),
        Some(Fault::Whole) | None => {}
    }
    let status = start.map_or("200 OK\r\n".to_owned(), |s| {
        format!("206 Partial Content\r\nContent-Range: bytes {s}-{}/{total}\r\n", total - 1)
    });
    (format!("HTTP/1.1 {status}{more}Content-Length: {length}\r\n"), body)
}
