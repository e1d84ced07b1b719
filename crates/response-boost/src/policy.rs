//! What the cache may store, for how long, and how long a request may wait for the store.

use std::time::Duration;

use http::header::HeaderName;
use http::{Method, StatusCode};
use thiserror::Error;

use crate::audit::Audit;
use crate::{Namespace, Tag};

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
    /// The statuses stored in addition to 200.
    pub(crate) statuses: Vec<(StatusCode, Duration)>,
    pub(crate) max_ttl: Duration,
    /// The request header fields that the key covers.
    pub(crate) key_headers: Vec<HeaderName>,
    pub(crate) client_max_age: Option<Duration>,
    pub(crate) max_entry_bytes: usize,
    pub(crate) deadline: Duration,
    pub(crate) lease: Option<Duration>,
    pub(crate) load_limit: Duration,
    pub(crate) early_refresh: f64,
    pub(crate) stale_if_error: Duration,
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) refreshes_inline: bool,
    pub(crate) audit: Option<Audit>,
    pub(crate) methods: Vec<Method>,
    /// The tags of every entry.
    pub(crate) tags: Vec<Tag>,
    /// The namespace in which responses may name tags of their own.
    pub(crate) response_tags: Option<Namespace>,
    pub(crate) reads_cache_tag: bool,
}

/// Why [`Policy::with_early_refresh`] refused a beta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a number from 0 to {}", InvalidBeta::MOST)]
pub struct InvalidBeta;

/// Why [`Policy::with_audit`] refused a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a number from 0 to 1")]
pub struct InvalidRate;

