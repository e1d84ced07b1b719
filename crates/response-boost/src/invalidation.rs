//! What a write makes old, and that it is removed whatever becomes of the request.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use crate::after_reply::defer;
use crate::read_through::ReadThrough;
use crate::{CacheKey, Store, StoreError};

/// The keys that a request makes old while it runs. Dropped before it is known whether it has, they are removed after
/// the reply: to remove an entry is never wrong.
pub(crate) struct Invalidation<S: Store> {
    core: Arc<ReadThrough<S>>,
    keys: Vec<CacheKey>,
}

impl<S: Store> Invalidation<S> {
    /// `None`: there are no keys.
    pub(crate) fn of(core: &Arc<ReadThrough<S>>, keys: Vec<CacheKey>) -> Option<Self> {
        (!keys.is_empty()).then(|| Self { core: Arc::clone(core), keys })
    }

    /// The service has answered with an error of its own: it has changed nothing.
    pub(crate) fn give_up(mut self) {
        self.keys.clear();
    }

    /// Removes the keys where the service has answered with this status, a 2xx or 3xx (RFC 9111 §4.4).
    pub(crate) async fn settle(mut self, status: StatusCode) {
        if !(status.is_success() || status.is_redirection()) {
            return self.give_up();
        }
        while let Some(key) = self.keys.last() {
            if let Err(fault) = self.core.invalidate(key).await {
                self.core.tell(&fault, "not invalidated; trying once more after the reply");
                // The rest is what is left when this is dropped.
                return;
            }
            self.keys.pop();
        }
    }
}

impl<S: Store> Drop for Invalidation<S> {
    fn drop(&mut self) {
        let keys = std::mem::take(&mut self.keys);
        if keys.is_empty() {
            return;
        }
        let core = Arc::clone(&self.core);
        defer(async move {
            for key in &keys {
                if let Err(fault) = core.invalidate(key).await {
                    core.tell(&fault, "not invalidated; what is stored stands until it ends");
                }
            }
        });
    }
}

impl<S: Store> fmt::Debug for Invalidation<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl<S: Store> ReadThrough<S> {
    /// Removes what is stored under a key, within the time that a request may wait for the store.
    pub(crate) async fn invalidate(&self, key: &CacheKey) -> Result<(), StoreError> {
        tokio::time::timeout(self.policy.deadline, self.shared.store.delete(key))
            .await
            .unwrap_or_else(|_| Err(StoreError::Timeout("deadline of the request".into())))
    }
}
