//! Loading and stepping against the mock device.

mod common;

use common::{Shape, WeightBytes, executable, logits_after, program};
use swiftlm_device::Usage;
use swiftlm_ir::ty::{PAGE_TOKENS, Window};
use swiftlm_runtime::executable::{Row, TableUpdate, Want};
use swiftlm_runtime::{Batch, Executable, ExecutableOptions, LoadError, Progress, StepError};

fn prompt_batch(ids: &[u32], rows: Vec<Row>) -> Batch {
    Batch {
        ids: ids.to_vec(),
        positions: (0..ids.len() as u32).collect(),
        sequences: vec![1; ids.len()],
        rows,
        table: vec![TableUpdate { window: Window::ALL, row: 1, first: 0, pages: vec![5, 2] }],
        ..Batch::default()
    }
}

#[test]
fn whole_and_segmented_weights_arrive_in_their_layouts() {
    let (_, control) = executable(Shape::default(), 8, 2, 4);
    let odd = control.contents("odd");
    assert_eq!(odd.len(), 1, "a whole weight has one buffer");
    let expected: Vec<u8> = (0..30).map(WeightBytes::at).chain([0, 0]).collect();
    assert_eq!(odd[0], expected, "3 rows of 5 halves and the padding");
    // 11 rows of 32 4-bit codes are 176 bytes, then 22 of scales padded to 24, and as many of biases.
    let segment = |first: usize, count: usize| -> Vec<u8> {
        let part = |start: usize, row: usize| {
            let padding = (count * row).next_multiple_of(4) - count * row;
            let bytes = (start + first * row..start + (first + count) * row).map(WeightBytes::at);
            bytes.chain(std::iter::repeat_n(0, padding))
        };
        part(0, 16).chain(part(176, 2)).chain(part(200, 2)).collect()
    };
    assert_eq!(control.contents("split"), [segment(0, 4), segment(4, 7)]);
}

#[test]
fn progress_ends_at_the_total() {
    let (device, _) = common::MockDevice::new(1 << 20);
    let mut seen = vec![];
    let progress = &mut |p| seen.push(p);
    let options = ExecutableOptions {
        kv_pages: 8,
        max_sequences: 2,
        table_stride: 4,
        layers: None,
        experts: None,
        rest: None,
        progress,
    };
    Executable::load(Box::new(device), program(Shape::default()), &WeightBytes, options).expect("loads");
    assert!(seen.contains(&Progress::Weights { done: 250, total: 250 }), "{seen:?}");
    let last = seen.last().copied();
    assert!(matches!(last, Some(Progress::Kernels { done, total }) if done == total && total > 0), "{last:?}");
}

#[test]
fn a_step_reads_back_only_what_its_rows_want() {
    let (mut executable, control) = executable(Shape::default(), 8, 2, 4);
    let ids: Vec<u32> = (0..40).collect();
    let row = |token, want| Row { token, want };

    let read = |executable: &mut Executable, rows: Vec<Row>| {
        let before = control.read.load(std::sync::atomic::Ordering::Relaxed);
        let output = executable.step(&prompt_batch(&ids, rows)).expect("steps").clone();
        (output, control.read.load(std::sync::atomic::Ordering::Relaxed) - before)
    };
    let (output, bytes) = read(&mut executable, vec![row(39, Want::Greedy)]);
    assert_eq!((output.greedy(0), output.logits(0), bytes), (Some(common::greedy_reply(&ids, 1)[0]), None, 4));

    let (output, bytes) =
        read(&mut executable, vec![row(3, Want::Logits), row(4, Want::Greedy), row(39, Want::Logits)]);
    assert_eq!(output.logits(0), Some(&logits_after(&ids[..4])[..]));
    assert_eq!(output.logits(1), None);
    assert_eq!(output.greedy(1), Some(common::greedy_reply(&ids[..5], 1)[0]));
    assert_eq!(output.logits(2), Some(&logits_after(&ids)[..]));
    assert_eq!(bytes, 3 * 4 + 2 * common::VOCABULARY * 4);

    let (_, bytes) = read(&mut executable, vec![]);
    let last = control.steps.lock().unwrap().last().copied().expect("a step ran");
    assert_eq!((bytes, last.recordings), (0, 1), "without rows the head does not run");
}

#[test]
fn the_page_table_is_written_only_where_it_changes() {
    let (mut executable, control) = executable(Shape::default(), 8, 2, 4);
    executable.step(&prompt_batch(&[1, 2, 3], vec![])).expect("steps");
    let table = || control.contents("the page table")[0].chunks(4).map(|b| b[0]).collect::<Vec<u8>>();
    assert_eq!(table(), [0, 0, 0, 0, 5, 2, 0, 0]);
    let mut next = prompt_batch(&[4], vec![]);
    next.table = vec![TableUpdate { window: Window::ALL, row: 1, first: 2, pages: vec![7] }];
    executable.step(&next).expect("steps");
    assert_eq!(table(), [0, 0, 0, 0, 5, 2, 7, 0]);
}

