//! Experts from files: from a checkpoint's own and from a package's records, by every method of reading, with faults.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use swiftlm_compiler::CompileOptions;
use swiftlm_driver::checkpoint::{Checkpoint, ReadBy, Uncached};
use swiftlm_driver::compile::{Options, compile};
use swiftlm_driver::package::{PackOptions, Package, pack};
use swiftlm_golden_tests::fixture::{Row, directory, names};
use swiftlm_golden_tests::run::{Loaded, On, arg_max, compile_with, exact};
use swiftlm_ir::plan::Program;
use swiftlm_models::{Activations, BuildOptions};
use swiftlm_runtime::experts::{ExpertSource, ExpertStats, Extent, Located, Part, Piece, Reads};
use swiftlm_runtime::{ContextWish, MemoryPlan, MemoryRequest, StepError, WeightSource};
use tempfile::TempDir;

const CHUNK: usize = 64;
const METHODS: [ReadBy; 2] = [ReadBy::Threads, ReadBy::Uring];
/// Rows whose files have experts' rows in another order.
const TURNED: [&str; 2] = ["gpt_oss", "gpt_oss-mxfp4"];

fn options(activations: Activations) -> Options {
    let compile = CompileOptions { chunk: CHUNK, max_rows: CHUNK, ..CompileOptions::default() };
    Options { build: BuildOptions { activations, ..exact() }, compile }
}

/// A package of a row, with records unless its rows are turned, on the disk that the repository is built on.
struct Made {
    place: TempDir,
    row: Row,
    whole: Program,
    /// Two experts in memory.
    streamed: Program,
}

impl Made {
    fn new(name: &str, activations: Activations) -> Self {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let (program, repack) = (options(activations), !TURNED.contains(&name));
        let pack_options = PackOptions { program, repack, without_certificate: true, ..PackOptions::default() };
        pack(&directory().join(name), &place.path().join("package"), &pack_options).expect("a row is packed");
        let Package { manifest, program: whole, checkpoint } = open(&place.path().join("package"));
        // As the server does where not all experts fit.
        let mut again = manifest.options.again().expect("its options");
        again.compile.slots = Some(2);
        let streamed = compile(&checkpoint, &again).expect("it compiles").program;
        Self { place, row: Row::open(name), whole, streamed }
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("package")
    }

    fn records(&self) -> PathBuf {
        self.path().join("experts.bin")
    }

    fn source(&self, by: ReadBy) -> Arc<dyn ExpertSource> {
        let path = self.path();
        Arc::new(Uncached::open(Arc::new(open(&path).checkpoint), &path, &path, by))
    }

    /// Loads the streamed program; the experts that are in memory to begin with are the row's own.
    fn load(&self, on: On, by: ReadBy) -> Option<Loaded> {
        with(&self.row, &self.streamed, on, self.source(by), by)
    }
}

fn open(path: &Path) -> Package {
    Package::open(path, None).expect("a package")
}

/// `None` where this system has no io_uring, and says so.
fn with(row: &Row, program: &Program, on: On, source: Arc<dyn ExpertSource>, by: ReadBy) -> Option<Loaded> {
    if let Err(reason) = source.start(1 << 20) {
        assert!(by == ReadBy::Uring && reason.contains("io_uring cannot be used"), "{by:?}: {reason}");
        return None;
    }
    Some(Loaded::with_experts(row, program.clone(), on.open(2), 1, Some(source)))
}

/// Every row with experts, with activations of two kinds.
fn rows() -> impl Iterator<Item = (String, Activations)> {
    let rows = names().into_iter().filter(|name| Row::open(name).has_experts());
    rows.flat_map(|n| [(n.clone(), Activations::F32), (n, Activations::int(16))])
}

/// A prompt in chunks, then a greedy continuation.
fn run(loaded: &mut Loaded, row: &Row) -> (Vec<Vec<f32>>, Option<ExpertStats>) {
    let mut logits = loaded.prompt(0, &row.prompt, CHUNK);
    for position in row.prompt.len()..row.prompt.len() + 4 {
        let id = arg_max(logits.last().expect("a prompt is not empty"));
        logits.extend(loaded.step(&[(0, position as u32, id)]));
    }
    (logits, loaded.expert_stats())
}

/// What a package's checkpoint reads are the row's own bytes, read by other code: whole, and in odd pieces.
#[test]
fn records_are_the_tensors_again() {
    for (name, activations) in rows() {
        let made = Made::new(&name, activations);
        let path = made.path();
        let checkpoint = Arc::new(open(&path).checkpoint);
        let uncached = Uncached::open(Arc::clone(&checkpoint), &path, &path, ReadBy::Best);
        for weight in &made.whole.weights {
            let expected = made.row.weight_bytes(weight);
            let layout = weight.ty.format.layout(weight.ty.rows, weight.ty.cols);
            for component in &layout.components {
                for piece in [component.bytes, 1 + component.bytes / 7] {
                    for start in (0..component.bytes).step_by(piece.max(1)) {
                        let range = component.offset + start..component.offset + (start + piece).min(component.bytes);
                        for source in [&*checkpoint as &dyn WeightSource, &uncached] {
                            let mut got = vec![0; range.len()];
                            source.read(weight, range.start, &mut got).unwrap_or_else(|e| panic!("{name}: {e}"));
                            assert!(got == expected[range.clone()], "{name}: {:?} {range:?}", weight.names);
                        }
                    }
                }
            }
        }
    }
}

