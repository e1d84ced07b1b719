//! Real peers for the tests of this workspace: a Redis of the test's own, alone or as a cluster, and a proxy that
//! does to sockets what networks do. All of it ends with the test, also when that fails.

#![allow(missing_docs, missing_debug_implementations)]
#![allow(clippy::missing_panics_doc, clippy::must_use_candidate, clippy::new_without_default)]

pub mod cluster;
pub mod proxy;
pub mod redis;
pub mod tls;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longer than anything here takes on a busy machine: reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The time since the epoch, in milliseconds.
pub fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

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
