//! Where users come from.

use std::error::Error;

use crate::users::{User, UserId};

/// A place that users are looked up in: the seam for your own data.
pub trait UserStore: Send + Sync + 'static {
    /// The user of this id.
    ///
    /// `Ok(None)`: there is none, and that is certain: it becomes a 404, which may be kept. `Err`:
    /// it is not known; it becomes a 503, which is never kept, and the next request asks again.
    ///
    /// It should give up by itself in less time than a lease lasts (`CACHE_LEASE_MS`): while it waits,
    /// other environments wait for it. When the invocation is about to end it is dropped.
    fn find(&self, id: UserId)
    -> impl Future<Output = Result<Option<User>, UserStoreError>> + Send;

    /// Does beforehand what the first look-up would have to, such as to connect.
    ///
    /// It is called while Lambda initialises the environment, where that is asked for (`WARM_UP`), and
    /// must end soon. Without it, or where it fails, the first look-up does all of it.
    fn warm_up(&self) -> impl Future<Output = Result<(), UserStoreError>> + Send {
        async { Ok(()) }
    }
}

/// A store could not tell. What it says goes to the log and never to a client.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the user store")]
pub struct UserStoreError(#[source] Box<dyn Error + Send + Sync>);

impl UserStoreError {
    /// A failure with its cause.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}
