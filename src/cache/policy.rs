//! What may be kept, for how long, and how long a request may wait for it.

use std::time::Duration;

use lambda_http::http::StatusCode;

/// The rules of one [`ResponseCache`](crate::cache::ResponseCache).
///
/// ```
/// use std::time::Duration;
/// use response_boost::cache::Policy;
///
/// let policy = Policy::new(Duration::from_secs(120)).with_not_found_ttl(Duration::from_secs(5));
/// assert_eq!(policy.ttl, Duration::from_secs(120));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// How long a 200 is fresh, counted from the start of its load.
    pub ttl: Duration,
    /// How long a 404 is fresh. `None`, the default: 404s are not kept.
    pub not_found_ttl: Option<Duration>,
    /// The most freshness that a client is given. `None`, the default: as much as the entry has
    /// left. Zero: the client asks again each time (`no-cache`), and is mostly told 304.
    pub client_max_age: Option<Duration>,
    /// An entry of more bytes than this, its metadata included, is not kept. 1 MiB by default.
    pub max_entry_bytes: usize,
    /// How long one request may wait for the store, in sum. 600 ms by default.
    pub deadline: Duration,
}

impl Policy {
    /// The default of [`max_entry_bytes`](Self::max_entry_bytes).
    pub const DEFAULT_MAX_ENTRY_BYTES: usize = 1024 * 1024;
    /// The default of [`deadline`](Self::deadline).
    pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(600);

    /// Keeps 200s for `ttl`, and nothing else.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            not_found_ttl: None,
            client_max_age: None,
            max_entry_bytes: Self::DEFAULT_MAX_ENTRY_BYTES,
            deadline: Self::DEFAULT_DEADLINE,
        }
    }

    /// Keeps 404s too, for `ttl`.
    #[must_use]
    pub fn with_not_found_ttl(mut self, ttl: Duration) -> Self {
        self.not_found_ttl = Some(ttl);
        self
    }

    /// Gives clients at most `max_age` of freshness.
    #[must_use]
    pub fn with_client_max_age(mut self, max_age: Duration) -> Self {
        self.client_max_age = Some(max_age);
        self
    }

    /// Keeps no entry that is larger than `bytes`.
    #[must_use]
    pub fn with_max_entry_bytes(mut self, bytes: usize) -> Self {
        self.max_entry_bytes = bytes;
        self
    }

    /// Lets a request wait for the store for `deadline` in sum.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
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
