//! Models by name against a hub on the loopback interface: the cache it fills, cuts, wrong sizes and refusals.

#[path = "../common/rows.rs"]
mod rows;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use rows::list;
use server::{COMMIT, Fault, Hub, ID, digest};
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_driver::hub::{HubError, Settings, resolve_with};

const SHARD: &str = "model-00001-of-00002.safetensors";
const TOKEN: &str = "hf_a-secret";

/// A hub that serves a sharded row among files that nobody needs, and an empty cache.
struct Place {
    hub: Hub,
    settings: Settings,
    files: rows::Files,
    _dir: tempfile::TempDir,
}

fn place() -> Place {
    let mut files = rows::contents("qwen3");
    files.push(("tokenizer.json".into(), vec![b'{'; 3000]));
    files.push(("chat_template.jinja".into(), b"{{ messages }}".to_vec()));
    files.sort();
    let unneeded = ["README.md", "pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "row.json"];
    let unneeded = unneeded.map(|n| (n.to_owned(), b"not needed".to_vec()));
    let hub = Hub::start(files.iter().cloned().chain(unneeded));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let variables = [("HF_ENDPOINT", hub.endpoint.clone() + "/"), ("HF_TOKEN", TOKEN.into())];
    let variable = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.clone());
    let settings = Settings::from_variables(&variable, Some(dir.path().into())).expect("a home is enough");
    Place { hub, settings, files, _dir: dir }
}

impl Place {
    fn resolve(&self) -> Result<PathBuf, HubError> {
        resolve_with(&self.settings, ID, &mut |_| {})
    }

    fn content(&self, file: &str) -> &[u8] {
        &self.files.iter().find(|f| f.0 == file).expect("a served file").1
    }

    fn root(&self) -> PathBuf {
        self.settings.cache.join("models--test-org--tiny.model")
    }

    fn blob(&self, file: &str) -> PathBuf {
        self.root().join("blobs").join(digest(file, self.content(file)))
    }

    /// Every file of the model is there, and no other.
    fn check(&self, snapshot: &Path) {
        assert_eq!(snapshot, self.root().join("snapshots").join(COMMIT));
        assert_eq!(list(snapshot), self.files.iter().map(|f| f.0.clone()).collect::<Vec<_>>());
        for (name, content) in &self.files {
            assert!(fs::read(snapshot.join(name)).expect("read") == *content, "{name} differs");
            assert!(fs::read(self.blob(name)).expect("read") == *content, "blob of {name} differs");
        }
        assert_eq!(list(&self.root().join("blobs")).len(), self.files.len(), "no partial file is left");
        Checkpoint::open(snapshot).expect("the snapshot is a checkpoint");
    }
}

