//! Real peers for the tests of this workspace: a private Redis, alone or as a cluster, and a proxy that makes sockets
//! fail as networks do. Everything ends with the test, even if it fails.

#![allow(missing_docs, missing_debug_implementations)]
#![allow(clippy::missing_panics_doc, clippy::must_use_candidate, clippy::new_without_default)]

pub mod cluster;
pub mod peer;
pub mod proxy;
pub mod redis;
pub mod tls;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longer than anything here takes on a busy machine; exceeding it is a failure.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Milliseconds since the epoch.
pub fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

/// Calls `what` until it returns a value.
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
    // A minimal system has no `kill` program, but every shell has the command.
    let mut kill = std::process::Command::new("sh");
    kill.args(["-c", &format!("kill -{signal} {pid}")]);
    assert!(kill.status().unwrap().success());
}

/// A temporary folder, removed when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("response-boost-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Writes a file into the folder and returns its path.
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