/// From records and from the checkpoint's own files: not a bit is other than with all experts in memory.
#[test]
fn files_change_no_bit() {
    for (name, activations) in rows() {
        let made = Made::new(&name, activations);
        let whole = Loaded::new(&made.row, made.whole.clone(), On::Cpu.open(2), 1);
        let (expected, _) = run(&mut { whole }, &made.row);
        let folder = directory().join(&name);
        for by in METHODS {
            let plain = Arc::new(Checkpoint::open(&folder).expect("a row opens"));
            let plain: Arc<dyn ExpertSource> = Arc::new(Uncached::open(plain, &folder, &folder, by));
            let records = (!TURNED.contains(&name.as_str())).then(|| ("records", made.source(by)));
            for (what, source) in records.into_iter().chain([("checkpoint", plain)]) {
                let Some(mut loaded) = with(&made.row, &made.streamed, On::Cpu, source, by) else { continue };
                let (logits, stats) = run(&mut loaded, &made.row);
                let stats = stats.expect("there is a store");
                assert!(stats.misses > 0, "{name}: {stats:?}");
                assert!(logits == expected, "{name} from {what} by {by:?}, {activations:?}");
            }
        }
    }
}

/// Records of rows that the file has in another order would not be its tensors: there are none.
#[test]
fn records_of_turned_rows_are_refused() {
    for name in TURNED {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let program = options(Activations::F32);
        let pack_options = PackOptions { program, repack: true, without_certificate: true, ..PackOptions::default() };
        let refused = pack(&directory().join(name), &place.path().join("package"), &pack_options);
        let said = refused.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said.contains("in another order") && said.contains("leave --repack out"), "{name}: {said}");
    }
}

/// A device that keeps rows gets rows, however records lie.
#[test]
fn records_in_blocks_serve_other_devices() {
    let made = Made::new("qwen3_moe-mlx4", Activations::int(16));
    let whole = compile_with(&made.row, &options(Activations::int(16)).build, options(Activations::F32).compile);
    let expected = Loaded::new(&made.row, whole, On::Interpreter.open(2), 1).prompt(0, &made.row.prompt, CHUNK);
    let mut loaded = made.load(On::Interpreter, ReadBy::Threads).expect("threads are always there");
    assert!(loaded.prompt(0, &made.row.prompt, CHUNK) == expected);
}

/// One read for an expert that lies in a record; pieces that touch are one, and all of them are the expert's.
#[test]
fn an_expert_is_one_read_from_a_record() {
    let made = Made::new("qwen3_moe-mlx4", Activations::int(16));
    let folder = directory().join("qwen3_moe-mlx4");
    let plain = Arc::new(Checkpoint::open(&folder).expect("a row opens"));
    let plain = Uncached::open(plain, &folder, &folder, ReadBy::Threads);
    let fetch = made.streamed.plans.iter().flatten().find_map(|p| p.fetches.first().map(|f| (p.func, f.clone())));
    let (func, fetch) = fetch.expect("experts take turns");
    let call = made.streamed.module.main.iter().position(|c| c.func == func).expect("a call");
    let weights: Vec<_> =
        fetch.weights.iter().map(|slot| &made.streamed.weights[made.streamed.call_weights[call][*slot]]).collect();
    let parts: Vec<_> = weights
        .iter()
        .map(|weight| Part { weight, rows: weight.ty.rows / fetch.experts, order: swiftlm_device::Order::Blocks })
        .collect();
    let bytes: usize = parts.iter().map(|part| part.bytes()).sum();
    for expert in 0..fetch.experts {
        let record = made.source(ReadBy::Threads).locate(&parts, expert).expect("a record");
        assert_eq!((record.pieces.len(), record.pieces[0].extent.bytes), (1, bytes));
        assert_eq!(record.pieces[0].extent.start % 4096, 0);
        assert!(record.checksum.is_some() && record.restore.is_none());
        let pieces = plain.locate(&parts, expert).expect("an expert").pieces;
        assert_eq!(pieces.iter().map(|piece| piece.extent.bytes).sum::<usize>(), bytes);
        let after = |pair: &[Piece]| {
            let (a, b) = (pair[0].extent, pair[1].extent);
            (a.file, a.start + a.bytes as u64) < (b.file, b.start)
        };
        assert!(pieces.windows(2).all(after), "in the order of the file, none touching the next: {pieces:?}");
    }
}

/// A source that notes how much memory it is given.
struct Noted(Arc<dyn ExpertSource>, std::sync::Mutex<usize>);

