//! The list of routes.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::error::ApiError;
use crate::state::{AppState, BODY_MIB};
use crate::{guard, health, openai, prefixes};

/// Everything the server answers.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
        .route("/cache", get(prefixes::cache))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*id}", get(openai::models::one))
        .route("/v1/chat/completions", post(openai::chat::create))
        .route("/v1/completions", post(openai::completions::create))
        .route("/tokenize", post(openai::tokens::tokenize))
        .route("/detokenize", post(openai::tokens::detokenize))
        .route("/apply-template", post(openai::tokens::apply_template))
        .fallback(|request: Request| async move { ApiError::Route(request.uri().path().to_owned()) })
        .method_not_allowed_fallback(|request: Request| async move { ApiError::Method(request.method().to_string()) })
        .layer(DefaultBodyLimit::max(BODY_MIB << 20))
        .layer(from_fn_with_state(state.clone(), guard::guard))
        .with_state(state)
}
