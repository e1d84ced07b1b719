//! What the cache did for a request, as a `Cache-Status` member (RFC 9211).

use std::fmt;

use http::StatusCode;

use crate::FaultWord;

/// The outcome of one request. Its `Display` is the member of the `Cache-Status` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheStatus {
    /// Served from an entry that is fresh, or that may be served while it is refreshed.
    Hit {
        /// Seconds of freshness left, rounded down; negative if the entry is stale.
        ttl: i64,
        /// Whether the entry will be refreshed after the reply, because it is about to expire or is stale (RFC 5861
        /// §3).
        refreshes: bool,
    },
    /// The store had no usable entry.
    Miss {
        /// Whether the response is now stored. Also `false` if that is unknown.
        stored: bool,
        /// `Some(true)`: the request waited for another request's load and got its response. `Some(false)`: it waited
        /// in vain and loaded itself. `None`: it did not wait.
        collapsed: Option<bool>,
        /// Why the cache did not store the response, if it loaded one and knows why.
        detail: Option<NotStored>,
    },
    /// The entry was stale or about to expire, and this request or another one reloaded it.
    Stale {
        /// Whether the response is now stored. Also `false` if that is unknown.
        stored: bool,
        /// Whether the response comes from another request's load, for which this request waited.
        collapsed: bool,
        /// Whether the entry was still fresh.
        early: bool,
        /// Why the cache did not store the response, if it loaded one and knows why.
        detail: Option<NotStored>,
    },
    /// The load failed, or another request's load failed less than a second ago, so the cache serves the entry (RFC
    /// 5861 §4).
    StoodIn {
        /// The status of the failed response, if the service sent one.
        status: Option<StatusCode>,
        /// Seconds of freshness that the entry has left; negative if it is stale.
        ttl: i64,
    },
    /// The store failed or was not called, so the cache loaded the response and stored nothing.
    Bypass {
        /// Why.
        detail: FaultWord,
    },
}

/// Why the cache did not store a response that it loaded. Its `Display` is the `detail` of the `Cache-Status` header
/// (RFC 9211 §2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotStored {
    /// `status`: the policy stores no response of this status.
    Status,
    /// `no-store`: a directive of the response (RFC 9111 §5.2.2.5).
    NoStore,
    /// `private`: a directive of the response (RFC 9111 §5.2.2.7), also with an argument.
    Private,
    /// `no-cache`: a directive of the response (RFC 9111 §5.2.2.4), also with an argument.
    NoCache,
    /// `bad-cache-control`: a directive of the response is malformed or contradicts another (RFC 9111 §4.2.1).
    BadCacheControl,
    /// `not-fresh`: the response says that it is not fresh at all, by [`Keep`](crate::Keep), `Cache-Control`,
    /// `Expires` or `Age` (RFC 9111 §4.2).
    NotFresh,
    /// `set-cookie`: the response has a `Set-Cookie` field.
    SetCookie,
    /// `vary`: `Vary` names a field that the key does not cover
    /// ([`Policy::with_key_headers`](crate::Policy::with_key_headers), RFC 9111 §4.1).
    Vary,
    /// `not-text`: the value of a header field is not ASCII text.
    NotText,
    /// `not-json`: JSON cannot represent the loaded value, such as a map whose keys are not strings.
    NotJson,
    /// `tags`: the response has more than 8 tags, a malformed one, or one that the policy does not let it name
    /// ([`Policy::with_response_tags`](crate::Policy::with_response_tags)).
    Tags,
    /// `too-large`: the entry exceeds [`Policy::with_max_entry_bytes`](crate::Policy::with_max_entry_bytes).
    TooLarge,
    /// `trailers`: the body ends with trailer fields, which an entry cannot hold.
    Trailers,
    /// `broke-off`: the body ended with an error.
    BrokeOff,
    /// `cut-off`: the load exceeded its limit, and the cache responded with a 503.
    CutOff,
    /// `slow-load`: the load took at least as long as the response stays fresh.
    SlowLoad,
    /// `pass`: a moment ago a response under this key was not stored, so this request took no lease.
    Pass,
    /// `invalidated`: the key or a tag was invalidated during the load, or the lease had expired.
    Invalidated,
    /// `fill-refused`: the store answers reads but refuses to write.
    FillRefused,
    /// `no-time`: another request was loading, and this one had too little time left to wait for it.
    NoTime,
    /// The store failed during the load, with this fault: `redis-timeout` and so on.
    Fault(FaultWord),
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::NoCache => "no-cache",
            Self::BadCacheControl => "bad-cache-control",
            Self::NotFresh => "not-fresh",
            Self::SetCookie => "set-cookie",
            Self::Vary => "vary",
            Self::NotText => "not-text",
            Self::NotJson => "not-json",
            Self::Tags => "tags",
            Self::TooLarge => "too-large",
            Self::Trailers => "trailers",
            Self::BrokeOff => "broke-off",
            Self::CutOff => "cut-off",
            Self::SlowLoad => "slow-load",
            Self::Pass => "pass",
            Self::Invalidated => "invalidated",
            Self::FillRefused => "fill-refused",
            Self::NoTime => "no-time",
            Self::Fault(word) => return word.fmt(f),
        })
    }
}

