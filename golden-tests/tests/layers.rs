//! Layers that take turns in memory compute what they compute when all are in memory.

use std::sync::Arc;

use swiftlm_golden_tests::experts::{FromWeights, Weights};
use swiftlm_golden_tests::faults::{Fault, Faulty};
use swiftlm_golden_tests::fixture::{Row, names};
use swiftlm_golden_tests::run::{Loaded, On, Placed, arg_max, compile, exact, relative_error};
use swiftlm_ir::plan::Program;
use swiftlm_models::{Activations, BuildOptions};
use swiftlm_runtime::StepError;
use swiftlm_runtime::experts::{ExpertStats, layer_bytes, layers, streamed};

const CHUNK: usize = 64;

/// Rows of which some layers can take turns, with a program.
fn rows(activations: Activations) -> Vec<(Row, Program)> {
    let build = BuildOptions { activations, ..exact() };
    let compiled = names().into_iter().map(|name| {
        let row = Row::open(&name);
        let program = compile(&row, &build, CHUNK);
        (row, program)
    });
    compiled.filter(|(row, program)| !row.has_experts() && layers(program).len() > 1).collect()
}

fn load(row: &Row, program: &Program, stay: Option<usize>, on: On, source: Weights) -> Loaded {
    let source = stay.map(|_| FromWeights::shared(source));
    Loaded::placed(row, program.clone(), on.open(2), 1, Placed { layers: stay, experts: source, rest: None })
}

fn source(row: &Row) -> Weights {
    Arc::new(Row::open(&row.name))
}

/// A prompt in chunks, then a greedy continuation: every logit, and what was read.
fn run(loaded: &mut Loaded, row: &Row) -> (Vec<Vec<f32>>, Option<ExpertStats>) {
    let mut logits = loaded.prompt(0, &row.prompt, CHUNK / 4);
    for position in row.prompt.len()..row.prompt.len() + 12 {
        let id = arg_max(logits.last().expect("a prompt is not empty"));
        logits.extend(loaded.step(&[(0, position as u32, id)]));
    }
    (logits, loaded.executable().layer_stats())
}

#[test]
fn turns_change_no_bit_on_the_cpu() {
    let mut families = 0;
    for activations in [Activations::F32, Activations::int(16)] {
        for (row, program) in rows(activations) {
            let (whole, none) = run(&mut load(&row, &program, None, On::Cpu, source(&row)), &row);
            assert_eq!(none, None, "{}: nothing is read where all layers are in memory", row.name);
            for stay in 0..layers(&program).len() - 1 {
                let (logits, stats) = run(&mut load(&row, &program, Some(stay), On::Cpu, source(&row)), &row);
                let stats = stats.expect("there is a store");
                assert!(logits == whole, "{} with {stay} layers that stay, {activations:?}", row.name);
                let rooms = streamed(&program, stay).iter().filter(|call| call.room == call.call).count();
                if rooms < streamed(&program, stay).len() {
                    assert!(stats.misses > 0 && stats.bytes > 0, "{} with {stay}: {stats:?}", row.name);
                }
            }
            families += 1;
        }
    }
    assert!(families >= 48, "{families} rows have layers that can take turns");
}

#[test]
fn turns_meet_the_reference_on_other_devices() {
    for (row, program) in rows(Activations::F32) {
        for on in [On::Interpreter, On::Wgpu] {
            let logits = load(&row, &program, Some(0), on, source(&row)).prompt(0, &row.prompt, CHUNK).concat();
            let error = relative_error(&logits, &row.logits);
            assert!(error < 1e-4, "{} on {on:?}: {error:.2e}", row.name);
        }
    }
}

/// What is held is what the plan counts: all weights, without those of layers that wait outside.
#[test]
fn what_waits_outside_is_not_held() {
    for (row, program) in rows(Activations::F32) {
        let all = load(&row, &program, None, On::Interpreter, source(&row)).executable().weight_bytes();
        for stay in 0..layers(&program).len() {
            let calls = streamed(&program, stay);
            assert_eq!(calls.len(), layers(&program).len() - stay);
            let outside: usize =
                calls.iter().filter(|call| call.room != call.call).map(|call| layer_bytes(&program, call.call)).sum();
            let held = load(&row, &program, Some(stay), On::Interpreter, source(&row)).executable().weight_bytes();
            // Layouts have padding, which counts in one of the two.
            assert!(held.abs_diff(all - outside) < 4096, "{}: {held} of {all} without {outside}", row.name);
        }
    }
}

/// A failed read fails its step and nothing else: once the disk is well again, so are the results.
#[test]
fn faults_are_errors_and_leave_nothing_wrong_behind() {
    let (row, program) = rows(Activations::int(16)).into_iter().next().expect("a row has layers");
    // Not every read, so that faults strike in every layer.
    let faulty = Faulty::new(source(&row), 7);
    let mut loaded = load(&row, &program, Some(0), On::Cpu, faulty.clone());
    let tokens: Vec<(u32, u32, u32)> = (0..20).map(|p| (0, p, row.prompt[p as usize])).collect();
    let start = loaded.mark(0);
    let well = loaded.step(&tokens);
    let again = |loaded: &mut Loaded| {
        loaded.rewind(0, start);
        loaded.step(&tokens)
    };
    assert!((0..3).all(|_| again(&mut loaded) == well));
    for _ in 0..10 {
        for (fault, words) in [(Fault::Error, "weights.bin: byte"), (Fault::Flip, "is not what it was")] {
            faulty.set(Some(fault));
            // What was read ahead may still be well.
            let error = (0..10).find_map(|_| {
                loaded.rewind(0, start);
                loaded.try_step(&tokens).err()
            });
            let error = error.expect("a layer cannot be read");
            assert!(matches!(error, StepError::Weights(_)), "{error}");
            assert!(error.to_string().contains(words), "{error}");
            faulty.set(None);
            // So may what was read ahead be wrong: that is noticed, too, and read again.
            let recovered = (0..3).any(|_| {
                loaded.rewind(0, start);
                loaded.try_step(&tokens).is_ok_and(|logits| *logits == well)
            });
            assert!(recovered && again(&mut loaded) == well, "after {fault:?}");
        }
    }
}
