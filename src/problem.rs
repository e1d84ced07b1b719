//! The error responses of the users API: RFC 9457 problem details.

use headers::{Allow, HeaderMapExt as _};
use http::{Method, Response, StatusCode};
use lambda_gateway::problem::{never_kept, problem};
use lambda_http::Body;

pub use lambda_gateway::problem::{bad_request, unavailable};

/// 404 for a path that does not exist.
#[must_use]
pub fn no_such_path() -> Response<Body> {
    never_kept(problem(StatusCode::NOT_FOUND, "No such path"))
}

/// 404 for a missing resource; `detail` says which.
///
/// Unlike the others it sets no `Cache-Control`, so the policy decides whether it is stored.
#[must_use]
pub fn not_found(detail: &str) -> Response<Body> {
    problem(StatusCode::NOT_FOUND, detail)
}

/// 405; `allowed` are the methods of the path.
#[must_use]
pub fn method_not_allowed(allowed: &[Method]) -> Response<Body> {
    let mut response =
        never_kept(problem(StatusCode::METHOD_NOT_ALLOWED, "This path does not have this method"));
    response.headers_mut().typed_insert(allowed.iter().cloned().collect::<Allow>());
    response
}

#[cfg(test)]
mod tests {
    use http::header::{CACHE_CONTROL, CONTENT_TYPE};

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
