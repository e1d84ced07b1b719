//! The right to load for a key: a token that stands in the store for as long as the load runs.
//!
//! Leases are those of Memcache at Facebook (Nishtala et al., NSDI '13, §3.2.1). Who finds nothing
//! under a key puts a token there, loads, and replaces the token, and only the token, by the answer.
//! Who meets another's token waits for what will take its place. An invalidation removes whatever is
//! there: a fill that comes after it finds its token gone, and with it what it was about to keep,
//! which may have been read before the change.
//!
//! A token is a sign of life. Its holder renews it while it loads, so that a load may take longer than a lease
//! lasts, and releases it whatever ends the load: a panic, a client that hangs up, a timeout around the cache.
//! A holder that is gone without a word is found out within one lease.

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

/// When a lease is first renewed by a process that has not stored anything yet: early, since it may lack the right
/// to, and others wait for it.
const FIRST_RENEWAL: Duration = Duration::from_millis(20);
/// What a lease still lives for when it is released: the least that there is.
const RELEASED_LIFE: Duration = Duration::from_millis(1);
/// How long a release is tried, and the pause between two tries: as long as the store may be away for a moment.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);
const RELEASE_PAUSE: Duration = Duration::from_millis(50);
/// How many tokens are remembered as void: more than a process leaves behind within the life of a lease.
const REMEMBERED: usize = 256;

/// A lease that this process holds. Dropped before its end is known, it is released.
pub(crate) struct Lease<S: Store> {
    core: Arc<ReadThrough<S>>,
    key: CacheKey,
    token: Bytes,
    life: Duration,
    ending: Ending,
}

/// What becomes of a token when its holder is dropped.
enum Ending {
    Release,
    /// It is replaced by this, for a moment.
    Replace(Bytes),
    /// The store has it no more.
    Gone,
}

/// The tokens of this process that stand for no load any more, though the store may still have them: of claims
/// and fills whose reply was lost, and of loads that were cut off.
#[derive(Debug, Default)]
pub(crate) struct Voids {
    tokens: Mutex<VecDeque<Bytes>>,
}

impl<S: Store> Lease<S> {
    /// A lease that is about to be claimed, by a token of its own: one that is claimed twice could come back
    /// after an invalidation.
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

    /// The store has the token no more: it was replaced, or never got there.
    pub(crate) fn is_gone(&mut self) {
        self.ending = Ending::Gone;
    }

    pub(crate) fn has_gone(&self) -> bool {
        matches!(self.ending, Ending::Gone)
    }

    /// When this is dropped, it leaves the word that the load has failed.
    pub(crate) fn has_failed(&mut self, status: Option<StatusCode>) {
        if !self.has_gone() {
            self.ending = Ending::Replace(mark::new_failure(status, self.core.clock.now_ms()));
        }
    }

    /// `load`, and the lease renewed for as long as that takes.
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
                // Invalidated, or it ended before it was renewed: what is being loaded will not be stored.
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
                    // Soon enough for another try before it ends.
                    half / 4
                }
            };
        }
        std::future::pending().await
    }

    /// The store refuses renewals, so it will refuse the fill: those who wait for it are told.
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
            // If it is in vain, the lease ends by itself.
            let end = end(&core, &key, &token, value, life);
            let _ = tokio::time::timeout(RELEASE_LIMIT, end).await;
        });
    }
}

/// Replaces a token by what is left of it. It insists: the connection may be what the load was cut off by.
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
            // Whatever stands there by now, to remove it is never wrong.
            let _ = core.shared.store.delete(key).await;
            return;
        }
        tokio::time::sleep(RELEASE_PAUSE).await;
        // A store that has failed may let reads alone find out whether it is back.
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
        // Nothing panics while it is held.
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
