//! Programs from outside: what the verifier must refuse, and bytes as they come. `SLM_FUZZ_CASES` sets how many are tried,
//! `SLM_FUZZ_SEED` where they begin; a failure names its seed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use swiftlm_cpu::{CpuDevice, CpuOptions, Tier};
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_driver::compile::{Options, compile};
use swiftlm_driver::package::program::{decode, encode};
use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::{DataBound, Expr, Immediate, KType, SharedArray};
use swiftlm_ir::plan::{Dispatch, Groups, Input, Operand, Program, Reach};
use swiftlm_ir::template::Template;
use swiftlm_ir::verify::verify_program;
use swiftlm_runtime::{Executable, ExecutableOptions};

use super::row;

pub(super) fn compiled(name: &str, chunk: usize) -> (Checkpoint, Program) {
    let checkpoint = Checkpoint::open(&row(name)).expect("a row opens");
    let mut options = Options::default();
    (options.compile.chunk, options.compile.max_rows) = (chunk, chunk.min(4));
    let program = compile(&checkpoint, &options).expect("a row compiles").program;
    (checkpoint, program)
}

/// Programs of every size of step pass, those of fewer rows than a block of a kernel has among them.
#[test]
fn what_the_compiler_makes_is_taken() {
    for name in ["llama", "qwen3_moe", "qwen2-mlx-mixed", "deepseek_v3"] {
        for chunk in [1, 3, 5, 9, 70] {
            let (_, program) = compiled(name, chunk);
            assert_eq!(verify_program(&program), Ok(()), "{name}, {chunk} tokens a step");
            assert!(decode(&encode(&program)).as_ref() == Ok(&program), "{name}: bytes hold another program");
        }
    }
}

type Change = fn(&mut Program);

/// The first launch of any plan that `wanted` picks.
fn launch(program: &mut Program, wanted: impl Fn(&Template) -> bool) -> &mut Dispatch {
    let all = program.plans.iter_mut().flatten().flat_map(|plan| &mut plan.dispatches);
    all.into_iter().find(|d| wanted(&d.template)).expect("there is such a launch")
}

fn linear(t: &Template) -> bool {
    matches!(t, Template::Linear(_))
}

fn weight(dispatch: &mut Dispatch) -> &mut Operand {
    dispatch.args.iter_mut().rfind(|a| matches!(a, Operand::Weight { .. })).expect("it has a weight")
}

