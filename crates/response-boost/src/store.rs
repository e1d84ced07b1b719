//! What a store of entries promises.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::CacheKey;

/// Where entries are kept. `tests/store_contract.rs` holds every store of this crate to it.
///
/// A store keeps bytes and does not look into them: what they mean, and whether they still mean
/// anything, is the reader's matter. Calls may run at the same time and may be cancelled at any
/// await; a cancelled [`put`](Self::put) or [`delete`](Self::delete) may or may not have been done.
pub trait Store: Send + Sync + 'static {
    /// What is under `key`. `Err`: it is not known.
    fn get(&self, key: &CacheKey) -> impl Future<Output = Result<Found, StoreError>> + Send;

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

    /// The longest that a [`get`](Self::get) takes, where the store sees to that itself. A request that
    /// may wait that long then needs no timer of its own around it, each of which is a system call.
    fn get_limit(&self) -> Option<Duration> {
        None
    }

    /// How long it still will not be asked after a fault ([`StoreError::BreakerOpen`]); for the log.
    fn closed_for(&self) -> Option<Duration> {
        None
    }
}

/// A store that several share.
impl<S: Store> Store for Arc<S> {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        (**self).get(key).await
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

    fn get_limit(&self) -> Option<Duration> {
        (**self).get_limit()
    }

    fn closed_for(&self) -> Option<Duration> {
        (**self).closed_for()
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

/// Why a store could not do what it was asked. None of these names the key, the endpoint or a
/// credential.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No connection or no reply in time.
    #[error("no answer in time")]
    Timeout(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing listens at the endpoint.
    #[error("connection refused")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The endpoint did not accept the credentials, or wants some.
    #[error("sign-in refused")]
    Auth(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It has failed a moment ago, and was not asked.
    #[error("not asked, after a fault")]
    BreakerOpen,
    /// It answered with an error, of which this is the code: `OOM`, `READONLY`, `NOPERM`, …
    #[error("error reply {code}")]
    Reply {
        /// The first word of the reply.
        code: String,
    },
    /// Everything else: a name that does not resolve, a certificate, a broken connection.
    #[error("request failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// The cause in one word, the same in header, log and metric.
    #[must_use]
    pub fn detail(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "redis-timeout",
            Self::Refused(_) => "redis-refused",
            Self::Auth(_) => "redis-auth",
            Self::BreakerOpen => "breaker-open",
            Self::Reply { .. } | Self::Failed(_) => "redis-error",
        }
    }
}
