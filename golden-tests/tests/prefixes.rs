//! The prefix cache over every kind of state: replies and their log-probabilities are the same bits whether a prompt was
//! computed, taken, or read back by another process.

use std::io::{Read, Result, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use swiftlm_golden_tests::fixture::Row;
use swiftlm_golden_tests::run::{On, compile, exact};
use swiftlm_ir::quant::turbo::Scale;
use swiftlm_ir::quant::{Archive, Turbo};
use swiftlm_models::{ArchivePolicy, BuildOptions};
use swiftlm_runtime::engine::PrefixStore;
use swiftlm_runtime::executable::Rest;
use swiftlm_runtime::request::{Delivery, Event, Generate, Request, Sampling, ScoredToken};
use swiftlm_runtime::{Engine, EngineOptions, Executable, ExecutableOptions};

const CHUNK: usize = 64;

/// One file; without tokens once it is removed.
#[derive(Default)]
struct KeptFile {
    tokens: Vec<u32>,
    state: Vec<u8>,
}

/// Files that are bytes in memory.
#[derive(Clone, Default)]
struct Files(Arc<Mutex<Vec<KeptFile>>>);

impl PrefixStore for Files {
    fn list(&mut self) -> Vec<(u64, Vec<u32>)> {
        let files = self.0.lock().expect("nobody panics");
        let there = (0..).zip(files.iter()).filter(|(_, file)| !file.tokens.is_empty());
        there.map(|(number, file)| (number, file.tokens.clone())).collect()
    }

    fn save(&mut self, tokens: &[u32], write: &mut dyn FnMut(&mut dyn Write) -> Result<()>) -> Result<u64> {
        let mut state = vec![];
        write(&mut state)?;
        let mut files = self.0.lock().expect("nobody panics");
        files.push(KeptFile { tokens: tokens.to_vec(), state });
        Ok(files.len() as u64 - 1)
    }

    fn load(&mut self, number: u64, read: &mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()> {
        let files = self.0.lock().expect("nobody panics");
        let mut state = files[number as usize].state.as_slice();
        read(&mut state)?;
        assert!(state.is_empty(), "all of it is read");
        Ok(())
    }

    fn remove(&mut self, number: u64) {
        self.0.lock().expect("nobody panics")[number as usize] = KeptFile::default();
    }
}

/// On one device or, where a second is given, the first half of the calls on one and the others on the other.
fn engine(row: &Row, build: &BuildOptions, (on, second): (On, Option<On>), files: &Files) -> Engine {
    let program = compile(row, build, CHUNK);
    let rest = second.map(|on| Rest { first: program.module.main.len() / 2, device: on.open(2) });
    let options = ExecutableOptions {
        kv_pages: 512,
        max_sequences: 16,
        table_stride: 32,
        layers: None,
        experts: None,
        rest,
        progress: &mut |_| {},
    };
    let executable =
        Executable::load(on.open(2), program, row, options).unwrap_or_else(|e| panic!("{}: {e}", row.name));
    Engine::start_with(executable, EngineOptions::default(), Some(Box::new(files.clone()))).expect("a thread starts")
}

/// The reply, and how many tokens of the prompt were computed.
fn run(engine: &Engine, prompt: &[u32], cached: bool) -> (Vec<ScoredToken>, usize) {
    let request = Request {
        prompt: prompt.to_vec(),
        sampling: Sampling::default(),
        max_new_tokens: 40,
        stop_tokens: vec![],
        logprobs: Some(3),
        prompt_logprobs: None,
        cached,
    };
    let (sender, events) = channel();
    let sink = move |event| if sender.send(event).is_ok() { Delivery::Taken } else { Delivery::Gone };
    let _ticket = engine.submit(request, Box::new(sink)).expect("the request is taken");
    let mut tokens = vec![];
    for event in events {
        match event {
            Event::Token(token) => tokens.push(token),
            Event::Done(_, timings) => return (tokens, timings.prefill_tokens),
            Event::Failed(message) => panic!("{message}"),
            Event::Prefill { .. } | Event::Prompt(_) => {}
        }
    }
    panic!("the reply has no end")
}

fn check(name: &str, build: &BuildOptions, on: (On, Option<On>)) {
    let row = Row::open(name);
    let files = Files::default();
    let start = |files: &Files| engine(&row, build, on, files);
    let first_engine = start(&files);
    let ids = row.endless(900);
    let first = &ids[..290];
    let (reply, computed) = run(&first_engine, first, true);
    assert_eq!((&reply, computed), (&run(&first_engine, first, false).0, 290), "{name} on {on:?}");
    let said: Vec<u32> = reply.iter().map(|token| token.id).collect();
    // Another turn; the same again; and one that leaves the first within its last page but one.
    let turn = [first, &said, &ids[500..560]].concat();
    let branch = [&ids[..288], &ids[600..700]].concat();
    for (prompt, most) in [(&turn, 70 + 64), (&turn, 32), (&branch, 100)] {
        let (expected, whole) = run(&first_engine, prompt, false);
        let (reply, computed) = run(&first_engine, prompt, true);
        assert_eq!(whole, prompt.len());
        assert!(
            computed <= most,
            "{name} on {on:?}: {computed} of {} tokens were computed {:?}",
            prompt.len(),
            first_engine.prefixes()
        );
        assert_eq!(reply, expected, "{name} on {on:?}: {computed} of {} tokens were computed", prompt.len());
    }
    // Another process goes on where this one ended.
    let (expected, _) = run(&first_engine, &turn, false);
    drop(first_engine);
    let second_engine = start(&files);
    let (reply, computed) = run(&second_engine, &turn, true);
    assert!(computed <= 32, "{name} on {on:?}: {computed} of {} tokens were computed", turn.len());
    assert_eq!(reply, expected, "{name} on {on:?}: restored");
    drop(second_engine);
    // Wrong bytes are noticed by this test.
    for file in files.0.lock().expect("nobody panics").iter_mut() {
        file.state.iter_mut().for_each(|byte| *byte = 0);
    }
    let (reply, _) = run(&start(&files), &turn, true);
    assert_ne!(reply, expected, "{name} on {on:?}: states that were not read");
}

/// States that keep every token, as floats, codes and latents; windows; attention sinks; recurrent states.
#[test]
fn what_is_taken_is_what_would_be_computed() {
    for name in ["llama-mlx4", "deepseek_v3", "gemma3_text", "gpt_oss-mxfp4", "qwen3_5", "falcon_h1"] {
        check(name, &exact(), (On::Cpu, None));
    }
    for name in ["gemma3_text", "qwen3_5"] {
        check(name, &exact(), (On::Wgpu, None));
    }
}

/// Of a model on two devices, what both of them hold.
#[test]
fn both_devices_hold_what_is_taken() {
    for name in ["llama-mlx4", "gemma3_text", "qwen3_5", "falcon_h1"] {
        check(name, &exact(), (On::Cpu, Some(On::Cpu)));
    }
    check("qwen3_5", &exact(), (On::Cpu, Some(On::Wgpu)));
}

/// Tokens that turn cold go to codes once, whoever shares their pages.
#[test]
fn archives_are_shared() {
    let format = |bits| Turbo::new(bits, Scale::Matched).expect("1 to 4 bits");
    let archive = Archive { k: format(4), v: format(3), first: 32, last: 64, centered: false };
    let build = BuildOptions { archive: Some(ArchivePolicy { archive, boundary: 0, careful: false }), ..exact() };
    for (name, on) in [("llama", On::Cpu), ("qwen3", On::Cpu), ("llama", On::Wgpu)] {
        check(name, &build, (on, None));
    }
}
