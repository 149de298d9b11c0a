//! Broken checkpoints by the hundred: no input makes the loader panic, and it takes exactly what the safetensors library
//! takes. `SLM_FUZZ_CASES` sets how many are tried, `SLM_FUZZ_SEED` where they begin; a failure names its seed.

#[path = "common/rows.rs"]
mod rows;
#[path = "common/weights.rs"]
mod weights;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rows::{Files, contents};
use safetensors::SafeTensors;
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_models::{BuildOptions, Config};
use swiftlm_runtime::WeightSource;

/// Rows whose parts are spoiled: plain, sharded, quantised, experts in one tensor, and a configuration within another.
const ROWS: &[&str] = &["llama", "qwen3", "qwen2-mlx-mixed", "qwen3_moe-mlx4", "gemma3"];

/// Texts that take the place of values: borders of integer types, and what was once believed impossible.
const VALUES: &[&str] = &[
    "0",
    "1",
    "-1",
    "3",
    "63",
    "127",
    "1e308",
    "1e-320",
    "0.5",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "null",
    "true",
    "\"\"",
    "\"F17\"",
    "\"F4\"",
    "\"U32\"",
    "\"BF16\"",
    "[]",
    "[0]",
    "[1,2,3,4,5,6,7,8,9]",
    "[9223372036854775807,4]",
    "{}",
    "{\"bits\":4}",
    "{\"rope_type\":\"llama3\"}",
    "\"../model.safetensors\"",
    "\"llama\"",
    "\"qwen3_moe\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
];

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and every seed is as good as another.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Where the values of a JSON text lie: of each, first byte and end.
fn values(text: &[u8]) -> Vec<(usize, usize)> {
    let mut found = vec![];
    let mut open = vec![];
    let mut at = 0;
    while at < text.len() {
        let start = at;
        at += 1;
        match text[start] {
            b'{' | b'[' => open.push(start),
            b'}' | b']' => found.extend(open.pop().map(|o| (o, at))),
            b'"' => {
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(text.len());
                found.push((start, at));
            }
            b if b.is_ascii_alphanumeric() || b == b'-' => {
                while at < text.len() && (text[at].is_ascii_alphanumeric() || matches!(text[at], b'.' | b'-' | b'+')) {
                    at += 1;
                }
                found.push((start, at));
            }
            _ => {}
        }
    }
    found
}

/// Spoils a text in one place: a value replaced, exchanged, removed or doubled, or bytes as they come.
fn spoil_text(text: &mut Vec<u8>, random: &mut Random) {
    let places = values(text);
    let pick = |random: &mut Random| places.get(random.below(places.len())).copied().unwrap_or((0, 0));
    let (from, to) = pick(random);
    match random.below(8) {
        0..3 => drop(text.splice(from..to, VALUES[random.below(VALUES.len())].bytes())),
        3 => {
            let (a, b) = pick(random);
            let other = text[a..b].to_vec();
            drop(text.splice(from..to, other));
        }
        4 => {
            // With the comma behind it, an element or a pair of an object is given twice.
            let next = places.iter().map(|p| p.1).find(|end| *end > to).unwrap_or(to);
            let twice: Vec<u8> = text[from..next].iter().chain(b",").copied().collect();
            drop(text.splice(from..from, twice));
        }
        5 => drop(text.drain(from..to)),
        6 => {
            let at = random.below(text.len());
            if let Some(byte) = text.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        _ => {
            // A number moved a little: offsets that overlap, shapes one too large.
            let digits: Vec<(usize, usize)> = places.iter().copied().filter(|p| text[p.0].is_ascii_digit()).collect();
            if let Some(&(a, b)) = digits.get(random.below(digits.len()))
                && let Ok(n) = String::from_utf8_lossy(&text[a..b]).parse::<u64>()
            {
                let moved = n.wrapping_add(random.below(9) as u64).wrapping_sub(4);
                drop(text.splice(a..b, moved.to_string().bytes()));
            }
        }
    }
}

/// Spoils a safetensors file: mostly its header, its length kept right, so that the fault is found behind the first check.
fn spoil_weights(file: &mut Vec<u8>, random: &mut Random) {
    match random.below(16) {
        0 => file.truncate(random.below(file.len())),
        1 => {
            let at = random.below(8.min(file.len()));
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2 => file.push(0),
        _ => {
            let Some(length) = file.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes) else { return };
            let Some(end) = usize::try_from(length).ok().and_then(|l| l.checked_add(8)).filter(|e| *e <= file.len())
            else {
                return;
            };
            let mut header = file[8..end].to_vec();
            spoil_text(&mut header, random);
            let length = (header.len() as u64).to_le_bytes();
            drop(file.splice(..end, length.into_iter().chain(header)));
        }
    }
}

fn spoil(files: &mut Files, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(files.len() + 1);
        match files.get_mut(at) {
            Some((name, bytes)) if name.ends_with(".safetensors") => spoil_weights(bytes, random),
            Some((_, bytes)) => spoil_text(bytes, random),
            None => {
                let gone = random.below(files.len() * 8);
                if gone < files.len() && files.len() > 1 {
                    files.remove(gone);
                }
            }
        }
    }
}

/// How far an input came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Refused,
    Opened,
    Built,
}

/// Whether the library takes the file, and what it then finds.
fn library(bytes: &[u8]) -> Option<Vec<(String, Vec<usize>)>> {
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let mut found: Vec<_> = tensors.tensors().into_iter().map(|(n, v)| (n, v.shape().to_vec())).collect();
    found.sort();
    Some(found)
}

