//! Error responses: RFC 9457 problem details.
//!
//! A problem says what a client can do something about, and never a cause, a host name or a stack:
//! those go to the log, where the failure is handled.

use std::time::Duration;

use headers::{CacheControl, HeaderMapExt as _, RetryAfter};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use lambda_http::Body;
use serde::Serialize;

/// How long a client is asked to wait before it tries a failed request again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The members of a problem in the order of RFC 9457 §3.1.
#[derive(Serialize)]
struct Problem<'a> {
    /// Always `about:blank`: the status says what kind of problem it is (§4.2.1).
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

/// 400: the request cannot be understood; `detail` says what about it.
#[must_use]
pub fn bad_request(detail: &str) -> Response<Body> {
    never_kept(problem(StatusCode::BAD_REQUEST, detail))
}

/// 503: the request is fine, but what it needs has failed or was too slow.
#[must_use]
pub fn unavailable() -> Response<Body> {
    let mut response =
        never_kept(problem(StatusCode::SERVICE_UNAVAILABLE, "Temporarily unavailable; try again"));
    response.headers_mut().typed_insert(RetryAfter::delay(RETRY_AFTER));
    response
}

/// Any status; `detail` says what this case of it is about.
///
/// Other than the rest it says nothing of caches: whether it is kept is for others to choose.
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

/// The same, which no cache keeps.
#[must_use]
pub fn never_kept(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().typed_insert(CacheControl::new().with_no_store());
    response
}
