//! The wall clock, so that a test can hold it still.
//!
//! It is the wall clock and not a monotonic one because an entry's times are read by other
//! processes, and because what a monotonic clock does while Lambda keeps an environment frozen is
//! nobody's promise.

use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    #[cfg(test)]
    held: Option<std::sync::Arc<std::sync::atomic::AtomicU64>>,
    #[cfg(test)]
    skew_ms: i64,
}

impl Clock {
    /// Milliseconds since the Unix epoch.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "a test's clock is held"))]
    pub(crate) fn now_ms(&self) -> u64 {
        #[cfg(test)]
        if let Some(held) = &self.held {
            return held.load(std::sync::atomic::Ordering::SeqCst);
        }
        // Before 1970 there is no Lambda: 0 keeps a clock that was never set from failing a request.
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, whole_ms);
        #[cfg(test)]
        let now_ms = now_ms.saturating_add_signed(self.skew_ms);
        now_ms
    }
}

/// A duration in whole milliseconds; the longest one there is where it is longer still.
pub(crate) fn whole_ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
impl Clock {
    /// A clock that stands at `now_ms` until it is moved.
    pub(crate) fn held_at(now_ms: u64) -> Self {
        Self { held: Some(std::sync::Arc::new(now_ms.into())), skew_ms: 0 }
    }

    /// A clock that is wrong by so much.
    pub(crate) fn skewed(skew_ms: i64) -> Self {
        Self { held: None, skew_ms }
    }

    /// Moves a held clock, and all its clones, on by `by`.
    pub(crate) fn advance(&self, by: std::time::Duration) {
        let held = self.held.as_ref().expect("only a held clock can be moved");
        held.fetch_add(whole_ms(by), std::sync::atomic::Ordering::SeqCst);
    }
}
