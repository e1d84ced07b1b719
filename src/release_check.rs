//! The check of a new version before it gets requests. `CodeDeploy` calls it, and stops the deployment if it fails.
//!
//! A version passes if it answers for an existing user and for a missing one, and if it reaches its cache: it serves
//! the user from there, or, if the table has no such user, reports no fault of the cache.
//! <https://docs.aws.amazon.com/codedeploy/latest/userguide/reference-appspec-file-structure-hooks.html>

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::aws::{self, CallError};
use crate::config::ReleaseCheckConfig;

/// How long a version may take to serve a user from the cache. Its first environment may find the cache slow.
const CACHE_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause before the next request. By then the breaker has closed again.
const PAUSE: Duration = Duration::from_millis(250);
/// The largest possible id, which no user has.
const UNKNOWN_USER: u64 = u64::MAX >> 1;

/// The payload with which `CodeDeploy` calls a hook, and whose ids it expects back.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Hook {
    deployment_id: String,
    lifecycle_event_hook_execution_id: String,
}

/// Why a version may not get requests.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The version could not be invoked.
    #[error("the new version was not asked: {0}")]
    NotAsked(CallError),
    /// The version crashed or timed out.
    #[error("the new version failed: {0}")]
    Failed(String),
    /// The version gave a wrong response.
    #[error("GET {path} was answered with {status}")]
    Answer {
        /// The requested path.
        path: String,
        /// The status of the response.
        status: u64,
    },
    /// The version does not reach its cache.
    #[error("GET {path} did not come from the cache: {cache_status}")]
    Cache {
        /// The requested path.
        path: String,
        /// The `Cache-Status` of the last response.
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

    /// Whether the cache took part without a fault.
    fn reached_cache(&self) -> bool {
        self.is_hit() || self.cache_status.starts_with("response-boost; fwd=uri-miss")
    }
}

/// Checks the new version.
pub async fn check(config: &ReleaseCheckConfig) -> Result<(), Unfit> {
    let ends_at = Instant::now() + CACHE_TIMEOUT;
    for (user, statuses) in [(config.user, &[200, 404][..]), (UNKNOWN_USER, &[404])] {
        loop {
            let path = format!("/users/{user}");
            let reply = ask(config, &path).await?;
            if !statuses.contains(&reply.status) {
                return Err(Unfit::Answer { path, status: reply.status });
            }
            // A 404 is stored only if the configuration says so.
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

/// An event of an HTTP API, with the members that the gateway needs.
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
