//! Experts that take turns in memory compute what they compute when all are in memory.

use std::path::Path;
use std::sync::Arc;

use swiftlm_compiler::CompileOptions;
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_golden_tests::experts::{FromWeights, Weights};
use swiftlm_golden_tests::faults::{Fault, Faulty};
use swiftlm_golden_tests::fixture::{Row, names};
use swiftlm_golden_tests::run::{Loaded, On, arg_max, compile_with, exact, relative_error};
use swiftlm_models::{Activations, BuildOptions};
use swiftlm_runtime::StepError;
use swiftlm_runtime::experts::{ExpertStats, Policy};

const CHUNK: usize = 64;

struct Model {
    row: Row,
    source: Weights,
    build: BuildOptions,
}

impl Model {
    fn row(name: &str, activations: Activations) -> Self {
        let source = Arc::new(Row::open(name));
        Self { row: Row::open(name), source, build: BuildOptions { activations, ..exact() } }
    }

    fn demo() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/demo/model");
        let source = Arc::new(Checkpoint::open(&dir).expect("the demo model is whole"));
        let build = BuildOptions { activations: Activations::int(16), ..exact() };
        Self { row: Row::checkpoint("demo", &dir), source, build }
    }

    fn experts(&self) -> usize {
        let all = compile_with(&self.row, &self.build, options(None));
        all.mixture().expect("the row has experts").experts
    }

    fn load(&self, slots: Option<usize>, on: On, sequences: usize) -> Loaded {
        let program = compile_with(&self.row, &self.build, options(slots));
        let fetches: usize = program.plans.iter().flatten().map(|plan| plan.fetches.len()).sum();
        assert_eq!(fetches > 0, slots.is_some(), "the host takes part where experts are missing, and only there");
        Loaded::with_experts(&self.row, program, on.open(2), sequences, Some(FromWeights::shared(self.source.clone())))
    }
}

fn options(slots: Option<usize>) -> CompileOptions {
    CompileOptions { chunk: CHUNK, max_rows: CHUNK, slots, ..CompileOptions::default() }
}

fn rows() -> impl Iterator<Item = String> {
    names().into_iter().filter(|name| Row::open(name).has_experts())
}

/// A prompt in chunks, then a greedy continuation: every logit, and what was read.
fn run(loaded: &mut Loaded, row: &Row) -> (Vec<Vec<f32>>, Option<ExpertStats>) {
    let mut logits = loaded.prompt(0, &row.prompt, CHUNK);
    for position in row.prompt.len()..row.prompt.len() + 40 {
        let id = arg_max(logits.last().expect("a prompt is not empty"));
        logits.extend(loaded.step(&[(0, position as u32, id)]));
    }
    (logits, loaded.expert_stats())
}

#[test]
fn turns_change_no_bit_on_the_cpu() {
    for (name, activations) in rows().flat_map(|n| [(n.clone(), Activations::F32), (n, Activations::int(16))]) {
        let model = Model::row(&name, activations);
        let (whole, none) = run(&mut model.load(None, On::Cpu, 1), &model.row);
        assert_eq!(none, None, "nothing is read where all experts are in memory");
        for slots in [1, 2, 3, model.experts() - 1] {
            let (logits, stats) = run(&mut model.load(Some(slots), On::Cpu, 1), &model.row);
            let stats = stats.expect("there is a store");
            assert!(stats.misses > 0 && stats.bytes > 0, "{name} in {slots} slots: {stats:?}");
            assert!(logits == whole, "{name} in {slots} slots, {activations:?}");
        }
    }
}

#[test]
fn turns_meet_the_reference_on_other_devices() {
    for name in rows() {
        let model = Model::row(&name, Activations::F32);
        for on in [On::Interpreter, On::Wgpu] {
            let logits = model.load(Some(3), on, 1).prompt(0, &model.row.prompt, CHUNK).concat();
            let error = relative_error(&logits, &model.row.logits);
            assert!(error < 1e-4, "{name} on {on:?}: {error:.2e}");
        }
    }
}

