//! The lease on a key: a token that is in the store for as long as a load runs.
//!
//! Leases are those of Memcache at Facebook (Nishtala et al., NSDI '13, §3.2.1). A request that misses stores a token
//! under the key, loads, and replaces the token by the response, but only if that token is still there. A request that
//! finds another's token waits for the value that replaces it. An invalidation removes whatever is there, so a response
//! that was loaded before it finds its token gone and is not stored.
//!
//! A token is also a sign of life. Its holder renews it while it loads, so a load may take longer than the lease, and
//! releases it however the load ends: by a panic, a client that disconnects, a timeout around the cache. Others notice
//! a dead holder within the life of one lease.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use crate::after_reply::defer;
use crate::mark::{self, SHORT_LIFE};
use crate::read_through::ReadThrough;
use crate::{CacheKey, Expected, Store, StoreError};

/// When a process that has not stored anything yet first renews a lease. Early, because it may lack the right to write
/// while others wait for it.
const FIRST_RENEWAL: Duration = Duration::from_millis(20);
/// The life of a released lease: the shortest possible.
const RELEASED_LIFE: Duration = Duration::from_millis(1);
/// How long a release is retried, and the pause between two attempts, in case the store is briefly unavailable.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);
const RELEASE_PAUSE: Duration = Duration::from_millis(50);
/// How many void tokens to remember: more than a process leaves behind within the life of a lease.
const REMEMBERED: usize = 256;

/// A lease that this process holds. If it is dropped before its load has ended, it is released.
pub(crate) struct Lease<S: Store> {
    core: Arc<ReadThrough<S>>,
    key: CacheKey,
    token: Bytes,
    life: Duration,
    ending: Ending,
}

/// What happens to the token when the lease is dropped.
enum Ending {
    Release,
    /// Replaced by this value, for a short time.
    Replace(Bytes),
    /// Nothing: the token is no longer in the store.
    Gone,
}

/// Tokens of this process that no load stands behind any more, although the store may still have them: the reply to a
/// claim or a fill was lost, or a load was cancelled.
#[derive(Debug, Default)]
pub(crate) struct Voids {
    tokens: Mutex<VecDeque<Bytes>>,
}

impl<S: Store> Lease<S> {
    /// Creates a lease that is about to be claimed. Its token is new, because a token that is claimed twice could
    /// reappear after an invalidation.
    pub(crate) fn new(core: &Arc<ReadThrough<S>>, key: &CacheKey, life: Duration) -> Self {
        Self {
            core: Arc::clone(core),
            key: key.clone(),
            token: mark::new_token(),
            life,
            ending: Ending::Release,
        }
    }

    pub(crate) fn token(&self) -> &Bytes {
        &self.token
    }

    /// Records that the store no longer has the token: it was replaced, or never arrived.
    pub(crate) fn is_gone(&mut self) {
        self.ending = Ending::Gone;
    }

    pub(crate) fn has_gone(&self) -> bool {
        matches!(self.ending, Ending::Gone)
    }

    /// Records that the load failed, so that dropping the lease leaves a failure mark.
    pub(crate) fn has_failed(&mut self, status: Option<StatusCode>) {
        if !self.has_gone() {
            self.ending = Ending::Replace(mark::new_failure(status, self.core.clock.now_ms()));
        }
    }

    /// Runs `load`, and renews the lease meanwhile.
    pub(crate) async fn during<T>(&mut self, load: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            loaded = load => loaded,
            never = self.renew() => match never {},
        }
    }

    /// Renews the lease at half its life, if the store still has it.
    async fn renew(&mut self) -> Infallible {
        let half = self.life / 2;
        let mut pause =
            if self.core.shared.refusals.has_accepted() { half } else { FIRST_RENEWAL.min(half) };
        for renewals in 1.. {
            tokio::time::sleep(pause).await;
            let value = mark::renewed(&self.token, renewals);
            pause = match self.replace(value).await {
                Ok(true) => {
                    self.core.shared.refusals.accepted();
                    half
                }
                // The key was invalidated or the lease expired, so the response will not be stored.
                Ok(false) => {
                    self.is_gone();
                    break;
                }
                Err(fault) => {
                    self.core.tell(&fault, "lease not renewed");
                    if let StoreError::Reply { .. } = fault {
                        self.refused().await;
                        break;
                    }
                    // Soon enough to retry before the lease expires.
                    half / 4
                }
            };
        }
        std::future::pending().await
    }

    /// The store refuses renewals, so it will refuse the fill too. Withdraws the token, so that others stop waiting.
    async fn refused(&mut self) {
        let (core, key) = (&self.core, &self.key);
        core.shared.refusals.refused(core.clock.now_ms());
        if core.withdraw(key, &mut core.budget(None)).await {
            self.is_gone();
        }
    }

    async fn replace(&self, value: Bytes) -> Result<bool, StoreError> {
        let (core, start) = (&self.core, Expected::StartsWith(&self.token));
        let mut budget = core.budget(None);
        budget.spend(core.shared.store.put(&self.key, start, value, self.life)).await
    }
}

impl<S: Store> Drop for Lease<S> {
    fn drop(&mut self) {
        let (value, life) = match std::mem::replace(&mut self.ending, Ending::Gone) {
            Ending::Gone => return,
            Ending::Replace(value) => (value, SHORT_LIFE),
            Ending::Release => {
                self.core.shared.voids.add(self.token.clone());
                (self.token.clone(), RELEASED_LIFE)
            }
        };
        let (core, key, token) = (Arc::clone(&self.core), self.key.clone(), self.token.clone());
        defer(async move {
            // If this fails, the lease expires by itself.
            let end = end(&core, &key, &token, value, life);
            let _ = tokio::time::timeout(RELEASE_LIMIT, end).await;
        });
    }
}

/// Replaces a token by its final value. It retries, because a failing connection may be what ended the load.
async fn end<S: Store>(
    core: &ReadThrough<S>,
    key: &CacheKey,
    token: &[u8],
    value: Bytes,
    life: Duration,
) {
    let replace = || core.shared.store.put(key, Expected::StartsWith(token), value.clone(), life);
    while let Err(fault) = replace().await {
        core.tell(&fault, "lease not released; trying again");
        if let StoreError::Reply { .. } = fault {
            // Removing the value is never wrong, whatever it is by now.
            let _ = core.shared.store.delete(key).await;
            return;
        }
        tokio::time::sleep(RELEASE_PAUSE).await;
        // After a fault, a store may send only reads as probes.
        let _ = core.shared.store.get(key).await;
    }
}

impl<S: Store> fmt::Debug for Lease<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Voids {
    pub(crate) fn add(&self, token: Bytes) {
        let mut tokens = self.tokens();
        if tokens.len() == REMEMBERED {
            tokens.pop_front();
        }
        tokens.push_back(token);
    }

    pub(crate) fn has(&self, token: &Bytes) -> bool {
        self.tokens().contains(token)
    }

    fn tokens(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        // Nothing panics while it holds the lock.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn void_tokens_are_not_remembered_without_end() {
        let voids = Voids::default();
        let tokens: Vec<_> = (0..1_000).map(|_| mark::new_token()).collect();
        for token in &tokens {
            voids.add(token.clone());
        }
        assert!(voids.has(&tokens[999]) && !voids.has(&tokens[0]));
        assert_eq!(voids.tokens().len(), REMEMBERED);
    }
}
