//! A caller of an engine that collects the events of its requests.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use swiftlm_runtime::Engine;
use swiftlm_runtime::request::{
    Delivery, EngineStats, Event, FinishReason, Generate, Request, Sampling, ScoredToken, SubmitError, Ticket, Timings,
};

/// Longest that any event may take; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A greedy request.
pub fn request(prompt: &[u32], max_new_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: Sampling::default(),
        max_new_tokens,
        stop_tokens: vec![],
        logprobs: None,
        prompt_logprobs: None,
        cached: true,
    }
}

/// A submitted request.
pub struct Call {
    pub ticket: Option<Ticket>,
    events: Receiver<Event>,
}

/// All that a request gave.
#[derive(Clone, Debug)]
pub struct Reply {
    pub prefill: Vec<(usize, usize)>,
    pub prompt: Option<Vec<ScoredToken>>,
    pub tokens: Vec<ScoredToken>,
    pub end: Result<(FinishReason, Timings), String>,
}

impl Reply {
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|t| t.id).collect()
    }

    pub fn reason(&self) -> FinishReason {
        self.end.as_ref().expect("the request ends well").0
    }
}

/// Submits a request.
pub fn submit(engine: &Engine, request: Request) -> Result<Call, SubmitError> {
    let (sender, events) = channel();
    let sink = move |event| if sender.send(event).is_ok() { Delivery::Taken } else { Delivery::Gone };
    engine.submit(request, Box::new(sink)).map(|ticket| Call { ticket: Some(ticket), events })
}

impl Call {
    /// The next event.
    pub fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event arrives")
    }

    /// Whether nothing has arrived.
    pub fn is_silent(&self) -> bool {
        matches!(self.events.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout))
    }

    /// Waits for the end and checks the order of events on the way.
    pub fn finish(self) -> Reply {
        self.finish_cancelling(None)
    }

    /// The same; drops the ticket after so many events.
    pub fn finish_cancelling(mut self, after: Option<usize>) -> Reply {
        let mut events = 0;
        let (mut prefill, mut prompt, mut tokens) = (vec![], None, vec![]);
        let end = loop {
            if after == Some(events) {
                self.ticket = None;
            }
            events += 1;
            match self.next() {
                Event::Prefill { done, total } => {
                    assert!(prompt.is_none() && tokens.is_empty(), "prefill comes first");
                    prefill.push((done, total));
                }
                Event::Prompt(scores) => {
                    assert!(prompt.is_none() && tokens.is_empty(), "the prompt comes once, before tokens");
                    prompt = Some(scores);
                }
                Event::Token(token) => tokens.push(token),
                Event::Done(reason, timings) => break Ok((reason, timings)),
                Event::Failed(message) => break Err(message),
            }
        };
        let after = self.events.recv_timeout(Duration::from_millis(1));
        assert!(after.is_err(), "nothing follows the end: {after:?}");
        Reply { prefill, prompt, tokens, end }
    }
}

/// Submits and waits.
pub fn run(engine: &Engine, request: Request) -> Reply {
    submit(engine, request).expect("the request is taken").finish()
}

/// Waits until the counters are as told.
pub fn wait_for(engine: &Engine, what: &str, holds: impl Fn(&EngineStats) -> bool) -> EngineStats {
    let started = Instant::now();
    loop {
        let stats = engine.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(started.elapsed() < PATIENCE, "never came to: {what}; {stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
