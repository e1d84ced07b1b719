//! The core: look up, else load and keep. Knows HTTP answers, but neither tower nor requests.

use std::time::Duration;

use bytes::Bytes;
use lambda_http::http::header::{CACHE_CONTROL, SET_COOKIE, VARY};
use lambda_http::http::{HeaderMap, Response};
use tokio::time::Instant;
use tracing::warn;

use crate::cache::clock::Clock;
use crate::cache::{CacheKey, CacheStatus, Entry, Policy, Store, StoreError};

#[derive(Debug)]
pub(crate) struct ReadThrough<S> {
    pub(crate) store: S,
    pub(crate) policy: Policy,
    pub(crate) clock: Clock,
}

/// What a request is to be answered with.
#[derive(Debug)]
pub(crate) enum Answer {
    /// An answer that may be kept, whether it came from the store or was just loaded.
    Cacheable { entry: Entry, age: Option<Duration>, status: CacheStatus },
    /// An answer that is not kept, as it was loaded.
    Uncacheable { response: Response<Bytes>, status: CacheStatus },
}

impl<S: Store> ReadThrough<S> {
    /// The answer for `key`: the one that is kept, else the one that `load` gives, then kept.
    ///
    /// The store's faults cost time, the policy's deadline at most, and are never an error here. Of
    /// the time that is left until the whole request ends (`ends_at_ms`, if it does) the store gets
    /// half at most: the rest is for the load and for the answer's way.
    /// `Err` is `load`'s own; nothing is kept then.
    pub(crate) async fn answer<E>(
        &self,
        key: &CacheKey,
        ends_at_ms: Option<u64>,
        load: impl AsyncFnOnce() -> Result<Response<Bytes>, E>,
    ) -> Result<Answer, E> {
        let mut budget = Budget { left: self.policy.deadline, ends_at_ms, clock: &self.clock };
        let fault = match budget.spend(self.store.get(key)).await {
            Ok(found) => {
                if let Some(entry) = found.and_then(|bytes| decode(&bytes)) {
                    let age = entry.age(self.clock.now_ms());
                    if let Some(left) = entry.ttl.checked_sub(age).filter(|left| !left.is_zero()) {
                        let status = CacheStatus::Hit { ttl: left.as_secs() };
                        return Ok(Answer::Cacheable { entry, age: Some(age), status });
                    }
                }
                None
            }
            Err(error) => Some(log(&error, "cache not read; loading without it")),
        };
        let not_kept = match fault {
            Some(detail) => CacheStatus::Bypass { detail },
            None => CacheStatus::Miss { stored: false },
        };

        // The age of an answer counts from before it was asked for (RFC 9111 §4.2.3): what changes
        // while it is on its way is already older than the answer says.
        let load_started_at_ms = self.clock.now_ms();
        let response = load().await?;
        let load_cost =
            Duration::from_millis(self.clock.now_ms().saturating_sub(load_started_at_ms));

        let ttl = match self.policy.ttl_of(response.status()) {
            Some(ttl) if !forbids_keeping(response.headers()) => ttl,
            _ => {
                return Ok(Answer::Uncacheable { response, status: not_kept });
            }
        };
        let entry = Entry::of_response(response, load_started_at_ms, load_cost, ttl);
        let stored = fault.is_none() && self.keep(key, &entry, &mut budget).await;
        let status = if stored { CacheStatus::Miss { stored } } else { not_kept };
        Ok(Answer::Cacheable { entry, age: None, status })
    }

    /// Whether the entry is now kept, as far as is known.
    async fn keep(&self, key: &CacheKey, entry: &Entry, budget: &mut Budget<'_>) -> bool {
        let life = entry.ttl.saturating_sub(entry.load_cost);
        if life < Duration::from_millis(1) {
            return false;
        }
        let bytes = entry.encode();
        if bytes.len() > self.policy.max_entry_bytes {
            return false;
        }
        match budget.spend(self.store.put(key, bytes, life)).await {
            Ok(()) => true,
            Err(error) => {
                log(&error, "answer not kept");
                false
            }
        }
    }
}

/// How long this request may still wait for the store. The time of the load is not the store's.
#[derive(Debug)]
struct Budget<'a> {
    left: Duration,
    ends_at_ms: Option<u64>,
    clock: &'a Clock,
}

impl Budget<'_> {
    async fn spend<T>(
        &mut self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let until_end_ms = self.ends_at_ms.map(|end_ms| end_ms.saturating_sub(self.clock.now_ms()));
        let share = until_end_ms.map_or(Duration::MAX, |left| Duration::from_millis(left / 2));
        let limit = self.left.min(share);
        let spent = || StoreError::Timeout("deadline of the request".into());
        if limit.is_zero() {
            return Err(spent());
        }
        let started = Instant::now();
        let answer = tokio::time::timeout(limit, asked).await;
        self.left = self.left.saturating_sub(started.elapsed());
        answer.unwrap_or_else(|_| Err(spent()))
    }
}

fn decode(bytes: &Bytes) -> Option<Entry> {
    Entry::decode(bytes)
        .inspect_err(|error| warn!(%error, "what is kept under the key is no entry; replacing it"))
        .ok()
}

/// Logs a fault of the store once, here where it is handled, and says its word.
fn log(fault: &StoreError, consequence: &str) -> &'static str {
    // That it is not asked after a fault is no news.
    if !matches!(fault, StoreError::BreakerOpen) {
        let cause = std::error::Error::source(fault).map(ToString::to_string);
        warn!(fault = fault.detail(), error = %fault, cause, "{consequence}");
    }
    fault.detail()
}

/// Whether the service inside forbids that its answer is given again to somebody else, or gives a
/// header that is not text, which an entry cannot hold.
///
/// The layer is part of the origin and answers by key alone, so a `Vary` cannot be honoured but by
/// not keeping the answer, and `private` means one client's (RFC 9111 §3, §4.1, §5.2.2).
fn forbids_keeping(headers: &HeaderMap) -> bool {
    // Looked through as bytes, not by the `headers` crate: that ignores `private="x"` and drops a
    // whole header that it cannot parse. What is unclear must forbid rather than allow.
    let directive_forbids = |directive: &[u8]| {
        let name = directive.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"no-store") || name.eq_ignore_ascii_case(b"private")
    };
    headers.values().any(|value| value.to_str().is_err())
        || headers.contains_key(VARY)
        || headers.contains_key(SET_COOKIE)
        || headers
            .get_all(CACHE_CONTROL)
            .iter()
            .any(|value| value.as_bytes().split(|&byte| byte == b',').any(directive_forbids))
}
