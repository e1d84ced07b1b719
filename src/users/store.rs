//! The interface of user stores.

use std::error::Error;

use crate::users::{User, UserId};

/// A store of users: implement it for your own data.
pub trait UserStore: Send + Sync + 'static {
    /// Looks up the user with this id.
    ///
    /// `Ok(None)`: the user certainly does not exist. The response is a 404, which may be stored. `Err`: unknown. The
    /// response is a 503, which is never stored, and the next request looks the user up again.
    ///
    /// A lookup should time out in less than the life of a lease (`CACHE_LEASE_MS`), because other environments wait
    /// for it meanwhile. It is dropped when the invocation is about to end.
    fn find(&self, id: UserId)
    -> impl Future<Output = Result<Option<User>, UserStoreError>> + Send;

    /// Prepares what the first lookup would otherwise have to do, such as connecting.
    ///
    /// If `WARM_UP` is set, it is called while Lambda initialises the environment, and must end soon. Without it, or if
    /// it fails, the first lookup does everything itself.
    fn warm_up(&self) -> impl Future<Output = Result<(), UserStoreError>> + Send {
        async { Ok(()) }
    }
}

/// The lookup failed. Its cause goes to the log and never to a client.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the user store")]
pub struct UserStoreError(#[source] Box<dyn Error + Send + Sync>);

impl UserStoreError {
    /// Creates a failure with its cause.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}
