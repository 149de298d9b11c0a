//! What all routes share: the configuration, the model once it is loaded, whether the server drains, the counters.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::ApiError;
use crate::flags::SamplingFlags;
use crate::load::LoadedModel;
use crate::metrics::Metrics;
use crate::progress::Progress;

/// Bytes of a request's body at most, in MiB.
pub const BODY_MIB: usize = 100;

/// What the flags decide for the routes.
#[derive(Clone, Debug)]
pub struct Config {
    /// Keys of which requests must carry one; none are needed if empty.
    pub keys: Vec<String>,
    /// Origins that may ask; `*` is all.
    pub cors: Vec<String>,
    /// Only this machine can reach the socket, so names and origins must be this machine's.
    pub loopback: bool,
    /// Other names of the model.
    pub aliases: Vec<String>,
    /// Refuse other names.
    pub strict_model: bool,
    /// Sampling flags.
    pub sampling: SamplingFlags,
    /// Let models think unless the request says otherwise.
    pub thinking: bool,
    /// Longest prompt.
    pub max_prompt_tokens: Option<usize>,
    /// Silence after which a stream says that it lives.
    pub keepalive: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            cors: Vec::new(),
            loopback: true,
            aliases: Vec::new(),
            strict_model: false,
            sampling: SamplingFlags::default(),
            thinking: false,
            max_prompt_tokens: None,
            keepalive: Duration::from_secs(5),
        }
    }
}

/// Cheap to clone: one per process.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    config: Config,
    model: OnceLock<Arc<LoadedModel>>,
    progress: Progress,
    metrics: Metrics,
    draining: AtomicBool,
    abort: watch::Sender<bool>,
}

impl AppState {
    /// A server that loads.
    pub fn new(config: Config, progress: Progress) -> Self {
        let (abort, _) = watch::channel(false);
        Self(Arc::new(Shared {
            config,
            model: OnceLock::new(),
            progress,
            metrics: Metrics::new(),
            draining: AtomicBool::new(false),
            abort,
        }))
    }

    /// What the flags decided.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// How far loading is.
    pub fn progress(&self) -> &Progress {
        &self.0.progress
    }

    /// From now on requests are answered. A second model is not taken.
    pub fn set_model(&self, model: LoadedModel) {
        if self.0.model.set(Arc::new(model)).is_err() {
            tracing::warn!("a second model was offered to the server and dropped");
        }
    }

    /// The model, if it is loaded, whether or not the server drains.
    pub fn loaded(&self) -> Option<&Arc<LoadedModel>> {
        self.0.model.get()
    }

    /// The model for a new request.
    pub fn model(&self) -> Result<&Arc<LoadedModel>, ApiError> {
        if self.draining() {
            return Err(ApiError::Draining);
        }
        self.loaded().ok_or(ApiError::Loading)
    }

    /// Takes no new requests from now on.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Whether new requests are refused.
    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Calls off what still runs.
    pub fn abort(&self) {
        self.0.abort.send_replace(true);
    }

    /// Becomes true when running requests are called off.
    pub fn aborted(&self) -> watch::Receiver<bool> {
        self.0.abort.subscribe()
    }
}
