//! The contract of a store.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::CacheKey;
use crate::join::join_all;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Where the cache stores entries. `tests/suite/store_contract.rs` tests every store of this crate against this
/// contract.
///
/// A store holds bytes and does not interpret them; readers decide what the bytes mean and whether they are still
/// valid. Calls may run concurrently and may be cancelled at any await point. A cancelled [`put`](Self::put) or
/// [`delete`](Self::delete) may or may not have taken effect.
pub trait Store: Send + Sync + 'static {
    /// Returns what is stored under `key`. `Err`: unknown.
    fn get(&self, key: &CacheKey) -> impl Future<Output = Result<Found, StoreError>> + Send;

    /// Returns what is stored under each of these keys, in their order: an entry and the ids of its tags. The lookups
    /// run at the same time. Here a store may report [`Found::Nothing`] for a value that [`get`](Self::get) reports as
    /// [`Found::Foreign`].
    ///
    /// The default calls [`get`](Self::get) for each key.
    fn get_many(
        &self,
        keys: &[&CacheKey],
    ) -> impl Future<Output = Result<Vec<Found>, StoreError>> + Send {
        let lookups = keys.iter().map(|key| Box::pin(self.get(key))).collect();
        async move { join_all(lookups).await.into_iter().collect() }
    }

    /// Stores `value` under `key` for `life` if the key holds what is `expected`. Check and write are atomic.
    ///
    /// Returns whether the value was stored. `life` is at least one millisecond. `Err`: unknown whether it was stored.
    /// It may also return `false` although the value was stored, if the reply to a first attempt was lost.
    fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Removes what is stored under `key`. Removing nothing is not an error.
    ///
    /// `Err`: unknown whether it was removed.
    fn delete(&self, key: &CacheKey) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns the id of a [tag](crate::Tag): the value under `key`. If the key holds no value, stores `id` and returns
    /// it. Either way the value lives for at least half of `life` from now. Check and write are atomic.
    ///
    /// Each call passes a new `id`, which must be stored once at most, as must a lease: an id that reappeared after its
    /// deletion would revive invalidated entries. So a store that resends a command whose reply was lost must not do so
    /// here.
    ///
    /// The default uses [`get`](Self::get) and [`put`](Self::put), in two or three round trips.
    fn stamp(
        &self,
        key: &CacheKey,
        id: Bytes,
        life: Duration,
    ) -> impl Future<Output = Result<Bytes, StoreError>> + Send {
        async move {
            // Another process may change the key in between, but hardly eight times in a row.
            for _ in 0..8 {
                let found = self.get(key).await?;
                let (expected, value) = match &found {
                    Found::Nothing => (Expected::Nothing, id.clone()),
                    Found::Foreign => (Expected::Foreign, id.clone()),
                    Found::Value(value) => (Expected::StartsWith(value), value.clone()),
                };
                let is_new = !matches!(found, Found::Value(_));
                if self.put(key, expected, value.clone(), life).await? {
                    return Ok(value);
                }
                // `put` may have stored it although it returned `false`, and it may be deleted by now: never store this
                // id twice.
                if is_new {
                    break;
                }
            }
            Err(StoreError::Failed("the id of a tag changes all the time".into()))
        }
    }

    /// The longest that [`get`](Self::get) takes, if the store enforces a limit itself. A request that may wait that
    /// long then needs no timer of its own around the call, which saves a system call.
    fn get_limit(&self) -> Option<Duration> {
        None
    }

    /// How long the store will still reject calls after a fault ([`StoreError::BreakerOpen`]); for the log.
    fn breaker_open_for(&self) -> Option<Duration> {
        None
    }

    /// The prefix of its faults in header, log and metric: `redis` makes `redis-timeout`.
    fn name(&self) -> &'static str {
        "store"
    }
}

