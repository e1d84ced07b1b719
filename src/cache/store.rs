//! What a store of entries promises.

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::cache::CacheKey;

/// Where entries are kept. `tests/store_contract.rs` holds every store of this crate to it.
///
/// A store keeps bytes and does not look into them: what they mean, and whether they still mean
/// anything, is the reader's matter. Calls may run at the same time and may be cancelled at any
/// await; a cancelled [`put`](Self::put) or [`delete`](Self::delete) may or may not have been done.
pub trait Store: Send + Sync + 'static {
    /// The bytes under `key`.
    ///
    /// `Ok(None)`: nothing is there, its life is over, or what is there was not put by a store
    /// (another Redis type). `Err`: it is not known what is there.
    fn get(&self, key: &CacheKey)
    -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// Keeps `value` under `key` for `life`, whatever was there before.
    ///
    /// `life` is at least a millisecond. `Err`: it is not known whether it was kept.
    fn put(
        &self,
        key: &CacheKey,
        value: Bytes,
        life: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes what is under `key`; it is no error if there is nothing.
    ///
    /// `Err`: it is not known whether it is gone.
    fn delete(&self, key: &CacheKey) -> impl Future<Output = Result<(), StoreError>> + Send;
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