impl ExpertSource for Noted {
    fn locate(&self, parts: &[Part<'_>], expert: usize) -> Result<Located, String> {
        self.0.locate(parts, expert)
    }

    fn start(&self, bytes: usize) -> Result<Box<dyn Reads>, String> {
        *self.1.lock().expect("no test panics here") = bytes;
        self.0.start(bytes)
    }

    fn name(&self, extent: Extent) -> String {
        self.0.name(extent)
    }
}

/// The plan counts what experts take on their way, however they are read.
#[test]
fn the_plan_counts_experts_on_their_way() {
    let made = Made::new("qwen3_moe-mlx4", Activations::int(16));
    let device = On::Cpu.open(1);
    let request = MemoryRequest { limit: u64::MAX, context: ContextWish::UpTo(64), sequences: Some(1), layers: None };
    let plan = |program| MemoryPlan::new(program, device.target(), request).expect("it fits");
    let (whole, streamed) = (plan(&made.whole), plan(&made.streamed));
    assert_eq!(whole.readers, 0, "nothing is read");
    assert!(streamed.to_string().contains("experts being read") && !whole.to_string().contains("being read"));
    let map = fs::read(made.path().join("weights.json")).expect("a map");
    let map: serde_json::Value = serde_json::from_slice(&map).expect("JSON");
    let record = map["records"]["layers"][0]["stride"].as_u64().expect("a stride");
    assert_eq!(streamed.readers, 16 * (record + 4096), "sixteen records, and a block that each may begin in");
    let folder = directory().join("qwen3_moe-mlx4");
    let plain = Arc::new(Checkpoint::open(&folder).expect("a row opens"));
    let plain: Arc<dyn ExpertSource> = Arc::new(Uncached::open(plain, &folder, &folder, ReadBy::Threads));
    for (source, put_together) in [(made.source(ReadBy::Threads), 0), (plain, 8 * record)] {
        let noted = Arc::new(Noted(source, std::sync::Mutex::default()));
        let source: Arc<dyn ExpertSource> = Arc::clone(&noted) as _;
        let loaded = with(&made.row, &made.streamed, On::Cpu, source, ReadBy::Threads);
        drop(loaded);
        let taken = *noted.1.lock().expect("no test panics here") as u64 + put_together;
        assert!(taken > 8 * record && taken <= streamed.readers, "{taken} of {}", streamed.readers);
    }
}

fn overwrite(path: &Path, content: &[u8]) {
    use std::io::Write;
    let file = fs::File::options().write(true).open(path);
    let mut file = file.expect("it can be written");
    file.write_all(content).expect("it can be written");
    file.set_len(content.len() as u64).expect("it can be cut");
}

/// What happens to the file of records while it is in use fails the step that reads it, names the file and the place, and
/// leaves nothing wrong behind.
#[test]
fn faults_of_records() {
    let made = Made::new("qwen3_moe-mlx4", Activations::int(16));
    let content = fs::read(made.records()).expect("the records");
    let tokens: Vec<(u32, u32, u32)> = (0..20).map(|p| (0, p, made.row.prompt[p as usize])).collect();
    let well = made.load(On::Cpu, ReadBy::Threads).expect("threads are always there").step(&tokens);
    // Beside the records, so that nobody takes the changed file for the first.
    let stamp = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).expect("a time");
    let back = |path: &Path, time| {
        let file = fs::File::options().write(true).open(path).expect("it opens");
        file.set_modified(time).expect("a time can be set");
    };
    for by in METHODS {
        let modified = stamp(&made.records());
        let Some(mut loaded) = made.load(On::Cpu, by) else { continue };
        let start = loaded.mark(0);
        let mut flipped = content.clone();
        flipped.iter_mut().for_each(|byte| *byte ^= 4);
        let cut = &content[..100];
        for (what, changed, keep_time, word) in [
            // The time of change is not what finds it: checksums do.
            ("other bytes", flipped.as_slice(), true, "is not what it was when the package was made"),
            ("other bytes, and it shows", flipped.as_slice(), false, "changed while it was in use"),
            ("cut", cut, true, "cannot be read"),
        ] {
            overwrite(&made.records(), changed);
            if keep_time {
                back(&made.records(), modified);
            } else {
                back(&made.records(), modified + std::time::Duration::from_secs(2));
            }
            loaded.rewind(0, start);
            let error = loaded.try_step(&tokens).expect_err(what);
            assert!(matches!(error, StepError::Weights(_)), "{what} by {by:?}: {error}");
            let text = error.to_string();
            assert!(text.contains("experts.bin: ") && text.contains(word), "{what} by {by:?}: {text}");
            assert!(text.contains("byte"), "{what} by {by:?}: {text}");
            overwrite(&made.records(), &content);
            back(&made.records(), modified);
            loaded.rewind(0, start);
            assert!(loaded.step(&tokens) == well, "after {what} by {by:?}");
        }
        // Another file under the same name is not the one that is open.
        let other = made.place.path().join("other");
        fs::write(&other, &flipped).expect("a file");
        fs::rename(made.records(), made.place.path().join("old")).expect("it can be renamed");
        fs::rename(&other, made.records()).expect("it can be renamed");
        loaded.rewind(0, start);
        assert!(loaded.step(&tokens) == well, "replaced by {by:?}");
        fs::rename(made.place.path().join("old"), made.records()).expect("it can be renamed");
    }
}