/// Of everything that the verifier looks at, one change, with a word of the refusal.
const CHANGES: &[(&str, Change)] = &[
    ("kernel 9999", |p| launch(p, linear).stages[0].kernel = 9999),
    ("arguments", |p| launch(p, linear).args.truncate(1)),
    ("arguments for a kernel", |p| launch(p, linear).stages[0].args.truncate(1)),
    ("argument 9999 does not exist", |p| launch(p, linear).stages[0].args[0] = 9999),
    ("and 0 kernels", |p| launch(p, linear).stages.clear()),
    ("does not lie in the arena", |p| {
        let scratch = launch(p, |t| matches!(t, Template::Attend(_))).args.last_mut().expect("it has scratch");
        *scratch = Operand::State { state: 0, part: 0 };
    }),
    ("its kernel declares", |p| {
        let scratch = launch(p, |t| matches!(t, Template::Attend(_))).args.last_mut().expect("it has scratch");
        *scratch = Operand::Arena { offset: 0, bytes: 4 };
    }),
    ("does not lie in the arena", |p| {
        let end = p.arena_bytes;
        launch(p, linear).args[0] = Operand::Arena { offset: end, bytes: 256 };
    }),
    ("does not lie in the arena", |p| launch(p, linear).args[0] = Operand::Arena { offset: 4, bytes: 1 << 10 }),
    ("does not lie in the arena", |p| {
        launch(p, linear).args[0] = Operand::Arena { offset: 256, bytes: usize::MAX - 3 };
    }),
    ("its template reaches", |p| launch(p, linear).args[0] = Operand::Arena { offset: 0, bytes: 4 }),
    ("is not what its template takes", |p| launch(p, linear).args[0] = Operand::State { state: 0, part: 0 }),
    ("does not exist", |p| {
        let Operand::Weight { count, .. } = weight(launch(p, linear)) else { return };
        *count += 1;
    }),
    ("its template takes", |p| {
        let Operand::Weight { count, .. } = weight(launch(p, linear)) else { return };
        *count -= 1;
    }),
    ("does not exist", |p| {
        let Operand::Weight { slot, .. } = weight(launch(p, linear)) else { return };
        *slot = usize::MAX;
    }),
    ("is not what its template takes", |p| {
        launch(p, |t| matches!(t, Template::Embed(_))).args[0] = Operand::Input(Input::Positions);
    }),
    ("is not what its template takes", |p| {
        let attend = launch(p, |t| matches!(t, Template::Attend(_)));
        attend.args.swap(4, 5);
    }),
    ("do not divide over", |p| {
        let Template::Attend(t) = &mut launch(p, |t| matches!(t, Template::Attend(_))).template else { return };
        t.kv_heads = 3;
    }),
    ("do not lie in rows", |p| {
        let Template::Linear(t) = &mut launch(p, linear).template else { return };
        t.y.stride = 1;
    }),
    ("elements of a weight", |p| {
        let Template::Linear(t) = &mut launch(p, linear).template else { return };
        t.weight.rows = usize::MAX;
    }),
    ("rotated elements", |p| {
        let Template::RopeAppend(t) = &mut launch(p, |t| matches!(t, Template::RopeAppend(_))).template else { return };
        t.rotated = t.append.dim + 2;
    }),
    ("elementwise program", |p| {
        let Template::Linear(t) = &mut launch(p, linear).template else { return };
        t.epilogue.steps.clear();
    }),
    ("cannot be launched", |p| launch(p, linear).stages[0].grid[0] = Groups::per_rows(1, Sym::Tokens, 0)),
    ("cannot be launched", |p| {
        let grid = &mut launch(p, linear).stages[0].grid;
        grid[0] = grid[0].reaching(Reach::Each(0));
    }),
    ("cannot be launched", |p| launch(p, linear).stages[0].grid = [Groups::fixed(1 << 31); 3]),
    ("was made for T up to", |p| {
        let kernel = launch(p, |t| matches!(t, Template::Rows(_))).stages[0].kernel;
        p.kernels[kernel].immediate_max[Immediate::Tokens as usize] = 1;
    }),
    ("was made for R up to", |p| {
        let kernel = launch(p, linear).stages[0].kernel;
        p.kernels[kernel].immediate_max[Immediate::Rows as usize] = u32::MAX;
    }),
    ("which no host checks", |p| {
        let kernel = launch(p, |t| matches!(t, Template::Rows(_))).stages[0].kernel;
        let trust = p.kernels[kernel].exprs.iter_mut().find_map(|e| match e {
            Expr::Trust(_, bound) => Some(bound),
            _ => None,
        });
        *trust.expect("rows are trusted") = DataBound::Below(1);
    }),
    ("a page table that it is not given", |p| {
        let kernel = launch(p, linear).stages[0].kernel;
        let kernel = &mut p.kernels[kernel];
        kernel.exprs.push(Expr::Immediate(Immediate::TableStride));
        kernel.types.push(KType::U32);
    }),
    ("loop", |p| p.kernels[0].loops = u32::MAX),
    ("shared arrays", |p| {
        let kernel = &mut p.kernels[0];
        let elem = kernel.args[0].elem;
        kernel.shared.push(SharedArray { elem, len: u32::MAX });
    }),
    ("is no call's", |p| p.weights.push(p.weights[0].clone())),
    ("weight 0 is not `", |p| p.call_weights.iter_mut().flatten().for_each(|at| *at = 0)),
    ("calls with weights of", |p| drop(p.call_weights.pop())),
    ("is never called", |p| {
        let (mut func, mut plans) = (p.module.funcs[0].clone(), p.plans[0].clone());
        func.name.push_str("_more");
        plans.iter_mut().for_each(|plan| plan.func = p.plans.len());
        p.module.funcs.push(func);
        p.plans.push(plans);
    }),
    ("functions with plans for", |p| drop(p.plans.pop())),
    ("expected a plan for each class", |p| p.plans[0].swap(0, 1)),
    ("tokens of a step", |p| p.chunk = usize::MAX),
    ("rows of a step", |p| p.max_rows = 0),
    ("an arena of", |p| p.arena_bytes = usize::MAX),
    ("expected logits and greedy choice", |p| {
        let last = p.plans.len() - 1;
        p.plans[last].iter_mut().for_each(|plan| plan.results.clear());
    }),
    ("a result lies at", |p| {
        let last = p.plans.len() - 1;
        p.plans[last].iter_mut().for_each(|plan| plan.results[0] = Operand::Arena { offset: 0, bytes: 4 });
    }),
    ("function", |p| p.module.main[0].func = 77),
];

