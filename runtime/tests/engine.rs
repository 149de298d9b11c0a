//! What requests to a running engine see.

mod common;

use std::time::Duration;

use common::{Shape, VOCABULARY, executable, greedy_reply, logits_after, request, run, submit, wait_for};
use swiftlm_runtime::request::{Event, FinishReason, Generate, Request, Sampling, SubmitError};
use swiftlm_runtime::sampler::score;
use swiftlm_runtime::{Engine, EngineOptions};

fn engine(shape: Shape, pages: usize, sequences: usize) -> (Engine, std::sync::Arc<common::Control>) {
    let (executable, control) = executable(shape, pages, sequences, 8);
    (Engine::start(executable, EngineOptions::default()).expect("a thread starts"), control)
}

fn prompt(length: usize, salt: u32) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 7 + salt) % VOCABULARY as u32).collect()
}

#[test]
fn a_greedy_reply_is_the_models() {
    let (engine, _) = engine(Shape::default(), 16, 4);
    let prompt = prompt(100, 3);
    let reply = run(&engine, request(&prompt, 20));
    assert_eq!(reply.ids(), greedy_reply(&prompt, 20));
    assert_eq!(reply.reason(), FinishReason::Length);
    assert_eq!(reply.prefill, [(48, 100), (96, 100), (100, 100)], "chunks of 48");
    let (_, timings) = reply.end.expect("ends well");
    assert_eq!((timings.prefill_tokens, timings.decode_tokens), (100, 20));
    assert!(timings.prefill > Duration::ZERO && timings.decode > Duration::ZERO);
}

#[test]
fn any_chunk_gives_the_same_reply() {
    let prompt = prompt(70, 11);
    for chunk in [1, 7, 33, 64, 200] {
        let (engine, _) = engine(Shape { chunk, max_rows: 4, window: 0 }, 16, 2);
        assert_eq!(run(&engine, request(&prompt, 9)).ids(), greedy_reply(&prompt, 9), "chunk {chunk}");
    }
}

#[test]
fn a_stop_token_ends_the_reply_and_is_not_reported() {
    let (engine, _) = engine(Shape::default(), 16, 4);
    let prompt = prompt(5, 2);
    let expected = greedy_reply(&prompt, 30);
    let at = (1..30).find(|i| !expected[..*i].contains(&expected[*i])).expect("some token is new");
    let reply = run(&engine, Request { stop_tokens: vec![expected[at], 60], ..request(&prompt, 30) });
    assert_eq!((reply.ids(), reply.reason()), (expected[..at].to_vec(), FinishReason::Stop));
}

#[test]
fn a_reply_ends_where_the_context_does() {
    let (engine, _) = engine(Shape::default(), 2, 4);
    assert_eq!(engine.context_length(), 64);
    let prompt = prompt(60, 5);
    let reply = run(&engine, request(&prompt, 1000));
    assert_eq!((reply.ids(), reply.reason()), (greedy_reply(&prompt, 4), FinishReason::Length));
}

#[test]
fn no_new_tokens_only_evaluates_the_prompt() {
    let (engine, control) = engine(Shape::default(), 2, 4);
    let reply = run(&engine, request(&prompt(64, 1), 0));
    assert_eq!((reply.ids(), reply.reason(), reply.prefill.len()), (vec![], FinishReason::Length, 2));
    assert!(control.steps.lock().unwrap().iter().all(|s| s.recordings == 1), "the head never runs");
}

#[test]
fn log_probabilities_are_the_models_own() {
    let (engine, _) = engine(Shape::default(), 16, 4);
    let prompt = prompt(50, 8);
    // Sampling that changes what is drawn must not change what is reported.
    let sampling =
        Sampling { temperature: 1.5, top_k: 3, seed: Some(1), logit_bias: vec![(7, 3.0)], ..Sampling::default() };
    let scored = Request { sampling, logprobs: Some(4), prompt_logprobs: Some(2), ..request(&prompt, 6) };
    let reply = run(&engine, scored);
    let scores = reply.prompt.as_ref().expect("the prompt is scored");
    assert_eq!(scores.len(), prompt.len());
    assert_eq!((scores[0].id, scores[0].logprob, scores[0].top.len()), (prompt[0], None, 0));
    for (i, token) in scores.iter().enumerate().skip(1) {
        assert_eq!(*token, score(&logits_after(&prompt[..i]), prompt[i], 2).expect("finite"), "prompt position {i}");
    }
    let mut history = prompt.clone();
    for token in &reply.tokens {
        assert_eq!(*token, score(&logits_after(&history), token.id, 4).expect("finite"));
        history.push(token.id);
    }
    assert_eq!(reply.tokens.len(), 6);
    assert!(reply.prefill.len() > 4, "12 rows a step cut 50 scored tokens into five steps: {:?}", reply.prefill);
}

#[test]
fn a_scored_prompt_of_one_token_has_one_unscored_entry() {
    let (engine, _) = engine(Shape::default(), 16, 4);
    let reply = run(&engine, Request { prompt_logprobs: Some(0), ..request(&[9], 0) });
    let scores = reply.prompt.expect("the prompt is scored");
    assert_eq!((scores.len(), scores[0].id, scores[0].logprob), (1, 9, None));
}

