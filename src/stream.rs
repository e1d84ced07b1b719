//! Changes of the users' table, from DynamoDB Streams: which responses they invalidate.
//!
//! A batch is done when the key of each changed user has been deleted. Unlike where responses are served, a fault of
//! the cache is a failure here, because an old response must not remain. The outcome reports what could not be deleted,
//! and Lambda redelivers it with everything after it.
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-batchfailurereporting.html>

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use crate::users::UserId;
use response_boost::{CacheKey, Store, StoreError};

/// The pause before a failed deletion is retried: the first one, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How many deletions run at a time. With more, they would mostly wait for each other.
const AT_ONCE: usize = 100;

/// The batch of one invocation. A malformed record does not affect the others.
#[derive(Debug, Deserialize)]
pub struct Batch {
    #[serde(rename = "Records")]
    records: Vec<Box<RawValue>>,
}

/// The reply that tells Lambda which records were not processed.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchResponse {
    batch_item_failures: Vec<BatchItemFailure>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchItemFailure {
    item_identifier: String,
}

/// A change failed, and its record has no sequence number by which to report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a change could not be done, and its record has no SequenceNumber to say which")]
pub struct Unreportable;

/// The event is not a batch of changes. (It may contain anything, so the error does not show it.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an event without a list of Records")]
pub struct NotABatch;

/// Parses an event as a batch.
pub fn read(event: &RawValue) -> Result<Batch, NotABatch> {
    serde_json::from_str(event.get()).map_err(|_| {
        error!("an event that is no batch of changes");
        NotABatch
    })
}

/// The part of a record that is read. The keys are in it whatever the view type of the stream is.
#[derive(Deserialize)]
struct Record {
    dynamodb: Change,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    keys: Keys,
    sequence_number: Option<String>,
}

#[derive(Deserialize)]
struct Keys {
    id: Number,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Number {
    n: String,
}

/// Deletes the entry of each user that a batch says was changed, created or removed.
///
/// Deletions run concurrently, each as a command of its own, and a failed one is retried within `time_left`. Only a
/// deletion that the store has confirmed counts. The outcome names the first record of the batch that is not done.
/// Lambda continues there, so it redelivers everything undone; deleting a key twice does no harm.
pub async fn invalidate<S: Store>(
    batch: &Batch,
    store: &Arc<S>,
    key_of: impl Fn(UserId) -> CacheKey,
    time_left: Duration,
) -> Result<BatchResponse, Unreportable> {
    let started = Instant::now();
    let ends_at = started + time_left;
    // For each key, the first record that concerns it and that record's number.
    let mut changes = HashMap::new();
    let (mut not_understood, mut reason) = (0_usize, None);
    for (place, record) in batch.records.iter().enumerate() {
        match change(record) {
            Ok((id, number)) => {
                changes.entry(key_of(id)).or_insert((place, number));
            }
            Err(why) => {
                not_understood += 1;
                reason.get_or_insert(why);
            }
        }
    }

    let keys_of_batch = changes.len();
    // In the order of the batch, so that the last ones remain undone when time runs out.
    let mut keys: Vec<(usize, CacheKey)> =
        changes.iter().map(|(key, (place, _))| (*place, key.clone())).collect();
    keys.sort_unstable_by_key(|(place, _)| *place);
    let mut keys = keys.into_iter().map(|(_, key)| key);
    let mut deletions = JoinSet::new();
    let mut last_fault = None;
    loop {
        for key in keys.by_ref().take(AT_ONCE - deletions.len()) {
            let store = Arc::clone(store);
            deletions.spawn(async move {
                let deleted = delete(&*store, &key, ends_at).await;
                (key, deleted)
            });
        }
        let Some(deletion) = deletions.join_next().await else { break };
        match deletion {
            Ok((key, Ok(()))) => {
                changes.remove(&key);
            }
            Ok((_, Err(fault))) => last_fault = Some(fault),
            // The task panicked, so its key remains among the undone ones.
            Err(_) => {}
        }
    }

    // The only line of this invocation.
    let (records, undone) = (batch.records.len(), changes.len());
    let deleted = keys_of_batch - undone;
    let total_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let first_undone = changes.into_values().min_by_key(|(place, _)| *place);
    if undone == 0 && not_understood == 0 {
        info!(records, deleted, total_ms, "all changes done");
    } else {
        let (fault, from) = (last_fault.as_ref(), first_undone.as_ref().map(|(place, _)| *place));
        let (detail, error) = (
            fault.map(|fault| fault.word(store.name()).to_string()),
            fault.map(ToString::to_string),
        );
        let cause = fault.and_then(std::error::Error::source).map(ToString::to_string);
        let done = if undone == 0 {
            "records that are not understood were passed over"
        } else {
            "not all changes done; to be given again"
        };
        warn!(
            records,
            deleted,
            undone,
            not_understood,
            reason,
            fault = detail,
            error,
            cause,
            from,
            total_ms,
            "{done}"
        );
    }
    let Some((_, number)) = first_undone else {
        return Ok(BatchResponse::default());
    };
    let item_identifier = number.ok_or(Unreportable)?;
    Ok(BatchResponse { batch_item_failures: vec![BatchItemFailure { item_identifier }] })
}

async fn delete(store: &impl Store, key: &CacheKey, ends_at: Instant) -> Result<(), StoreError> {
    let mut pause = PAUSE.0;
    loop {
        let deleted = timeout_at(ends_at, store.delete(key)).await;
        let fault = match deleted {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(fault)) => fault,
            Err(elapsed) => return Err(StoreError::Timeout(elapsed.into())),
        };
        if Instant::now() + pause >= ends_at {
            return Err(fault);
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn change(record: &RawValue) -> Result<(UserId, Option<String>), &'static str> {
    let Record { dynamodb } = serde_json::from_str(record.get())
        .map_err(|_| "no change of an item with a number `id`")?;
    let id = UserId::parse(&dynamodb.keys.id.n).map_err(|_| "an id that no user has")?;
    Ok((id, dynamodb.sequence_number))
}
