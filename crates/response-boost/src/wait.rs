//! Waiting for another request's load.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::CacheStatus;

/// The pause before the next lookup: the first one, and the longest one.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// How long this request has waited, and for which value.
pub(crate) struct Wait {
    /// The time reserved for a load of its own.
    kept_back: Duration,
    /// The value that the request waits to see replaced, and since when. Another value, such as a renewed lease,
    /// restarts the wait.
    whose: Bytes,
    since: Option<Instant>,
    pauses: u32,
    is_for_refresh: bool,
}

impl Wait {
    /// The longest pause between two lookups.
    pub(crate) const LONGEST_PAUSE: Duration = POLL.1;

    /// A request with a deadline waits only while it has `load_limit` left, or half of the time it has now if that is
    /// less. Without this second rule, a deadline shorter than the load limit would forbid all waiting, although most
    /// loads are quick.
    pub(crate) fn new(until_end: Option<Duration>, load_limit: Duration) -> Self {
        Self {
            kept_back: until_end.map_or(load_limit, |left| load_limit.min(left / 2)),
            whose: Bytes::new(),
            since: None,
            pauses: 0,
            is_for_refresh: false,
        }
    }

    /// Starts to wait for this value, unless the request already does. `false`: the time left does not suffice for
    /// another pause and then a load of its own.
    pub(crate) fn watch(
        &mut self,
        whose: Bytes,
        is_for_refresh: bool,
        until_end: Option<Duration>,
    ) -> bool {
        if self.since.is_none() || self.whose != whose {
            (self.whose, self.since) = (whose, Some(Instant::now()));
        }
        self.is_for_refresh = is_for_refresh;
        let needed = self.next_pause().saturating_add(self.kept_back);
        until_end.is_none_or(|left| needed <= left)
    }

    /// Whether the request has waited this long for this value.
    pub(crate) fn is_over(&self, whose: &Bytes, limit: Duration) -> bool {
        self.whose == *whose && self.since.is_some_and(|since| since.elapsed() >= limit)
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.pauses > 0
    }

    /// The outcome of the request, if it has waited and the entry is now there.
    pub(crate) fn status(&self) -> Option<CacheStatus> {
        self.has_begun().then_some(if self.is_for_refresh {
            CacheStatus::Stale { stored: false, collapsed: true, early: false, detail: None }
        } else {
            CacheStatus::Miss { stored: false, collapsed: Some(true), detail: None }
        })
    }

    /// Pauses before the next lookup, but not beyond `limit`.
    pub(crate) async fn pause(&mut self, limit: Duration) {
        let waited = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        tokio::time::sleep(self.next_pause().min(limit.saturating_sub(waited))).await;
        self.pauses += 1;
    }

    fn next_pause(&self) -> Duration {
        POLL.0.saturating_mul(2_u32.saturating_pow(self.pauses)).min(POLL.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_of_the_time_left_is_the_most_that_is_kept_back() {
        let seconds = Duration::from_secs;
        for (until_end, load_limit, waits) in [(3, 30, 1.5), (3, 1, 2.0), (10, 4, 6.0), (1, 0, 1.0)]
        {
            let ends_at = Instant::now() + seconds(until_end);
            let left = || Some(ends_at.saturating_duration_since(Instant::now()));
            let mut wait = Wait::new(left(), seconds(load_limit));
            let started = Instant::now();
            while wait.watch(Bytes::new(), false, left()) {
                wait.pause(Duration::MAX).await;
            }
            let waited = started.elapsed().as_secs_f64();
            assert!((waits - 0.11..=waits).contains(&waited), "{waited} of {waits}");
        }
        let mut endless = Wait::new(None, seconds(30));
        assert!(endless.watch(Bytes::new(), false, None));
    }
}
