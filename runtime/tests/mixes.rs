//! Whatever requests run together, each gets what it gets alone.

mod common;

use common::{
    Call, Outcome, Shape, VOCABULARY, executable, expected, greedy_reply, greedy_reply_within, request, run, submit,
    wait_for,
};
use proptest::prelude::*;
use swiftlm_ir::ty::{PAGE_TOKENS, Window};
use swiftlm_runtime::request::{FinishReason, Generate, Request, Sampling};
use swiftlm_runtime::state::ring_pages;
use swiftlm_runtime::{Engine, EngineOptions};

fn sampling() -> impl Strategy<Value = Sampling> {
    let penalties = (prop_oneof![Just(1.0f32), 0.5f32..2.0], prop_oneof![Just(0.0f32), -1.0f32..1.0], 0.0f32..1.0);
    let filters = (0usize..20, 0.1f32..=1.0, 0.0f32..0.5, 0.1f32..=1.0);
    let bias = proptest::collection::vec((0..VOCABULARY as u32, -5.0f32..5.0), 0..3);
    let sampled =
        (0.1f32..2.0, any::<u64>(), penalties, filters, bias).prop_map(|(temperature, seed, p, f, logit_bias)| {
            Sampling {
                temperature,
                seed: Some(seed),
                repetition_penalty: p.0,
                frequency_penalty: p.1,
                presence_penalty: p.2,
                top_k: f.0,
                top_p: f.1,
                min_p: f.2,
                typical_p: f.3,
                logit_bias,
            }
        });
    prop_oneof![Just(Sampling::default()), sampled]
}

/// Prompts of which some begin alike, up to anywhere.
fn prompts() -> impl Strategy<Value = Vec<u32>> {
    let alike = (0u32..2, 0u32..200).prop_map(|(base, length)| (0..length).map(|t| (t * t + base) % 61).collect());
    let start = prop_oneof![2 => alike, 1 => Just(vec![])];
    let rest = proptest::collection::vec(0..VOCABULARY as u32, 1..40);
    (start, rest).prop_map(|(start, rest): (Vec<u32>, Vec<u32>)| [start, rest].concat())
}

fn requests() -> impl Strategy<Value = Request> {
    let prompt = prompts();
    let stop_tokens = proptest::collection::vec(0..VOCABULARY as u32, 0..3);
    let scored = (proptest::option::of(0usize..4), proptest::option::weighted(0.3, 0usize..4));
    let cached = proptest::bool::weighted(0.9);
    (prompt, sampling(), 0usize..40, stop_tokens, scored, cached).prop_map(
        |(prompt, sampling, max_new_tokens, stop_tokens, (logprobs, prompt_logprobs), cached)| Request {
            prompt,
            sampling,
            max_new_tokens,
            stop_tokens,
            logprobs,
            prompt_logprobs,
            cached,
        },
    )
}

fn outcome(reply: &common::Reply) -> Outcome {
    (reply.tokens.clone(), reply.prompt.clone(), reply.reason())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn together_is_as_alone(
        mix in proptest::collection::vec((requests(), proptest::option::weighted(0.15, 0usize..6)), 1..10),
        chunk in prop_oneof![1usize..10, 11usize..100],
        max_rows in 1usize..20,
        sequences in 1usize..8,
        pages in 8usize..30,
        prefixes in 0usize..6,
    ) {
        let (roomy, _) = executable(Shape::default(), 64, 1, 8);
        let roomy = Engine::start(roomy, EngineOptions::default()).expect("a thread starts");
        let alone: Vec<Outcome> = mix.iter().map(|(request, _)| outcome(&run(&roomy, request.clone()))).collect();
        let context = roomy.context_length();
        prop_assert_eq!(&alone, &mix.iter().map(|(request, _)| expected(request, context)).collect::<Vec<_>>());

        let (executable, control) = executable(Shape { chunk, max_rows, window: 0 }, pages, sequences, 8);
        let options = EngineOptions { prefixes, ..EngineOptions::default() };
        let engine = Engine::start(executable, options).expect("a thread starts");
        let calls: Vec<(Call, Option<usize>)> =
            mix.iter().map(|(request, cancel)| (submit(&engine, request.clone()).expect("taken"), *cancel)).collect();
        // Some are called off after a few events; what they got till then must still be a prefix.
        std::thread::scope(|scope| {
            let replies: Vec<_> = calls
                .into_iter()
                .map(|(call, cancel)| scope.spawn(move || call.finish_cancelling(cancel)))
                .collect();
            for (reply, (expected, (_, cancel))) in replies.into_iter().zip(alone.iter().zip(&mix)) {
                let reply = reply.join().expect("the caller's thread ends");
                if cancel.is_some() && reply.reason() == FinishReason::Cancelled {
                    assert_eq!(reply.tokens[..], expected.0[..reply.tokens.len()]);
                } else {
                    assert_eq!(outcome(&reply), *expected);
                }
            }
        });
        wait_for(&engine, "everything is given back", |s| s.active == 0 && s.kv_tokens_used == 0 && s.queued == 0);
        let steps = control.steps.lock().unwrap();
        prop_assert!(steps.iter().all(|s| s.sizes.tokens as usize <= chunk && s.sizes.rows as usize <= max_rows));
        prop_assert_eq!(engine.stats().steps as usize, steps.len());
    }
}

#[test]
fn a_greedy_mix_gets_the_models_own_replies() {
    let (executable, control) = executable(Shape { chunk: 20, max_rows: 6, window: 0 }, 24, 5, 8);
    let engine = Engine::start(executable, EngineOptions::default()).expect("a thread starts");
    let prompts: Vec<Vec<u32>> = (1..12u32).map(|i| (0..i * 9).map(|t| (t * t + i) % 61).collect()).collect();
    let calls: Vec<Call> = prompts.iter().map(|p| submit(&engine, request(p, 25)).expect("taken")).collect();
    for (call, prompt) in calls.into_iter().zip(&prompts) {
        assert_eq!(call.finish().ids(), greedy_reply(prompt, 25));
    }
    assert!(engine.stats().mixed_steps > 5, "{:?}", engine.stats());
    assert!(control.steps.lock().unwrap().iter().any(|s| s.sizes.rows == 5), "five sequences shared a step");
}

/// Requests far longer than the window take turns in rings that hold little more than it.
#[test]
fn windows_hold_what_replies_need() {
    const WINDOW: usize = 20;
    const SEQUENCES: usize = 3;
    let (executable, control) = executable(Shape { chunk: 16, max_rows: 6, window: WINDOW }, 64, SEQUENCES, 16);
    let ring = SEQUENCES * ring_pages(Window::last(WINDOW), 16) * PAGE_TOKENS;
    assert_eq!(control.contents("key pages").iter().map(Vec::len).collect::<Vec<_>>(), [4 * ring]);
    let engine = Engine::start(executable, EngineOptions::default()).expect("a thread");
    let prompts: Vec<Vec<u32>> =
        (0..7).map(|i| (0..40 * i + 5).map(|t| (t * 7 + i * i) % VOCABULARY as u32).collect()).collect();
    let calls: Vec<Call> =
        prompts.iter().map(|prompt| submit(&engine, request(prompt, 90)).expect("the request is taken")).collect();
    for (prompt, call) in prompts.iter().zip(calls) {
        assert_eq!(call.finish().ids(), greedy_reply_within(prompt, 90, WINDOW), "after {} tokens", prompt.len());
    }
}
