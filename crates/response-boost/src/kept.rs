//! What the core needs to know of a stored thing, be it a response or a value: its entry, and the result of its load.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::freshness::StaleFor;
use crate::stamps::Stamp;
use crate::{CacheKey, DecodeError, NotStored, Policy, Tag};

/// An entry: what the store has under a key, and what the cache serves again.
pub(crate) trait Stored: Sized {
    /// Decodes the entry of this key. It never panics, whatever the bytes are.
    fn decode(key: &CacheKey, bytes: &Bytes) -> Result<Self, DecodeError>;

    /// Encodes the entry of this key.
    fn encode(&self, key: &CacheKey) -> Bytes;

    fn times(&self) -> Times;

    /// The part that an audit compares.
    fn content(&self) -> Content;

    /// How long the entry may be served stale.
    fn stale_for(&self, policy: &Policy) -> StaleFor;

    /// The tags of the entry, each with the id that it had during the load.
    fn stamps(&self) -> &[Stamp];

    fn set_stamps(&mut self, stamps: Vec<Stamp>);
}

/// The result of a load.
pub(crate) trait Loaded: Sized {
    /// The form in which it is stored.
    type Entry: Stored;
    /// The form in which it is answered if it is not stored.
    type Passed;

    /// Why the load counts as failed, so that an existing entry is served instead and not replaced. `None`: it
    /// succeeded.
    fn failure(&self, is_fresh: bool) -> Option<LoadFailure>;

    /// Decides whether and how the result is stored, if no stale entry is served instead.
    fn settled(self, started_at_ms: u64, load_cost: Duration) -> Settled<Self>;

    /// The answer if the load was cancelled and no stale entry may be served.
    fn cut_off() -> Self::Passed;
}

/// What the cache does with the result of a load.
pub(crate) enum Settled<L: Loaded> {
    /// Store this entry, with the tags that the response names.
    Kept(L::Entry, Vec<Tag>),
    /// Pass it on without storing it, for this reason.
    Passed(L::Passed, NotStored),
}

/// The content of an entry: equal in two entries of one key if the data did not change between their loads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) status: StatusCode,
    /// The fields that say how to read the body, or where to go instead.
    pub(crate) headers: Vec<Option<HeaderValue>>,
    pub(crate) body: Bytes,
}

/// The times of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// When its load began, in milliseconds since the Unix epoch.
    pub(crate) load_started_at_ms: u64,
    /// How long its load took.
    pub(crate) load_cost: Duration,
    /// How long it is fresh, counted from the start of its load.
    pub(crate) ttl: Duration,
}

impl Times {
    /// How long ago its load began, at `now_ms`; never negative.
    pub(crate) fn age(self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.load_started_at_ms))
    }

    /// How long it remains fresh.
    pub(crate) fn fresh_for(self, now_ms: u64) -> Duration {
        self.ttl.saturating_sub(self.age(now_ms))
    }
}

/// A load that failed.
pub(crate) struct LoadFailure {
    /// The status of the response, if the service sent one.
    pub(crate) status: Option<StatusCode>,
    pub(crate) what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_never_negative() {
        let (load_cost, ttl) = (Duration::ZERO, Duration::from_secs(2));
        let times = Times { load_started_at_ms: 1_780_000_000_000, load_cost, ttl };
        assert_eq!(times.age(1_780_000_002_500), Duration::from_millis(2_500));
        assert_eq!(times.age(0), Duration::ZERO);
        assert_eq!(times.fresh_for(1_780_000_000_500), Duration::from_millis(1_500));
        assert_eq!(times.fresh_for(1_780_000_002_500), Duration::ZERO);
    }
}
