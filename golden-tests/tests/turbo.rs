//! Keys and values of older tokens in TurboQuant archives, against the host reference and the rows' logits.

use swiftlm_compiler::{Choices, CompileOptions};
use swiftlm_golden_tests::fixture::Row;
use swiftlm_golden_tests::run::{Loaded, On, compile, compile_with, exact, relative_error};
use swiftlm_ir::quant::turbo::Scale;
use swiftlm_ir::quant::{Archive, Turbo};
use swiftlm_ir::reference::{Session, Token};
use swiftlm_models::{ArchivePolicy, BuildOptions};

/// Rows of one kind each: grouped heads, norms of heads, biases, bounded scores, windows that are not archived. No experts:
/// near ties of a router go either way.
const ROWS: [&str; 5] = ["llama", "qwen3", "qwen2", "gemma2", "gemma3_text"];

fn archive(k: u8, v: u8, scale: Scale, centered: bool) -> BuildOptions {
    let format = |bits| Turbo::new(bits, scale).expect("1 to 4 bits");
    let archive = Archive { k: format(k), v: format(v), first: 32, last: 32, centered };
    BuildOptions { archive: Some(ArchivePolicy { archive, boundary: 0, careful: false }), ..exact() }
}

fn kinds() -> Vec<BuildOptions> {
    vec![
        archive(4, 4, Scale::Matched, false),
        archive(4, 3, Scale::Matched, true),
        archive(3, 3, Scale::Unbiased, false),
        archive(2, 1, Scale::Matched, true),
    ]
}

fn logits(row: &Row, build: &BuildOptions, on: On, chunk: usize) -> Vec<Vec<f32>> {
    Loaded::new(row, compile(row, build, 512), on.open(2), 1).prompt(0, &row.prompt, chunk)
}

/// What the definitions say, without launches, pages or rules.
fn defined(row: &Row, build: &BuildOptions) -> Vec<f32> {
    let model = swiftlm_models::build(&row.config, &row.index, build).unwrap_or_else(|e| panic!("{}: {e}", row.name));
    let mut session = Session::new(&model.module, row).unwrap_or_else(|e| panic!("{}: {e}", row.name));
    let token = |(position, id): (usize, &u32)| Token { id: *id, sequence: 0, position: position as u32 };
    let tokens: Vec<Token> = row.prompt.iter().enumerate().map(token).collect();
    let mut logits = vec![];
    for tokens in tokens.chunks(64) {
        let rows: Vec<usize> = (0..tokens.len()).collect();
        logits.extend(session.step(tokens, &rows).unwrap_or_else(|e| panic!("{}: {e}", row.name)).concat());
    }
    logits
}

/// A number near a border between two codes may get either, so this is no equality.
#[test]
fn every_backend_computes_what_the_definitions_say() {
    for name in ROWS {
        let row = Row::open(name);
        for build in kinds() {
            let defined = defined(&row, &build);
            let lost = relative_error(&defined, &row.logits);
            for on in [On::Interpreter, On::Cpu, On::Wgpu] {
                let error = relative_error(&logits(&row, &build, on, 64).concat(), &defined);
                assert!(error < 1e-3, "{name} on {on:?}, {:?}: {error:.1e}, codes lose {lost:.1e}", build.archive);
            }
            assert!(lost > 5e-3, "{name}: codes lose {lost:.1e}, so little that nothing was archived");
        }
    }
}

#[test]
fn chunks_and_neighbours_change_nothing() {
    for name in ["llama", "qwen3"] {
        let row = Row::open(name);
        for build in [archive(4, 4, Scale::Matched, false), archive(4, 3, Scale::Matched, true)] {
            let whole = logits(&row, &build, On::Cpu, 512);
            for chunk in [1, 7, 64] {
                assert_eq!(logits(&row, &build, On::Cpu, chunk), whole, "{name} in chunks of {chunk}");
            }
            let mut both = Loaded::new(&row, compile(&row, &build, 512), On::Cpu.open(2), 2);
            for (position, id) in (0..).zip(&row.prompt) {
                let step = both.step(&[(1, position, *id), (0, position, *id)]);
                assert_eq!(step[0], whole[position as usize], "{name} beside another");
                assert_eq!(step[0], step[1], "{name}, both alike");
            }
        }
    }
}

/// Pages of recent tokens that are used again, many times over, give what pages give that are used once.
#[test]
fn pages_used_again_change_nothing() {
    let row = Row::open("llama");
    let ids: Vec<u32> = row.prompt.iter().copied().cycle().take(500).collect();
    for build in [archive(4, 4, Scale::Matched, false), archive(4, 3, Scale::Matched, true)] {
        let run =
            |chunk: usize| Loaded::new(&row, compile(&row, &build, chunk), On::Cpu.open(2), 1).prompt(0, &ids, chunk);
        let once = run(500);
        for chunk in [1, 16, 100] {
            assert_eq!(run(chunk), once, "chunks of {chunk}");
        }
    }
}

/// Appending, going back and appending again is as if one had never gone wrong.
#[test]
fn going_back_changes_nothing() {
    let row = Row::open("llama");
    let build = archive(4, 4, Scale::Matched, true);
    let (kept, wrong) = (&row.prompt[..110], &row.prompt[20..60]);
    let whole = logits(&row, &build, On::Cpu, 64);
    let mut loaded = Loaded::new(&row, compile(&row, &build, 512), On::Cpu.open(2), 1);
    loaded.prompt(0, kept, 64);
    let mark = loaded.mark(0);
    loaded.feed(0, wrong, 64);
    let from = loaded.rewind(0, mark);
    let again = loaded.feed(0, &row.prompt[from..], 64);
    assert_eq!(again[..], whole[from..]);
}

/// Without rules and merges, and with choices made at random, a program computes the same.
#[test]
fn choices_decide_nothing() {
    let row = Row::open("qwen3");
    let build = archive(4, 4, Scale::Matched, false);
    let defined = defined(&row, &build);
    for choices in [Choices::Plain, Choices::Random(1), Choices::Random(2), Choices::Random(3)] {
        let options = CompileOptions { chunk: 64, max_rows: 64, choices, ..CompileOptions::default() };
        let program = compile_with(&row, &build, options);
        let logits = Loaded::new(&row, program, On::Interpreter.open(2), 1).prompt(0, &row.prompt, 64);
        let error = relative_error(&logits.concat(), &defined);
        assert!(error < 1e-3, "{choices:?}: {error:.1e}");
    }
}

/// `--turbo-kv` leaves models alone that others found not to stand it; who names the codes gets them.
#[test]
fn careful_policies_look_at_the_family() {
    for (name, archived) in [("gpt_oss", false), ("qwen2", false), ("qwen3", true), ("llama", true)] {
        let row = Row::open(name);
        for careful in [false, true] {
            let mut build = archive(4, 4, Scale::Matched, false);
            build.archive.iter_mut().for_each(|policy| policy.careful = careful);
            let model =
                swiftlm_models::build(&row.config, &row.index, &build).unwrap_or_else(|e| panic!("{name}: {e}"));
            let kept = model.module.states.iter().filter(|state| state.to_string().contains("archive")).count();
            assert_eq!(kept > 0, archived || !careful, "{name}, careful: {careful}");
            assert_eq!(model.note.is_some(), careful && !archived, "{name}: {:?}", model.note);
        }
    }
}