#[test]
fn a_download_fills_the_official_cache_and_is_not_repeated() {
    let place = place();
    let mut steps: Vec<(String, u64, u64, u64, u64)> = vec![];
    let snapshot = resolve_with(&place.settings, ID, &mut |p| {
        steps.push((p.file.to_owned(), p.done, p.total, p.all_done, p.all_total));
    })
    .expect("the hub answers");
    place.check(&snapshot);
    let all: u64 = place.files.iter().map(|f| f.1.len() as u64).sum();
    assert!(steps.iter().all(|s| s.1 <= s.2 && s.3 <= s.4 && s.4 == all), "{steps:?}");
    assert!(steps.is_sorted_by_key(|s| s.3), "{steps:?}");
    assert_eq!(steps.last().map(|s| s.3), Some(all));
    for (name, content) in &place.files {
        let last = steps.iter().rfind(|s| s.0 == *name).expect("every file is reported");
        assert_eq!((last.1, last.2), (content.len() as u64, content.len() as u64), "{name}");
    }
    assert_eq!(fs::read_to_string(place.root().join("refs/main")).expect("a ref"), COMMIT);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(snapshot.join("config.json")).expect("a link"),
        Path::new("../../blobs").join(digest("config.json", place.content("config.json")))
    );
    let seen = place.hub.seen();
    let store = |r: &&server::Request| r.path.starts_with("/store/");
    assert_eq!(seen.iter().filter(store).count(), 2);
    assert!(seen.iter().filter(store).all(|r| r.authorization.is_none()), "the store gets no token: {seen:?}");
    let token = Some(format!("Bearer {TOKEN}"));
    assert!(seen.iter().filter(|r| !store(r)).all(|r| r.authorization == token), "{seen:?}");
    assert_eq!(seen.len(), 1 + place.files.len() + 2, "one listing, one request a file, and the redirected: {seen:?}");

    assert_eq!(place.resolve().expect("cached"), snapshot);
    let seen = place.hub.seen();
    assert!(seen.len() == 1 && seen[0].path.starts_with("/api/models/"), "the second time only asks: {seen:?}");
    let pinned = format!("{ID}@{COMMIT}");
    assert_eq!(resolve_with(&place.settings, &pinned, &mut |_| {}).expect("cached"), snapshot);
    let offline = Settings { offline: true, ..place.settings.clone() };
    assert_eq!(resolve_with(&offline, ID, &mut |_| {}).expect("cached"), snapshot);
    assert!(place.hub.seen().is_empty(), "a commit that is there, and offline, ask nobody");
    let away = Settings { endpoint: "http://127.0.0.1:9".into(), ..place.settings.clone() };
    assert_eq!(resolve_with(&away, ID, &mut |_| {}).expect("the cache stands in for the hub"), snapshot);
    place.hub.state().refusal = Some((503, ""));
    assert_eq!(place.resolve().expect("the cache stands in for the hub"), snapshot);

    fs::remove_file(snapshot.join(SHARD)).expect("removed");
    match resolve_with(&offline, ID, &mut |_| {}) {
        Err(e @ HubError::Offline { .. }) => {
            let text = e.to_string();
            assert!(text.contains("HF_HUB_OFFLINE is set") && text.contains(SHARD), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cut_connection_is_continued() {
    let place = place();
    place.hub.fail(SHARD, &[Fault::Cut(100_001), Fault::Status(503), Fault::Cut(1), Fault::Cut(0)]);
    place.hub.fail("tokenizer.json", &[Fault::Cut(7)]);
    let snapshot = place.resolve().expect("it is downloaded in pieces");
    place.check(&snapshot);
    let seen = place.hub.seen();
    let ranges = |file: &str| -> Vec<Option<String>> {
        let of = seen
            .iter()
            .filter(|r| r.path == format!("/store/{file}") || r.path.ends_with(&format!("/resolve/{COMMIT}/{file}")));
        of.filter(|r| r.path.starts_with("/store/") || !file.ends_with(".safetensors"))
            .map(|r| r.range.clone())
            .collect()
    };
    let from = |n: usize| Some(format!("bytes={n}-"));
    assert_eq!(ranges(SHARD), [None, from(100_001), from(100_001), from(100_002), from(100_002)]);
    assert_eq!(ranges("tokenizer.json"), [None, from(7)]);
}

#[test]
fn what_an_earlier_process_left_is_continued() {
    for (kept, faults) in [(70_000, vec![]), (70_000, vec![Fault::Whole]), (usize::MAX, vec![])] {
        let place = place();
        let content = place.content(SHARD);
        let (part, kept) = (place.blob(SHARD).with_extension("incomplete"), kept.min(content.len()));
        fs::create_dir_all(place.root().join("blobs")).expect("made");
        fs::write(&part, &content[..kept]).expect("written");
        place.hub.fail(SHARD, &faults);
        place.check(&place.resolve().expect("it is completed"));
        let asked: Vec<_> = place.hub.seen().into_iter().filter(|r| r.path == format!("/store/{SHARD}")).collect();
        assert!(
            asked.len() == usize::from(kept < content.len()) && asked.iter().all(|r| r.range.is_some()),
            "{asked:?}"
        );
    }
}

#[test]
fn a_wrong_size_is_told_and_leaves_nothing() {
    let right = place().content(SHARD).len();
    for wrong in [right - 1, right + 1, 0, 10 * right] {
        let place = place();
        place.hub.fail(SHARD, &[Fault::Length(wrong)]);
        match place.resolve() {
            Err(e @ HubError::WrongSize { .. }) => {
                let text = e.to_string();
                assert!(
                    text.starts_with(&format!("{SHARD}: wrong size: expected {right} bytes, got {wrong}")),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
        let named = |n: &String| n.starts_with(&digest(SHARD, place.content(SHARD)));
        assert!(!list(&place.root().join("blobs")).iter().any(named), "nothing of the file is left");
        assert!(!place.root().join("snapshots").join(COMMIT).join(SHARD).exists());
        assert!(!place.root().join("refs/main").exists(), "an unfinished snapshot is not the branch");
        place.check(&place.resolve().expect("the next try succeeds"));
    }
}

#[test]
fn a_snapshot_that_was_cut_later_is_mended() {
    let place = place();
    let snapshot = place.resolve().expect("the hub answers");
    fs::write(place.blob(SHARD), b"cut").expect("written");
    fs::remove_file(snapshot.join("config.json")).expect("removed");
    place.hub.seen();
    place.check(&place.resolve().expect("the shard is fetched again"));
    let data: Vec<_> = place.hub.seen().into_iter().skip(1).map(|r| r.path).collect();
    assert!(data.len() == 2 && data.iter().all(|p| p.ends_with(SHARD)), "only what is broken: {data:?}");
}

#[test]
fn a_size_that_changes_under_a_part_is_told() {
    let place = place();
    let content = place.content(SHARD).to_vec();
    fs::create_dir_all(place.root().join("blobs")).expect("made");
    fs::write(place.blob(SHARD).with_extension("incomplete"), &content[..1000]).expect("written");
    // Listed in full, but the store has lost its end.
    place.hub.fail(SHARD, &[Fault::Status(416)]);
    assert!(
        matches!(place.resolve(), Err(HubError::WrongSize { expected, got: 0, .. }) if expected == content.len() as u64)
    );
    place.check(&place.resolve().expect("the next try succeeds"));
}

#[test]
fn a_wrong_content_is_told_and_leaves_nothing() {
    let place = place();
    place.hub.fail(SHARD, &[Fault::Content]);
    match place.resolve() {
        Err(HubError::WrongContent { file, expected, got }) => {
            assert_eq!((file.as_str(), &expected), (SHARD, &digest(SHARD, place.content(SHARD))));
            assert_ne!(expected, got);
        }
        other => panic!("{other:?}"),
    }
    let named = |n: &String| n.starts_with(&digest(SHARD, place.content(SHARD)));
    assert!(!list(&place.root().join("blobs")).iter().any(named), "nothing of the file is left");
    place.check(&place.resolve().expect("the next try succeeds"));
}

#[test]
fn refusals_name_the_remedy() {
    let place = place();
    let anonymous = Settings { token: None, ..place.settings.clone() };
    let cases = [
        (&anonymous, 401, "", "access denied (401): set HF_TOKEN"),
        (&anonymous, 401, "RepoNotFound", "was not found at http://127.0.0.1"),
        (&place.settings, 401, "", "access denied (401): the token in HF_TOKEN"),
        (&place.settings, 403, "GatedRepo", "accept its terms at http://127.0.0.1"),
        (&place.settings, 404, "RepoNotFound", "check the spelling"),
        (&place.settings, 500, "", "the hub answered 500"),
    ];
    for (settings, status, code, expected) in cases {
        place.hub.state().refusal = Some((status, code));
        let text = resolve_with(settings, ID, &mut |_| {}).expect_err("refused").to_string();
        assert!(text.contains(expected) && text.contains(ID), "{status} {code}: {text}");
        assert!(!text.contains(TOKEN), "{text}");
    }
    assert!(!format!("{:?}", place.settings).contains(TOKEN));
    place.hub.state().refusal = None;
    let text = resolve_with(&place.settings, &format!("{ID}@no/such"), &mut |_| {}).expect_err("404").to_string();
    assert!(text.starts_with(&format!("{ID}@no/such was not found")), "{text}");
    let away = Settings { endpoint: "http://127.0.0.1:9".into(), ..place.settings.clone() };
    let text = resolve_with(&away, ID, &mut |_| {}).expect_err("nobody listens").to_string();
    assert!(text.starts_with(ID) && text.contains("HF_ENDPOINT"), "{text}");
    let offline = Settings { offline: true, ..place.settings.clone() };
    let text = resolve_with(&offline, ID, &mut |_| {}).expect_err("the cache is empty").to_string();
    assert!(text.contains("HF_HUB_OFFLINE is set") && text.contains("no snapshot"), "{text}");
}

#[test]
fn a_listing_without_sizes_is_completed_by_asking() {
    let place = place();
    place.hub.state().bare = true;
    place.check(&place.resolve().expect("sizes and digests come from the headers"));
    let asked = place.hub.seen().iter().filter(|r| r.method == "HEAD").count();
    assert_eq!(asked, place.files.len() + 1, "each file once, the index again after it was read");
}

#[test]
fn repositories_that_are_no_models_are_refused() {
    let place = place();
    let refuse = |edit: &dyn Fn(&mut server::State)| {
        edit(&mut place.hub.state());
        place.resolve().expect_err("refused").to_string()
    };
    let text = refuse(&|s| {
        s.files.remove("config.json");
        s.files.remove(SHARD);
    });
    assert!(text.contains("it has no config.json") && text.contains(&format!("it has no {SHARD}")), "{text}");
    assert!(refuse(&|s| s.files.retain(|n, _| n == "config.json")).contains("model.safetensors is missing"));
    for path in ["../../escape.json", "/etc/escape.json", "a/../../escape"] {
        let text = refuse(&|s| s.files = [(path.to_owned(), vec![])].into());
        assert!(text.contains("is no path of a file"), "{text}");
    }
}

#[test]
fn directories_win_and_names_are_checked() {
    let place = place();
    let home = place.settings.home.clone().expect("a home");
    fs::create_dir_all(home.join("models/mine")).expect("made");
    let resolve = |model: &str| resolve_with(&place.settings, model, &mut |_| {});
    assert_eq!(resolve("~/models/mine").expect("a directory"), home.join("models/mine"));
    let direct = home.join("models/mine");
    assert_eq!(resolve(direct.to_str().expect("a temporary path is text")).expect("a directory"), direct);
    // Tests run in the crate's directory, which has a `src/checkpoint`.
    assert_eq!(resolve("src/checkpoint").expect("a directory wins over an id"), Path::new("src/checkpoint"));
    for path in ["~/models/other", "./no/such", "/no/such", "no/such/", "..\\no"] {
        assert!(matches!(resolve(path), Err(HubError::NoDirectory(_))), "{path}");
    }
    for id in [
        "",
        "a/b/c",
        "a//b",
        "org/",
        "org/na me",
        "org/..",
        "org/a--b",
        "org/name@",
        "org/name@../x",
        "-a/b",
        "org/n\u{e4}me",
    ] {
        let found = resolve(id);
        assert!(matches!(found, Err(HubError::BadId { .. } | HubError::NoDirectory(_))), "{id}: {found:?}");
    }
    assert!(place.hub.seen().is_empty(), "none of these asks the hub");
}

#[test]
fn settings_are_read_as_the_official_tools_read_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let home = dir.path();
    let read = |variables: &[(&str, &str)]| {
        let variable = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned());
        Settings::from_variables(&variable, Some(home.into())).expect("a home is enough")
    };
    let plain = read(&[]);
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!(plain.cache, home.join(".cache/huggingface/hub"));
    assert_eq!((plain.token, plain.offline), (None, false));
    assert_eq!(read(&[("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
    assert_eq!(read(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")]).cache, home.join("hf/hub"));
    assert_eq!(read(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]).cache, Path::new("/c"));
    assert_eq!(read(&[("HF_ENDPOINT", "http://mirror/x/")]).endpoint, "http://mirror/x");
    for (value, offline) in [("1", true), ("true", true), ("YES", true), ("on", true), ("0", false), ("", false)] {
        assert_eq!(read(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
    }
    fs::create_dir_all(home.join(".cache/huggingface")).expect("made");
    fs::write(home.join(".cache/huggingface/token"), " from-file\n").expect("written");
    assert_eq!(read(&[]).token.as_deref(), Some("from-file"));
    assert_eq!(read(&[("HF_TOKEN", " mine\n")]).token.as_deref(), Some("mine"));
    assert_eq!(read(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
    assert!(matches!(Settings::from_variables(&|_| None, None), Err(HubError::NoHome)));
}
