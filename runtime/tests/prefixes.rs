//! The prefix cache: what requests take from it, when it gives way, and that replies never change by it.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{
    Control, Reply, Shape, VOCABULARY, executable, greedy_reply, greedy_reply_within, request, run, submit, wait_for,
};
use swiftlm_runtime::request::{Generate, Request};
use swiftlm_runtime::{Engine, EngineOptions};

fn engine(shape: Shape, pages: usize, sequences: usize, prefixes: usize) -> (Engine, Arc<Control>) {
    let (executable, control) = executable(shape, pages, sequences, 16);
    let options = EngineOptions { prefixes, ..EngineOptions::default() };
    (Engine::start(executable, options).expect("a thread starts"), control)
}

fn prompt(length: usize, salt: u32) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 7 + salt) % VOCABULARY as u32).collect()
}

/// Prompt tokens that were computed.
fn computed(reply: &Reply) -> usize {
    reply.end.as_ref().expect("the request ends well").1.prefill_tokens
}

#[test]
fn a_conversation_goes_on_where_it_was() {
    let (engine, _) = engine(Shape::default(), 32, 4, 8);
    let mut history = prompt(100, 3);
    let mut before = 0;
    for turn in 0..4 {
        let reply = run(&engine, request(&history, 20));
        assert_eq!(reply.ids(), greedy_reply(&history, 20), "turn {turn}");
        // The last token of a reply was never put in, and only whole pages are taken.
        assert_eq!(computed(&reply), history.len() - before, "turn {turn}");
        before = (history.len() + 19) / 32 * 32;
        history.extend(reply.ids());
        history.extend(prompt(10, turn));
    }
    let report = engine.prefixes();
    assert_eq!((report.lookups, report.hits, report.kept.len()), (4, 3, 1), "a longer one takes a shorter one's place");
}

#[test]
fn prompts_that_begin_alike_share_what_they_have_in_common() {
    let (engine, _) = engine(Shape::default(), 40, 4, 8);
    let common = prompt(70, 1);
    for (salt, expected) in [(1, 80), (2, 16), (3, 16)] {
        let own = [common.clone(), prompt(10, 40 + salt)].concat();
        let reply = run(&engine, request(&own, 5));
        assert_eq!((reply.ids(), computed(&reply)), (greedy_reply(&own, 5), expected));
    }
    let again = run(&engine, request(&common[..64], 5));
    assert_eq!((again.ids(), computed(&again)), (greedy_reply(&common[..64], 5), 32), "the last token is computed");
}

#[test]
fn requests_that_come_together_compute_a_prompt_once() {
    let (engine, control) = engine(Shape::default(), 40, 8, 8);
    let prompt = prompt(150, 9);
    let calls: Vec<_> = (0..6).map(|_| submit(&engine, request(&prompt, 12)).expect("taken")).collect();
    let replies: Vec<Reply> = calls.into_iter().map(common::Call::finish).collect();
    assert!(replies.iter().all(|reply| reply.ids() == greedy_reply(&prompt, 12)));
    let mut counts: Vec<usize> = replies.iter().map(computed).collect();
    counts.sort_unstable();
    assert_eq!(counts, [22, 22, 22, 22, 22, 150]);
    let steps = control.steps.lock().unwrap();
    let tokens: usize = steps.iter().map(|s| s.sizes.tokens as usize).sum();
    assert_eq!(tokens, 150 + 5 * 22 + 6 * 11);
}

#[test]
fn what_is_kept_gives_way_to_what_lives() {
    let (engine, _) = engine(Shape::default(), 12, 3, 8);
    for salt in 0..6 {
        let prompt = prompt(90, salt);
        let reply = run(&engine, request(&prompt, 40));
        assert_eq!((reply.ids(), computed(&reply)), (greedy_reply(&prompt, 40), 90));
    }
    let report = engine.prefixes();
    assert!(report.evictions > 0 && !report.kept.is_empty(), "{report:?}");
    // As large as the pool: everything else goes.
    let long = prompt(300, 5);
    let reply = run(&engine, request(&long, 84));
    assert_eq!(reply.ids(), greedy_reply(&long, 84));
    assert_eq!(engine.prefixes().kept.len(), 1);
}

