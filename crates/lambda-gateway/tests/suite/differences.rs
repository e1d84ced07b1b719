//! Tests each row of the table in the crate's docs, with this crate and with `lambda_http`.

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use lambda_gateway::Gateway;
use lambda_http::lambda_runtime::Diagnostic;
use lambda_http::{Context, LambdaEvent, Request};
use serde_json::{Value, json};
use tower::{Service as _, service_fn};

use crate::support::{Answer, End, event, mirror, ours, reflected, theirs};

/// The results of both for an event, with the same service.
async fn both(event: &Value) -> (End, End) {
    both_of_bytes(event.to_string().as_bytes()).await
}

async fn both_of_bytes(event: &[u8]) -> (End, End) {
    (ours(mirror(), event).await, theirs(mirror(), event).await)
}

/// The replies of both if the service responds with this head and body.
async fn replies(
    kind: &str,
    method: &str,
    headers: &'static [(&str, &str)],
    body: &'static [u8],
) -> (Value, Value) {
    let answer = service_fn(move |_: Request| {
        let mut answer = Answer::new(Bytes::from_static(body).into());
        for &(name, value) in headers {
            let name = HeaderName::from_static(name);
            answer.headers_mut().append(name, HeaderValue::from_static(value));
        }
        std::future::ready(Ok::<_, Diagnostic>(answer))
    });
    let mut event = event(kind);
    event["requestContext"]["http"]["method"] = method.into();
    let event = event.to_string();
    let ours = ours(answer, event.as_bytes()).await.unwrap();
    (ours, theirs(answer, event.as_bytes()).await.unwrap())
}

#[test]
fn the_docs_have_a_row_for_each_test_here() {
    let docs = include_str!("../../src/lib.rs");
    let rows = docs.lines().filter(|line| line.starts_with("//! | ") && !line.contains("---"));
    let tests = include_str!("differences.rs").matches("\nasync fn row_").count();
    assert_eq!(rows.count() - 1, tests, "and one that says what the columns are");
}

#[tokio::test]
async fn row_an_odd_query_string_is_served_and_an_odd_host_is_a_400() {
    let mut odd = event("http");
    odd["rawQueryString"] = "a=<b>".into();
    let (ours, theirs) = both(&odd).await;
    assert_eq!(reflected(&ours.unwrap())["query"], "a=%3Cb%3E");
    assert!(theirs.unwrap_err().contains("panicked"));

    let mut odd = event("http");
    odd["headers"]["host"] = "a b".into();
    let (ours, theirs) = both(&odd).await;
    assert_eq!(ours.unwrap()["statusCode"], 400);
    assert!(theirs.unwrap_err().contains("panicked"));
}

#[tokio::test]
async fn row_an_event_that_is_not_utf_8_is_served_and_one_that_is_not_json_is_a_400() {
    let mut odd = event("http").to_string().into_bytes();
    let place = odd.windows(4).position(|bytes| bytes == b"curl").unwrap();
    odd[place] = b'\xe9';
    let (ours, theirs) = both_of_bytes(&odd).await;
    let asked = reflected(&ours.unwrap());
    assert!(asked["headers"].to_string().contains("\u{fffd}url"), "{asked}");
    theirs.unwrap_err();

    let (ours, theirs) = both_of_bytes(b"GET /users/1 HTTP/1.1").await;
    assert_eq!(ours.unwrap()["statusCode"], 400);
    theirs.unwrap_err();
}

