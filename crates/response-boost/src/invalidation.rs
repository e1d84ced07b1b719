//! The keys and tags that a write invalidates, whatever becomes of the request.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use crate::after_reply::defer;
use crate::read_through::ReadThrough;
use crate::{CacheKey, Store, StoreError, Tag};

/// What a running request will invalidate. If it is dropped before the outcome is known, it invalidates after the
/// reply: removing an entry is never wrong.
pub(crate) struct Invalidation<S: Store> {
    core: Arc<ReadThrough<S>>,
    outdated: Vec<Outdated>,
}

/// One key or tag to invalidate.
pub(crate) enum Outdated {
    Key(CacheKey),
    Tag(Tag),
}

impl<S: Store> Invalidation<S> {
    /// `None`: the request invalidates nothing.
    pub(crate) fn of(core: &Arc<ReadThrough<S>>, outdated: Vec<Outdated>) -> Option<Self> {
        (!outdated.is_empty()).then(|| Self { core: Arc::clone(core), outdated })
    }

    /// The service responded with an error, so it changed nothing.
    pub(crate) fn give_up(mut self) {
        self.outdated.clear();
    }

    /// Invalidates if the service responded with a 2xx or 3xx (RFC 9111 §4.4).
    pub(crate) async fn settle(mut self, status: StatusCode) {
        if !(status.is_success() || status.is_redirection()) {
            return self.give_up();
        }
        while let Some(outdated) = self.outdated.last() {
            if let Err(fault) = self.core.remove(outdated).await {
                self.core.tell(&fault, "not invalidated; trying once more after the reply");
                // `drop` tries the remaining ones.
                return;
            }
            self.outdated.pop();
        }
    }
}

impl<S: Store> Drop for Invalidation<S> {
    fn drop(&mut self) {
        let all = std::mem::take(&mut self.outdated);
        if all.is_empty() {
            return;
        }
        let core = Arc::clone(&self.core);
        defer(async move {
            for outdated in &all {
                if let Err(fault) = core.remove(outdated).await {
                    core.tell(&fault, "not invalidated; what is stored stands until it ends");
                }
            }
        });
    }
}

impl<S: Store> fmt::Debug for Invalidation<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation")
            .field("outdated", &self.outdated.len())
            .finish_non_exhaustive()
    }
}

impl<S: Store> ReadThrough<S> {
    /// Removes the entry under a key, within the time that a request may wait for the store.
    pub(crate) async fn invalidate(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.within_deadline(self.shared.store.delete(key)).await
    }

    async fn remove(&self, outdated: &Outdated) -> Result<(), StoreError> {
        match outdated {
            Outdated::Key(key) => self.invalidate(key).await,
            Outdated::Tag(tag) => self.invalidate_tag(tag).await,
        }
    }

    pub(crate) async fn within_deadline(
        &self,
        removed: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        tokio::time::timeout(self.policy.deadline, removed)
            .await
            .unwrap_or_else(|_| Err(StoreError::Timeout("deadline of the request".into())))
    }
}