/// While living sequences have all the room, giving up what is kept would help nobody.
#[test]
fn nothing_is_given_up_in_vain() {
    let (engine, control) = engine(Shape::default(), 12, 3, 8);
    let kept = prompt(70, 1);
    run(&engine, request(&kept, 1));
    let (long, other) = (prompt(200, 2), prompt(100, 4));
    control.hold();
    let calls =
        [submit(&engine, Request { cached: false, ..request(&long, 80) }), submit(&engine, request(&other, 60))];
    control.release();
    for (call, (prompt, count)) in calls.into_iter().zip([(&long, 80), (&other, 60)]) {
        assert_eq!(call.expect("taken").finish().ids(), greedy_reply(prompt, count));
    }
    let reply = run(&engine, request(&kept, 3));
    assert_eq!((reply.ids(), computed(&reply)), (greedy_reply(&kept, 3), 6));
}

/// A ring has given back what lies before its window, so a prompt is kept as it was when it was computed.
#[test]
fn windows_are_kept_where_prompts_ended() {
    const WINDOW: usize = 20;
    let (engine, _) = engine(Shape { window: WINDOW, ..Shape::default() }, 64, 4, 8);
    let first = prompt(130, 6);
    let reply = run(&engine, request(&first, 100));
    assert_eq!(reply.ids(), greedy_reply_within(&first, 100, WINDOW));
    // Another turn whose reply was rendered otherwise: what was kept behind it does not serve, its prompt does.
    let next = [first.clone(), prompt(60, 50)].concat();
    let reply = run(&engine, request(&next, 30));
    assert_eq!((reply.ids(), computed(&reply)), (greedy_reply_within(&next, 30, WINDOW), 190 - 128));
    // Before the window of all that is kept.
    let early = [first[..40].to_vec(), prompt(60, 51)].concat();
    let reply = run(&engine, request(&early, 30));
    assert_eq!((reply.ids(), computed(&reply)), (greedy_reply_within(&early, 30, WINDOW), 100));
    let last = *engine.prefixes().recent.back().expect("a lookup");
    assert_eq!((last.common, last.taken), (40, 0));
}

#[test]
fn a_request_may_do_without() {
    let (on, _) = engine(Shape::default(), 40, 4, 8);
    let prompt = prompt(100, 3);
    run(&on, request(&prompt, 4));
    for refused in
        [Request { cached: false, ..request(&prompt, 4) }, Request { prompt_logprobs: Some(1), ..request(&prompt, 4) }]
    {
        let reply = run(&on, refused);
        assert_eq!((reply.ids(), computed(&reply)), (greedy_reply(&prompt, 4), 100));
    }
    assert_eq!(computed(&run(&on, request(&prompt, 4))), 4);
    let (off, _) = engine(Shape::default(), 40, 4, 0);
    for _ in 0..2 {
        let reply = run(&off, request(&prompt, 4));
        assert_eq!((reply.ids(), computed(&reply)), (greedy_reply(&prompt, 4), 100));
    }
}

#[test]
fn a_failed_step_leaves_nothing_to_begin_with() {
    let (engine, control) = engine(Shape::default(), 40, 4, 8);
    let prompt = prompt(100, 3);
    run(&engine, request(&prompt, 4));
    control.failures.store(1, Ordering::Relaxed);
    run(&engine, request(&[1, 2, 3], 4)).end.expect_err("the step fails");
    wait_for(&engine, "nothing runs", |s| s.active == 0);
    let reply = run(&engine, request(&prompt, 4));
    assert_eq!((reply.ids(), computed(&reply)), (greedy_reply(&prompt, 4), 100));
}
