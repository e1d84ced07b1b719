//! Removes everything stored in a namespace.

use std::sync::Arc;

use redis::{Cmd, Value};
use tokio::task::JoinSet;

use super::node::{ATTEMPT_LIMIT, Command, Node, Resend, Timeouts};
use super::{RedisStore, unexpected_reply};
use crate::{Namespace, StoreError};

/// How many keys a node scans before it serves other clients again.
const BATCH: u32 = 1_000;

impl RedisStore {
    /// Removes everything stored in a namespace, and in every namespace that begins with it and a colon. Returns the
    /// number of removed keys.
    ///
    /// It runs `SCAN` and `UNLINK` in batches, in a cluster on each primary, so that it does not block other clients.
    /// After each batch it calls `progress` with the number of keys removed so far. Keys written meanwhile may remain.
    /// It is meant for operators, so it waits longer than a request would. After an `Err`, some keys may be removed;
    /// run it again.
    pub async fn purge(
        &self,
        namespace: &Namespace,
        mut progress: impl FnMut(u64),
    ) -> Result<u64, StoreError> {
        let pattern = format!("{}:*", namespace.as_str());
        let mut removed = 0;
        for node in self.router.primaries().await? {
            let mut cursor = b"0".to_vec();
            loop {
                let mut scan = Cmd::new();
                scan.arg("SCAN").arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(BATCH);
                let found = ask(&node, scan).await?;
                let (next, keys) = batch(found).ok_or_else(unexpected_reply)?;
                removed += remove(&node, keys).await?;
                progress(removed);
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(removed)
    }
}

/// The next cursor, and the keys.
fn batch(found: Value) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let Value::Array(parts) = found else { return None };
    let [Value::BulkString(next), Value::Array(keys)] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let keys = keys.into_iter().map(|key| match key {
        Value::BulkString(key) => Some(key),
        _ => None,
    });
    Some((next, keys.collect::<Option<_>>()?))
}

/// One command for each key: a cluster rejects a command on keys of several slots.
async fn remove(node: &Arc<Node>, keys: Vec<Vec<u8>>) -> Result<u64, StoreError> {
    let mut removals = JoinSet::new();
    for key in keys {
        let node = Arc::clone(node);
        removals.spawn(async move {
            let mut unlink = Cmd::new();
            unlink.arg("UNLINK").arg(key);
            ask(&node, unlink).await
        });
    }
    let mut removed = 0;
    while let Some(removal) = removals.join_next().await {
        match removal.map_err(|panic| StoreError::Failed(panic.into()))?? {
            Value::Int(number) => removed += u64::try_from(number).unwrap_or_default(),
            _ => return Err(unexpected_reply()),
        }
    }
    Ok(removed)
}

async fn ask(node: &Arc<Node>, cmd: Cmd) -> Result<Value, StoreError> {
    let command = Command::new(cmd, false, Resend::Allowed);
    let timeouts = Timeouts { connect: ATTEMPT_LIMIT, response: ATTEMPT_LIMIT };
    let reply = node.exchange(&command, false, timeouts).await;
    reply.map_err(|failed| node.judge(Some(&command), &failed))
}
