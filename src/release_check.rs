//! What a new version is asked before it gets requests: `CodeDeploy` calls this, and ends the deployment where it fails.
//!
//! A version passes that answers for a user and for one that does not exist, and that reaches its cache: it serves the
//! user from there, or, where the table has no such user, at least had no fault of it.
//! <https://docs.aws.amazon.com/codedeploy/latest/userguide/reference-appspec-file-structure-hooks.html>

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::aws::{self, CallError};
use crate::config::ReleaseCheckConfig;

/// How long a version may take to serve a user from the cache. Its first environment may find the cache slow.
const CACHE_PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait before it is asked again. Its breaker is closed again by then.
const PAUSE: Duration = Duration::from_millis(250);
/// No user has it: it is the largest number that an id can be.
const UNKNOWN_USER: u64 = u64::MAX >> 1;

/// What `CodeDeploy` calls a hook with, and wants to have back.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Hook {
    deployment_id: String,
    lifecycle_event_hook_execution_id: String,
}

/// Why a version gets no requests.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unfit {
    /// It could not be invoked.
    #[error("the new version was not asked: {0}")]
    NotAsked(CallError),
    /// It crashed or ran out of time.
    #[error("the new version failed: {0}")]
    Failed(String),
    /// It gave a wrong answer.
    #[error("GET {path} was answered with {status}")]
    Answer {
        /// What it was asked for.
        path: String,
        /// What it answered with.
        status: u64,
    },
    /// It does not reach its cache.
    #[error("GET {path} did not come from the cache: {cache_status}")]
    Cache {
        /// What it was asked for.
        path: String,
        /// The Cache-Status of its last answer.
        cache_status: String,
    },
}

struct Reply {
    status: u64,
    cache_status: String,
}

impl Reply {
    fn is_hit(&self) -> bool {
        self.cache_status.starts_with("response-boost; hit")
    }

    /// The cache took part, and without a fault.
    fn reached_cache(&self) -> bool {
        self.is_hit() || self.cache_status.starts_with("response-boost; fwd=uri-miss")
    }
}

/// Asks the new version.
pub async fn check(config: &ReleaseCheckConfig) -> Result<(), Unfit> {
    let ends_at = Instant::now() + CACHE_PATIENCE;
    for (user, statuses) in [(config.user, &[200, 404][..]), (UNKNOWN_USER, &[404])] {
        loop {
            let path = format!("/users/{user}");
            let reply = ask(config, &path).await?;
            if !statuses.contains(&reply.status) {
                return Err(Unfit::Answer { path, status: reply.status });
            }
            // What does not exist is not stored unless somebody asks for that.
            let is_well = if reply.status == 200 { reply.is_hit() } else { reply.reached_cache() };
            if is_well || !config.expects_cache {
                break;
            }
            if Instant::now() >= ends_at {
                return Err(Unfit::Cache { path, cache_status: reply.cache_status });
            }
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn ask(config: &ReleaseCheckConfig, path: &str) -> Result<Reply, Unfit> {
    let (function, version) = &config.function;
    let invocations = format!("/2015-03-31/functions/{function}/invocations?Qualifier={version}");
    let asked = aws::call("lambda", &invocations, None, request(path).to_string()).await;
    let answer = asked.map_err(Unfit::NotAsked)?;
    let text = String::from_utf8_lossy(&answer.body);
    let reply: Value = match serde_json::from_str(&text) {
        Ok(reply) if !answer.is_function_error => reply,
        _ => return Err(Unfit::Failed(text.chars().take(500).collect())),
    };
    let cache_status = reply["headers"]["cache-status"].as_str().unwrap_or("no Cache-Status");
    Ok(Reply {
        status: reply["statusCode"].as_u64().unwrap_or_default(),
        cache_status: cache_status.to_owned(),
    })
}

/// The event of an HTTP API, with what is needed of it.
fn request(path: &str) -> Value {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "release-check"},
        "requestContext": {
            "stage": "$default",
            "routeKey": "$default",
            "http": {"method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
        },
        "isBase64Encoded": false,
    })
}

/// Reports to `CodeDeploy` whether the version passed.
pub async fn report(hook: &Hook, passed: bool) -> Result<(), CallError> {
    let status = json!({
        "deploymentId": hook.deployment_id,
        "lifecycleEventHookExecutionId": hook.lifecycle_event_hook_execution_id,
        "status": if passed { "Succeeded" } else { "Failed" },
    });
    let target = "CodeDeploy_20141006.PutLifecycleEventHookExecutionStatus";
    aws::call("codedeploy", "/", Some(target), status.to_string()).await.map(drop)
}