#[test]
fn plain_greedy_replies_read_four_bytes_a_token() {
    let (engine, control) = engine(Shape::default(), 16, 4);
    run(&engine, request(&prompt(10, 0), 10));
    assert_eq!(control.read.load(std::sync::atomic::Ordering::Relaxed), 40);
    let penalised = Sampling { presence_penalty: 0.1, ..Sampling::default() };
    run(&engine, Request { sampling: penalised, ..request(&prompt(10, 0), 1) });
    assert_eq!(control.read.load(std::sync::atomic::Ordering::Relaxed), 40 + 4 * VOCABULARY);
}

#[test]
fn seeds_decide_a_sampled_reply_and_neighbours_do_not() {
    let (engine, _) = engine(Shape::default(), 32, 8);
    let sampled = |seed| Request {
        sampling: Sampling { temperature: 1.0, seed, ..Sampling::default() },
        ..request(&prompt(20, 4), 16)
    };
    let alone = run(&engine, sampled(Some(5))).ids();
    let calls: Vec<_> = [Some(6), Some(5), None, None].map(|s| submit(&engine, sampled(s)).expect("taken")).into();
    let replies: Vec<_> = calls.into_iter().map(|c| c.finish().ids()).collect();
    assert_eq!(replies[1], alone);
    assert_ne!(replies[0], alone, "another seed");
    assert_ne!(replies[2], replies[3], "without a seed every reply has its own");
}

#[test]
fn decode_and_prefill_rows_share_steps() {
    let (engine, control) = engine(Shape::default(), 32, 4);
    control.hold();
    let first = submit(&engine, request(&prompt(4, 1), 40)).expect("taken");
    wait_for(&engine, "the first step", |_| control.step_count() == 1);
    let second = submit(&engine, request(&prompt(90, 2), 4)).expect("taken");
    control.release();
    assert_eq!(first.finish().ids(), greedy_reply(&prompt(4, 1), 40));
    assert_eq!(second.finish().ids(), greedy_reply(&prompt(90, 2), 4));
    assert_eq!(engine.stats().mixed_steps, 2, "90 tokens beside one decode row take two chunks of 48");
    let mixed = control.steps.lock().unwrap()[1].sizes;
    assert_eq!((mixed.tokens, mixed.rows), (48, 1));
}

#[test]
fn wrong_requests_are_refused_before_they_wait() {
    let (executable, _) = executable(Shape::default(), 2, 2, 8);
    let options = EngineOptions { max_prompt_tokens: Some(63), ..EngineOptions::default() };
    let engine = Engine::start(executable, options).expect("a thread starts");
    let refused = |r: Request| submit(&engine, r).err().expect("refused");
    let invalid = |r: Request| matches!(refused(r), SubmitError::Invalid(_));
    assert!(invalid(request(&[], 1)));
    assert!(invalid(request(&[VOCABULARY as u32], 1)));
    assert!(invalid(request(&prompt(64, 0), 1)), "longer than the prompt limit");
    for sampling in [
        Sampling { temperature: f32::NAN, ..Sampling::default() },
        Sampling { temperature: -1.0, ..Sampling::default() },
        Sampling { top_p: 1.5, ..Sampling::default() },
        Sampling { repetition_penalty: 0.0, ..Sampling::default() },
        Sampling { logit_bias: vec![(VOCABULARY as u32, 0.0)], ..Sampling::default() },
    ] {
        assert!(invalid(Request { sampling: sampling.clone(), ..request(&[1], 1) }), "{sampling:?}");
    }
    assert_eq!(engine.stats().steps, 0);
}

#[test]
fn a_prompt_that_fills_the_context_leaves_no_room_for_a_reply() {
    let (engine, _) = engine(Shape::default(), 2, 2);
    let error = submit(&engine, request(&prompt(64, 0), 1)).err();
    assert_eq!(error, Some(SubmitError::ContextLength { prompt: 64, context: 64 }));
    assert!(submit(&engine, request(&prompt(64, 0), 0)).is_ok());
    assert!(submit(&engine, request(&prompt(63, 0), 1)).is_ok());
}

#[test]
fn broken_logits_fail_their_request_only() {
    let (engine, control) = engine(Shape::default(), 16, 2);
    control.nans.store(1, std::sync::atomic::Ordering::Release);
    let sampled = Sampling { temperature: 1.0, ..Sampling::default() };
    let reply = run(&engine, Request { sampling: sampled, ..request(&prompt(4, 0), 3) });
    assert!(reply.end.is_err_and(|m| m.contains("not finite")));
    assert_eq!(run(&engine, request(&prompt(4, 0), 3)).ids(), greedy_reply(&prompt(4, 0), 3));
}

#[test]
fn events_come_as_they_happen() {
    let (engine, control) = engine(Shape::default(), 16, 2);
    control.hold();
    let call = submit(&engine, request(&prompt(4, 0), 2)).expect("taken");
    assert!(call.is_silent());
    control.release();
    assert!(matches!(call.next(), Event::Prefill { done: 4, total: 4 }));
    assert!(matches!(call.next(), Event::Token(_)));
}
