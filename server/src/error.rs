//! Every way a request fails, and the one table of what each looks like from outside.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use swiftlm_runtime::request::SubmitError;

/// A failed request. Messages are for people; `param` is the dotted name of the field at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// A field has a wrong type, a value out of range, or is missing.
    #[error("{message}")]
    Invalid {
        /// The field.
        param: String,
        /// What it must be.
        message: String,
    },
    /// A field that this build knows but cannot act on.
    #[error("'{param}' is not supported by this build{hint}")]
    Unsupported {
        /// The field.
        param: String,
        /// What to do instead; empty or beginning with a separator.
        hint: String,
    },
    /// `kv_bits` is none of the values that exist.
    #[error("'kv_bits' must be 4 or 8, got {0}")]
    InvalidKvBits(String),
    /// The body is not JSON.
    #[error("the body is not a JSON object: {0}")]
    Body(String),
    /// The prompt leaves no room for a reply.
    #[error("this model's context is {context} tokens, the prompt has {prompt}; shorten it")]
    ContextLength {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// The prompt is so long that its tokens need not be counted.
    #[error("this model's context is {context} tokens, the prompt has at least {least}; shorten it")]
    ContextHopeless {
        /// Fewer tokens it cannot be.
        least: usize,
        /// Tokens of the context or of the operator's limit.
        context: usize,
    },
    /// The prompt is longer than the operator allows.
    #[error("this server takes prompts of {limit} tokens, this one has {prompt}; shorten it")]
    PromptLimit {
        /// Tokens of the prompt.
        prompt: usize,
        /// `--max-prompt-tokens`.
        limit: usize,
    },
    /// No key or a wrong one.
    #[error("a valid API key is needed: send 'Authorization: Bearer KEY'")]
    InvalidKey,
    /// Another site's page or a rebound name reaches for this server.
    #[error("{0}")]
    Forbidden(String),
    /// No model of this name.
    #[error("the model '{0}' does not exist here; GET /v1/models lists what does")]
    Model(String),
    /// No such route.
    #[error("there is no route {0}")]
    Route(String),
    /// The route exists for another method.
    #[error("the method {0} is not allowed for this route")]
    Method(String),
    /// The body is over the limit.
    #[error("the body is larger than {0} MiB")]
    TooLarge(usize),
    /// The body is not declared as JSON.
    #[error("the body must be sent with 'Content-Type: application/json'")]
    MediaType,
    /// Too many requests wait.
    #[error("too many requests wait ({0}); try again later")]
    QueueFull(usize),
    /// The model is not loaded yet.
    #[error("the model is still loading; GET /health says how far it is")]
    Loading,
    /// The server takes no more requests.
    #[error("the server is shutting down")]
    Draining,
    /// Our own fault; the log has more under this id.
    #[error("internal error in request {id}: {message}")]
    Internal {
        /// The request's id.
        id: String,
        /// What failed.
        message: String,
    },
}

impl ApiError {
    /// A wrong field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { param: param.into(), message: message.into() }
    }

    /// A field of a feature that this build does not have.
    pub fn unsupported(param: impl Into<String>) -> Self {
        Self::Unsupported { param: param.into(), hint: String::new() }
    }

    /// What the engine said when it did not admit a request.
    pub fn from_submit(error: SubmitError, id: &str) -> Self {
        match error {
            SubmitError::QueueFull(waiting) => Self::QueueFull(waiting),
            SubmitError::ContextLength { prompt, context } => Self::ContextLength { prompt, context },
            SubmitError::Closed => Self::Draining,
            // Everything of the outside was checked before, so this is our own mistake.
            SubmitError::Invalid(message) => Self::Internal { id: id.to_owned(), message },
        }
    }

    /// Status, OpenAI's `type`, and `code`.
    pub fn row(&self) -> (StatusCode, &'static str, Option<&'static str>) {
        const REQUEST: &str = "invalid_request_error";
        match self {
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, REQUEST, None),
            Self::Unsupported { .. } => (StatusCode::BAD_REQUEST, REQUEST, Some("unsupported_parameter")),
            Self::InvalidKvBits(_) => (StatusCode::BAD_REQUEST, REQUEST, Some("invalid_kv_bits")),
            Self::Body(_) => (StatusCode::BAD_REQUEST, REQUEST, Some("invalid_json")),
            Self::ContextLength { .. } | Self::ContextHopeless { .. } | Self::PromptLimit { .. } => {
                (StatusCode::BAD_REQUEST, REQUEST, Some("context_length_exceeded"))
            }
            Self::InvalidKey => (StatusCode::UNAUTHORIZED, REQUEST, Some("invalid_api_key")),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, REQUEST, Some("forbidden")),
            Self::Model(_) => (StatusCode::NOT_FOUND, REQUEST, Some("model_not_found")),
            Self::Route(_) => (StatusCode::NOT_FOUND, REQUEST, Some("not_found")),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, REQUEST, Some("method_not_allowed")),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, Some("body_too_large")),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, REQUEST, Some("unsupported_media_type")),
            Self::QueueFull(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full")),
            Self::Loading => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("model_loading")),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("shutting_down")),
            Self::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal_error")),
        }
    }

    /// OpenAI's error body.
    pub fn body(&self) -> Value {
        let (_, kind, code) = self.row();
        json!({"error": {"message": self.to_string(), "type": kind, "param": self.param(), "code": code}})
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Invalid { param, .. } | Self::Unsupported { param, .. } => Some(param),
            Self::InvalidKvBits(_) => Some("kv_bits"),
            Self::Model(_) => Some("model"),
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, ..) = self.row();
        let mut response = (status, Json(self.body())).into_response();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
