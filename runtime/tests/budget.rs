//! The memory plan against sums done by hand.

mod common;

use common::{CHUNK, Shape, WeightBytes, program};
use swiftlm_device::{NullDevice, Target, Usage};
use swiftlm_ir::plan::Program;
use swiftlm_ir::quant::Format;
use swiftlm_ir::ty::{PAGE_TOKENS, Recurrent, StateType, Window};
use swiftlm_runtime::budget::{ContextWish, DoesNotFit, MemoryPlan, MemoryRequest, RingPlan};
use swiftlm_runtime::state::{recurrent_units, ring_pages};
use swiftlm_runtime::{Executable, ExecutableOptions};

const MIB: u64 = 1 << 20;
/// A page is 32 keys of 4 bytes and 32 values of 2.
const PAGE: u64 = 192;

fn target(max_binding: usize, memory: Option<u64>) -> Target {
    Target { name: "null".into(), max_binding, subgroup: (1, 1), shared_bytes: 0, memory }
}

fn plan(target: &Target, limit: u64, context: ContextWish, sequences: Option<usize>) -> Result<MemoryPlan, DoesNotFit> {
    MemoryPlan::new(&program(Shape::default()), target, MemoryRequest { limit, context, sequences, layers: None })
}

#[test]
fn with_room_the_pool_serves_every_sequence() {
    let wide = target(1 << 30, None);
    let plan = plan(&wide, 1000 * MIB, ContextWish::UpTo(32_768), None).expect("fits");
    assert_eq!(
        (plan.max_sequences, plan.context(), plan.page_bytes),
        (12, 32_768, PAGE),
        "12 rows want logits at most"
    );
    assert_eq!(plan.kv_pages * PAGE_TOKENS, 12 * 4096, "4096 tokens for each, more than one whole context");
    assert_eq!(plan.total(), plan.weights + plan.arena + plan.inputs + plan.process + plan.kv());
    let one = self::plan(&wide, 1000 * MIB, ContextWish::UpTo(32_768), Some(1)).expect("fits");
    assert_eq!(one.kv_pages * PAGE_TOKENS, 32_768, "one whole context");
}

/// One state that keeps every token, two with a window, one with another.
fn with_windows() -> Program {
    let mut program = program(Shape::default());
    let ring = |window, heads| StateType::Paged {
        window,
        heads,
        dim: 1,
        k: Format::F32,
        v: Format::F16,
        latent: None,
        archive: None,
    };
    program.module.states.extend([ring(20, 1), ring(70, 2), ring(20, 1)]);
    program
}

#[test]
fn windows_take_what_they_need_and_no_more() {
    let (program, wide) = (with_windows(), target(1 << 30, None));
    let plan = |limit, context, sequences| {
        MemoryPlan::new(&program, &wide, MemoryRequest { limit, context, sequences: Some(sequences), layers: None })
            .expect("fits")
    };
    let long = plan(1000 * MIB, ContextWish::UpTo(32_768), 4);
    let ring = |window| RingPlan {
        window: Window::last(window),
        page_bytes: 2 * PAGE,
        pages: 4 * ring_pages(Window::last(window), CHUNK),
    };
    assert_eq!((long.page_bytes, long.kv_pages * PAGE_TOKENS), (PAGE, 32_768));
    assert_eq!(long.rings, [ring(20), ring(70)]);
    assert_eq!(long.kv(), PAGE * 1024 + 2 * PAGE * (ring(20).pages + ring(70).pages) as u64);
    let shown = long.to_string();
    for part in ["KV pool, 32768 tokens", "KV of the last 20 tokens", "KV of the last 70 tokens"] {
        assert!(shown.contains(part), "`{part}` is missing from\n{shown}");
    }
    // Short sequences fill no window.
    assert_eq!(
        plan(1000 * MIB, ContextWish::UpTo(32), 1).rings.iter().map(|ring| ring.pages).collect::<Vec<_>>(),
        [1, 1]
    );
    // Where memory is short, what is left goes to the pool to the last page.
    let limit = long.total() - 100 * PAGE - 1;
    let tight = plan(limit, ContextWish::UpTo(32_768), 4);
    assert_eq!(tight.rings, long.rings);
    assert!(tight.total() <= limit && tight.total() + PAGE > limit, "{tight}");
}

#[test]
fn the_plan_is_what_loading_allocates() {
    let windowed = program(Shape { window: 100, ..Shape::default() });
    for program in [program(Shape::default()), with_windows(), windowed, with_recurrences()] {
        allocates(&program);
    }
}

/// Beside the state that keeps every token two recurrent ones, of 4 MiB for a sequence together.
fn with_recurrences() -> Program {
    let mut program = program(Shape::default());
    let state = StateType::Recurrent(Recurrent { columns: 4, channels: 65_536, heads: 2, key: 256, value: 512 });
    program.module.states.extend([state.clone(), state]);
    program
}

