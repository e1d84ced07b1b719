//! Removing all that is kept in a namespace.

#[cfg(feature = "cluster")]
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, RedisError, Value};
use tokio::task::JoinSet;

use super::connection::{Link, Node};
use super::{RedisStore, store_error, unexpected_reply};
use crate::{Namespace, StoreError};

/// How many keys a node looks at before it lets others ask again.
const BATCH: u32 = 1_000;

impl RedisStore {
    /// Removes all that is kept in a namespace (and in those that begin with it and a colon), and
    /// gives the number of keys.
    ///
    /// By `SCAN` and `UNLINK` in batches, in a cluster on each primary, so that nobody else is held up.
    /// `progress` is told after each batch how many there were so far. Keys that are made meanwhile
    /// may stay. It is meant for operators: it waits longer than a request would. After an `Err` some
    /// may be removed; run it again.
    pub async fn purge(
        &self,
        namespace: &Namespace,
        mut progress: impl FnMut(u64),
    ) -> Result<u64, StoreError> {
        let mut link = self.connection.link().await?;
        let pattern = format!("{}:*", namespace.as_str());
        let mut removed = 0;
        #[cfg(feature = "cluster")]
        let nodes = primaries(&mut link, self.connection.host()).await?;
        #[cfg(not(feature = "cluster"))]
        let nodes = [None::<Node>];
        for node in nodes {
            let mut cursor = b"0".to_vec();
            loop {
                let mut scan = Cmd::new();
                scan.arg("SCAN").arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(BATCH);
                let found = ask(&mut link, scan, node.as_ref()).await?;
                let (next, keys) = batch(found).ok_or_else(unexpected_reply)?;
                removed += remove(&link, keys, node.as_ref()).await?;
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

/// Each primary of a cluster; `None` alone is the one server that there is.
#[cfg(feature = "cluster")]
async fn primaries(link: &mut Link, host: &str) -> Result<Vec<Option<Node>>, StoreError> {
    if !link.is_cluster() {
        return Ok(vec![None]);
    }
    let mut slots = Cmd::new();
    slots.arg("CLUSTER").arg("SLOTS");
    let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
    let Value::Array(ranges) = ask(link, slots, Some(&any)).await? else {
        return Err(unexpected_reply());
    };
    let mut primaries = Vec::new();
    for range in ranges {
        let primary = primary(&range, host).ok_or_else(unexpected_reply)?;
        if !primaries.contains(&primary) {
            primaries.push(primary);
        }
    }
    let route = |(host, port)| {
        Some(RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port }))
    };
    Ok(primaries.into_iter().map(route).collect())
}

/// The primary of a range of slots: `[first, last, [host, port, …], replicas…]`. One that does not know
/// its own host, or does not tell, is at the one that was connected to.
#[cfg(feature = "cluster")]
fn primary(range: &Value, connected_to: &str) -> Option<(String, u16)> {
    let Value::Array(range) = range else { return None };
    let Value::Array(primary) = range.get(2)? else { return None };
    let [host, Value::Int(port), ..] = &primary[..] else { return None };
    let host = match host {
        Value::BulkString(host) if !host.is_empty() && host != b"?" => {
            std::str::from_utf8(host).ok()?
        }
        Value::BulkString(_) | Value::Nil => connected_to,
        _ => return None,
    };
    Some((host.to_owned(), u16::try_from(*port).ok()?))
}

/// The next cursor, and keys.
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

/// Each by a command of its own: a cluster takes no command for keys of several slots.
async fn remove(link: &Link, keys: Vec<Vec<u8>>, node: Option<&Node>) -> Result<u64, StoreError> {
    let mut removals = JoinSet::new();
    for key in keys {
        let (mut link, node) = (link.clone(), node.cloned());
        removals.spawn(async move {
            let mut unlink = Cmd::new();
            unlink.arg("UNLINK").arg(key);
            ask(&mut link, unlink, node.as_ref()).await
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

async fn ask(link: &mut Link, command: Cmd, node: Option<&Node>) -> Result<Value, StoreError> {
    let reply = link.send_to(command, node).await;
    reply.map_err(|error: RedisError| store_error(&error))
}
