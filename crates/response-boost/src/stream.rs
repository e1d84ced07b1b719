//! Changes of data as a stream tells them, and what they make old.

use thiserror::Error;

use crate::stamps::invalidate_tags;
use crate::{Store, StoreError, Tag};

/// How many changes' tags are deleted at a time: more would wait for each other longer than for the store.
const AT_ONCE: usize = 100;

/// A change whose tags may still be alive.
#[derive(Debug, Error)]
#[error("change {first} and those after it are not done")]
pub struct UndoneChange {
    /// Its place in the batch, counted from 0. Those before it are done: a stream goes on with it.
    pub first: usize,
    /// What kept it from being done.
    #[source]
    pub fault: StoreError,
}

/// Invalidates, for each change that a stream tells of, the tags that `tags_of` gives for it: the consumer's half of
/// [`invalidate_tag`](crate::ResponseCacheLayer::invalidate_tag), for a process that has the store and no service.
///
/// It waits for the store as long as it takes; put a timeout around it. To invalidate a tag twice does no harm, so after
/// an error the changes from [`UndoneChange::first`] on are given again (a partial batch response on Lambda).
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
