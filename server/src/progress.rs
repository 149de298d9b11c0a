//! How far loading is: for `/health`, for the terminal, and as JSON lines.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::events::Events;

/// Shared between the loading thread and the routes.
#[derive(Clone, Debug)]
pub struct Progress {
    now: Arc<Mutex<Phase>>,
    events: Events,
}

#[derive(Debug)]
struct Phase {
    name: String,
    fraction: f64,
    bar: ProgressBar,
}

impl Progress {
    /// Nothing done yet.
    pub fn new(events: Events) -> Self {
        let phase = Phase { name: "start".to_owned(), fraction: 0.0, bar: ProgressBar::hidden() };
        Self { now: Arc::new(Mutex::new(phase)), events }
    }

    /// `phase` is one of download, load, compile, warm; `fraction` is from 0 to 1. Called as often as one likes:
    /// only whole percents are passed on.
    pub fn report(&self, phase: &str, fraction: f64) {
        let fraction = (fraction.clamp(0.0, 1.0) * 100.0).floor() / 100.0;
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.name == phase && now.fraction == fraction {
            return;
        }
        if now.name != phase {
            now.bar.abandon();
            now.bar = self.events.bar(phase);
            phase.clone_into(&mut now.name);
        }
        now.fraction = fraction;
        now.bar.set_position((fraction * 100.0) as u64);
        if fraction >= 1.0 {
            now.bar.abandon();
        }
        drop(now);
        self.events.progress(phase, fraction);
    }

    /// What `/health` says while loading.
    pub fn body(&self) -> Value {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        json!({"status": "loading", "phase": now.name, "progress": now.fraction})
    }
}