/// Runs one input through the loader.
fn run(files: &Files) -> Reached {
    // Each file of weights alone: taken if and only if the library takes it.
    for (name, bytes) in files.iter().filter(|f| f.0.ends_with(".safetensors")) {
        let alone = [("config.json", b"{}".to_vec()), ("model.safetensors", bytes.clone())];
        let ours = Checkpoint::embedded("alone", alone.map(|(n, b)| (n.to_owned(), Cow::Owned(b))));
        match (ours, library(bytes)) {
            (Ok(ours), Some(theirs)) => {
                let ours: Vec<_> = ours.tensors().into_iter().map(|(n, f)| (n, f.shape)).collect();
                assert_eq!(ours, theirs, "{name}");
            }
            (Err(e), Some(_)) => assert!(e.to_string().contains("given twice"), "{name}: only we refuse it: {e}"),
            (Ok(_), None) => panic!("{name}: only the library refuses it: {:?}", SafeTensors::deserialize(bytes).err()),
            (Err(e), None) => assert!(e.problems.iter().all(|p| p.starts_with("model.safetensors: ")), "{e}"),
        }
    }
    let whole = files.iter().map(|(n, b)| (n.clone(), Cow::Owned(b.clone())));
    let Ok(checkpoint) = Checkpoint::embedded("whole", whole) else { return Reached::Refused };
    let model = Config::parse(checkpoint.config())
        .and_then(|config| swiftlm_models::build(&config, &checkpoint.tensors(), &BuildOptions::default()));
    let Ok(model) = model else { return Reached::Opened };
    // What the models accept can be read to its last byte.
    for weight in weights::of_graph(&model) {
        for part in weight.ty.format.layout(weight.ty.rows, weight.ty.cols).components {
            let last = part.bytes.saturating_sub(1);
            checkpoint.read(&weight, part.offset + last, &mut [0]).expect("a weight of a built model can be read");
        }
    }
    Reached::Built
}

#[test]
fn borders_are_drawn_where_the_library_draws_them() {
    let tensor = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let headers = [
        r"{}".to_owned(),
        r#"{"__metadata__":null}"#.to_owned(),
        r#"{"__metadata__":{}}"#.to_owned(),
        r#"{"__metadata__":{"a":null}}"#.to_owned(),
        r#"{"__metadata__":{"a":"b","a":"c"}}"#.to_owned(),
        r#"{"__metadata__":{},"__metadata__":{}}"#.to_owned(),
        r#"{"__metadata__":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#.to_owned(),
        r#"{"t":["F32",[1],[0,4]]}"#.to_owned(),
        r#"{"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
        r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":{"than":["asked"]}}}"#.to_owned(),
        r#"{"t":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#.to_owned(),
        r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}"#.to_owned(),
        r#"{"t":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
        r#"{"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
        format!("{{{}}}   ", tensor("F32", "[]", 0, 4)),
        format!(" {{{}}}", tensor("F32", "[1]", 0, 4)),
        format!("{{{}}}x", tensor("F32", "[1]", 0, 4)),
        format!("{{{},}}", tensor("F32", "[1]", 0, 4)),
        format!("{{{}}}", tensor("F32", "[0]", 0, 0)),
        format!("{{{}}}", tensor("F32", "[0,9223372036854775807,9223372036854775807]", 0, 0)),
        format!("{{{}}}", tensor("F32", "[9223372036854775807,0]", 0, 0)),
        format!("{{{}}}", tensor("F32", "[9223372036854775807,3,0]", 0, 0)),
        format!("{{{}}}", tensor("F32", "[4611686018427387904]", 0, 0)),
        format!("{{{}}}", tensor("F4", "[8]", 0, 4)),
        format!("{{{}}}", tensor("F4", "[7]", 0, 4)),
        format!("{{{}}}", tensor("F6_E2M3", "[4]", 0, 3)),
        format!("{{{}}}", tensor("F32", "[1]", 4, 0)),
        format!("{{{}}}", tensor("F32", "[1]", 18446744073709551612, 0)),
        format!("{{{}}}", tensor("F32", "[1]", 0, 4) + "," + &tensor("F32", "[0]", 4, 4).replace("\"t\"", "\"u\"")),
        format!("{{{}}}", tensor("F32", "[1]", 0, 4) + "," + &tensor("F32", "[0]", 2, 2).replace("\"t\"", "\"u\"")),
    ];
    let mut taken = 0;
    for header in &headers {
        for data in [0, 3, 4] {
            let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
            taken += usize::from(library(&file).is_some());
            run(&vec![("model.safetensors".to_owned(), file)]);
        }
    }
    assert!(taken > 8, "the library takes some of these");
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn no_broken_checkpoint_makes_the_loader_panic() {
    let rows: Vec<Files> = ROWS.iter().map(|r| contents(r)).collect();
    for row in &rows {
        assert_eq!(run(row), Reached::Built, "an unspoiled row is taken");
    }
    let (first, cases) = (variable("SLM_FUZZ_SEED", 0), variable("SLM_FUZZ_CASES", 400));
    let mut reached = [0u64; 3];
    for seed in first..first.saturating_add(cases) {
        let mut random = Random(seed);
        let mut files = rows[random.below(rows.len())].clone();
        spoil(&mut files, &mut random);
        match catch_unwind(AssertUnwindSafe(|| run(&files))) {
            Ok(how) => reached[how as usize] += 1,
            Err(_) => panic!("the input of SLM_FUZZ_SEED={seed} SLM_FUZZ_CASES=1 failed; its message is above"),
        }
    }
    let [refused, opened, built] = reached;
    // Inputs that are all refused at the first look would test little.
    if cases >= 400 {
        assert!(refused > cases / 10 && opened > cases / 20 && built > 0, "{reached:?}");
    }
    std::fs::write(
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-checkpoint.txt"),
        format!(
            "{cases} inputs from seed {first}: {refused} refused by the loader, {opened} by the models, {built} built\n"
        ),
    )
    .expect("the figures can be written");
}
