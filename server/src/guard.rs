//! What stands before every route: a request id, the guard against rebound names and foreign pages, CORS, the key.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use subtle::{Choice, ConstantTimeEq};

use crate::error::ApiError;
use crate::state::{AppState, Config};

/// The id of one request, in its replies and in the log.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Routes that need no key: they tell nothing of anybody's conversation.
const OPEN: [&str; 2] = ["/health", "/metrics"];

/// Lets a request through to its route, or answers for it.
pub async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = uuid::Uuid::new_v4().simple().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let origin = request.headers().get(header::ORIGIN).cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let started = std::time::Instant::now();

    let mut response = match admit(state.config(), &request) {
        Ok(Some(answer)) => answer,
        Ok(None) => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => ApiError::Internal { id: id.clone(), message: "a handler failed".to_owned() }.into_response(),
        },
        Err(error) => error.into_response(),
    };
    let status = response.status();
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        tracing::error!(%id, %method, %path, status = status.as_u16(), "request failed");
    } else {
        tracing::debug!(%id, %method, %path, status = status.as_u16(), ms = started.elapsed().as_millis(), "answered");
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    if let Some(allowed) = allowed_origin(state.config(), origin.as_ref()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let exposed = HeaderValue::from_static("x-request-id, x-swiftlm-ignored");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    response
}

fn admit(config: &Config, request: &Request) -> Result<Option<Response>, ApiError> {
    let headers = request.headers();
    if config.loopback {
        check_names(config, headers)?;
    }
    if request.method() == Method::OPTIONS && !config.cors.is_empty() {
        let answer = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "authorization, content-type, x-api-key, x-swiftlm-prefill-progress",
            ),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        return Ok(Some((StatusCode::NO_CONTENT, answer).into_response()));
    }
    if OPEN.contains(&request.uri().path()) || config.keys.is_empty() || key_is_known(&config.keys, headers) {
        Ok(None)
    } else {
        Err(ApiError::InvalidKey)
    }
}

/// A page of another site can make a browser send requests here, by its own origin or by a name that it rebinds to this
/// machine's address; neither is possible with names that only this machine has.
fn check_names(config: &Config, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    if let Some(host) = text(header::HOST)
        && !is_this_machine(host)
    {
        return Err(ApiError::Forbidden(format!(
            "the host '{host}' is not this machine; use http://localhost or listen with --host 0.0.0.0"
        )));
    }
    if let Some(origin) = text(header::ORIGIN) {
        let local = origin.split_once("://").is_some_and(|(_, host)| is_this_machine(host));
        if !local && !config.cors.iter().any(|allowed| allowed == "*" || allowed == origin) {
            return Err(ApiError::Forbidden(format!(
                "pages of '{origin}' may not ask; allow them with --cors {origin}"
            )));
        }
    }
    Ok(())
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn allowed_origin(config: &Config, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
    let origin = origin?;
    config.cors.iter().any(|allowed| allowed == "*" || origin == allowed.as_str()).then(|| origin.clone())
}

/// Compares with every key in full, so that the time tells nothing of how much of a key was right.
fn key_is_known(keys: &[String], headers: &HeaderMap) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let bearer = bearer.and_then(|value| value.strip_prefix(b"Bearer ").or(value.strip_prefix(b"bearer ")));
    let Some(given) = bearer.or(headers.get("x-api-key").map(HeaderValue::as_bytes)) else { return false };
    keys.iter().fold(Choice::from(0), |found, key| found | key.as_bytes().ct_eq(given)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for host in ["localhost", "LOCALHOST:5413", "127.0.0.1:1", "[::1]:80", "[::1]", "app.localhost:3", "127.9.9.9"]
        {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:80", "192.168.0.1:80", "127.0.0.1.evil.example", "::"]
        {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
