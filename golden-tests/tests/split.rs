//! Layers on two devices compute what they compute on one.

use swiftlm_golden_tests::fixture::{Row, names};
use swiftlm_golden_tests::run::{Loaded, On, Placed, arg_max, compile, exact, relative_error};
use swiftlm_ir::plan::Program;
use swiftlm_models::{Activations, BuildOptions};
use swiftlm_runtime::executable::Rest;

const CHUNK: usize = 64;

/// The first `first` calls on one device, the others on another.
fn load(row: &Row, program: &Program, first: Option<usize>, on: [On; 2]) -> Loaded {
    let rest = first.map(|first| Rest { first, device: on[1].open(2) });
    Loaded::placed(row, program.clone(), on[0].open(2), 1, Placed { rest, ..Placed::default() })
}

/// A prompt in chunks, then a greedy continuation.
fn run(loaded: &mut Loaded, row: &Row) -> Vec<Vec<f32>> {
    let mut logits = loaded.prompt(0, &row.prompt, CHUNK / 4);
    for position in row.prompt.len()..row.prompt.len() + 6 {
        let id = arg_max(logits.last().expect("a prompt is not empty"));
        logits.extend(loaded.step(&[(0, position as u32, id)]));
    }
    logits
}

#[test]
fn another_device_of_the_same_kind_changes_no_bit() {
    for name in names() {
        let row = Row::open(&name);
        let program = compile(&row, &BuildOptions { activations: Activations::int(16), ..exact() }, CHUNK);
        let whole = run(&mut load(&row, &program, None, [On::Cpu; 2]), &row);
        for first in 1..program.module.main.len() {
            let split = run(&mut load(&row, &program, Some(first), [On::Cpu; 2]), &row);
            assert!(split == whole, "{name} from call {first} on");
        }
    }
}

#[test]
fn a_gpu_behind_the_cpu_meets_the_reference() {
    for name in names() {
        let row = Row::open(&name);
        let program = compile(&row, &exact(), CHUNK);
        // The middle: layers, and in hybrid models both kinds of state, are on either side.
        let first = program.module.main.len() / 2;
        let logits = load(&row, &program, Some(first), [On::Cpu, On::Wgpu]).prompt(0, &row.prompt, CHUNK).concat();
        let error = relative_error(&logits, &row.logits);
        assert!(error < 1e-4, "{name} from call {first} on: {error:.2e}");
    }
}

/// Layers that another device computes with take inputs as they are, those before round them as before.
#[test]
fn only_layers_before_are_rounded() {
    let row = Row::open("llama-mlx4");
    let rounded = Activations::int(8);
    let logits = |activations, f32_from| {
        let build = BuildOptions { activations, f32_from, ..exact() };
        load(&row, &compile(&row, &build, CHUNK), None, [On::Cpu; 2]).prompt(0, &row.prompt, CHUNK).concat()
    };
    let (whole, none, half) = (logits(rounded, None), logits(Activations::F32, None), logits(rounded, Some(1)));
    assert!(half != whole && half != none && whole != none);
    assert_eq!(logits(rounded, Some(0)), none);
}
