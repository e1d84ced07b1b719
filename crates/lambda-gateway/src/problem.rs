//! Error responses: RFC 9457 problem details.
//!
//! A problem tells a client only what it can act on, and never a cause, a host name or a stack. Those go to the log,
//! where the failure is handled.

use std::time::Duration;

use headers::{CacheControl, HeaderMapExt as _, RetryAfter};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use lambda_http::Body;
use serde::Serialize;

/// How long a client should wait before it retries.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The members of a problem in the order of RFC 9457 §3.1.
#[derive(Serialize)]
struct Problem<'a> {
    /// Always `about:blank`: the status is the kind of problem (§4.2.1).
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

/// 400: the request is malformed; `detail` says what is wrong with it.
#[must_use]
pub fn bad_request(detail: &str) -> Response<Body> {
    never_kept(problem(StatusCode::BAD_REQUEST, detail))
}

/// 503: the request is fine, but a dependency failed or was too slow.
#[must_use]
pub fn unavailable() -> Response<Body> {
    let mut response =
        never_kept(problem(StatusCode::SERVICE_UNAVAILABLE, "Temporarily unavailable; try again"));
    response.headers_mut().typed_insert(RetryAfter::delay(RETRY_AFTER));
    response
}

/// A problem with any status; `detail` explains this occurrence.
///
/// Unlike the others it sets no `Cache-Control`, so the caller decides whether it may be stored.
#[must_use]
pub fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let problem = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail,
    };
    // Strings and a number always serialize.
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// Forbids caches to store the response.
#[must_use]
pub fn never_kept(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().typed_insert(CacheControl::new().with_no_store());
    response
}
