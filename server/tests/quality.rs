//! Perplexity, divergence and recall: against logits of another program, and by the program as people run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::SafeTensors;
use swiftlm_server::events::Events;
use swiftlm_server::flags::{Backend, Io, Kv, LogFormat, Precision, Prefetch};
use swiftlm_server::placement::GpuLayers;
use swiftlm_server::prepare::{Found, Prepared, Wishes};
use swiftlm_server::progress::Progress;
use swiftlm_server::quality::{Reader, perplexity::surprise, scored, windows};
use swiftlm_server::residency::ExpertWish;

const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/eval/text.txt");

/// A row of reference logits: the checkpoint, its prompt, and the logits of `transformers` at every position of it.
struct Row {
    directory: PathBuf,
    prompt: Vec<u32>,
    logits: Vec<f32>,
}

impl Row {
    fn open(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden-tests/families").join(name);
        let bytes = std::fs::read(directory.join("reference.safetensors")).expect("there is such a row");
        let tensors = SafeTensors::deserialize(&bytes).expect("a reference is a safetensors file");
        let words = |name: &str| -> Vec<u32> {
            let data = tensors.tensor(name).expect("a reference has it").data().to_vec();
            data.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
        };
        let logits = words("logits").into_iter().map(f32::from_bits).collect();
        Self { prompt: words("prompt"), logits, directory }
    }

    /// exp of the mean negative log-likelihood of `prompt[next(p)]` by the reference's logits at positions `p`.
    fn perplexity(&self, positions: std::ops::Range<usize>, next: impl Fn(usize) -> usize) -> f64 {
        let vocabulary = self.logits.len() / self.prompt.len();
        let count = positions.len() as f64;
        let surprises = positions.map(|p| {
            let row = &self.logits[p * vocabulary..][..vocabulary];
            let total: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            total.ln() - f64::from(row[self.prompt[next(p)] as usize])
        });
        (surprises.sum::<f64>() / count).exp()
    }

    fn reader(&self, context: usize) -> Reader {
        let wishes = Wishes {
            gpu_layers: GpuLayers::Auto,
            backend: Backend::Cpu,
            device: None,
            threads: 2,
            precision: Precision::Exact,
            kv: Some(Kv::F32),
            careful: false,
            weights: None,
            chunk: None,
            context: Some(context),
            sequences: Some(1),
            experts_per_token: None,
            io: Io::Auto,
            prefetch: Prefetch::Off,
            experts: ExpertWish::Fit,
            limit: 0,
        };
        let progress = Progress::new(Events::new(LogFormat::Text));
        let found = Found::new(self.directory.to_str(), &progress).expect("the row is a model");
        let prepared = Prepared::new(found, &wishes, &progress).expect("it compiles");
        Reader::new(prepared, &progress).expect("it loads")
    }
}

/// `transformers` computed the logits; what is compared with is written out anew above.
#[test]
fn perplexity_is_that_of_the_reference() {
    for name in ["llama", "qwen3_moe"] {
        let row = Row::open(name);
        let context = row.prompt.len();
        let read = windows(&row.prompt, context, None).expect("one window");
        let (got, _) = surprise(&mut row.reader(context), &read, &mut |_| {}).expect("it runs").exp();
        let near = |other: f64| (got / other - 1.0).abs() < 1e-4;
        let expected = row.perplexity(scored(context), |p| p + 1);
        assert!(near(expected), "{name}: {got}, not {expected}");
        // What a mistake of one token, or counting other positions, would give is another number.
        for (what, mistake) in [
            ("the token itself", row.perplexity(scored(context), |p| p)),
            ("the one after", row.perplexity(context / 2..context - 2, |p| p + 2)),
            ("the first half", row.perplexity(0..context / 2, |p| p + 1)),
            ("all", row.perplexity(0..context - 1, |p| p + 1)),
        ] {
            assert!(!near(mistake), "{name}: {what} gives the same");
        }
    }
}

fn swiftlm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_swiftlm")).args(arguments).output().expect("the binary runs")
}

