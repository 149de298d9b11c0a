//! Counters for `/metrics` and `/health`, under the names that dashboards of SwiftLM use.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use swiftlm_runtime::request::EngineStats;
use swiftlm_runtime::state::PrefixReport;

use crate::memory::Memory;

type Real = Gauge<f64, AtomicU64>;
type Whole = Gauge<i64, AtomicI64>;

/// All counters of the process.
pub struct Metrics {
    registry: Registry,
    started: Instant,
    requests: Counter,
    active: Whole,
    tokens: Counter,
    first_token: Histogram,
    between_tokens: Histogram,
    decoded: Mutex<(u64, Duration)>,
    gauges: Gauges,
}

#[derive(Default)]
struct Gauges {
    tokens_per_second: Real,
    uptime: Real,
    memory_active: Whole,
    memory_peak: Whole,
    memory_cache: Whole,
    queued: Whole,
    batched: Whole,
    kv_used: Whole,
    kv_total: Whole,
    steps: Counter,
    mixed_steps: Counter,
    prompt_lookups: Counter,
    prompt_hits: Counter,
    prompt_tokens: Counter,
    prompts_kept: Whole,
    expert_hits: Counter,
    expert_misses: Counter,
    ssd_bytes: Counter,
    ssd_rate: Real,
    ssd_latency: Real,
    ssd_stalled: Real,
    ssd_guessed: Counter,
    ssd_useful: Counter,
    ssd_wasted: Counter,
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
        let mut metrics = Self {
            registry: Registry::with_prefix("swiftlm"),
            started: Instant::now(),
            requests: Counter::default(),
            active: Whole::default(),
            tokens: Counter::default(),
            first_token: Histogram::new(buckets),
            between_tokens: Histogram::new(buckets.map(|bound| bound / 10.0)),
            decoded: Mutex::default(),
            gauges: Gauges::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let (r, g) = (&mut self.registry, &self.gauges);
        r.register("requests", "Requests for generation", self.requests.clone());
        r.register("requests_active", "Requests for generation that run or wait", self.active.clone());
        r.register("tokens_generated", "Tokens generated", self.tokens.clone());
        r.register("tokens_per_second", "Mean decode speed of finished requests", g.tokens_per_second.clone());
        r.register("time_to_first_token_seconds", "From a request to its first token", self.first_token.clone());
        r.register("inter_token_seconds", "From a token to the next", self.between_tokens.clone());
        r.register("uptime_seconds", "Time since the start", g.uptime.clone());
        r.register("memory_active_bytes", "Resident memory", g.memory_active.clone());
        r.register("memory_peak_bytes", "Largest resident memory so far", g.memory_peak.clone());
        r.register("memory_cache_bytes", "Memory of caches that could be given up", g.memory_cache.clone());
        r.register("queue_depth", "Requests that wait", g.queued.clone());
        r.register("batch_requests", "Requests in the batch", g.batched.clone());
        r.register("kv_tokens_used", "Tokens that hold KV pages", g.kv_used.clone());
        r.register("kv_tokens_capacity", "Tokens the KV pool can hold", g.kv_total.clone());
        r.register("steps", "Steps of the engine", g.steps.clone());
        r.register("mixed_steps", "Steps with decode and prefill rows", g.mixed_steps.clone());
        r.register("prompt_cache_lookups", "Prompts looked up in the prefix cache", g.prompt_lookups.clone());
        r.register("prompt_cache_hits", "Prompts of which the prefix cache had some", g.prompt_hits.clone());
        r.register("prompt_cache_tokens", "Prompt tokens taken from the prefix cache", g.prompt_tokens.clone());
        r.register("prompt_cache_entries", "Sequences that the prefix cache keeps", g.prompts_kept.clone());
        r.register(
            "expert_cache_hits",
            "Experts chosen that were in memory, or layers that take turns",
            g.expert_hits.clone(),
        );
        r.register("ssd_chunks", "Experts chosen that were read from disk, or layers", g.expert_misses.clone());
        r.register("ssd_bytes_read", "Bytes of experts or layers read from disk", g.ssd_bytes.clone());
        r.register("ssd_throughput_mbps", "Mean MB/s of one read; reads overlap", g.ssd_rate.clone());
        r.register("ssd_chunk_latency_ms", "Mean time to read an expert or a layer", g.ssd_latency.clone());
        r.register("ssd_stalled_seconds", "Time that steps waited for reads", g.ssd_stalled.clone());
        r.register("ssd_prefetch_guessed", "Experts asked for before they were chosen", g.ssd_guessed.clone());
        r.register("ssd_prefetch_useful", "Experts chosen whose reading had begun before", g.ssd_useful.clone());
        r.register("ssd_prefetch_wasted", "Experts read ahead and not chosen", g.ssd_wasted.clone());
    }

