//! Error responses: RFC 9457 problem details. The one place that makes them.
//!
//! A problem says what a client can do something about, and never a cause, a host name or a stack:
//! those go to the log, where the failure is handled.

use std::time::Duration;

use headers::{Allow, CacheControl, HeaderMapExt as _, RetryAfter};
use lambda_http::Body;
use lambda_http::http::header::{CONTENT_TYPE, HeaderValue};
use lambda_http::http::{Method, Response, StatusCode};
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

/// 404 for a path that leads nowhere.
#[must_use]
pub fn no_such_path() -> Response<Body> {
    never_kept(problem(StatusCode::NOT_FOUND, "No such path"))
}

/// 404 for a thing that is not there; `detail` says which.
///
/// Other than the rest it says nothing of caches: whether it is kept is the policy's choice.
#[must_use]
pub fn not_found(detail: &str) -> Response<Body> {
    problem(StatusCode::NOT_FOUND, detail)
}

/// 405: `allowed` are the methods that the path has.
#[must_use]
pub fn method_not_allowed(allowed: &[Method]) -> Response<Body> {
    let mut response =
        never_kept(problem(StatusCode::METHOD_NOT_ALLOWED, "This path does not have this method"));
    response.headers_mut().typed_insert(allowed.iter().cloned().collect::<Allow>());
    response
}

/// 503: the request is fine, but what it needs has failed or was too slow.
#[must_use]
pub fn unavailable() -> Response<Body> {
    let mut response =
        never_kept(problem(StatusCode::SERVICE_UNAVAILABLE, "Temporarily unavailable; try again"));
    response.headers_mut().typed_insert(RetryAfter::delay(RETRY_AFTER));
    response
}

fn problem(status: StatusCode, detail: &str) -> Response<Body> {
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

fn never_kept(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().typed_insert(CacheControl::new().with_no_store());
    response
}

#[cfg(test)]
mod tests {
    use lambda_http::http::header::CACHE_CONTROL;

    use super::*;

    fn text(response: &Response<Body>) -> &str {
        std::str::from_utf8(response.body()).unwrap()
    }

    #[test]
    fn a_problem_is_what_rfc_9457_says() {
        let response = not_found("User not found");
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            text(&response),
            r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"User not found"}"#
        );
    }

    #[test]
    fn the_example_of_a_503_in_the_openapi_document_is_ours() {
        let document = include_str!("../openapi.yaml");
        assert!(document.contains(&format!("value: {}\n", text(&unavailable()))));
    }

    #[test]
    fn a_detail_is_quoted_as_json_wants_it() {
        let response = bad_request("a \"quote\"\n");
        let problem: serde_json::Value = serde_json::from_str(text(&response)).unwrap();
        assert_eq!(problem["detail"], "a \"quote\"\n");
    }

    #[test]
    fn no_problem_is_kept_but_that_of_a_missing_thing() {
        for response in
            [bad_request("x"), no_such_path(), method_not_allowed(&[Method::GET]), unavailable()]
        {
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store", "{}", response.status());
        }
        assert!(!not_found("x").headers().contains_key(CACHE_CONTROL));
    }

    #[test]
    fn a_405_says_what_is_allowed_and_a_503_when_to_come_back() {
        let response = method_not_allowed(&[Method::GET, Method::HEAD]);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
        assert_eq!(unavailable().headers()["retry-after"], "1");
    }
}
