//! How long a request may wait for the store.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::Instant;

use crate::StoreError;
use crate::clock::Clock;

/// The time that a request may still wait for the store. Load time does not count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget<'a> {
    left: Duration,
    ends_at_ms: Option<u64>,
    clock: &'a Clock,
}

impl<'a> Budget<'a> {
    /// `deadline` in total, and never more than half of the time left until `ends_at_ms`.
    pub(crate) fn new(deadline: Duration, ends_at_ms: Option<u64>, clock: &'a Clock) -> Self {
        Self { left: deadline, ends_at_ms, clock }
    }

    /// The same request, with this much time for the store.
    pub(crate) fn with(self, deadline: Duration) -> Self {
        Self { left: deadline, ..self }
    }

    /// How long the whole request has left; `None` if it has no deadline.
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

    /// The same for a future that ends by itself, within `own_limit` if given. It is passed by reference, because
    /// passing a future by value moves it and stores it a second time.
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
