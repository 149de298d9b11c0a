//! Programs with one number changed: closer to what is right than spoiled bytes, so that more of them pass the verifier
//! and are run. What passes must run without a panic and without leaving its memory.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_driver::package::program::{decode, encode};
use swiftlm_ir::plan::Program;

use super::programs::{Random, cases, compiled, groups, tried};

/// Numbers that take the place of others: borders of what the verifier and integer types allow.
const NUMBERS: [u64; 16] =
    [0, 1, 2, 3, 7, 16, 31, 33, 64, 255, 257, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 44, u64::MAX];

/// The places of all whole numbers below a value.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Number(n) if n.is_u64() => found.push(at),
        Value::Array(values) => values.iter().enumerate().for_each(|(i, v)| places(v, format!("{at}/{i}"), found)),
        Value::Object(fields) => fields.iter().for_each(|(name, v)| places(v, format!("{at}/{name}"), found)),
        _ => {}
    }
}

/// A program as JSON, where its numbers are, and what a step of it costs.
struct Subject {
    checkpoint: Checkpoint,
    json: Value,
    plans: Vec<String>,
    all: Vec<String>,
    groups: u64,
}

impl Subject {
    fn new(name: &str) -> Self {
        let (checkpoint, program) = compiled(name, 16);
        let json = serde_json::to_value(&program).expect("a program is data");
        let (mut plans, mut all) = (vec![], vec![]);
        places(&json["plans"], "/plans".to_owned(), &mut plans);
        places(&json, String::new(), &mut all);
        Self { checkpoint, json, plans, all, groups: groups(&program) }
    }

    /// With one number changed; `None` where no program has it.
    fn changed(&self, random: &mut Random) -> Option<Program> {
        // Most numbers are of kernels, which are proven; templates are what this is for.
        let places = if random.below(4) > 0 { &self.plans } else { &self.all };
        let mut json = self.json.clone();
        let number = json.pointer_mut(&places[random.below(places.len())]).expect("there is a number");
        let old = number.as_u64().expect("a whole number");
        *number = json!(match random.below(5) {
            0 => old.wrapping_add(1),
            1 => old.wrapping_sub(1),
            2 => old.wrapping_mul(2),
            _ => NUMBERS[random.below(NUMBERS.len())],
        });
        serde_json::from_value(json).ok()
    }
}

#[test]
fn another_number_never_panics() {
    let (first, cases) = cases();
    let subjects: Vec<Subject> = ["llama-mlx4", "qwen3_moe", "granite"].map(Subject::new).into();
    let (mut refused, mut verified, mut ran) = (0, 0, 0);
    for seed in first..first.saturating_add(cases) {
        let mut random = Random(seed);
        let subject = &subjects[random.below(subjects.len())];
        let Some(program) = subject.changed(&mut random) else { continue };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let program = decode(&encode(&program)).ok()?;
            Some(tried(program, &subject.checkpoint, subject.groups))
        }));
        match outcome {
            Ok(None) => refused += 1,
            Ok(Some(tiers)) => (verified, ran) = (verified + 1, ran + tiers),
            Err(_) => panic!("the input of SLM_FUZZ_SEED={seed} SLM_FUZZ_CASES=1 failed; its message is above"),
        }
    }
    if cases >= 400 {
        assert!(refused > 100 && verified > 40 && ran > 40, "{refused} refused, {verified} verified, {ran} ran");
    }
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-numbers.txt");
    let figures = format!("{cases} inputs from seed {first}: {refused} refused, {verified} verified, {ran} ran\n");
    std::fs::write(file, figures).expect("the figures can be written");
}