#[test]
fn recurrent_states_are_counted_with_their_snapshots_and_bound_the_sequences() {
    let program = with_recurrences();
    let plan = |binding: usize, limit, sequences| {
        let request = MemoryRequest { limit, context: ContextWish::UpTo(2048), sequences, layers: None };
        MemoryPlan::new(&program, &target(binding, None), request).expect("fits")
    };
    assert_eq!(program.recurrent_bytes() as u64, 4 * MIB);
    let told = plan(1 << 30, 1000 * MIB, Some(3));
    assert_eq!(told.recurrent, 4 * MIB * recurrent_units(3) as u64);
    assert!(told.kv() >= told.recurrent && told.to_string().contains("recurrent states"), "{told}");
    assert_eq!(plan(1 << 30, 1000 * MIB, None).max_sequences, 12, "as many as a step's rows");
    // A quarter of 200 MiB is 50, and a sequence with its snapshot takes 8.
    assert_eq!(plan(1 << 30, 200 * MIB, None).max_sequences, 6);
    // One part of one state is 1 MiB for a sequence, 2 with its snapshot.
    assert_eq!(plan(6 << 20, 1000 * MIB, None).max_sequences, 3);
}

fn allocates(program: &Program) {
    let facts = target(1 << 30, None);
    let request =
        MemoryRequest { limit: 1000 * MIB, context: ContextWish::UpTo(2048), sequences: Some(3), layers: None };
    let plan = MemoryPlan::new(program, &facts, request).expect("fits");
    let device = NullDevice::new(facts);
    let MemoryPlan { kv_pages, max_sequences, table_stride, .. } = plan;
    let counted = std::sync::Arc::new(std::sync::Mutex::new(device));
    let options = ExecutableOptions {
        kv_pages,
        max_sequences,
        table_stride,
        layers: None,
        experts: None,
        rest: None,
        progress: &mut |_| {},
    };
    let shared = common::SharedDevice::new(std::sync::Arc::clone(&counted));
    Executable::load(Box::new(shared), program.clone(), &WeightBytes, options).expect("loads");
    let allocated = |usage| counted.lock().unwrap().allocated(usage) as u64;
    assert_eq!(allocated(Usage::ReadWrite), plan.kv() + plan.arena);
    assert_eq!(allocated(Usage::Weights), plan.weights);
    // Inputs are planned for the largest class; a step of fewer tokens needs less.
    assert!(allocated(Usage::Input) <= plan.inputs, "{} > {}", allocated(Usage::Input), plan.inputs);
}

#[test]
fn a_context_up_to_something_shrinks_and_an_exact_one_fails() {
    let wide = target(1 << 30, None);
    let fixed = plan(&wide, 1000 * MIB, ContextWish::UpTo(1 << 20), Some(1)).expect("fits");
    let limit = fixed.total() - fixed.kv() + 100 * PAGE + PAGE / 2;
    let shrunk = plan(&wide, limit, ContextWish::UpTo(1 << 20), Some(1)).expect("fits");
    assert_eq!((shrunk.kv_pages, shrunk.context()), (100, 3200));
    assert!(shrunk.total() <= limit);
    let failed = plan(&wide, limit, ContextWish::Exactly(1 << 20), Some(1)).expect_err("does not fit");
    assert!(failed.plan.total() > limit);
    assert!(failed.to_string().contains("at most 3200 tokens fits now"), "{failed}");
    let exact = plan(&wide, limit, ContextWish::Exactly(3200), Some(1)).expect("fits");
    assert_eq!(exact.context(), 3200);
}

#[test]
fn weights_that_do_not_fit_are_refused_with_the_limit_that_would_do() {
    let failed = plan(&target(1 << 30, None), 10 * MIB, ContextWish::UpTo(4096), None).expect_err("does not fit");
    assert!(failed.to_string().contains("a memory limit of at least 65 MiB"), "{failed}");
    let limit = failed.plan.total();
    assert!(plan(&target(1 << 30, None), limit, ContextWish::UpTo(4096), None).is_ok(), "the needed plan fits");
    assert!(
        plan(&target(1 << 30, Some(limit - 1)), 1000 * MIB, ContextWish::UpTo(4096), None).is_err(),
        "device memory"
    );
}

#[test]
fn the_largest_binding_bounds_the_pool() {
    let narrow = target(128 * 40, None);
    let capped = plan(&narrow, 1000 * MIB, ContextWish::UpTo(1 << 20), Some(4)).expect("fits");
    assert_eq!((capped.kv_pages, capped.context()), (40, 40 * PAGE_TOKENS));
    let failed = plan(&narrow, 1000 * MIB, ContextWish::Exactly(1 << 20), Some(4)).expect_err("does not fit");
    assert!(failed.to_string().contains("can hold 1280 tokens"), "{failed}");
}

#[test]
fn the_table_reads_like_one() {
    let shown = plan(&target(1 << 30, None), 1000 * MIB, ContextWish::UpTo(4096), Some(1)).expect("fits").to_string();
    assert!(shown.lines().all(|line| line.len() <= 60), "{shown}");
    for part in
        ["memory on null", "weights", "KV pool, 4096 tokens", "total", "1000.0", "up to 1 sequences of up to 4096"]
    {
        assert!(shown.contains(part), "`{part}` is missing from\n{shown}");
    }
}
