//! Recurrent states of a whole model: going back, and what the host refuses before a kernel relies on it.

use swiftlm_golden_tests::fixture::Row;
use swiftlm_golden_tests::run::{Loaded, On, compile, exact};
use swiftlm_ir::ty::PAGE_TOKENS;
use swiftlm_runtime::executable::{Row as WantRow, Want};
use swiftlm_runtime::state::Transfer;
use swiftlm_runtime::{Batch, Executable, ExecutableOptions};

/// Append a, mark, append b, rewind, append c gives what a, c gives, back at a snapshot: nothing comes again if it was taken at the mark, what came
/// behind it if it was taken before, and everything without one.
#[test]
fn rewinding_to_snapshots_changes_nothing() {
    const CHUNK: usize = 16;
    for name in ["qwen3_5", "falcon_h1"] {
        let row = Row::open(name);
        let (ids, other) = (row.endless(300), row.endless(400).split_off(130));
        let load = |on: On| Loaded::new(&row, compile(&row, &exact(), CHUNK), on.open(2), 1);
        let ways = [(Some(140), 140, 170), (Some(97), 140, 250), (None, 20, 60), (Some(256), 256, 300)];
        let on_cpu = ways.map(|way| (On::Cpu, way));
        for (on, (snapshot, mark, end)) in on_cpu.into_iter().chain([(On::Wgpu, (Some(40), 50, 60))]) {
            let mut loaded = load(on);
            loaded.prompt(0, &ids[..snapshot.unwrap_or(0)], CHUNK);
            assert!(loaded.snapshot(0), "there is room for a snapshot");
            loaded.feed(0, &ids[snapshot.unwrap_or(0)..mark], CHUNK);
            let to = loaded.mark(0);
            loaded.feed(0, &ids[mark..end], CHUNK);
            let from = loaded.rewind(0, to);
            assert_eq!(from, snapshot.unwrap_or(0), "back to the snapshot");
            loaded.feed(0, &ids[from..mark], CHUNK);
            let expected = load(on).prompt(0, &[&ids[..mark], &other[..60]].concat(), CHUNK);
            assert_eq!(
                loaded.feed(0, &other[..60], CHUNK),
                expected[mark..],
                "{name}, {on:?}, {snapshot:?}, {mark} to {end}"
            );
        }
    }
}

/// A step of (unit, position) tokens.
fn batch(executable: &Executable, tokens: &[(u32, u32)]) -> Batch {
    Batch {
        ids: vec![3; tokens.len()],
        positions: tokens.iter().map(|t| t.1).collect(),
        sequences: vec![0; tokens.len()],
        rows: vec![WantRow { token: tokens.len() as u32 - 1, want: Want::Logits }],
        table: executable.alone(PAGE_TOKENS),
        units: tokens.iter().map(|t| t.0).collect(),
        transfers: vec![],
    }
}

#[test]
fn steps_that_do_not_follow_are_refused_and_change_nothing() {
    let row = Row::open("qwen3_5");
    let options = ExecutableOptions {
        kv_pages: 4,
        max_sequences: 2,
        table_stride: 4,
        layers: None,
        experts: None,
        rest: None,
        progress: &mut |_| {},
    };
    let program = compile(&row, &exact(), 16);
    let mut executable = Executable::load(On::Cpu.open(1), program, &row, options).expect("a row loads");
    let mut step = |tokens: &[(u32, u32)], transfers: &[(u32, u32)]| {
        let mut batch = batch(&executable, tokens);
        batch.transfers = transfers.iter().map(|(from, to)| Transfer { from: *from, to: *to }).collect();
        let output = executable.step(&batch).map_err(|e| e.to_string())?;
        Ok::<Vec<f32>, String>(output.logits(0).expect("the last token wants logits").to_vec())
    };
    step(&[(1, 0), (1, 1)], &[]).expect("a sequence begins");
    type Pairs<'a> = &'a [(u32, u32)];
    let refused: [(Pairs<'_>, Pairs<'_>, &str); 6] = [
        (&[(1, 3)], &[], "position 3 behind a recurrent state of 2 tokens: rewind the sequence"),
        (&[(0, 2)], &[], "position 2 behind a recurrent state of 0 tokens"),
        (&[(1, 2), (0, 0), (1, 3)], &[], "tokens of unit 1 stand apart"),
        (&[(1, 2), (1, 4)], &[], "positions of unit 1 from 2 on do not follow one another"),
        (&[(4, 0)], &[], "unit 4 of the recurrent states: there are 4"),
        (&[(1, 2)], &[(1, 9)], "unit 9 of the recurrent states: there are 4"),
    ];
    for (tokens, transfers, expected) in refused {
        let error = step(tokens, transfers).expect_err("the step does not follow");
        assert!(error.contains(expected), "{error}");
    }
    // A copy goes on where its original was.
    let copied = step(&[(3, 2)], &[(1, 3)]).expect("the copy holds two tokens");
    assert_eq!(step(&[(1, 2)], &[]).expect("it follows"), copied);
    step(&[(3, 0)], &[]).expect("a unit begins again wherever it was");
}
