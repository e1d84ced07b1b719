//! What may be kept, for how long, and how long a request may wait for it.

use std::time::Duration;

use http::{Method, StatusCode};
use thiserror::Error;

/// The rules of one [`ResponseCacheLayer`](crate::ResponseCacheLayer).
///
/// ```
/// use std::time::Duration;
/// use response_boost::Policy;
///
/// let policy = Policy::new(Duration::from_secs(120)).with_not_found_ttl(Duration::from_secs(5));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub(crate) ttl: Duration,
    pub(crate) not_found_ttl: Option<Duration>,
    pub(crate) client_max_age: Option<Duration>,
    pub(crate) max_entry_bytes: usize,
    pub(crate) deadline: Duration,
    pub(crate) lease: Option<Duration>,
    pub(crate) load_limit: Duration,
    pub(crate) early_refresh: f64,
    pub(crate) stale_if_error: Duration,
    pub(crate) methods: Vec<Method>,
}

/// What [`Policy::with_early_refresh`] was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a number from 0 to {}", InvalidBeta::MOST)]
pub struct InvalidBeta;

impl InvalidBeta {
    const MOST: f64 = 1_000.0;
}

impl Policy {
    /// The default of [`with_max_entry_bytes`](Self::with_max_entry_bytes).
    pub const DEFAULT_MAX_ENTRY_BYTES: usize = 1024 * 1024;
    /// The default of [`with_deadline`](Self::with_deadline).
    pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(600);
    /// The default of [`with_lease`](Self::with_lease).
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(2);
    /// The default of [`with_load_limit`](Self::with_load_limit).
    pub const DEFAULT_LOAD_LIMIT: Duration = Duration::from_secs(30);
    /// The default of [`with_early_refresh`](Self::with_early_refresh).
    pub const DEFAULT_EARLY_REFRESH: f64 = 1.0;

    /// Keeps 200s for `ttl`, counted from the start of their load, and nothing else.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            not_found_ttl: None,
            client_max_age: None,
            max_entry_bytes: Self::DEFAULT_MAX_ENTRY_BYTES,
            deadline: Self::DEFAULT_DEADLINE,
            lease: Some(Self::DEFAULT_LEASE),
            load_limit: Self::DEFAULT_LOAD_LIMIT,
            early_refresh: Self::DEFAULT_EARLY_REFRESH,
            stale_if_error: Duration::ZERO,
            methods: Vec::new(),
        }
    }

    /// Keeps 404s too, for `ttl`. By default they are not kept.
    #[must_use]
    pub fn with_not_found_ttl(mut self, ttl: Duration) -> Self {
        self.not_found_ttl = Some(ttl);
        self
    }

    /// Gives clients at most `max_age` of freshness; by default as much as the entry has left. Zero: the client
    /// asks again each time (`no-cache`), and is mostly told 304.
    #[must_use]
    pub fn with_client_max_age(mut self, max_age: Duration) -> Self {
        self.client_max_age = Some(max_age);
        self
    }

    /// Keeps no entry that is larger than `bytes`, its metadata included; by default than 1 MiB.
    #[must_use]
    pub fn with_max_entry_bytes(mut self, bytes: usize) -> Self {
        self.max_entry_bytes = bytes;
        self
    }

    /// Lets a request wait for the store for `deadline` in sum, by default for 600 ms. Waiting for another's fill is
    /// apart.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Lets a process hold the right to fill a key for `lease` without a sign of life, by default for 2 s. While it
    /// loads it renews the lease at half its life, so a load may take longer; a process that dies costs the others
    /// as much. (A load that blocks its thread cannot renew: what comes later than the lease is then not stored.)
    /// Zero: no leases, everyone loads.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease).filter(|lease| !lease.is_zero());
        self
    }

    /// Cuts off a load that takes longer than `limit`, by default than 30 s, and in any case a twelfth of the time
    /// left before the request's [`Deadline`](crate::Deadline). It then counts as failed: the entry that is there
    /// answers, else a 503. The body counts too, as far as it is collected.
    ///
    /// A request waits for another's fill only while it has more time than this left for a load of its own, or than
    /// half of the time it had at first, if that is less.
    #[must_use]
    pub fn with_load_limit(mut self, limit: Duration) -> Self {
        self.load_limit = limit;
        self
    }

    /// Loads entries anew in the last tenth of their life, the more eagerly the larger `beta` is (`XFetch`, VLDB
    /// '15): from 0, never, to 1000, as soon as it may be; 1 by default. Only where a load takes less than that
    /// tenth: it could not be over in time.
    pub fn with_early_refresh(mut self, beta: f64) -> Result<Self, InvalidBeta> {
        if !(0.0..=InvalidBeta::MOST).contains(&beta) {
            return Err(InvalidBeta);
        }
        self.early_refresh = beta;
        Ok(self)
    }

    /// Serves an entry for `window` past its freshness where the load fails (RFC 5861 §4): an error, a body that breaks
    /// off, a load that is cut off, any status but 200, 404, 410 and those that are stored. By default not at all.
    ///
    /// A failed load is remembered for a second, in which all are served the entry at once.
    #[must_use]
    pub fn with_stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = window;
        self
    }

    /// Lets requests of another method through the cache, if they have a key: a search by `POST`, say, with a hash of
    /// its body in the key. Such a request must change nothing, since it may be answered without being asked.
    #[must_use]
    pub fn with_method(mut self, method: Method) -> Self {
        self.methods.push(method);
        self
    }

    /// Whether requests of this method go through the cache.
    pub(crate) fn has_method(&self, method: &Method) -> bool {
        [Method::GET, Method::HEAD].contains(method) || self.methods.contains(method)
    }

    /// How long an answer of this status is fresh; `None` where it is not kept at all.
    pub(crate) fn ttl_of(&self, status: StatusCode) -> Option<Duration> {
        match status {
            StatusCode::OK => Some(self.ttl),
            StatusCode::NOT_FOUND => self.not_found_ttl,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beta_is_a_number_from_0_to_1000() {
        let policy = || Policy::new(Duration::from_mins(1));
        for good in [0.0, 0.5, 1_000.0] {
            assert!(policy().with_early_refresh(good).is_ok(), "{good}");
        }
        for bad in [-0.1, 1_000.1, f64::NAN, f64::INFINITY] {
            let error = policy().with_early_refresh(bad).unwrap_err();
            assert_eq!(error.to_string(), "a number from 0 to 1000");
        }
    }
}