/// A [`Store`] chosen at runtime: `Arc<dyn DynStore>` implements [`Store`].
///
/// Every store is a `DynStore`, at the cost of one allocation for each call.
///
/// ```
/// use std::sync::Arc;
/// use response_boost::{DynStore, MemoryStore};
/// # #[cfg(feature = "redis")]
/// use response_boost::{RedisSettings, RedisStore};
///
/// # #[cfg(feature = "redis")]
/// fn store(url: Option<&str>) -> Result<Arc<dyn DynStore>, Box<dyn std::error::Error>> {
///     Ok(match url {
///         Some(url) => Arc::new(RedisStore::new(RedisSettings::parse(url)?)),
///         None => Arc::new(MemoryStore::default()),
///     })
/// }
/// ```
pub trait DynStore: sealed::DynStore {}

impl<S: Store> DynStore for S {}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

mod sealed {
    use super::{Boxed, Bytes, CacheKey, Duration, Expected, Found, Store};

    /// [`Store`] with boxed futures.
    pub trait DynStore: Send + Sync + 'static {
        fn dyn_get<'a>(&'a self, key: &'a CacheKey) -> Boxed<'a, Found>;
        fn dyn_get_many<'a>(&'a self, keys: &'a [&CacheKey]) -> Boxed<'a, Vec<Found>>;
        fn dyn_put<'a>(
            &'a self,
            key: &'a CacheKey,
            expected: Expected<'a>,
            value: Bytes,
            life: Duration,
        ) -> Boxed<'a, bool>;
        fn dyn_delete<'a>(&'a self, key: &'a CacheKey) -> Boxed<'a, ()>;
        fn dyn_stamp<'a>(
            &'a self,
            key: &'a CacheKey,
            id: Bytes,
            life: Duration,
        ) -> Boxed<'a, Bytes>;
        fn dyn_get_limit(&self) -> Option<Duration>;
        fn dyn_breaker_open_for(&self) -> Option<Duration>;
        fn dyn_name(&self) -> &'static str;
    }

    impl<S: Store> DynStore for S {
        fn dyn_get<'a>(&'a self, key: &'a CacheKey) -> Boxed<'a, Found> {
            Box::pin(self.get(key))
        }

        fn dyn_get_many<'a>(&'a self, keys: &'a [&CacheKey]) -> Boxed<'a, Vec<Found>> {
            Box::pin(self.get_many(keys))
        }

        fn dyn_put<'a>(
            &'a self,
            key: &'a CacheKey,
            expected: Expected<'a>,
            value: Bytes,
            life: Duration,
        ) -> Boxed<'a, bool> {
            Box::pin(self.put(key, expected, value, life))
        }

        fn dyn_delete<'a>(&'a self, key: &'a CacheKey) -> Boxed<'a, ()> {
            Box::pin(self.delete(key))
        }

        fn dyn_stamp<'a>(
            &'a self,
            key: &'a CacheKey,
            id: Bytes,
            life: Duration,
        ) -> Boxed<'a, Bytes> {
            Box::pin(self.stamp(key, id, life))
        }

        fn dyn_get_limit(&self) -> Option<Duration> {
            self.get_limit()
        }

        fn dyn_breaker_open_for(&self) -> Option<Duration> {
            self.breaker_open_for()
        }

        fn dyn_name(&self) -> &'static str {
            self.name()
        }
    }
}

impl Store for dyn DynStore {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        self.dyn_get(key).await
    }

    async fn get_many(&self, keys: &[&CacheKey]) -> Result<Vec<Found>, StoreError> {
        self.dyn_get_many(keys).await
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        self.dyn_put(key, expected, value, life).await
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.dyn_delete(key).await
    }

    async fn stamp(&self, key: &CacheKey, id: Bytes, life: Duration) -> Result<Bytes, StoreError> {
        self.dyn_stamp(key, id, life).await
    }

    fn get_limit(&self) -> Option<Duration> {
        self.dyn_get_limit()
    }

    fn breaker_open_for(&self) -> Option<Duration> {
        self.dyn_breaker_open_for()
    }

    fn name(&self) -> &'static str {
        self.dyn_name()
    }
}

