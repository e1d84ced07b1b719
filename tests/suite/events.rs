//! Events that are malformed requests or not requests at all, sent to the real binary.

use serde_json::{Value, json};
use test_peers::redis::{RedisServer, send};

use crate::support::lambda::Function;
use crate::support::{MANAS, event, request};

fn load_balancer(more: &str) -> Vec<u8> {
    let event = r#"{"requestContext":{"elb":{}},"httpMethod":"GET","path":"/users/1""#;
    format!("{event}{more}}}").into_bytes()
}

#[tokio::test]
async fn what_is_not_utf_8_or_not_json_is_answered() {
    let function = Function::start(&[]).await;
    let header = |value: &[u8]| {
        let mut event = load_balancer(r#","headers":{"user-agent":"?"}"#);
        let place = event.iter().position(|&byte| byte == b'?').unwrap();
        event.splice(place..=place, value.iter().copied());
        event
    };
    for served in [header(b"Beno\xeet"), header(br"a\ud83d b"), header(b"x")] {
        assert_eq!(function.invoke_bytes(served).await.body, MANAS);
    }
    for refused in
        [header(b"a\tb"), b"{".to_vec(), b"GET /users/1".to_vec(), b"\xff".to_vec(), Vec::new()]
    {
        let reply = function.invoke_bytes(refused).await;
        assert_eq!((reply.status, reply.header("content-type")), (400, "application/problem+json"));
    }
}

#[tokio::test]
async fn the_path_alone_decides_what_is_asked_for() {
    let function = Function::start(&[]).await;
    let rest = |resource: &str, path: &str, parameters: Value| {
        let mut event = event("rest-existing");
        event["resource"] = resource.into();
        event["path"] = path.into();
        event["pathParameters"] = parameters;
        event
    };
    let id = json!({ "id": "1" });
    let mut order = request("GET", "/orders/1");
    order["routeKey"] = "GET /orders/{id}".into();
    order["pathParameters"] = id.clone();
    for event in [
        order,
        rest("/users/{id}/source_networks", "/users/1/source_networks", id.clone()),
        rest("/v1/accounts/{id}", "/v1/accounts/1", id.clone()),
        // A trailing slash makes another path, behind every gateway.
        rest("/users/{id}", "/users/1/", id.clone()),
        request("GET", "/users/1/"),
        request("GET", "//users/1"),
    ] {
        assert_eq!(function.invoke(&event).await.status, 404, "{event}");
    }
    for event in [
        rest("/users", "/users/1", json!({})),
        rest("/{proxy+}", "/users/1", json!({ "proxy": "/users/1" })),
        rest("/{proxy+}", "/users/1", Value::Null),
    ] {
        assert_eq!(function.invoke(&event).await.body, MANAS, "{event}");
    }
}

#[tokio::test]
async fn a_base_path_is_taken_off_where_it_is_set() {
    let function = Function::start(&[("API_BASE_PATH", "/api")]).await;
    for kind in ["alb-existing", "function-url-existing"] {
        let mut event = event(kind);
        let path = if kind.starts_with("alb") { "path" } else { "rawPath" };
        for (asked, status) in [("/api/users/1", 200), ("/users/1", 200), ("/apis/users/1", 404)] {
            event[path] = asked.into();
            assert_eq!(function.invoke(&event).await.status, status, "{asked}");
        }
    }
}

#[tokio::test]
async fn what_a_queue_or_a_stream_sends_is_not_taken_for_done() {
    let function = Function::start(&[]).await;
    for (event, name) in [
        (event("stream-changed"), "aws:dynamodb"),
        (json!({ "Records": [{ "eventSource": "aws:sqs", "body": "an order" }] }), "aws:sqs"),
        (json!({ "detail-type": "Order", "source": "shop", "detail": {} }), "EventBridge"),
    ] {
        let error = function.error(&event).await;
        assert!(error.contains(&format!("an event of {name}, which is not a request")), "{error}");
        assert!(!error.contains("an order"), "{error}");
    }
    assert_eq!(function.get("/users/1").await.body, MANAS, "the process goes on");
}

#[tokio::test]
async fn an_event_that_keeps_an_environment_warm_connects_and_counts_as_no_request() {
    let redis = RedisServer::start().await;
    let variables = [("REDIS_URL", &*redis.url()), ("AWS_LAMBDA_LOG_FORMAT", "JSON")];
    let function = Function::start(&variables).await;
    let mut connection = redis.connect();
    let mut clients =
        || send::<String>(&mut connection, &["CLIENT", "LIST", "TYPE", "normal"]).lines().count();
    assert_eq!(clients(), 1, "this one");
    for event in [
        json!({ "detail-type": "Scheduled Event", "source": "aws.events", "detail": {} }),
        json!({ "source": "serverless-plugin-warmup" }),
        json!({ "warmer": true, "concurrency": 1 }),
    ] {
        assert_eq!(function.invoke(&event).await.status, 200);
        assert_eq!(clients(), 2, "this one and the function's");
    }
    function.get("/users/1").await;
    let output = function.output_with("Latency", 1).await;
    assert_eq!(output.lines().filter(|line| line.contains("\"Latency\"")).count(), 1, "{output}");
}