#[tokio::test]
async fn row_odd_members_are_read_as_what_they_mean_or_left_out() {
    for (kind, member, odd, place, read) in [
        ("rest", "/headers/Accept", json!(null), "/path", json!("/users/1")),
        ("rest", "/headers/X-Forwarded-Port", json!(443), "/path", json!("/users/1")),
        ("alb", "/headers/accept", json!([null, "a"]), "/headers/0", json!(["accept", "a"])),
        ("http", "/isBase64Encoded", json!("false"), "/path", json!("/users/1")),
        ("alb", "/body", json!({ "a": 1 }), "/body", json!(r#"{"a":1}"#)),
        ("http", "/headers", json!([]), "/headers", json!([])),
    ] {
        let mut event = event(kind);
        *event.pointer_mut(member).unwrap() = odd;
        let (ours, theirs) = both(&event).await;
        assert_eq!(reflected(&ours.unwrap()).pointer(place), Some(&read), "{member}");
        theirs.expect_err(member);
    }
}

#[tokio::test]
async fn row_a_context_that_the_types_do_not_fit_is_left_out() {
    let mut odd = event("rest");
    odd["requestContext"]["requestTimeEpoch"] = "now".into();
    let (ours, theirs) = both(&odd).await;
    let asked = reflected(&ours.unwrap());
    assert_eq!((&asked["path"], &asked["has_context"]), (&"/users/1".into(), &false.into()));
    theirs.unwrap_err();
}

#[tokio::test]
async fn row_the_path_has_neither_stage_nor_base_path_and_is_percent_encoded() {
    let (rest, mut http) = (event("rest"), event("http"));
    // The client sent `/%2531`, and the API has decoded it.
    http["rawPath"] = "/%31".into();
    let mut based = rest.clone();
    based["path"] = "/base/users/1".into();
    for (event, path, of_lambda_http) in [
        (rest, "/users/1", "/Prod/users/1"),
        (based, "/users/1", "/Prod/base/users/1"),
        (http, "/%2531", "/%31"),
    ] {
        let (ours, theirs) = both(&event).await;
        let (ours, theirs) = (reflected(&ours.unwrap()), reflected(&theirs.unwrap()));
        assert_eq!((&ours["path"], &theirs["path"]), (&path.into(), &of_lambda_http.into()));
        assert_eq!(ours["raw_path"], theirs["raw_path"]);
    }
}

#[tokio::test]
async fn row_path_parameters_are_decoded_once() {
    let mut rest = event("rest");
    rest["path"] = "/users/%31".into();
    rest["pathParameters"]["id"] = "%31".into();
    let (ours, theirs) = both(&rest).await;
    assert_eq!(reflected(&ours.unwrap())["parameters"], json!([["id", "1"]]));
    assert_eq!(reflected(&theirs.unwrap())["parameters"], json!([["id", "%31"]]));
}

#[tokio::test]
async fn row_a_repeated_header_of_a_reply_has_all_its_values() {
    let (ours, theirs) = replies("http", "GET", &[("link", "<a>"), ("link", "<b>")], b"").await;
    assert_eq!(ours["headers"]["link"], "<a>, <b>");
    assert_eq!(theirs["headers"]["link"], "<a>");
}

#[tokio::test]
async fn row_the_body_of_a_reply_is_text_where_it_is_utf_8_whatever_its_type() {
    let (ours, theirs) =
        replies("http", "GET", &[("content-type", "application/octet-stream")], b"text").await;
    assert_eq!((&ours["body"], &ours["isBase64Encoded"]), (&"text".into(), &false.into()));
    assert_eq!((&theirs["body"], &theirs["isBase64Encoded"]), (&"dGV4dA==".into(), &true.into()));

    // A client reads this byte as é, because of the type; it must stay one byte.
    let latin_1: &[_] = &[("content-type", "text/plain; charset=iso-8859-1")];
    let (ours, theirs) = replies("http", "GET", latin_1, b"\xe9").await;
    assert_eq!((&ours["body"], &ours["isBase64Encoded"]), (&"6Q==".into(), &true.into()));
    assert_eq!((&theirs["body"], &theirs["isBase64Encoded"]), (&"é".into(), &false.into()));
}

#[tokio::test]
async fn row_a_head_is_answered_without_a_body_and_with_its_length() {
    let (ours, theirs) = replies("http", "HEAD", &[], b"hello").await;
    assert_eq!((ours.get("body"), &ours["headers"]["content-length"]), (None, &"5".into()));
    assert!(theirs["body"].is_string() && theirs["headers"].get("content-length").is_none());
}

#[tokio::test(start_paused = true)]
async fn row_a_service_that_does_not_answer_in_time_is_a_503() {
    let silent = service_fn(|_: Request| pending::<Result<Answer, Diagnostic>>());
    let mut context = Context::default();
    let ends_at = std::time::SystemTime::now() + Duration::from_secs(10);
    let ends_at = ends_at.duration_since(std::time::UNIX_EPOCH).unwrap();
    context.deadline = u64::try_from(ends_at.as_millis()).unwrap();

    let event = event("http").to_string();
    let payload = serde_json::from_str(&event).unwrap();
    let theirs =
        lambda_http::Adapter::from(silent).call(LambdaEvent { payload, context: context.clone() });
    assert!(tokio::time::timeout(Duration::from_secs(10), theirs).await.is_err());

    let ours = Gateway::new(silent).call(LambdaEvent { payload: event.into(), context });
    let ours = tokio::time::timeout(Duration::from_secs(10), ours).await.unwrap().unwrap();
    assert_eq!(serde_json::to_value(ours).unwrap()["statusCode"], 503);
}

#[tokio::test]
async fn row_an_event_of_a_queue_is_a_function_error_that_names_it() {
    let event = json!({ "Records": [{ "eventSource": "aws:sqs", "body": "an order" }] });
    let (ours, theirs) = both(&event).await;
    assert!(ours.unwrap_err().starts_with("an event of aws:sqs, which is not a request"));
    assert!(!theirs.unwrap_err().contains("sqs"));
}

#[tokio::test]
async fn row_an_event_that_keeps_an_environment_warm_is_a_200() {
    let (ours, theirs) = both(&json!({ "detail-type": "Scheduled Event", "detail": {} })).await;
    assert_eq!(ours.unwrap()["statusCode"], 200);
    theirs.unwrap_err();
}

#[tokio::test]
async fn row_web_sockets_and_vpc_lattice_are_not_served() {
    let lattice = json!({
        "version": "2.0",
        "path": "/users/1",
        "method": "GET",
        "headers": {},
        "requestContext": { "serviceArn": "arn:x" },
    });
    let web_socket = json!({
        "requestContext": { "routeKey": "$connect", "eventType": "CONNECT", "connectionId": "x" },
    });
    for event in [lattice, web_socket] {
        // `lambda_http` serves them with features that are off here.
        let (ours, _) = both(&event).await;
        assert_eq!(ours.unwrap()["statusCode"], 400);
    }
}