/// Why [`Policy::with_status`] refused a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("one of 200, 203, 204, 300, 301, 308, 404, 405, 410, 414 and 501")]
pub struct InvalidStatus;

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

    /// Stores 200s for `ttl`, counted from the start of the load, unless a response says otherwise
    /// ([`Keep`](crate::Keep), `Cache-Control`, `Expires`). Stores no other status.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            statuses: Vec::new(),
            max_ttl: Duration::MAX,
            key_headers: Vec::new(),
            client_max_age: None,
            max_entry_bytes: Self::DEFAULT_MAX_ENTRY_BYTES,
            deadline: Self::DEFAULT_DEADLINE,
            lease: Some(Self::DEFAULT_LEASE),
            load_limit: Self::DEFAULT_LOAD_LIMIT,
            early_refresh: Self::DEFAULT_EARLY_REFRESH,
            stale_if_error: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            refreshes_inline: false,
            audit: None,
            methods: Vec::new(),
            tags: Vec::new(),
            response_tags: None,
            reads_cache_tag: false,
        }
    }

    /// Stores 404s too, for `ttl`, unless a response says otherwise. By default the cache does not store them.
    #[must_use]
    pub fn with_not_found_ttl(self, ttl: Duration) -> Self {
        self.with_status_code(StatusCode::NOT_FOUND, ttl)
    }

    /// Also stores responses of this status, for `ttl` unless a response says otherwise. The status must be one of 203,
    /// 204, 300, 301, 308, 404, 405, 410, 414 and 501, which RFC 9110 §15.1 lets caches store (a 206 is only a part of
    /// a response). Such a response also replaces an existing entry.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::StatusCode;
    /// use response_boost::Policy;
    ///
    /// let policy = Policy::new(Duration::from_secs(60))
    ///     .with_status(StatusCode::MOVED_PERMANENTLY, Duration::from_secs(3600))?;
    /// # Ok::<(), response_boost::InvalidStatus>(())
    /// ```
    pub fn with_status(self, status: StatusCode, ttl: Duration) -> Result<Self, InvalidStatus> {
        if !Self::may_store(status) {
            return Err(InvalidStatus);
        }
        Ok(self.with_status_code(status, ttl))
    }

    fn with_status_code(mut self, status: StatusCode, ttl: Duration) -> Self {
        if status == StatusCode::OK {
            self.ttl = ttl;
        } else {
            self.statuses.retain(|(known, _)| *known != status);
            self.statuses.push((status, ttl));
        }
        self
    }

    /// Caps the TTL at `max_ttl`, whatever a response says. By default it is not capped.
    #[must_use]
    pub fn with_max_ttl(mut self, max_ttl: Duration) -> Self {
        self.max_ttl = max_ttl;
        self
    }

    /// Declares that the key covers these request header fields. The cache then stores responses whose `Vary` names no
    /// other field (RFC 9111 §4.1). By default it stores no response with a `Vary`.
    ///
    /// The layer trusts this. Put each field in the key, by [`CacheKey::with_header`](crate::CacheKey::with_header) or
    /// in your own way; otherwise clients get responses made for others.
    #[must_use]
    pub fn with_key_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.key_headers.extend(names);
        self
    }

    /// Gives clients at most `max_age` of freshness, in whole seconds. By default they get what the entry has left, or
    /// what the service says. Other directives of the service's `Cache-Control` remain. With zero, the client
    /// revalidates each time (`private, no-cache`) and usually gets a 304.
    #[must_use]
    pub fn with_client_max_age(mut self, max_age: Duration) -> Self {
        self.client_max_age = Some(max_age);
        self
    }

    /// Stores no entry larger than `bytes`, including its metadata. The default is 1 MiB.
    #[must_use]
    pub fn with_max_entry_bytes(mut self, bytes: usize) -> Self {
        self.max_entry_bytes = bytes;
        self
    }

    /// Limits how long a request waits for the store in total; 600 ms by default. Waiting for another request's load
    /// does not count.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how long a process holds the lease on a key without renewing it; 2 s by default. A process renews its lease
    /// at half-life while it loads, so a load may take longer than `lease`. If the process dies, the others wait for
    /// this long. (A load that blocks its thread cannot renew the lease; if it takes longer than the lease, its
    /// response is not stored.) Zero turns leases off: every request loads.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease).filter(|lease| !lease.is_zero());
        self
    }

    /// Cancels a load that takes longer than `limit`, 30 s by default. If the request has a
    /// [`Deadline`](crate::Deadline), a load may also take no more than eleven twelfths of the time left before it. A
    /// cancelled load counts as failed: the cache serves the existing entry, otherwise a 503. The limit includes the
    /// part of the body that the cache collects.
    ///
    /// A request waits for another request's load only while it has enough time left for a load of its own: this limit,
    /// or half of the time it had at first, whichever is less.
    #[must_use]
    pub fn with_load_limit(mut self, limit: Duration) -> Self {
        self.load_limit = limit;
        self
    }

    /// Refreshes entries in the last tenth of their life, the more eagerly the larger `beta` is (`XFetch`, VLDB '15): 0
    /// is never, 1000 as early as possible, 1 the default. It applies only where a load takes less than that tenth; a
    /// longer load could not finish in time. The request that finds such an entry is answered from it, and the load
    /// follows after the reply, as with [`with_stale_while_revalidate`](Self::with_stale_while_revalidate).
    pub fn with_early_refresh(mut self, beta: f64) -> Result<Self, InvalidBeta> {
        if !(0.0..=InvalidBeta::MOST).contains(&beta) {
            return Err(InvalidBeta);
        }
        self.early_refresh = beta;
        Ok(self)
    }

    /// Serves an entry for up to `window` past its freshness if the load fails (RFC 5861 §4): an error, a truncated
    /// body, a cancelled load, or any status except 200, 404, 410 and those that the policy stores. By default the
    /// cache serves no stale entry.
    ///
    /// A response can set its own window (`stale-if-error`) or forbid serving it stale (`must-revalidate`,
    /// `proxy-revalidate`, `s-maxage`; RFC 9111 §4.2.4).
    ///
    /// The cache remembers a failed load for a second, during which all requests get the entry at once.
    #[must_use]
    pub fn with_stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = window;
        self
    }

    /// Serves an entry at once for up to `window` past its freshness, and refreshes it after the reply (RFC 5861 §3),
    /// so that no client waits for the refresh. By default the cache does not.
    ///
    /// On Lambda this requires [`AfterReplyLayer`](crate::AfterReplyLayer) around the runtime; elsewhere the cache
    /// spawns the load. A failed refresh leaves the entry in place and is not retried for a second. The inner service
    /// can forbid this or set another window by `Cache-Control`.
    #[must_use]
    pub fn with_stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = window;
        self
    }

    /// Lets the request that finds an entry about to expire, or past its freshness, refresh it itself. No work is left
    /// for after the reply, but its client waits.
    #[must_use]
    pub fn with_inline_refresh(mut self) -> Self {
        self.refreshes_inline = true;
        self
    }

    /// Audits a share of the hits, from 0 (none, the default) to 1: after the reply the cache loads the response again
    /// and compares it with the entry. If status or body differ, or a header field that says how to read the body or where
    /// to go instead (`Content-Type`, `Content-Encoding`, `Content-Language`, `Location`), and the same
    /// entry still stands after `grace`, an invalidation was lost: the cache logs a warning, reports it
    /// ([`Report::audit_stale`](crate::Report::audit_stale)) and removes the entry.
    ///
    /// `grace` is longer than an invalidation ever takes. The service must give the same response while nothing
    /// changes, and its loads must be strongly consistent; otherwise the audit raises false alarms. Each audited hit
    /// costs a load. An audited process checks a suspect with its first request after the grace; on a server a timer
    /// does.
    pub fn with_audit(mut self, rate: f64, grace: Duration) -> Result<Self, InvalidRate> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(InvalidRate);
        }
        self.audit = (rate > 0.0).then_some(Audit { rate, grace });
        Ok(self)
    }

    /// Lets requests of another method through the cache, if they have a key: a search by `POST`, for example, with a
    /// hash of its body in the key ([`CacheKey::with_body`](crate::CacheKey::with_body)). Such a request must change
    /// nothing, since the cache may answer it without calling the service. All methods share a key, as `GET` and `HEAD`
    /// do, unless the key includes the method.
    #[must_use]
    pub fn with_method(mut self, method: Method) -> Self {
        self.methods.push(method);
        self
    }

    /// Gives every entry this tag. With [`Namespace::whole`], one call invalidates a whole namespace.
    ///
    /// ```
    /// use std::time::Duration;
    /// use response_boost::{Namespace, Policy};
    ///
    /// let users = Namespace::parse("users")?;
    /// let policy = Policy::new(Duration::from_secs(60)).with_tag(users.whole());
    /// # Ok::<(), response_boost::InvalidNamespace>(())
    /// ```
    #[must_use]
    pub fn with_tag(mut self, tag: Tag) -> Self {
        self.tags.push(tag);
        self
    }

    /// Lets a response name tags of this namespace that are known only after the load, by
    /// [`Keep::with_tags`](crate::Keep::with_tags). The loads of a [`ValueCache`](crate::ValueCache) may do so too.
    ///
    /// Every invalidation of a tag in this namespace changes an id under `<namespace>:%changes`. A load reads that id
    /// before it calls the service, and again once it has the ids of the entry's tags. If the id has changed, the
    /// response is not stored: one of its tags may have been invalidated during the load, before the cache knew its
    /// name. This suits tags that are rarely invalidated compared to how long a load takes.
    #[must_use]
    pub fn with_response_tags(mut self, namespace: Namespace) -> Self {
        self.response_tags = Some(namespace);
        self
    }

    /// The same, and also reads tags from the response's `Cache-Tag` field, a comma-separated list such as `Cache-Tag:
    /// team-7, user-1`. The field is neither stored nor passed on to clients.
    #[must_use]
    pub fn with_cache_tag_header(mut self, namespace: Namespace) -> Self {
        self.reads_cache_tag = true;
        self.with_response_tags(namespace)
    }

    /// The longest life of an entry whose response sets no TTL itself.
    pub(crate) fn longest_life(&self) -> Duration {
        let statuses = self.statuses.iter().map(|(_, ttl)| *ttl);
        let ttl = statuses.fold(self.ttl, Duration::max).min(self.max_ttl);
        ttl.saturating_add(self.stale_if_error.max(self.stale_while_revalidate))
    }

    /// Whether requests of this method go through the cache.
    pub(crate) fn has_method(&self, method: &Method) -> bool {
        [Method::GET, Method::HEAD].contains(method) || self.methods.contains(method)
    }

    /// Whether requests of this method may change something. Safe methods (RFC 9110 §9.2.1) and methods that go through
    /// the cache do not.
    pub(crate) fn may_change(&self, method: &Method) -> bool {
        !self.has_method(method) && ![Method::OPTIONS, Method::TRACE].contains(method)
    }

    /// How long a response of this status is fresh if it does not say so itself; `None`: the status is not stored.
    pub(crate) fn ttl_of(&self, status: StatusCode) -> Option<Duration> {
        if status == StatusCode::OK {
            return Some(self.ttl);
        }
        self.statuses.iter().find(|(known, _)| *known == status).map(|(_, ttl)| *ttl)
    }

    /// Whether a policy may store responses of this status. No entry has another one.
    pub(crate) fn may_store(status: StatusCode) -> bool {
        matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
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

    #[test]
    fn an_audit_rate_is_a_number_from_0_to_1() {
        let audit = |rate| Policy::new(Duration::from_mins(1)).with_audit(rate, Duration::ZERO);
        assert_eq!(audit(0.0).unwrap().audit, None);
        for good in [0.001, 1.0] {
            assert!(audit(good).unwrap().audit.is_some(), "{good}");
        }
        for bad in [-0.1, 1.1, f64::NAN] {
            assert_eq!(audit(bad).unwrap_err().to_string(), "a number from 0 to 1");
        }
    }

    #[test]
    fn a_policy_stores_only_statuses_that_caches_may_store() {
        let policy = || Policy::new(Duration::from_mins(1));
        let second = Duration::from_secs(1);
        let stored: Vec<u16> = (100..1_000)
            .filter(|code| {
                let status = StatusCode::from_u16(*code).unwrap();
                match policy().with_status(status, second) {
                    Ok(policy) => policy.ttl_of(status) == Some(second),
                    Err(error) => {
                        assert!(error.to_string().starts_with("one of 200, 203"));
                        false
                    }
                }
            })
            .collect();
        assert_eq!(stored, [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501]);
    }

    #[test]
    fn the_last_time_of_a_status_counts() {
        let seconds = Duration::from_secs;
        let policy = Policy::new(seconds(1)).with_not_found_ttl(seconds(2));
        let policy = policy.with_status(StatusCode::NOT_FOUND, seconds(3)).unwrap();
        assert_eq!(policy.ttl_of(StatusCode::NOT_FOUND), Some(seconds(3)));
    }
}
