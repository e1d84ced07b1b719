//! Real peers for the tests: a redis-server of the test's own, and the Lambda Runtime API that the
//! real binary talks to. All of it ends with the test, also when that fails.

// Each test binary uses a part of this.
#![allow(dead_code, unreachable_pub)]

pub mod cluster;
pub mod contract;
pub mod dynamodb;
pub mod http;
pub mod lambda;
pub mod log;
pub mod proxy;
pub mod redis;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine: reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The answer to `GET /users/1`.
pub const MANAS: &str = r#"{"id":1,"name":"Manas","email":"manas@example.com","age":25}"#;
/// The `Cache-Status` of an answer that was loaded and kept.
pub const STORED: &str = "response-boost; fwd=uri-miss; stored";

/// Asks `what` until it has an answer.
pub async fn wait_for<T>(description: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = what() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {description}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

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

/// The event of an HTTP API that asks for `path` with `method`, as its `$default` route gives it.
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

/// Sends a signal (`STOP`, `CONT`, …) to a process.
pub fn signal(pid: u32, signal: &str) {
    // A small system has no program of that name, but each shell has the command.
    let mut kill = std::process::Command::new("sh");
    kill.args(["-c", &format!("kill -{signal} {pid}")]);
    assert!(kill.status().unwrap().success());
}

/// A folder of the test's own, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("response-boost-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Writes a file into it and gives its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn path(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
