//! What became of a request in the cache, told as `Cache-Status` (RFC 9211).

use std::fmt;

/// The outcome of one request. Its `Display` is the member of the `Cache-Status` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheStatus {
    /// Answered from a fresh entry that stays fresh for this many more seconds.
    Hit {
        /// Seconds of freshness left, rounded down.
        ttl: u64,
    },
    /// Nothing usable was there; loaded.
    Miss {
        /// Whether the answer is now kept. `false` also where that is not known.
        stored: bool,
    },
    /// The store could not be asked; loaded, nothing kept.
    Bypass {
        /// Why, as [`StoreError::detail`](crate::cache::StoreError::detail) names it.
        detail: &'static str,
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
            Self::Bypass { .. } => "bypass",
        }
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cache, word) = (Self::CACHE, self.as_str());
        match self {
            Self::Hit { ttl } => write!(f, "{cache}; {word}; ttl={ttl}"),
            Self::Miss { stored: true } => write!(f, "{cache}; fwd={word}; stored"),
            Self::Miss { stored: false } => write!(f, "{cache}; fwd={word}"),
            Self::Bypass { detail } => write!(f, "{cache}; fwd={word}; detail={detail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_reads_as_rfc_9211_has_it() {
        for (status, header) in [
            (CacheStatus::Hit { ttl: 87 }, "response-boost; hit; ttl=87"),
            (CacheStatus::Miss { stored: true }, "response-boost; fwd=uri-miss; stored"),
            (CacheStatus::Miss { stored: false }, "response-boost; fwd=uri-miss"),
            (
                CacheStatus::Bypass { detail: "redis-timeout" },
                "response-boost; fwd=bypass; detail=redis-timeout",
            ),
        ] {
            assert_eq!(status.to_string(), header);
        }
    }
}
