//! Experts that are read before they are chosen change nothing but when they are read.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use swiftlm_compiler::CompileOptions;
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_golden_tests::experts::{FromWeights, Weights};
use swiftlm_golden_tests::fixture::{Row, names};
use swiftlm_golden_tests::run::{Loaded, On, arg_max, compile_with, exact};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::graph::AHEAD;
use swiftlm_ir::plan::{Ahead, Operand, Program, WeightBuffer};
use swiftlm_ir::text::{parse, print, print_plan};
use swiftlm_ir::verify::verify_program;
use swiftlm_models::{Activations, BuildOptions};
use swiftlm_runtime::experts::{ExpertStats, Policy};
use swiftlm_runtime::{StepError, WeightSource};

const CHUNK: usize = 64;

struct Model {
    row: Row,
    source: Weights,
    build: BuildOptions,
}

impl Model {
    fn row(name: &str) -> Self {
        let build = BuildOptions { activations: Activations::int(16), ..exact() };
        Self { row: Row::open(name), source: Arc::new(Row::open(name)), build }
    }

    fn demo() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/demo/model");
        let source = Arc::new(Checkpoint::open(&dir).expect("the demo model is whole"));
        let build = BuildOptions { activations: Activations::int(16), ..exact() };
        Self { row: Row::checkpoint("demo", &dir), source, build }
    }

    fn compile(&self, slots: Option<usize>, ahead: bool) -> Program {
        let options = CompileOptions { chunk: CHUNK, max_rows: CHUNK, slots, ahead, ..CompileOptions::default() };
        compile_with(&self.row, &self.build, options)
    }

    fn experts(&self) -> usize {
        self.compile(None, false).mixture().expect("the row has experts").experts
    }

    fn load(&self, program: Program, on: On) -> Loaded {
        let source = FromWeights::shared(self.source.clone());
        Loaded::with_experts(&self.row, program, on.open(2), 2, Some(source))
    }
}

fn rows() -> impl Iterator<Item = String> {
    names().into_iter().filter(|name| Row::open(name).has_experts())
}

/// A prompt, then decode of one and of two sequences in turn: every logit. What fails comes again; `failed` counts it.
fn run(loaded: &mut Loaded, prompt: &[u32], count: u32, failed: &mut u32) -> Vec<Vec<f32>> {
    let prompt = &prompt[..prompt.len().min(CHUNK)];
    let mut steps = vec![(0..).zip(prompt).map(|(p, id)| (0, p, *id)).collect::<Vec<_>>()];
    for n in 0..count {
        let id = prompt[(7 * n + n / 5) as usize % prompt.len()];
        steps.push(vec![(0, prompt.len() as u32 + n, id)]);
        if n % 4 == 3 {
            steps[1 + n as usize].push((1, n / 4, id));
        }
    }
    let mut step = |tokens: &Vec<_>| loop {
        match loaded.try_step(tokens) {
            Ok(logits) => return logits,
            Err(e) => assert!(matches!(e, StepError::Weights(_)), "{e}"),
        }
        *failed += 1;
    };
    steps.iter().flat_map(&mut step).collect()
}

#[test]
fn guesses_change_no_bit_on_the_cpu() {
    let mut guessed = 0;
    for name in rows() {
        let model = Model::row(&name);
        let logits = |slots, ahead| {
            let mut loaded = model.load(model.compile(slots, ahead), On::Cpu);
            (run(&mut loaded, &model.row.prompt, 60, &mut 0), loaded.expert_stats())
        };
        let whole = logits(None, true).0;
        for slots in [1, 2, 3, model.experts() - 1] {
            let ((plain, without), (ahead, with)) = (logits(Some(slots), false), logits(Some(slots), true));
            assert!(plain == whole && ahead == whole, "{name} in {slots} slots");
            let (without, with) = (without.expect("there is a store"), with.expect("there is a store"));
            assert_eq!(without.ahead, None);
            assert_eq!(without.hits + without.misses, with.hits + with.misses, "{name} in {slots} slots");
            guessed += with.ahead.map_or(0, |ahead| ahead.useful + ahead.wasted);
        }
    }
    assert!(guessed > 0, "not even layers that were never trained are guessed at");
}

#[test]
fn guesses_change_no_bit_on_other_devices() {
    let model = Model::row("qwen3_moe-mlx4");
    for on in [On::Interpreter, On::Wgpu] {
        let logits = |ahead| run(&mut model.load(model.compile(Some(3), ahead), on), &model.row.prompt[..2], 4, &mut 0);
        assert!(logits(false) == logits(true), "{on:?}");
    }
}

/// Decodes the demo model from one token on; what is chosen follows from the text.
fn decode(loaded: &mut Loaded, tokens: u32) -> ExpertStats {
    let mut last = 7;
    for position in 0..tokens {
        let logits = loaded.step(&[(0, position, last)]);
        last = (arg_max(&logits[0]) + position % 5) % 500;
    }
    loaded.expert_stats().expect("there is a store")
}

