//! What the core needs to know of what it stores, be it a response or a value: the entry, and what a load gives.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::freshness::StaleFor;
use crate::stamps::Stamp;
use crate::{CacheKey, DecodeError, NotStored, Policy, Tag};

/// An entry: what is stored under a key, and can be answered again.
pub(crate) trait Stored: Sized {
    /// The entry of this key that these bytes are. Whatever the bytes are, this returns.
    fn decode(key: &CacheKey, bytes: &Bytes) -> Result<Self, DecodeError>;

    /// The entry of this key as bytes.
    fn encode(&self, key: &CacheKey) -> Bytes;

    fn times(&self) -> Times;

    /// What an audit compares.
    fn content(&self) -> Content;

    /// How long it may be served past its freshness.
    fn stale_for(&self, policy: &Policy) -> StaleFor;

    /// The tags that it has, with the ids that they had.
    fn stamps(&self) -> &[Stamp];

    fn set_stamps(&mut self, stamps: Vec<Stamp>);
}

/// What a load gives.
pub(crate) trait Loaded: Sized {
    /// As what it is stored.
    type Entry: Stored;
    /// As what it is answered where it is not stored.
    type Passed;

    /// Why it does not replace an entry that stands, which is the better answer then. `None`: it does.
    fn failure(&self, is_fresh: bool) -> Option<Failure>;

    /// Whether and how it is stored, if no entry is served stale instead.
    fn settled(self, started_at_ms: u64, load_cost: Duration) -> Settled<Self>;

    /// What is answered where the load was cut off and no entry stands in.
    fn cut_off() -> Self::Passed;
}

/// What becomes of what was loaded.
pub(crate) enum Settled<L: Loaded> {
    /// The entry, and the tags that its answer names.
    Kept(L::Entry, Vec<Tag>),
    /// It is not stored, for this reason.
    Passed(L::Passed, NotStored),
}

/// What is the same in two entries of one key between which nothing changed.
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
    /// When its load began: milliseconds since the Unix epoch.
    pub(crate) load_started_at_ms: u64,
    /// How long its load took.
    pub(crate) load_cost: Duration,
    /// How long it is fresh, counted from the start of its load.
    pub(crate) ttl: Duration,
}

impl Times {
    /// How long ago its load began, by a clock that shows `now_ms`; never negative.
    pub(crate) fn age(self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.load_started_at_ms))
    }

    /// How long it is still fresh.
    pub(crate) fn fresh_for(self, now_ms: u64) -> Duration {
        self.ttl.saturating_sub(self.age(now_ms))
    }
}

/// A load that gave no answer to go by.
pub(crate) struct Failure {
    /// The status of the response, if that is what it gave.
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
