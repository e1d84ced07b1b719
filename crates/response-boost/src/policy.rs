//! What may be kept, for how long, and how long a request may wait for it.

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
    /// What is stored beside 200.
    pub(crate) statuses: Vec<(StatusCode, Duration)>,
    pub(crate) max_ttl: Duration,
    /// The fields of a request that its key covers.
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
    /// Those of every entry.
    pub(crate) tags: Vec<Tag>,
    /// Where responses may name tags of their own.
    pub(crate) response_tags: Option<Namespace>,
    pub(crate) reads_cache_tag: bool,
}

/// What [`Policy::with_early_refresh`] was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a number from 0 to {}", InvalidBeta::MOST)]
pub struct InvalidBeta;

/// Why [`Policy::with_audit`] refused a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a number from 0 to 1")]
pub struct InvalidRate;

/// What [`Policy::with_status`] was refused for.
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

    /// Stores 200s for `ttl`, counted from the start of their load, unless a response says otherwise
    /// ([`Keep`](crate::Keep), `Cache-Control`, `Expires`); and no other status.
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

    /// Stores responses of this status too, for `ttl`, unless a response says otherwise: one of 203, 204, 300, 301,
    /// 308, 404, 405, 410, 414 and 501, which RFC 9110 §15.1 lets caches store (206 is a part, and no whole response).
    /// Such a response also replaces an entry that stands.
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

    /// Stores nothing for longer than `max_ttl`, whatever a response says; by default there is no such limit.
    #[must_use]
    pub fn with_max_ttl(mut self, max_ttl: Duration) -> Self {
        self.max_ttl = max_ttl;
        self
    }

    /// Says that the key of a request covers these header fields, so that responses whose `Vary` names no others are
    /// stored (RFC 9111 §4.1). By default no response with a `Vary` is.
    ///
    /// The layer trusts this: each field must be in the key, by [`CacheKey::with_header`](crate::CacheKey::with_header)
    /// or in a way of your own, else clients get responses that were made for others.
    #[must_use]
    pub fn with_key_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.key_headers.extend(names);
        self
    }

    /// Gives clients at most `max_age` of freshness, in whole seconds; by default as much as the entry has left, or as
    /// the service says. What else the service says in its `Cache-Control` stands. Zero: the client asks again each
    /// time (`private, no-cache`), and mostly gets a 304.
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
    /// tenth: it could not be over in time. The request that meets such an entry is answered with it, and the load
    /// follows after the reply, as for [`with_stale_while_revalidate`](Self::with_stale_while_revalidate).
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
    /// A response can say for itself for how long (`stale-if-error`), or that it must not be (`must-revalidate`,
    /// `proxy-revalidate`, `s-maxage`; RFC 9111 §4.2.4).
    ///
    /// A failed load is remembered for a second, in which all are served the entry at once.
    #[must_use]
    pub fn with_stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = window;
        self
    }

    /// Serves an entry for `window` past its freshness at once, and loads it anew after the reply (RFC 5861 §3), so that
    /// no client waits for the load of an entry that is there. By default not at all.
    ///
    /// On Lambda this takes [`AfterReplyLayer`](crate::AfterReplyLayer) around the runtime; elsewhere the cache spawns
    /// the load. A refresh that fails leaves the entry, and is not tried again for a second. The service inside can
    /// forbid all this, or name another window, by `Cache-Control`.
    #[must_use]
    pub fn with_stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = window;
        self
    }

    /// Lets the request that meets an entry about to end, or past its freshness, load it itself: no work is left for
    /// after the reply, and its client waits.
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

    /// Lets requests of another method through the cache, if they have a key: a search by `POST`, say, with a hash of
    /// its body in the key ([`CacheKey::with_body`](crate::CacheKey::with_body)). Such a request must change nothing,
    /// since it may be answered without being asked. The methods share a key, as `GET` and `HEAD` do, unless the key
    /// has the method as a part.
    #[must_use]
    pub fn with_method(mut self, method: Method) -> Self {
        self.methods.push(method);
        self
    }

    /// Gives every entry this tag: with [`Namespace::whole`], one call invalidates all there is in a namespace.
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

    /// Lets responses name tags of this namespace that only they know, by [`Keep::with_tags`](crate::Keep::with_tags);
    /// so may the loads of a [`ValueCache`](crate::ValueCache).
    ///
    /// Each load then also reads, before it asks the service, an id that every invalidation of a tag of this namespace
    /// changes (under `<namespace>:%changes`), and again once the entry has the ids of its tags. If it differs, the
    /// response is not stored: one of its tags may have been invalidated while the service was asked, before its name
    /// was known. So this suits tags that are invalidated seldom compared to how long a load takes.
    #[must_use]
    pub fn with_response_tags(mut self, namespace: Namespace) -> Self {
        self.response_tags = Some(namespace);
        self
    }

    /// The same, and reads tags also from the field `Cache-Tag` of a response, a list separated by commas:
    /// `Cache-Tag: team-7, user-1`. The field is neither stored nor passed on to clients.
    #[must_use]
    pub fn with_cache_tag_header(mut self, namespace: Namespace) -> Self {
        self.reads_cache_tag = true;
        self.with_response_tags(namespace)
    }

    /// The longest that an entry lives whose response does not say how long.
    pub(crate) fn longest_life(&self) -> Duration {
        let statuses = self.statuses.iter().map(|(_, ttl)| *ttl);
        let ttl = statuses.fold(self.ttl, Duration::max).min(self.max_ttl);
        ttl.saturating_add(self.stale_if_error.max(self.stale_while_revalidate))
    }

    /// Whether requests of this method go through the cache.
    pub(crate) fn has_method(&self, method: &Method) -> bool {
        [Method::GET, Method::HEAD].contains(method) || self.methods.contains(method)
    }

    /// Whether requests of this method may change something: none that is safe (RFC 9110 §9.2.1), and none that is
    /// let through the cache.
    pub(crate) fn may_change(&self, method: &Method) -> bool {
        !self.has_method(method) && ![Method::OPTIONS, Method::TRACE].contains(method)
    }

    /// How long a response of this status is fresh where it does not say; `None`: its status is not stored.
    pub(crate) fn ttl_of(&self, status: StatusCode) -> Option<Duration> {
        if status == StatusCode::OK {
            return Some(self.ttl);
        }
        self.statuses.iter().find(|(known, _)| *known == status).map(|(_, ttl)| *ttl)
    }

    /// Whether a policy may store responses of this status, and an entry may have it.
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
