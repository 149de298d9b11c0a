//! What `kernel-dump` says of a model is so.

use std::path::PathBuf;

use swiftlm_compiler::work::{StepShape, Work, work_of};
use swiftlm_device::Device;
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_driver::compile::{Options, compile};
use swiftlm_driver::dump::page::page;
use swiftlm_driver::dump::replay::{Compared, replay};
use swiftlm_driver::dump::roofline::{Rates, roofline};
use swiftlm_driver::dump::subject::{Place, StepFlags};
use swiftlm_driver::dump::trace::Trace;
use swiftlm_driver::dump::why::why;
use swiftlm_golden_tests::fixture::{directory, names};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::template::Template;

const ONE: StepFlags = StepFlags { backend: Place::Cpu, device: None, threads: 2, tokens: 1, depth: 40 };

fn opened(flags: &StepFlags) -> (Box<dyn Device>, &StepFlags) {
    (flags.open().unwrap_or_else(|e| panic!("{e}")), flags)
}

fn path(row: &str) -> PathBuf {
    directory().join(row)
}

fn traced(row: &str) -> (Trace, Checkpoint) {
    let checkpoint = Checkpoint::open(&path(row)).unwrap_or_else(|e| panic!("{row}: {e}"));
    let trace = Trace::of(&checkpoint, &Options::default()).unwrap_or_else(|e| panic!("{row}: {e}"));
    (trace, checkpoint)
}

#[test]
fn explaining_changes_no_program() {
    for row in names() {
        let (trace, checkpoint) = traced(&row);
        let plain = compile(&checkpoint, &Options::default()).unwrap_or_else(|e| panic!("{row}: {e}"));
        assert!(plain.program == trace.compiled.program, "{row}");
    }
}

#[test]
fn rules_behind_a_value_are_named() {
    let (trace, _) = traced("granite");
    let why = why(&trace, "embed.embed_tokens").expect("the value is there");
    assert_eq!(why.rewrites.iter().map(|r| r.rule.as_str()).collect::<Vec<_>>(), ["scale-embed"]);
    assert_eq!(why.launches.len(), ShapeClass::ALL.len(), "every class computes it");
    for (name, expected) in [("nothing.x", "embed, layer0, head"), ("embed.x", "embed_tokens")] {
        let error = swiftlm_driver::dump::why::why(&trace, name).expect_err("it is not there").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Every launch of a mixture's decode step, and of a prefill, is what the interpreter computes from the same memory.
#[test]
fn launches_run_twice_alike() {
    for row in ["qwen3_moe-mlx4", "gemma3_text"] {
        for tokens in [1, 40] {
            let (trace, checkpoint) = traced(row);
            let flags = StepFlags { tokens, ..ONE };
            let compared = replay(&trace, &checkpoint, opened(&flags), "all").unwrap_or_else(|e| panic!("{row}: {e}"));
            let far: Vec<&Compared> =
                compared.iter().filter(|c| c.error.is_some_and(|e| e.is_nan() || e > 1e-5)).collect();
            assert!(far.is_empty(), "{row}, {tokens} tokens: {far:?}");
            for template in ["norm_linear", "attend", "rope_append", "arg_max"] {
                let prefill_norms = tokens > 1 && template == "norm_linear";
                let there = compared.iter().any(|c| c.template == template);
                assert!(there || prefill_norms, "{row}, {tokens} tokens: {template} ran twice");
            }
        }
    }
}

/// A launch that is not what its kernel says is noticed.
#[test]
fn a_wrong_launch_is_seen() {
    let (mut trace, checkpoint) = traced("llama");
    for dispatch in trace.compiled.program.plans.iter_mut().flatten().flat_map(|plan| &mut plan.dispatches) {
        if let Template::Attend(attend) = &mut dispatch.template {
            attend.scale *= 1.01;
        }
    }
    let compared = replay(&trace, &checkpoint, opened(&ONE), "attend").expect("the model runs");
    assert!(compared.iter().any(|c| c.error.is_some_and(|e| e > 1e-4)), "{compared:?}");
    let error = replay(&trace, &checkpoint, opened(&ONE), "nothing").expect_err("no launch has this name").to_string();
    assert!(error.contains("rope_append"), "{error}");
}

/// A decode step must read every weight that it streams and the history, and no launch moves nothing.
#[test]
fn work_covers_weights_and_history() {
    let step = StepShape { tokens: 1, rows: 1, before: 99 };
    for row in names() {
        let program = traced(&row).0.compiled.program;
        let one = |func: usize| program.plans[func].iter().find(|p| p.class == ShapeClass::One);
        let plans = program.module.main.iter().filter_map(|call| one(call.func));
        let works: Vec<Work> = plans.flat_map(|p| &p.dispatches).map(|d| work_of(&d.template, &step)).collect();
        assert!(works.iter().all(|w| w.bytes() > 0), "{row}");
        let read: u64 = works.iter().map(|w| w.read).sum();
        let least = (program.decode_bytes() + program.kv_bytes_read(100)) as u64;
        // What lies beside them are activations and vectors: small, but these models are, too.
        assert!((least..least + least / 2 + 20_000 * works.len() as u64).contains(&read), "{row}: {read}, {least}");
    }
}

#[test]
fn a_roofline_has_every_launch_and_a_page_shows_it() {
    let (trace, checkpoint) = traced("granite");
    let rates = Rates { bandwidth: Some(1e9), peak: Some(1e9) };
    let measured = roofline(&trace, &checkpoint, opened(&ONE), rates).expect("the model runs");
    let one = |func: usize| trace.compiled.program.plans[func].iter().find(|p| p.class == ShapeClass::One);
    let launches: usize =
        (0..trace.compiled.program.module.funcs.len()).filter_map(one).map(|p| p.dispatches.len()).sum();
    assert_eq!(measured.lines.len(), launches);
    for line in &measured.lines {
        assert!(line.time > 0.0 && !line.computes.is_empty(), "{line:?}");
        let floor = line.bytes.max(line.flops) as f64;
        assert!(
            (line.floor.unwrap_or(0.0) - floor).abs() < 1e-6 * floor,
            "a byte or an operation a nanosecond: {line:?}"
        );
    }
    let step = StepShape { tokens: 1, rows: 1, before: 40 };
    let page = page(&trace, &step, Some(&measured));
    let data = page.split("const data = ").nth(1).and_then(|rest| rest.split(";\n").next()).expect("data is there");
    let data: serde_json::Value = serde_json::from_str(data).expect("it is JSON");
    assert_eq!(data["funcs"].as_array().map(Vec::len), Some(3));
    assert_eq!(data["measured"]["lines"].as_array().map(Vec::len), Some(launches));
    assert!(!page.contains("http"), "nothing comes from elsewhere");
}