/// Trained layers can be guessed at, and what is in slots follows from choices only: hits are those of a replay, and the
/// same as without guesses.
#[test]
fn guesses_at_a_trained_model_are_useful() {
    let model = Model::demo();
    for slots in [model.experts() / 4, model.experts() / 2] {
        let plain = decode(&mut model.load(model.compile(Some(slots), false), On::Cpu), 400);
        let mut loaded = model.load(model.compile(Some(slots), true), On::Cpu);
        loaded.executable_mut().record_experts();
        let stats = decode(&mut loaded, 400);
        let trace = loaded.executable().expert_trace().expect("it was asked for");
        let lru = trace.replay(slots, Policy::LeastRecentlyUsed);
        assert_eq!((stats.hits, stats.misses), (lru.hits, lru.misses), "{slots} slots");
        assert_eq!((stats.hits, stats.misses), (plain.hits, plain.misses), "{slots} slots");
        let ahead = stats.ahead.expect("it guesses");
        assert!(ahead.useful + ahead.wasted <= ahead.guessed && ahead.on == Some(true), "{ahead:?}");
        // A guess that is not begun with in time is neither.
        assert!(ahead.useful * 10 >= (ahead.useful + ahead.wasted) * 6, "{slots} slots: {ahead:?}");
        assert!(ahead.wasted * 5 <= stats.misses, "{slots} slots: {stats:?}");
        assert!(ahead.useful * 10 >= stats.misses, "{slots} slots: {stats:?}");
    }
}

/// Lets every layer guess by its own router instead of the next one's.
fn own_routers(program: &mut Program) {
    for (call, slots) in program.module.main.iter().zip(&mut program.call_weights) {
        let weights = &program.module.funcs[call.func].weights;
        for at in 0..slots.len() {
            let own = |name: &String| name.strip_prefix(AHEAD).map(str::to_owned);
            let Some(names) = weights[at].names.iter().map(own).collect::<Option<Vec<String>>>() else { continue };
            slots[at] = slots[weights.iter().position(|w| w.names == names).expect("the layer's own router")];
        }
    }
}

/// What is measured above is the look ahead: guesses by a layer's own router are hardly ever read.
#[test]
fn guesses_by_the_wrong_router_are_not_read() {
    let model = Model::demo();
    let useful = |program| decode(&mut model.load(program, On::Cpu), 400).ahead.expect("it guesses").useful;
    let right = model.compile(Some(model.experts() / 2), true);
    let mut wrong = right.clone();
    own_routers(&mut wrong);
    let (right, wrong) = (useful(right), useful(wrong));
    assert!(wrong * 4 < right, "{wrong}, {right}");
}

/// Every so many reads fail.
struct Failing {
    inner: Weights,
    reads: AtomicU64,
}

impl WeightSource for Failing {
    fn read(&self, weight: &WeightBuffer, offset: usize, into: &mut [u8]) -> Result<(), String> {
        match self.reads.fetch_add(1, Ordering::Relaxed) {
            n if n % 301 == 300 => Err(self.place(weight, offset)),
            _ => self.inner.read(weight, offset, into),
        }
    }

    fn place(&self, weight: &WeightBuffer, offset: usize) -> String {
        self.inner.place(weight, offset)
    }
}

/// Reads fail, of guesses and of what is needed: steps fail or not, and those that do not are right.
#[test]
fn faults_leave_nothing_wrong_behind() {
    let model = Model::demo();
    let prompt: Vec<u32> = (0..50).map(|i| (i * 31 + 7) % 500).collect();
    let whole = run(&mut model.load(model.compile(None, false), On::Cpu), &prompt, 200, &mut 0);
    let source = Arc::new(Failing { inner: model.source.clone(), reads: AtomicU64::new(0) });
    let (program, source) = (model.compile(Some(model.experts() / 4), true), FromWeights::shared(source));
    let mut loaded = Loaded::with_experts(&model.row, program, On::Cpu.open(2), 2, Some(source));
    let mut failed = 0;
    assert!(run(&mut loaded, &prompt, 200, &mut failed) == whole);
    let stats = loaded.expert_stats().expect("there is a store");
    assert!(failed > 0 && stats.ahead.is_some_and(|ahead| ahead.useful > 0), "{failed} failed: {stats:?}");
}

/// What a plan says of it; the graph behind it prints and parses like any other.
#[test]
fn a_plan_with_guesses() {
    let program = Model::row("qwen3_moe-mlx4").compile(Some(3), true);
    let plans = program.plans.iter().flatten();
    let mut plans = plans.filter(|plan| !plan.fetches.is_empty() && plan.class == ShapeClass::One);
    insta::assert_snapshot!(print_plan(&program, plans.next().expect("a layer fetches")));
    let large = program.plans.iter().flatten().filter(|plan| plan.class >= ShapeClass::Some);
    assert!(large.flat_map(|plan| &plan.fetches).all(|fetch| fetch.ahead.is_none()), "nobody guesses for a prompt");
    assert_eq!(parse(&print(&program.module)), Ok(program.module));
}

/// A program whose guesses are not what a host may leave out and read is refused.
#[test]
fn wrong_guesses_are_refused() {
    let program = Model::row("qwen3_moe-mlx4").compile(Some(3), true);
    assert_eq!(verify_program(&program), Ok(()));
    let tampered = |change: &dyn Fn(&mut Ahead)| {
        let mut program = program.clone();
        let fetches = program.plans.iter_mut().flatten().flat_map(|plan| &mut plan.fetches);
        fetches.filter_map(|fetch| fetch.ahead.as_mut()).for_each(change);
        verify_program(&program).expect_err("it was tampered with").join("\n")
    };
    assert!(tampered(&|ahead| ahead.launches.end -= 1).contains("cannot be fetched so"));
    assert!(tampered(&|ahead| ahead.launches.start = ahead.launches.end).contains("cannot be fetched so"));
    let none = Operand::Arena { offset: 0, bytes: 4 };
    assert!(tampered(&|ahead| ahead.ids = none.clone()).contains("the experts of a step take"));
    let mut program = program;
    own_routers(&mut program);
    assert!(verify_program(&program).expect_err("weights of another layer").join("\n").contains("is not `>mlp.gate"));
}
