//! Where users come from.

use std::error::Error;

use crate::users::{User, UserId};

/// A place that users are looked up in: the seam for your own data.
pub trait UserStore: Send + Sync + 'static {
    /// The user of this id.
    ///
    /// `Ok(None)`: there is none, and that is certain: it becomes a 404, which may be kept. `Err`:
    /// it is not known; it becomes a 503, which is never kept, and the next request asks again.
    fn find(&self, id: UserId)
    -> impl Future<Output = Result<Option<User>, UserStoreError>> + Send;
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
