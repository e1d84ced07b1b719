//! Checks that a reply to any event conforms to the HTTP contract. The fuzzers use it too.

use lambda_gateway::{Gateway, Payload, Payloads};
use lambda_http::lambda_runtime::{Diagnostic, LambdaInvocation};
use lambda_http::{Context, LambdaEvent, Request};
use response_boost::{MemoryStore, Namespace, Policy, ResponseCacheLayer};
use serde_json::{Value, json};
use tower::{Layer as _, Service, service_fn};
use users_function::users::{EmbeddedUsers, Route, UsersApi};

/// The users function in this process, with an in-process store: it maps the bytes of a payload to a reply.
///
/// `None`: a function error, because the event is not a request. No other payload causes one.
pub fn function() -> impl FnMut(&[u8]) -> Option<Value> {
    let namespace = Namespace::parse("users").unwrap();
    let policy = Policy::new(std::time::Duration::from_mins(2));
    let cache =
        ResponseCacheLayer::new(MemoryStore::default(), policy, move |request: &Request| {
            Some(namespace.key(Route::of(request).user()?.key_parts()))
        });
    let mut gateway = Gateway::new(cache.layer(UsersApi::new(EmbeddedUsers)));
    // `lambda_runtime` parses the payload as JSON between its layers and the handler.
    let handler = service_fn(move |LambdaInvocation { body, context, .. }| {
        let reply = serde_json::from_slice::<Payload>(&body)
            .map(|payload| gateway.call(LambdaEvent { payload, context }));
        async {
            let not_read = |error: serde_json::Error| Diagnostic {
                error_type: "deserialization".to_owned(),
                error_message: error.to_string(),
            };
            reply.map_err(not_read)?.await
        }
    });
    let mut runtime = Payloads.layer(handler);
    let executor = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    move |payload| {
        let invocation = LambdaInvocation {
            parts: lambda_http::http::Response::new(()).into_parts().0,
            body: payload.to_vec().into(),
            context: Context::default(),
        };
        match executor.block_on(runtime.call(invocation)) {
            Ok(reply) => Some(serde_json::to_value(&reply).expect("a reply is JSON")),
            Err(error) if error.error_type == "NotARequest" => None,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Panics if a reply violates the contract.
pub fn assert_within_contract(reply: &Value) {
    let members = [
        "statusCode",
        "statusDescription",
        "headers",
        "multiValueHeaders",
        "cookies",
        "body",
        "isBase64Encoded",
    ];
    for member in reply.as_object().expect("a reply is an object").keys() {
        assert!(members.contains(&member.as_str()), "{member} in {reply}");
    }
    assert_eq!(reply["isBase64Encoded"], false);

    // The reply to a warm-up event.
    if reply["headers"] == json!({}) {
        assert_eq!((&reply["statusCode"], reply.get("body")), (&json!(200), None));
        return;
    }
    let header = |name: &str| {
        let value = &reply["headers"][name];
        let value = if value.is_null() { &reply["multiValueHeaders"][name][0] } else { value };
        value.as_str()
    };
    let status = reply["statusCode"].as_u64().expect("a status is a number");
    // A reply to `HEAD` has no body.
    let body = reply.get("body").map(|body| {
        serde_json::from_str::<Value>(body.as_str().expect("a body is text"))
            .expect("a body is JSON")
    });
    match status {
        200 | 304 => {
            let etag = header("etag").expect("an answer has a validator");
            assert!(etag.len() == 34 && etag.starts_with('"') && etag.ends_with('"'), "{etag}");
            assert_eq!(header("cache-control"), Some("private, max-age=120"));
            let cache_status = header("cache-status").expect("an answer that may be kept has it");
            let is_hit = cache_status.starts_with("response-boost; hit; ttl=");
            assert!(is_hit || cache_status == "response-boost; fwd=uri-miss; stored");
            assert_eq!(header("age").is_some(), is_hit, "an age comes from an entry");
            if status == 200 {
                assert_eq!(header("content-type"), Some("application/json"));
                assert!(body.is_none_or(|user| user["id"].is_u64() && user["email"].is_string()));
            } else {
                assert_eq!((header("content-type"), body), (None, None));
            }
        }
        412 => {
            assert_eq!(header("cache-control"), Some("no-store"));
            assert!(header("etag").is_some() && header("age").is_none() && body.is_none());
        }
        400 | 404 | 405 => {
            assert_eq!(header("content-type"), Some("application/problem+json"));
            assert_eq!(header("cache-control"), Some("no-store"));
            assert_eq!(header("allow"), (status == 405).then_some("GET, HEAD"));
            assert_eq!(header("etag").or(header("age")), None);
            let cache_status = header("cache-status");
            if let Some(problem) = body {
                assert_eq!(problem["type"], "about:blank");
                assert_eq!(problem["status"], status);
                assert!(problem["title"].is_string() && problem["detail"].is_string());
                let is_cached = problem["detail"] == "User not found";
                assert_eq!(
                    cache_status,
                    is_cached.then_some("response-boost; fwd=uri-miss; detail=status")
                );
            }
        }
        _ => panic!("the contract has no {status} here"),
    }
}

/// Converts input of the fuzzer to a payload.
///
/// Input that starts like JSON or is not UTF-8 is the payload itself. Random changes rarely leave valid JSON, so any
/// other input is a kind of gateway followed by the texts that a client controls, one per line: method, path, query, a
/// header and its value, body.
pub fn event_of(input: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(input) else { return input.to_owned() };
    if text.starts_with(['{', '[', '"']) {
        return input.to_owned();
    }
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (kind, method, path, query) = (next(), next(), next(), next());
    let (name, value, body) = (next(), next(), next());
    let id = path.rsplit('/').next().unwrap_or_default();
    let headers = json!({ name: value });
    let event = match kind {
        "rest" => json!({
            "resource": "/users/{id}",
            "path": path,
            "pathParameters": { "id": id },
            "httpMethod": method,
            "headers": headers,
            "multiValueHeaders": { name: [value, value] },
            "queryStringParameters": { query: query },
            "requestContext": { "stage": "Prod", "httpMethod": method },
            "body": body,
            "isBase64Encoded": body.ends_with('='),
        }),
        "alb" => json!({
            "path": path,
            "httpMethod": method,
            "headers": headers,
            "queryStringParameters": { query: query },
            "requestContext": { "elb": {} },
            "body": body,
            "isBase64Encoded": body.ends_with('='),
        }),
        _ => json!({
            "version": "2.0",
            "routeKey": kind,
            "rawPath": path,
            "rawQueryString": query,
            "pathParameters": { "id": id, "proxy": path },
            "headers": headers,
            "cookies": [value, name],
            "requestContext": {
                "apiId": kind.strip_prefix('$'),
                "domainName": value,
                "stage": "$default",
                "http": { "method": method },
            },
            "body": body,
            "isBase64Encoded": body.ends_with('='),
        }),
    };
    event.to_string().into_bytes()
}