/// A shared store.
impl<S: Store + ?Sized> Store for Arc<S> {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        (**self).get(key).await
    }

    async fn get_many(&self, keys: &[&CacheKey]) -> Result<Vec<Found>, StoreError> {
        (**self).get_many(keys).await
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        (**self).put(key, expected, value, life).await
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        (**self).delete(key).await
    }

    async fn stamp(&self, key: &CacheKey, id: Bytes, life: Duration) -> Result<Bytes, StoreError> {
        (**self).stamp(key, id, life).await
    }

    fn get_limit(&self) -> Option<Duration> {
        (**self).get_limit()
    }

    fn breaker_open_for(&self) -> Option<Duration> {
        (**self).breaker_open_for()
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }
}

/// What a store has under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or a value that has expired.
    Nothing,
    /// A stored value.
    Value(Bytes),
    /// Something that no store wrote: another Redis type.
    Foreign,
}

/// What a key must hold for a [`put`](Store::put) to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// Anything, or nothing.
    Anything,
    /// [`Found::Nothing`].
    Nothing,
    /// A value that starts with these bytes.
    StartsWith(&'a [u8]),
    /// [`Found::Foreign`].
    Foreign,
}

/// Why a store failed. No variant names the key or a credential. For the log, the source says which server failed and
/// what it replied.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No connection or no reply in time.
    #[error("no answer in time")]
    Timeout(#[source] Cause),
    /// Nothing listens at the endpoint.
    #[error("connection refused")]
    Refused(#[source] Cause),
    /// The endpoint rejected the credentials, or requires some.
    #[error("sign-in refused")]
    Auth(#[source] Cause),
    /// The breaker is open after a recent fault, so the store was not called.
    #[error("not asked, after a fault")]
    BreakerOpen,
    /// The server replied with an error, and this is its code: `OOM`, `READONLY`, `NOPERM`, …
    #[error("error reply {code}")]
    Reply {
        /// The first word of the reply.
        code: String,
        /// The whole reply.
        #[source]
        cause: Cause,
    },
    /// Any other fault: a name that does not resolve, a bad certificate, a broken connection.
    #[error("request failed")]
    Failed(#[source] Cause),
}

impl StoreError {
    /// The fault in one word, the same in header, log and metric. `store` is the store's [`name`](Store::name).
    #[must_use]
    pub fn word(&self, store: &'static str) -> FaultWord {
        FaultWord {
            store,
            cause: match self {
                Self::Timeout(_) => "timeout",
                Self::Refused(_) => "refused",
                Self::Auth(_) => "auth",
                Self::BreakerOpen => FaultWord::BREAKER_OPEN,
                Self::Reply { .. } | Self::Failed(_) => "error",
            },
        }
    }
}

/// A fault of a store in one word: `redis-timeout`, `redis-refused`, `redis-auth`, `redis-error`, or `breaker-open` if
/// the store was not called after a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultWord {
    store: &'static str,
    cause: &'static str,
}

impl FaultWord {
    const BREAKER_OPEN: &'static str = "breaker-open";
}

impl fmt::Display for FaultWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.store, self.cause) {
            (_, Self::BREAKER_OPEN) => f.write_str(Self::BREAKER_OPEN),
            (store, cause) => write!(f, "{store}-{cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_named_after_its_store() {
        let timeout = StoreError::Timeout("late".into());
        assert_eq!(timeout.word("redis").to_string(), "redis-timeout");
        assert_eq!(timeout.word("disk").to_string(), "disk-timeout");
        assert_eq!(StoreError::BreakerOpen.word("redis").to_string(), "breaker-open");
    }

    #[cfg(feature = "memory")]
    #[tokio::test]
    async fn a_store_behind_a_pointer_is_one() {
        let store: Arc<dyn DynStore> = Arc::new(crate::MemoryStore::default());
        let key = crate::Namespace::parse("test").unwrap().key(["a"]);
        let (value, life) = (Bytes::from_static(b"x"), Duration::from_secs(1));
        assert!(store.put(&key, Expected::Nothing, value.clone(), life).await.unwrap());
        assert_eq!(store.get(&key).await.unwrap(), Found::Value(value));
        store.delete(&key).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), Found::Nothing);
        assert_eq!(
            (store.name(), store.get_limit(), store.breaker_open_for()),
            ("memory", None, None)
        );
    }
}
