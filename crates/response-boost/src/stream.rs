//! Invalidation by a stream of data changes.

use thiserror::Error;

use crate::stamps::invalidate_tags;
use crate::{Store, StoreError, Tag};

/// How many changes' tags are deleted at a time. With more, the commands would mostly wait for each other.
const AT_ONCE: usize = 100;

/// A change whose tags may not be invalidated yet.
#[derive(Debug, Error)]
#[error("change {first} and those after it are not done")]
pub struct UndoneChange {
    /// Its index in the batch, from 0. All changes before it are done; the stream continues with this one.
    pub first: usize,
    /// Why it is not done.
    #[source]
    pub fault: StoreError,
}

/// Invalidates the tags that `tags_of` returns for each change of a stream. It is the consumer's counterpart of
/// [`invalidate_tag`](crate::ResponseCacheLayer::invalidate_tag), for a process that has the store but no service.
///
/// It sets no limit of its own on waiting for the store; put a timeout around it. Invalidating a tag twice does no
/// harm, so after an error let the stream redeliver the changes from [`UndoneChange::first`] on (on Lambda, by a
/// partial batch response).
///
/// ```
/// use response_boost::{MemoryStore, Namespace, invalidate_changes};
///
/// struct Change {
///     team_before: Option<String>,
///     team_after: Option<String>,
/// }
///
/// # async fn example(store: MemoryStore) -> Result<(), Box<dyn std::error::Error>> {
/// let users = Namespace::parse("users")?;
/// let changes = [Change { team_before: Some("red".into()), team_after: Some("blue".into()) }];
/// invalidate_changes(&store, &changes, |change| {
///     let teams = change.team_before.iter().chain(&change.team_after);
///     // What cannot be a tag is on no entry.
///     teams.filter_map(|team| users.tag(&format!("team-{team}")).ok()).collect()
/// })
/// .await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(example(MemoryStore::default()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The store failed.
pub fn invalidate_changes<S: Store, C>(
    store: &S,
    changes: &[C],
    tags_of: impl Fn(&C) -> Vec<Tag>,
) -> impl Future<Output = Result<(), UndoneChange>> + Send {
    let batches = changes.chunks(AT_ONCE).map(|changes| {
        let mut tags = Vec::new();
        for tag in changes.iter().flat_map(&tags_of) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        tags
    });
    let batches: Vec<_> = batches.collect();
    async move {
        for (number, tags) in batches.iter().enumerate() {
            let done = invalidate_tags(store, tags).await;
            done.map_err(|fault| UndoneChange { first: number * AT_ONCE, fault })?;
        }
        Ok(())
    }
}