    /// A request begins; it is active until the guard is dropped.
    pub fn request(&self) -> Active {
        self.requests.inc();
        self.active.inc();
        Active(self.active.clone())
    }

    /// A token came, this long after the request or the token before it.
    pub fn token(&self, first: bool, after: Duration) {
        self.tokens.inc();
        let histogram = if first { &self.first_token } else { &self.between_tokens };
        histogram.observe(after.as_secs_f64());
    }

    /// A sequence ended after so many tokens and so much decode time.
    pub fn decoded(&self, tokens: usize, time: Duration) {
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        decoded.0 += tokens as u64;
        decoded.1 += time;
    }

    /// Requests since the start.
    pub fn requests_total(&self) -> u64 {
        self.requests.get()
    }

    /// Requests that run or wait.
    pub fn requests_active(&self) -> i64 {
        self.active.get()
    }

    /// Tokens since the start.
    pub fn tokens_total(&self) -> u64 {
        self.tokens.get()
    }

    /// Mean decode speed.
    pub fn tokens_per_second(&self) -> f64 {
        let (tokens, time) = *self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
    }

    /// The text of `/metrics`.
    pub fn text(&self, engine: Option<(EngineStats, PrefixReport)>) -> String {
        let (g, memory) = (&self.gauges, Memory::now());
        g.tokens_per_second.set(self.tokens_per_second());
        g.uptime.set(self.started.elapsed().as_secs_f64());
        g.memory_active.set(memory.active as i64);
        g.memory_peak.set(memory.peak as i64);
        if let Some((stats, prefixes)) = engine {
            g.prompt_lookups.inc_by(prefixes.lookups.saturating_sub(g.prompt_lookups.get()));
            g.prompt_hits.inc_by(prefixes.hits.saturating_sub(g.prompt_hits.get()));
            g.prompt_tokens.inc_by(prefixes.tokens.saturating_sub(g.prompt_tokens.get()));
            g.prompts_kept.set(prefixes.kept.len() as i64);
            g.queued.set(stats.queued as i64);
            g.batched.set(stats.active as i64);
            g.kv_used.set(stats.kv_tokens_used as i64);
            g.kv_total.set(stats.kv_tokens_total as i64);
            g.steps.inc_by(stats.steps.saturating_sub(g.steps.get()));
            g.mixed_steps.inc_by(stats.mixed_steps.saturating_sub(g.mixed_steps.get()));
            if let Some(experts) = stats.experts.or(stats.layers) {
                g.expert_hits.inc_by(experts.hits.saturating_sub(g.expert_hits.get()));
                g.expert_misses.inc_by(experts.misses.saturating_sub(g.expert_misses.get()));
                g.ssd_bytes.inc_by(experts.bytes.saturating_sub(g.ssd_bytes.get()));
                let seconds = experts.reading.as_secs_f64();
                g.ssd_rate.set(if seconds > 0.0 { experts.bytes as f64 / 1e6 / seconds } else { 0.0 });
                g.ssd_latency.set(seconds * 1e3 / experts.misses.max(1) as f64);
                g.ssd_stalled.set(experts.stalled.as_secs_f64());
                let ahead = experts.ahead.unwrap_or_default();
                g.ssd_guessed.inc_by(ahead.guessed.saturating_sub(g.ssd_guessed.get()));
                g.ssd_useful.inc_by(ahead.useful.saturating_sub(g.ssd_useful.get()));
                g.ssd_wasted.inc_by(ahead.wasted.saturating_sub(g.ssd_wasted.get()));
            }
        }
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// An active request.
#[derive(Debug)]
pub struct Active(Whole);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}