impl CacheStatus {
    /// The name of this cache in the header.
    pub const CACHE: &'static str = "response-boost";

    /// The outcome in one word, the same in header, log and metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit { .. } => "hit",
            Self::Miss { .. } => "uri-miss",
            Self::Stale { .. } | Self::StoodIn { .. } => "stale",
            Self::Bypass { .. } => "bypass",
        }
    }

    /// Whether the response comes from the store and not from this request's own load.
    pub(crate) fn is_from_entry(self) -> bool {
        match self {
            Self::Hit { .. } | Self::StoodIn { .. } => true,
            Self::Miss { collapsed, .. } => collapsed == Some(true),
            Self::Stale { collapsed, .. } => collapsed,
            Self::Bypass { .. } => false,
        }
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cache, word) = (Self::CACHE, self.as_str());
        if let Self::Hit { ttl, refreshes } = self {
            write!(f, "{cache}; {word}; ttl={ttl}")?;
            return f.write_str(match (refreshes, ttl) {
                (false, _) => "",
                (true, 0..) => "; detail=early-refresh",
                (true, _) => "; detail=refresh-after-reply",
            });
        }
        write!(f, "{cache}; fwd={word}")?;
        let detail = |f: &mut fmt::Formatter<'_>, detail: &Option<NotStored>| match detail {
            Some(detail) => write!(f, "; detail={detail}"),
            None => Ok(()),
        };
        match self {
            Self::Hit { .. } => Ok(()),
            Self::Miss { stored, collapsed, detail: why } => {
                f.write_str(match (collapsed, stored) {
                    (None, true) => "; stored",
                    (None, false) => "",
                    (Some(true), _) => "; collapsed",
                    (Some(false), _) => "; collapsed=?0",
                })?;
                detail(f, why)
            }
            Self::Stale { stored, collapsed, early, detail: why } => {
                f.write_str(if *stored { "; stored" } else { "" })?;
                f.write_str(if *collapsed { "; collapsed" } else { "" })?;
                // Only one `detail` is allowed (RFC 9211 §2.8), and why the response was not stored matters more.
                f.write_str(if *early && why.is_none() { "; detail=early-refresh" } else { "" })?;
                detail(f, why)
            }
            Self::StoodIn { status, ttl } => {
                if let Some(status) = status {
                    write!(f, "; fwd-status={}", status.as_u16())?;
                }
                write!(f, "; ttl={ttl}")
            }
            Self::Bypass { detail } => write!(f, "; detail={detail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_reads_as_rfc_9211_has_it() {
        let miss = |stored, collapsed| CacheStatus::Miss { stored, collapsed, detail: None };
        let stale = |stored, collapsed, early| CacheStatus::Stale {
            stored,
            collapsed,
            early,
            detail: None,
        };
        let timeout = crate::StoreError::Timeout("late".into()).word("redis");
        let not_stored = |detail, collapsed| CacheStatus::Miss {
            stored: false,
            collapsed,
            detail: Some(detail),
        };
        for (status, header) in [
            (CacheStatus::Hit { ttl: 87, refreshes: false }, "response-boost; hit; ttl=87"),
            (
                CacheStatus::Hit { ttl: 7, refreshes: true },
                "response-boost; hit; ttl=7; detail=early-refresh",
            ),
            (
                CacheStatus::Hit { ttl: -4, refreshes: true },
                "response-boost; hit; ttl=-4; detail=refresh-after-reply",
            ),
            (miss(true, None), "response-boost; fwd=uri-miss; stored"),
            (miss(false, None), "response-boost; fwd=uri-miss"),
            (miss(false, Some(true)), "response-boost; fwd=uri-miss; collapsed"),
            (miss(false, Some(false)), "response-boost; fwd=uri-miss; collapsed=?0"),
            (stale(true, false, false), "response-boost; fwd=stale; stored"),
            (stale(false, false, false), "response-boost; fwd=stale"),
            (stale(false, true, false), "response-boost; fwd=stale; collapsed"),
            (stale(true, false, true), "response-boost; fwd=stale; stored; detail=early-refresh"),
            (
                CacheStatus::StoodIn { status: Some(StatusCode::SERVICE_UNAVAILABLE), ttl: -4 },
                "response-boost; fwd=stale; fwd-status=503; ttl=-4",
            ),
            (CacheStatus::StoodIn { status: None, ttl: 2 }, "response-boost; fwd=stale; ttl=2"),
            (
                CacheStatus::Bypass { detail: timeout },
                "response-boost; fwd=bypass; detail=redis-timeout",
            ),
            (not_stored(NotStored::NoStore, None), "response-boost; fwd=uri-miss; detail=no-store"),
            (
                not_stored(NotStored::Fault(timeout), None),
                "response-boost; fwd=uri-miss; detail=redis-timeout",
            ),
            (
                not_stored(NotStored::NoTime, Some(false)),
                "response-boost; fwd=uri-miss; collapsed=?0; detail=no-time",
            ),
            (
                CacheStatus::Stale {
                    stored: false,
                    collapsed: false,
                    early: true,
                    detail: Some(NotStored::Vary),
                },
                "response-boost; fwd=stale; detail=vary",
            ),
        ] {
            assert_eq!(status.to_string(), header);
        }
    }
}
