//! What became of a request in the cache, told as `Cache-Status` (RFC 9211).

use std::fmt;

use http::StatusCode;

use crate::FaultWord;

/// The outcome of one request. Its `Display` is the member of the `Cache-Status` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheStatus {
    /// Answered from a fresh entry that stays fresh for this many more seconds.
    Hit {
        /// Seconds of freshness left, rounded down.
        ttl: u64,
    },
    /// Nothing usable was there.
    Miss {
        /// Whether the answer is now kept. `false` also where that is not known.
        stored: bool,
        /// Whether it is another's answer, which was waited for. `Some(false)`: it was waited for in
        /// vain; loaded. `None`: nobody else was loading it.
        collapsed: Option<bool>,
    },
    /// There was an entry past its freshness, or near its end; loaded anew.
    Stale {
        /// Whether the answer is now kept. `false` also where that is not known.
        stored: bool,
        /// It is another's answer, which was waited for.
        collapsed: bool,
        /// The entry was still fresh.
        early: bool,
    },
    /// The load failed, or another's did less than a second ago, and the entry is served (RFC 5861 §4).
    StoodIn {
        /// The status of the failed answer, if there was any.
        status: Option<StatusCode>,
        /// Seconds of freshness that the entry has left; negative if it is past it.
        ttl: i64,
    },
    /// The store could not be asked; loaded, nothing kept.
    Bypass {
        /// Why.
        detail: FaultWord,
    },
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
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cache, word) = (Self::CACHE, self.as_str());
        if let Self::Hit { ttl } = self {
            return write!(f, "{cache}; {word}; ttl={ttl}");
        }
        write!(f, "{cache}; fwd={word}")?;
        match self {
            Self::Hit { .. } => Ok(()),
            Self::Miss { stored, collapsed } => f.write_str(match (collapsed, stored) {
                (None, true) => "; stored",
                (None, false) => "",
                (Some(true), _) => "; collapsed",
                (Some(false), _) => "; collapsed=?0",
            }),
            Self::Stale { stored, collapsed, early } => {
                f.write_str(if *stored { "; stored" } else { "" })?;
                f.write_str(if *collapsed { "; collapsed" } else { "" })?;
                f.write_str(if *early { "; detail=early-refresh" } else { "" })
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
        let miss = |stored, collapsed| CacheStatus::Miss { stored, collapsed };
        let stale = |stored, collapsed, early| CacheStatus::Stale { stored, collapsed, early };
        for (status, header) in [
            (CacheStatus::Hit { ttl: 87 }, "response-boost; hit; ttl=87"),
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
                CacheStatus::Bypass {
                    detail: crate::StoreError::Timeout("late".into()).word("redis"),
                },
                "response-boost; fwd=bypass; detail=redis-timeout",
            ),
        ] {
            assert_eq!(status.to_string(), header);
        }
    }
}
