//! `/health` and `/metrics`: open to all, and nobody's conversation is in them.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use swiftlm_runtime::experts::ExpertStats;

use crate::memory::Memory;
use crate::state::AppState;

/// 503 with the progress until the model answers, then what runs.
pub async fn health(State(state): State<AppState>) -> Response {
    let Some(model) = state.loaded() else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(state.progress().body())).into_response();
    };
    let (info, metrics, memory) = (&model.info, state.metrics(), Memory::now());
    let gb = |bytes: u64| (bytes as f64 / 1e9 * 1e3).round() / 1e3;
    let required = info.weights_bytes + info.kv_bytes;
    let overcommit = if memory.total == 0 { 0.0 } else { required as f64 / memory.total as f64 };
    let stats = model.engine.stats();
    let status = if state.draining() { "draining" } else { "ok" };
    let body = json!({
        "status": status,
        "model": info.id,
        "vision": false,
        "audio": false,
        "context_length": model.engine.context_length(),
        "backend": info.backend,
        "lossy": info.lossy,
        "kv": info.kv,
        "fingerprint": info.fingerprint,
        "from_package": info.packaged,
        "compiler_passes": swiftlm_driver::compile::passes(),
        "memory": {
            "active_mb": mb(memory.active),
            "peak_mb": mb(memory.peak),
            "cache_mb": 0,
            "total_system_mb": mb(memory.total),
            "gpu_architecture": info.device,
        },
        "stats": {
            "requests_total": metrics.requests_total(),
            "requests_active": metrics.requests_active(),
            "tokens_generated": metrics.tokens_total(),
            "avg_tokens_per_sec": (metrics.tokens_per_second() * 100.0).round() / 100.0,
        },
        "partition": {
            "strategy": if info.gpu_layers == 0 { "cpu" } else if info.gpu_layers < info.layers { "split" } else { "gpu" },
            "overcommit_ratio": (overcommit * 1e3).round() / 1e3,
            "model_weight_gb": gb(info.weights_bytes),
            "kv_cache_gb": gb(info.kv_bytes),
            "total_required_gb": gb(required),
            "gpu_layers": info.gpu_layers,
            "cpu_layers": info.layers - info.gpu_layers.min(info.layers),
            "total_layers": info.layers,
            "estimated_tok_s": (metrics.tokens_per_second() * 100.0).round() / 100.0,
            "ssd_stream": stats.experts.or(stats.layers).is_some(),
        },
        "experts": stats.experts.map(streamed),
        "layers": stats.layers.map(streamed),
    });
    let code = if state.draining() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(body)).into_response()
}

fn mb(bytes: u64) -> u64 {
    bytes / (1 << 20)
}

/// What takes turns in memory, and what was read of it.
fn streamed(e: ExpertStats) -> serde_json::Value {
    json!({
        "in_memory": e.slots,
        "of": e.experts,
        "hit_rate": (1e4 * e.hits as f64 / (e.hits + e.misses).max(1) as f64).round() / 1e4,
        "read_by": e.read_by,
        "reads": e.misses,
        "read_mb": mb(e.bytes),
        "stalled_s": (e.stalled.as_secs_f64() * 1e3).round() / 1e3,
        "prefetch": e.ahead.map(|a| json!({
            "on": a.on,
            "guessed": a.guessed,
            "useful": a.useful,
            "wasted": a.wasted,
            "step_ms_without_and_with": a.measured.map(|times| times.map(|t| (t.as_secs_f64() * 1e5).round() / 1e2)),
        })),
    })
}

/// Counters in Prometheus' text.
pub async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.metrics().text(state.loaded().map(|model| (model.engine.stats(), model.engine.prefixes())));
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}
