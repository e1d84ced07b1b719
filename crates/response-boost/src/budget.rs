//! How long a request may wait for the store.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::Instant;

use crate::StoreError;
use crate::clock::Clock;

/// What is left of the time that a request may wait for the store. The time of the load is not the store's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget<'a> {
    left: Duration,
    ends_at_ms: Option<u64>,
    clock: &'a Clock,
}

impl<'a> Budget<'a> {
    /// `deadline` in sum, and no more than half of what is left until the request ends.
    pub(crate) fn new(deadline: Duration, ends_at_ms: Option<u64>, clock: &'a Clock) -> Self {
        Self { left: deadline, ends_at_ms, clock }
    }

    /// The same request with this much for the store.
    pub(crate) fn with(self, deadline: Duration) -> Self {
        Self { left: deadline, ..self }
    }

    /// How long the whole request has left, if it ends.
    pub(crate) fn until_end(&self) -> Option<Duration> {
        let end_ms = self.ends_at_ms?;
        Some(Duration::from_millis(end_ms.saturating_sub(self.clock.now_ms())))
    }

    pub(crate) async fn spend<T>(
        &mut self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.spend_within(None, pin!(asked)).await
    }

    /// The same where it ends by itself, within this time if one is given. It is taken by reference: a
    /// future that is given away is moved, and stored once more.
    pub(crate) async fn spend_within<T>(
        &mut self,
        own_limit: Option<Duration>,
        asked: Pin<&mut impl Future<Output = Result<T, StoreError>>>,
    ) -> Result<T, StoreError> {
        let share = self.until_end().map_or(Duration::MAX, |left| left / 2);
        let limit = self.left.min(share);
        let spent = || StoreError::Timeout("deadline of the request".into());
        if limit.is_zero() {
            return Err(spent());
        }
        let started = Instant::now();
        let answer = if own_limit.is_some_and(|own| own <= limit) {
            Ok(asked.await)
        } else {
            tokio::time::timeout(limit, asked).await
        };
        self.left = self.left.saturating_sub(started.elapsed());
        answer.unwrap_or_else(|_| Err(spent()))
    }
}