#[test]
fn batches_that_would_leave_their_buffers_are_refused_and_not_run() {
    let (mut executable, control) = executable(Shape::default(), 8, 2, 4);
    let good = prompt_batch(&[1, 2, 3], vec![Row { token: 2, want: Want::Greedy }]);
    type Spoil = fn(&mut Batch);
    let bad: [(&str, Spoil); 10] = [
        ("vocabulary", |b| b.ids[0] = common::VOCABULARY as u32),
        ("position", |b| b.positions[2] = 2 * PAGE_TOKENS as u32),
        ("table row", |b| b.sequences[1] = 0),
        ("table row", |b| b.sequences[1] = 99),
        ("page table row", |b| b.table[0].row = 2),
        ("page 8", |b| b.table[0].pages[1] = 8),
        ("can hold 4", |b| b.table[0].pages = vec![0; 5]),
        ("holds 0", |b| b.table[0].first = 1),
        ("wants logits", |b| b.rows[0].token = 3),
        ("tokens", |b| b.ids = vec![0; common::CHUNK + 1]),
    ];
    for (part, spoil) in bad {
        let mut batch = good.clone();
        spoil(&mut batch);
        match executable.step(&batch) {
            Err(StepError::Batch(message)) => assert!(message.contains(part), "`{message}` lacks `{part}`"),
            other => panic!("`{part}` was not refused: {other:?}"),
        }
    }
    assert_eq!(control.step_count(), 0);
    executable.step(&good).expect("the good batch runs");
}

#[test]
fn programs_and_options_that_do_not_fit_are_refused() {
    let load = |max_binding, kv_pages, spoil: fn(&mut swiftlm_ir::plan::Program)| {
        let (device, _) = common::MockDevice::new(max_binding);
        let mut program = program(Shape::default());
        spoil(&mut program);
        let options = ExecutableOptions {
            kv_pages,
            max_sequences: 2,
            table_stride: 4,
            layers: None,
            experts: None,
            rest: None,
            progress: &mut |_| {},
        };
        Executable::load(Box::new(device), program, &WeightBytes, options).map(drop)
    };
    assert_eq!(load(1 << 20, 8, |_| {}), Ok(()));
    assert!(matches!(load(1 << 20, 0, |_| {}), Err(LoadError::Options(_))));
    // A page of keys is 128 bytes.
    assert!(matches!(load(1024, 9, |_| {}), Err(LoadError::Options(m)) if m.contains("at most 8 pages")));
    // The larger segment of the split weight is 144 bytes.
    assert_eq!(load(144, 1, |_| {}), Ok(()));
    assert!(matches!(load(143, 1, |_| {}), Err(LoadError::Program(m)) if m.contains("compile it for this device")));
    assert!(matches!(load(1 << 20, 8, |p| p.call_weights[1].clear()), Err(LoadError::Program(_))));
    assert!(matches!(load(1 << 20, 8, |p| p.kernels.truncate(1)), Err(LoadError::Program(_))));
    assert!(matches!(load(1 << 20, 8, |p| p.arena_bytes = 16), Err(LoadError::Program(_))));
    assert!(matches!(load(1 << 20, 8, |p| p.plans[1].clear()), Err(LoadError::Program(_))));
    assert!(matches!(load(1 << 20, 8, |p| p.weights[1].ty.rows = 9), Err(LoadError::Program(_))));
}

#[test]
fn warming_up_runs_body_and_head_and_leaves_no_pages_in_the_table() {
    let (mut executable, control) = executable(Shape::default(), 8, 2, 4);
    executable.warm_up().expect("warms up");
    let steps = control.steps.lock().unwrap().clone();
    assert_eq!((steps.len(), steps[0].recordings), (1, 2));
    let mut batch = prompt_batch(&[1], vec![]);
    (batch.sequences, batch.table) = (vec![0], vec![]);
    assert!(matches!(executable.step(&batch), Err(StepError::Batch(_))), "row 0 holds no page any more");
}

#[test]
fn profiling_names_each_launch() {
    let (mut executable, _) = executable(Shape::default(), 8, 2, 4);
    let batch = prompt_batch(&[1, 2, 3], vec![Row { token: 2, want: Want::Greedy }]);
    let launches = executable.profile_step(&batch).expect("profiles");
    let named: Vec<_> = launches.iter().map(|l| (l.loc.as_str(), l.template, l.nanoseconds)).collect();
    assert_eq!(named, [("layers.0.append", "append", 7), ("read", "rows", 7)]);
}

#[test]
fn state_and_arena_have_the_sizes_of_the_plan() {
    let (_, control) = executable(Shape::default(), 8, 2, 4);
    let sizes = |what: &str| control.contents(what).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes("key pages"), [8 * PAGE_TOKENS * 4]);
    assert_eq!(sizes("value pages"), [8 * PAGE_TOKENS * 2]);
    let arena = control.buffers.lock().unwrap().iter().filter(|(_, usage, _)| *usage == Usage::ReadWrite).count();
    assert_eq!(arena, 3, "keys, values and one arena");
}
