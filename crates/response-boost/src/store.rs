//! What a store of entries promises.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::CacheKey;
use crate::join::join_all;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Where entries are kept. `tests/suite/store_contract.rs` holds every store of this crate to it.
///
/// A store keeps bytes and does not look into them: what they mean, and whether they still mean
/// anything, is the reader's matter. Calls may run at the same time and may be cancelled at any
/// await; a cancelled [`put`](Self::put) or [`delete`](Self::delete) may or may not have been done.
pub trait Store: Send + Sync + 'static {
    /// What is under `key`. `Err`: it is not known.
    fn get(&self, key: &CacheKey) -> impl Future<Output = Result<Found, StoreError>> + Send;

    /// What is under each of these keys, in their order, asked for at the same time: an entry and the ids of its tags.
    /// What is [`Found::Foreign`] may here be [`Found::Nothing`].
    ///
    /// By default by as many [`get`](Self::get)s.
    fn get_many(
        &self,
        keys: &[&CacheKey],
    ) -> impl Future<Output = Result<Vec<Found>, StoreError>> + Send {
        let lookups = keys.iter().map(|key| Box::pin(self.get(key))).collect();
        async move { join_all(lookups).await.into_iter().collect() }
    }

    /// Keeps `value` under `key` for `life` if there is what is expected, in one step: nothing comes
    /// between the look and the change.
    ///
    /// Whether it did. `life` is at least a millisecond. `Err`: it is not known whether it was kept.
    /// It may also be `false` although it was kept, where the answer to a first try was lost.
    fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Removes what is under `key`; it is no error if there is nothing.
    ///
    /// `Err`: it is not known whether it is gone.
    fn delete(&self, key: &CacheKey) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The id of a [tag](crate::Tag): the value under `key`, else `id`, which it then puts there. Either lives for half
    /// of `life` at least from now on. Between the look and the change comes nothing.
    ///
    /// `id` is another one at each call, and must be put once at most, as a lease must (an id that came back after it
    /// was deleted would bring entries back that were invalidated): a store whose commands are sent again where a reply
    /// is lost must not do so here.
    ///
    /// By default by [`get`](Self::get) and [`put`](Self::put), in two round trips or three.
    fn stamp(
        &self,
        key: &CacheKey,
        id: Bytes,
        life: Duration,
    ) -> impl Future<Output = Result<Bytes, StoreError>> + Send {
        async move {
            // Another may come between, again and again; hardly so often.
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
                // It may have been put, and be gone again by now.
                if is_new {
                    break;
                }
            }
            Err(StoreError::Failed("the id of a tag changes all the time".into()))
        }
    }

    /// The longest that a [`get`](Self::get) takes, where the store sees to that itself. A request that
    /// may wait that long then needs no timer of its own around it, each of which is a system call.
    fn get_limit(&self) -> Option<Duration> {
        None
    }

    /// How long it still will not be asked after a fault ([`StoreError::BreakerOpen`]); for the log.
    fn closed_for(&self) -> Option<Duration> {
        None
    }

    /// What its faults are named after in header, log and metric: `redis` makes `redis-timeout`.
    fn name(&self) -> &'static str {
        "store"
    }
}

/// A [`Store`] that is chosen when the program starts: `Arc<dyn DynStore>` is one.
///
/// Every store is a `DynStore`, at the price of an allocation for each call.
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

    /// [`Store`], with its futures on the heap.
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
        fn dyn_closed_for(&self) -> Option<Duration>;
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

        fn dyn_closed_for(&self) -> Option<Duration> {
            self.closed_for()
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

    fn closed_for(&self) -> Option<Duration> {
        self.dyn_closed_for()
    }

    fn name(&self) -> &'static str {
        self.dyn_name()
    }
}

/// A store that several share.
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

    fn closed_for(&self) -> Option<Duration> {
        (**self).closed_for()
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }
}

/// What is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or something whose life is over.
    Nothing,
    /// What was put.
    Value(Bytes),
    /// Something that no store has put there: another Redis type.
    Foreign,
}

/// What must be under a key for a [`put`](Store::put).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// It does not matter.
    Anything,
    /// [`Found::Nothing`].
    Nothing,
    /// A value that begins with these bytes.
    StartsWith(&'a [u8]),
    /// [`Found::Foreign`].
    Foreign,
}

/// Why a store could not do what it was asked. None of these names the key or a credential; the source says in words,
/// for the log, which server it was and what that said.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No connection or no reply in time.
    #[error("no answer in time")]
    Timeout(#[source] Cause),
    /// Nothing listens at the endpoint.
    #[error("connection refused")]
    Refused(#[source] Cause),
    /// The endpoint did not accept the credentials, or wants some.
    #[error("sign-in refused")]
    Auth(#[source] Cause),
    /// It has failed a moment ago, and was not asked.
    #[error("not asked, after a fault")]
    BreakerOpen,
    /// It answered with an error, of which this is the code: `OOM`, `READONLY`, `NOPERM`, …
    #[error("error reply {code}")]
    Reply {
        /// The first word of the reply.
        code: String,
        /// The reply in its own words.
        #[source]
        cause: Cause,
    },
    /// Everything else: a name that does not resolve, a certificate, a broken connection.
    #[error("request failed")]
    Failed(#[source] Cause),
}

impl StoreError {
    /// The fault in one word, the same in header, log and metric; `store` is the store's
    /// [`name`](Store::name).
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

/// A fault of a store in one word: `redis-timeout`, `redis-refused`, `redis-auth`, `redis-error`; or
/// `breaker-open`: not asked, after a fault.
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
        assert_eq!((store.name(), store.get_limit(), store.closed_for()), ("memory", None, None));
    }
}
