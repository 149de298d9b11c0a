//! Cancelling, waiting, draining and failing.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Call, Control, Shape, executable, greedy_reply, request, run, submit, wait_for};
use swiftlm_runtime::request::{Delivery, Event, FinishReason, Generate, SubmitError};
use swiftlm_runtime::{Engine, EngineOptions};

const ENDLESS: usize = 200;

fn engine(pages: usize, sequences: usize, max_queue: usize) -> (Engine, std::sync::Arc<Control>) {
    let (executable, control) = executable(Shape::default(), pages, sequences, 8);
    let options = EngineOptions { max_queue, ..EngineOptions::default() };
    (Engine::start(executable, options).expect("a thread starts"), control)
}

/// A request that sits in a held step.
fn held(engine: &Engine, control: &Control) -> Call {
    control.hold();
    let before = control.step_count();
    let call = submit(engine, request(&[1, 2, 3], ENDLESS)).expect("taken");
    wait_for(engine, "a held step", |_| control.step_count() > before);
    call
}

#[test]
fn a_full_queue_refuses_and_takes_again_when_it_moves() {
    let (engine, control) = engine(64, 1, 2);
    let running = held(&engine, &control);
    let waiting: Vec<Call> = (0..2).map(|i| submit(&engine, request(&[i], 3)).expect("there is room")).collect();
    assert_eq!(submit(&engine, request(&[9], 3)).err(), Some(SubmitError::QueueFull(2)));
    assert_eq!(engine.stats().queued, 2);
    drop(running);
    control.release();
    for (i, call) in waiting.into_iter().enumerate() {
        assert_eq!(call.finish().ids(), greedy_reply(&[i as u32], 3));
    }
    assert_eq!(run(&engine, request(&[9], 3)).ids(), greedy_reply(&[9], 3));
}

#[test]
fn a_dropped_ticket_cancels_within_one_step_running_or_queued() {
    let (engine, control) = engine(64, 1, 8);
    let mut running = held(&engine, &control);
    let mut queued = submit(&engine, request(&[5], 3)).expect("taken");
    let after = submit(&engine, request(&[6], 3)).expect("taken");
    running.ticket = None;
    queued.ticket = None;
    let steps = control.step_count();
    control.release();
    let reply = running.finish();
    assert_eq!(reply.reason(), FinishReason::Cancelled);
    assert!(reply.tokens.len() <= 1, "the step that ran may have given one token");
    let reply = queued.finish();
    assert_eq!((reply.reason(), reply.tokens.len()), (FinishReason::Cancelled, 0));
    assert_eq!(after.finish().ids(), greedy_reply(&[6], 3));
    assert_eq!(control.step_count(), steps + 3, "only the last request took further steps");
    wait_for(&engine, "all pages are free", |s| s.kv_tokens_used == 0 && s.active == 0 && s.queued == 0);
}

#[test]
fn a_sink_that_is_gone_or_panics_cancels_its_request() {
    let (engine, _) = engine(64, 2, 8);
    let gone = engine.submit(request(&[1], ENDLESS), Box::new(|_| Delivery::Gone)).expect("taken");
    let panics = engine.submit(request(&[1], ENDLESS), Box::new(|_| panic!("a sink of a test"))).expect("taken");
    wait_for(&engine, "both are cancelled", |s| s.steps > 0 && s.active == 0 && s.queued == 0);
    assert!(engine.stats().steps < 6, "neither took long: {:?}", engine.stats());
    drop((gone, panics));
    assert_eq!(run(&engine, request(&[2], 4)).ids(), greedy_reply(&[2], 4));
}

#[test]
fn requests_wait_for_pages_in_order_and_none_is_lost() {
    // 8 pages; each request is promised 3, so two run at a time although rows for eight are free.
    let (engine, control) = engine(8, 8, 32);
    control.hold();
    let prompts: Vec<Vec<u32>> = (0..7).map(|i| (0..50).map(|t| (t * i + 3) % 50).collect()).collect();
    let calls: Vec<Call> = prompts.iter().map(|p| submit(&engine, request(p, 40)).expect("taken")).collect();
    control.release();
    for (call, prompt) in calls.into_iter().zip(&prompts) {
        assert_eq!(call.finish().ids(), greedy_reply(prompt, 40));
    }
    let stats = wait_for(&engine, "all pages are free", |s| s.kv_tokens_used == 0);
    assert_eq!(stats.kv_tokens_total, 256);
    assert!(control.steps.lock().unwrap().iter().all(|s| s.sizes.rows <= 2));
}

#[test]
fn draining_finishes_what_there_is_and_takes_no_more() {
    let (engine, control) = engine(64, 1, 8);
    let running = held(&engine, &control);
    let waiting = submit(&engine, request(&[4], 5)).expect("taken");
    assert!(!engine.drain(Duration::from_millis(10)), "a held step does not finish");
    assert!(!engine.is_open());
    assert_eq!(submit(&engine, request(&[5], 1)).err(), Some(SubmitError::Closed));
    control.release();
    assert!(engine.drain(Duration::from_secs(20)));
    assert_eq!(running.finish().ids(), greedy_reply(&[1, 2, 3], ENDLESS));
    assert_eq!(waiting.finish().ids(), greedy_reply(&[4], 5));
    engine.shutdown();
}

