//! The Lambda Runtime API for the real binary, its DynamoDB, and the requests and responses of the tests. Everything
//! ends with the test, even if it fails.

// The fuzzers use parts of it.
#![allow(unreachable_pub)]

pub mod contract;
pub mod dynamodb;
pub mod http;
pub mod lambda;
pub mod log;

use std::path::PathBuf;

/// The body of `GET /users/1`.
pub const MANAS: &str = r#"{"id":1,"name":"Manas","email":"manas@example.com","age":25}"#;
/// The `Cache-Status` of a response that was loaded and stored.
pub const STORED: &str = "response-boost; fwd=uri-miss; stored";

/// An event of `events/`.
pub fn event(name: &str) -> serde_json::Value {
    let path = events_dir().join(name).with_extension("json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn events_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("events")
}

/// The event of an HTTP API for `path` and `method`, as its `$default` route sends it.
pub fn request(method: &str, path: &str) -> serde_json::Value {
    let mut event = event("http-existing");
    event["rawPath"] = path.into();
    event["requestContext"]["http"]["path"] = path.into();
    event["requestContext"]["http"]["method"] = method.into();
    for route_key in [&["routeKey"][..], &["requestContext", "routeKey"]] {
        let place = route_key.iter().fold(&mut event, |place, name| &mut place[*name]);
        *place = "$default".into();
    }
    event.as_object_mut().unwrap().remove("pathParameters");
    event
}