/// The share of experts that were in memory is what a replay of the choices gives, and no policy has more than the one that
/// knows the future.
#[test]
fn hits_are_those_of_a_replay() {
    let model = Model::demo();
    let prompt: Vec<u32> = (0..120).map(|i| (i * 31 + 7) % 500).collect();
    for slots in [model.experts() / 4, model.experts() / 2] {
        let mut loaded = model.load(Some(slots), On::Cpu, 1);
        loaded.executable_mut().record_experts();
        loaded.prompt(0, &prompt[..1], 1);
        loaded.feed(0, &prompt[1..], 1);
        let stats = loaded.expert_stats().expect("there is a store");
        let trace = loaded.executable().expert_trace().expect("it was asked for").clone();
        assert_eq!(trace.to_string().parse(), Ok(trace.clone()));
        let (lru, best) = (trace.replay(slots, Policy::LeastRecentlyUsed), trace.replay(slots, Policy::Belady));
        let rate = stats.hits as f64 / (stats.hits + stats.misses) as f64;
        assert!((rate - lru.hit_rate()).abs() < 0.01, "{slots} slots: {rate}, {lru:?}");
        assert!(best.hit_rate() > lru.hit_rate() && lru.hit_rate() > 0.0, "{slots} slots: {lru:?}, {best:?}");
    }
}

/// More than 2 000 tokens of the demo model, prefill and decode of several sequences mixed, in a tenth, a quarter and half
/// of its experts, and with all of them.
#[test]
fn two_thousand_tokens_of_the_demo_model_are_the_same() {
    const SEQUENCES: u32 = 5;
    let model = Model::demo();
    let steps = |loaded: &mut Loaded| {
        let mut last = [7u32; SEQUENCES as usize];
        let mut all = vec![];
        for position in 0..440u32 {
            // Sequence 0 prefills eight tokens at a time, so that steps touch many experts.
            let mut tokens: Vec<_> = (1..SEQUENCES).map(|s| (s, position, last[s as usize])).collect();
            if position < 60 {
                tokens.extend((0..8).map(|i| (0, 8 * position + i, (position * 31 + i * 17) % 500)));
            }
            let logits = loaded.step(&tokens);
            for (token, logits) in tokens.iter().zip(&logits) {
                last[token.0 as usize] = (arg_max(logits) + token.0 + position % 3) % 500;
            }
            all.extend(logits);
        }
        all
    };
    let whole = steps(&mut model.load(None, On::Cpu, SEQUENCES as usize));
    assert!(whole.len() >= 2000, "{} tokens", whole.len());
    let experts = model.experts();
    for slots in [experts.div_ceil(10), experts / 4, experts / 2] {
        let mut loaded = model.load(Some(slots), On::Cpu, SEQUENCES as usize);
        assert!(steps(&mut loaded) == whole, "{slots} of {experts} experts in memory");
        let stats = loaded.expert_stats().expect("there is a store");
        assert!(stats.misses > 0 && stats.hits > 0, "{slots} of {experts}: {stats:?}");
    }
}

/// A failed read fails its step and nothing else: once the disk is well again, so are the results.
#[test]
fn faults_are_errors_and_leave_nothing_wrong_behind() {
    let model = Model::row("qwen3_moe-mlx4", Activations::int(16));
    let faulty = Faulty::new(Arc::clone(&model.source), 1);
    let program = compile_with(&model.row, &model.build, options(Some(2)));
    let source = FromWeights::shared(faulty.clone());
    let mut loaded = Loaded::with_experts(&model.row, program, On::Cpu.open(2), 1, Some(source));
    let tokens: Vec<(u32, u32, u32)> = (0..20).map(|p| (0, p, model.row.prompt[p as usize])).collect();
    let start = loaded.mark(0);
    let well = loaded.step(&tokens);
    let again = |loaded: &mut Loaded| {
        loaded.rewind(0, start);
        loaded.step(&tokens)
    };
    // What an expert is, its first reading says; the slots began with some that were not read.
    assert!((0..3).all(|_| again(&mut loaded) == well));
    for _ in 0..20 {
        for (fault, words) in [(Fault::Error, "weights.bin: byte"), (Fault::Flip, "is not what it was")] {
            faulty.set(Some(fault));
            loaded.rewind(0, start);
            let error = loaded.try_step(&tokens).expect_err("experts cannot be read");
            assert!(matches!(error, StepError::Weights(_)), "{error}");
            assert!(error.to_string().contains(words), "{error}");
            faulty.set(None);
            assert!(again(&mut loaded) == well, "after {fault:?}");
        }
    }
    faulty.set(Some(Fault::Slow));
    assert!(again(&mut loaded) == well, "slow reads");
}