#[test]
fn shutting_down_cancels_what_there_is() {
    let (engine, control) = engine(64, 1, 8);
    let running = held(&engine, &control);
    let waiting = submit(&engine, request(&[4], 5)).expect("taken");
    std::thread::scope(|scope| {
        scope.spawn(|| engine.shutdown());
        wait_for(&engine, "shutdown has begun", |_| !engine.is_open());
        control.release();
    });
    assert_eq!(running.finish().reason(), FinishReason::Cancelled);
    assert_eq!(waiting.finish().reason(), FinishReason::Cancelled);
    assert_eq!(submit(&engine, request(&[5], 1)).err(), Some(SubmitError::Closed));
}

#[test]
fn a_failed_step_fails_its_requests_and_the_engine_goes_on() {
    let (engine, control) = engine(64, 1, 8);
    let running = held(&engine, &control);
    let waiting = submit(&engine, request(&[4], 5)).expect("taken");
    control.failures.store(1, Ordering::Release);
    control.release();
    assert!(running.finish().end.is_err_and(|m| m.contains("told to fail")));
    assert_eq!(waiting.finish().ids(), greedy_reply(&[4], 5), "a request that waited is served");
    wait_for(&engine, "all pages are free", |s| s.kv_tokens_used == 0 && s.active == 0);
    assert!(engine.is_open());
}

#[test]
fn a_dead_device_closes_the_engine() {
    let (engine, control) = engine(64, 1, 8);
    control.failures.store(usize::MAX, Ordering::Release);
    let calls: Vec<Call> = (0..6).filter_map(|i| submit(&engine, request(&[i], 5)).ok()).collect();
    assert!(calls.len() >= 3);
    for call in calls {
        assert!(call.finish().end.is_err());
    }
    wait_for(&engine, "the engine is closed", |_| !engine.is_open());
    assert_eq!(submit(&engine, request(&[5], 1)).err(), Some(SubmitError::Closed));
}

#[test]
fn a_panic_in_a_step_fails_everything_and_closes_the_engine() {
    let (engine, control) = engine(64, 1, 8);
    let running = held(&engine, &control);
    let waiting = submit(&engine, request(&[4], 5)).expect("taken");
    control.panics.store(1, Ordering::Release);
    control.release();
    for call in [running, waiting] {
        assert!(call.finish().end.is_err_and(|m| m.contains("told to panic")));
    }
    wait_for(&engine, "the engine is closed", |s| !engine.is_open() && s.queued == 0);
    assert_eq!(submit(&engine, request(&[5], 1)).err(), Some(SubmitError::Closed));
    assert!(engine.drain(Duration::from_secs(20)), "draining a closed engine does not wait");
}

#[test]
fn a_sink_may_be_the_last_owner_of_the_engine() {
    let (engine, _) = engine(64, 2, 8);
    let (sender, ended) = std::sync::mpsc::channel();
    let owner = std::sync::Arc::new(std::sync::Mutex::new(None));
    let mut owned = Some(std::sync::Arc::clone(&owner));
    let sink = move |event: Event| {
        // The engine goes with the first event, and so within its own thread.
        if let Some(owner) = owned.take() {
            drop::<Option<Engine>>(owner.lock().expect("nobody panics").take());
        }
        if matches!(event, Event::Done(FinishReason::Cancelled, _)) {
            sender.send(()).expect("the test listens");
        }
        Delivery::Taken
    };
    let mut slot = owner.lock().expect("nobody panics");
    let ticket = engine.submit(request(&[1], ENDLESS), Box::new(sink)).expect("taken");
    *slot = Some(engine);
    drop(slot);
    ended.recv_timeout(Duration::from_secs(20)).expect("the request is cancelled");
    drop(ticket);
}

#[test]
fn every_request_gets_exactly_one_end() {
    let (engine, _) = engine(64, 2, 64);
    let (sender, ends) = std::sync::mpsc::channel();
    let tickets: Vec<_> = (0..20u32)
        .map(|i| {
            let sender = sender.clone();
            let sink = move |event: Event| {
                if matches!(event, Event::Done(..) | Event::Failed(_)) {
                    sender.send(i).expect("the test listens");
                }
                if i % 3 == 0 { Delivery::Gone } else { Delivery::Taken }
            };
            engine.submit(request(&[i], 10), Box::new(sink)).expect("taken")
        })
        .collect();
    let mut seen: Vec<u32> = (0..20).map(|_| ends.recv_timeout(Duration::from_secs(20)).expect("an end")).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
    drop((tickets, engine));
    assert!(ends.try_recv().is_err(), "nothing ends twice");
}