#[test]
fn one_change_is_refused() {
    let (_, program) = compiled("llama", 16);
    for (at, (word, change)) in CHANGES.iter().enumerate() {
        let mut changed = program.clone();
        change(&mut changed);
        assert!(changed != program, "change {at} ({word}) changes nothing");
        let problems = verify_program(&changed).expect_err(word).join("\n");
        assert!(problems.contains(word), "change {at}: `{word}` is not in\n{problems}");
        assert!(decode(&encode(&changed)).is_err(), "change {at} ({word}) is read");
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// Spoils bytes in one or two places: other bytes, some more, some less, or an end.
fn spoil(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(2) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at.max(9)),
            1 => drop(bytes.splice(at..at, [0xff; 3])),
            2 => drop(bytes.splice(at..(at + 1).min(bytes.len()), [])),
            3 => bytes[at] = 0xff,
            4 => bytes[at] = 0,
            _ => bytes[at] ^= 1 << random.below(8),
        }
    }
}

/// Runs a first step, and says whether it could: what is refused is refused with words.
fn runs(program: Program, checkpoint: &Checkpoint, tier: Tier) -> bool {
    let device = Box::new(CpuDevice::new(CpuOptions { threads: 1, tier }));
    let options = ExecutableOptions {
        kv_pages: 2,
        max_sequences: 1,
        table_stride: 2,
        layers: None,
        experts: None,
        rest: None,
        progress: &mut |_| {},
    };
    let loaded = Executable::load(device, program, checkpoint, options);
    match loaded.map_err(|e| e.to_string()).and_then(|mut e| e.warm_up().map_err(|e| e.to_string())) {
        Ok(()) => true,
        Err(reason) => {
            assert!(!reason.contains("out of bounds") && !reason.contains("is not below"), "{reason}");
            // Experts are computed, so that no host and no proof holds them in range: their launch looks.
            assert!(!reason.contains("out of range") || reason.starts_with("kernel expert_linear"), "{reason}");
            false
        }
    }
}

/// Workgroups of the launches of a step of one token: what a spoiled grid could make endless.
pub(super) fn groups(program: &Program) -> u64 {
    let sizes = swiftlm_ir::plan::StepSizes { tokens: 1, rows: 1, table_stride: 2, last_position: 63, segments: 1 };
    let all = program.plans.iter().flatten().flat_map(|plan| &plan.dispatches);
    let stages = all.flat_map(|d| &d.stages);
    let groups = stages.map(|s| s.grid.iter().map(|axis| u64::from(axis.count(&sizes))).product::<u64>());
    groups.fold(0, u64::saturating_add)
}

/// The first seed, and how many are tried.
pub(super) fn cases() -> (u64, u64) {
    let variable = |name: &str, default: u64| std::env::var(name).map_or(default, |v| v.parse().expect("a number"));
    (variable("SLM_FUZZ_SEED", 0), variable("SLM_FUZZ_CASES", 400))
}

/// Runs a first step of a program on the micro-kernels and, where it ends soon, on the interpreter; how often it could.
pub(super) fn tried(program: Program, checkpoint: &Checkpoint, usual: u64) -> usize {
    let soon = groups(&program) <= 2 * usual;
    let native = usize::from(runs(program.clone(), checkpoint, Tier::Native));
    native + usize::from(soon && runs(program, checkpoint, Tier::Interpreter))
}

#[test]
fn spoiled_bytes_never_panic() {
    let (first, cases) = cases();
    let sound: Vec<(Checkpoint, Program)> = ["llama", "qwen3_moe-mlx4"].map(|name| compiled(name, 16)).into();
    let bytes: Vec<Vec<u8>> = sound.iter().map(|(_, program)| encode(program)).collect();
    let usual: Vec<u64> = sound.iter().map(|(_, program)| groups(program)).collect();
    let (mut refused, mut loaded, mut ran) = (0, 0, 0);
    for seed in first..first.saturating_add(cases) {
        let mut random = Random(seed);
        let which = random.below(sound.len());
        let mut spoiled = bytes[which].clone();
        spoil(&mut spoiled, &mut random);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let Ok(program) = decode(&spoiled) else { return (1, 0, 0) };
            (0, 1, tried(program, &sound[which].0, usual[which]))
        }));
        let Ok(outcome) = outcome else {
            panic!("the input of SLM_FUZZ_SEED={seed} SLM_FUZZ_CASES=1 failed; its message is above");
        };
        (refused, loaded, ran) = (refused + outcome.0, loaded + outcome.1, ran + outcome.2);
    }
    // Inputs that are all refused at the first look would test little.
    if cases >= 400 {
        assert!(refused > 0 && loaded > 8 && ran > 8, "{refused} refused, {loaded} verified, {ran} ran");
    }
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-programs.txt");
    let figures = format!("{cases} inputs from seed {first}: {refused} refused, {loaded} verified, {ran} ran\n");
    std::fs::write(file, figures).expect("the figures can be written");
}
