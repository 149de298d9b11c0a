//! How far loading is: for `/health`, for the terminal, and as JSON lines.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::events::Events;

/// Shared between the loading thread and the routes.
#[derive(Clone, Debug)]
pub struct Progress {
    now: Arc<Mutex<(String, f64)>>,
    events: Events,
}

impl Progress {
    /// Nothing done yet.
    pub fn new(events: Events) -> Self {
        Self { now: Arc::new(Mutex::new(("start".to_owned(), 0.0))), events }
    }

    /// `phase` is one of download, load, compile, warm; `fraction` is from 0 to 1. Called as often as one likes:
    /// only whole percents are passed on.
    pub fn report(&self, phase: &str, fraction: f64) {
        let fraction = (fraction.clamp(0.0, 1.0) * 100.0).floor() / 100.0;
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 == phase && now.1 == fraction {
            return;
        }
        *now = (phase.to_owned(), fraction);
        drop(now);
        self.events.progress(phase, fraction);
    }

    /// What `/health` says while loading.
    pub fn body(&self) -> Value {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        json!({"status": "loading", "phase": now.0, "progress": now.1})
    }
}
