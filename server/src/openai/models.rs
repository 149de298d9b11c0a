//! `/v1/models`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::chat::describe;
use super::settings::is_known;
use crate::error::ApiError;
use crate::state::AppState;

/// The one model.
pub async fn list(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"object": "list", "data": [describe(state.model()?)]})))
}

/// The model, if it is called so.
pub async fn one(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let model = state.model()?;
    if is_known(state.config(), model, &id) { Ok(Json(describe(model))) } else { Err(ApiError::Model(id)) }
}
