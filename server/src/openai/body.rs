//! A JSON body, whose every fault is an [`ApiError`].

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};

use super::fields::Fields;
use crate::error::ApiError;
use crate::guard::RequestId;
use crate::state::{AppState, BODY_MIB};

/// A request with a JSON object in it.
#[derive(Debug)]
pub struct JsonBody {
    /// The object.
    pub fields: Fields,
    /// The request's headers.
    pub headers: HeaderMap,
    /// Its id.
    pub id: String,
}

impl FromRequest<AppState> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let headers = request.headers().clone();
        let id = request.extensions().get::<RequestId>().map_or_else(String::new, |id| id.0.clone());
        // A page of another site can send a body without asking first, but not one that is declared as JSON.
        if !is_json(&headers) {
            return Err(ApiError::MediaType);
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge(BODY_MIB),
            _ => ApiError::Body(rejection.body_text()),
        })?;
        Ok(Self { fields: Fields::parse(&bytes)?, headers, id })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}
