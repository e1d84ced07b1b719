//! The wall clock, which a test can stop.
//!
//! It is not a monotonic clock, because other processes read an entry's times, and because nobody specifies how a
//! monotonic clock behaves while Lambda freezes an environment.

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
        // A clock before 1970 was never set. 0 keeps it from failing a request.
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, whole_ms);
        #[cfg(test)]
        let now_ms = now_ms.saturating_add_signed(self.skew_ms);
        now_ms
    }
}

/// A duration in whole milliseconds, saturating at `u64::MAX`.
pub(crate) fn whole_ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
impl Clock {
    /// A clock that stands still at `now_ms` until a test advances it.
    pub(crate) fn held_at(now_ms: u64) -> Self {
        Self { held: Some(std::sync::Arc::new(now_ms.into())), skew_ms: 0 }
    }

    /// A clock that is off by `skew_ms`.
    pub(crate) fn skewed(skew_ms: i64) -> Self {
        Self { held: None, skew_ms }
    }

    /// Advances a held clock and all its clones by `by`.
    pub(crate) fn advance(&self, by: std::time::Duration) {
        let held = self.held.as_ref().expect("only a held clock can be moved");
        held.fetch_add(whole_ms(by), std::sync::atomic::Ordering::SeqCst);
    }
}
