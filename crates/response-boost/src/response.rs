//! How responses are loaded and stored.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;

use crate::body::{self, CachedBody, Collected};
use crate::clock::whole_ms;
use crate::freshness::{self, StaleFor};
use crate::kept::{Content, LoadFailure, Loaded, Settled, Stored, Times};
use crate::read_through::ReadThrough;
use crate::stamps::Stamp;
use crate::{CacheKey, DecodeError, Entry, NotStored, Policy, Tag, tag};

/// The header fields that an audit compares: how to read the body, or where to go instead. Others may differ from load
/// to load, such as `Date`.
const REPRESENTATION: [HeaderName; 4] =
    [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, LOCATION];

impl Stored for Entry {
    fn decode(key: &CacheKey, bytes: &Bytes) -> Result<Self, DecodeError> {
        Self::decode(key, bytes)
    }

    fn encode(&self, key: &CacheKey) -> Bytes {
        self.encode(key)
    }

    fn times(&self) -> Times {
        let Self { load_started_at_ms, load_cost, ttl, .. } = *self;
        Times { load_started_at_ms, load_cost, ttl }
    }

    fn content(&self) -> Content {
        let headers = REPRESENTATION.iter().map(|name| self.headers.get(name).cloned()).collect();
        Content { status: self.status, headers, body: self.body.clone() }
    }

    fn stale_for(&self, policy: &Policy) -> StaleFor {
        StaleFor::of(&self.headers, policy)
    }

    fn stamps(&self) -> &[Stamp] {
        &self.stamps
    }

    fn set_stamps(&mut self, stamps: Vec<Stamp>) {
        self.stamps = stamps;
    }
}

impl<B: Body> Loaded for Response<Collected<B>> {
    type Entry = Entry;
    type Passed = Response<CachedBody<B>>;

    /// A response that may be stored replaces an existing entry, and so does a 404 or a 410, because the resource is
    /// gone. A stale entry is also replaced by a 200 that may not be stored: the service has not failed (RFC 5861 §4),
    /// it forbids storing. After anything else (429, 401, 500, a redirect, a truncated body) the entry is the better
    /// answer.
    fn failure(&self, is_fresh: bool) -> Option<LoadFailure> {
        let status = self.status();
        let what = match self.body() {
            Collected::Whole(..) => return None,
            Collected::BrokeOff(_, reason) => reason.clone(),
            Collected::Passed(..) if status == StatusCode::OK && !is_fresh => return None,
            Collected::Passed(..) if [404, 410].contains(&status.as_u16()) => return None,
            Collected::Passed(..) => status.to_string(),
        };
        Some(LoadFailure { status: Some(status), what })
    }

    fn settled(self, started_at_ms: u64, load_cost: Duration) -> Settled<Self> {
        let (mut parts, body) = self.into_parts();
        match body {
            Collected::Whole(body, ttl) => {
                // An inner cache may have held it for a while.
                let age_at_load = freshness::age_at_load(&parts.headers);
                let loaded_at_ms = started_at_ms.saturating_sub(whole_ms(age_at_load));
                let named = parts.extensions.remove::<Named>().map(|Named(tags)| tags);
                let response = Response::from_parts(parts, body);
                let entry = Entry::of_response(response, loaded_at_ms, load_cost, ttl);
                Settled::Kept(entry, named.unwrap_or_default())
            }
            Collected::Passed(body, why) => Settled::Passed(Response::from_parts(parts, body), why),
            Collected::BrokeOff(body, _) => {
                Settled::Passed(Response::from_parts(parts, body), NotStored::BrokeOff)
            }
        }
    }

    fn cut_off() -> Self::Passed {
        let mut response = Response::new(CachedBody::empty());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }
}

/// The tags that a response names.
#[derive(Clone)]
struct Named(Vec<Tag>);

impl<S> ReadThrough<S> {
    /// Reads the body of the inner service's response if it may be stored; otherwise passes it on unread.
    pub(crate) async fn collect<B>(&self, response: Response<B>) -> Response<Collected<B>>
    where
        B: Body<Data = Bytes>,
        B::Error: fmt::Display,
    {
        let (mut parts, body) = response.into_parts();
        let now = UNIX_EPOCH + Duration::from_millis(self.clock.now_ms());
        let ttl = freshness::ttl_of(&parts, &self.policy, now);
        let named = tag::named_by(&mut parts, &self.policy);
        let body = match ttl.and_then(|ttl| Ok((ttl, named?))) {
            Ok((ttl, named)) => {
                if !named.is_empty() {
                    parts.extensions.insert(Named(named));
                }
                body::collect(body, ttl, self.policy.max_entry_bytes).await
            }
            Err(why) => Collected::Passed(CachedBody::passed(body), why),
        };
        Response::from_parts(parts, body)
    }
}