/// Lines of CSV by the names of their columns.
fn csv(arguments: &[&str]) -> impl Fn(usize, &str) -> String + use<> {
    let output = swiftlm(arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("CSV is text");
    let cells = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = text.trim().lines().map(cells).collect();
    move |line, column| {
        let at = lines[0].iter().position(|name| name == column).expect("there is such a column");
        lines[line + 1][at].clone()
    }
}

/// The report's order of formats, a needle that is found, and the picture.
#[test]
fn fewer_bits_are_further_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let png = folder.path().join("report.png");
    let png = png.to_str().expect("a path in UTF-8");
    let flags = ["kv-report", "--backend", "cpu", "--csv", "--file", TEXT, "--context", "512", "--tokens", "2048"];
    let more = ["--kv", "f16,q8,q4", "--depths", "1024", "--places", "2", "--png", png];
    let report = csv(&[&flags[..], &more].concat());
    let number = |line, column| report(line, column).parse::<f64>().expect("a number");
    let [f16, q8, q4] = [0, 1, 2].map(|line| number(line, "mean_kld"));
    assert_eq!((report(0, "kv").as_str(), report(1, "kv").as_str(), report(2, "kv").as_str()), ("f16", "q8", "q4"));
    assert!(f16 == 0.0 && q8 > 0.0 && q4 > 10.0 * q8, "{f16} {q8} {q4}");
    assert!(number(1, "kld_99") > q8 && number(2, "kld_99") > number(1, "kld_99"));
    assert_eq!((number(0, "change_pct"), number(0, "same_top_pct")), (0.0, 100.0));
    assert!(number(2, "same_top_pct") < 100.0 && number(2, "same_top_pct") > 95.0);
    // 6 layers of 2 heads of 64, keys and values: halves; bytes or half bytes and 4 bytes for each 64 of them.
    let elements = 6.0 * 2.0 * 2.0 * 64.0;
    for (line, bytes) in
        [elements * 2.0, elements * (1.0 + 4.0 / 64.0), elements * (0.5 + 4.0 / 64.0)].iter().enumerate()
    {
        assert_eq!((number(line, "kv_bytes_per_token"), number(line, "held_bytes_per_token")), (*bytes, *bytes));
    }
    assert_eq!(report(0, "recall_1024"), "2/2");
    assert!(std::fs::read(png).expect("it was written").starts_with(b"\x89PNG"));

    let flags = ["perplexity", "--backend", "cpu", "--csv", "--file", TEXT, "--context", "512", "--tokens", "2048"];
    let alone = csv(&[&flags[..], &["--kv", "q4"]].concat());
    for column in ["tokens", "perplexity", "error"] {
        assert_eq!(alone(0, column), report(2, column), "{column} alone and beside the reference");
    }
}

#[test]
fn backends_agree() {
    let flags = ["--csv", "--file", TEXT, "--context", "128", "--tokens", "128", "--precision", "exact"];
    let perplexity = |backend| {
        let table = csv(&[&["perplexity", "--backend", backend], &flags[..]].concat());
        table(0, "perplexity").parse::<f64>().expect("a number")
    };
    let (cpu, wgpu) = (perplexity("cpu"), perplexity("wgpu"));
    assert!((cpu / wgpu - 1.0).abs() < 1e-3, "{cpu} and {wgpu}");
}

#[test]
fn what_cannot_be_measured_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = folder.path().join("bytes");
    std::fs::write(&bytes, b"text\xff").expect("the folder can be written");
    let bytes = bytes.to_str().expect("a path in UTF-8");
    for (arguments, words) in [
        (&["--file", "no-such-file"][..], &["no-such-file"][..]),
        (&["--file", bytes], &["UTF-8", "byte 4"]),
        (&["--file", TEXT, "--context", "12000"], &["12000", "10605", "--context"]),
        (&["--file", TEXT, "--tokens", "100"], &["100", "2048"]),
        (&["--file", TEXT, "--context", "20000"], &["--context 20000", "16384"]),
        (&["--file", TEXT, "--depths", "20000"], &["--depths 20000", "16384"]),
        (&["--file", TEXT, "--depths", "16"], &["--depths 16", "at least"]),
        (&["--file", TEXT, "--kv", "q99"], &["q99", "q4"]),
        (&["--file", TEXT, "--png", "no-such-folder/a.png"], &["no-such-folder/a.png"]),
        (&["--file", TEXT, "--context", "3"], &["--context"]),
        (&[], &["--file"]),
    ] {
        let output = swiftlm(&[&["kv-report", "--backend", "cpu"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{arguments:?}: {text}");
    }
}
