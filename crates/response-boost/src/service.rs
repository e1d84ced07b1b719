//! The tower service: requests, responses, and the headers that caches read.

use std::fmt::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use headers::{CacheControl, HeaderMapExt as _};
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, EXPIRES, HeaderName, HeaderValue,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use tower_service::Service;
use tracing::debug;

use crate::body::CachedBody;
use crate::conditional::{Preconditions, make_canonical};
use crate::deadline::Deadline;
use crate::freshness;
use crate::layer::ResponseCacheLayer;
use crate::read_through::Answer;
use crate::report::record;
use crate::{CacheKey, CacheStatus, Entry, Policy, Store};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The service that [`ResponseCacheLayer`] wraps around yours. Its error type is that of the inner service.
pub struct ResponseCache<Svc, S, K> {
    inner: Svc,
    layer: ResponseCacheLayer<S, K>,
}

impl<Svc, S, K> ResponseCache<Svc, S, K> {
    pub(crate) fn new(inner: Svc, layer: ResponseCacheLayer<S, K>) -> Self {
        Self { inner, layer }
    }
}

impl<Svc: Clone, S, K: Clone> Clone for ResponseCache<Svc, S, K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<Svc: fmt::Debug, S: fmt::Debug, K> fmt::Debug for ResponseCache<Svc, S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseCache")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<Svc, S, K, ReqBody, ResBody> Service<Request<ReqBody>> for ResponseCache<Svc, S, K>
where
    Svc: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    Svc::Error: fmt::Display + Send,
    Svc::Future: Send,
    S: Store,
    K: Fn(&Request<ReqBody>) -> Option<CacheKey> + Clone,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: fmt::Display + Send,
{
    type Response = Response<CachedBody<ResBody>>;
    type Error = Svc::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // Call the service that was polled ready; its clone serves the next request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (request, core) = self.layer.core_of(request);
        let Some(key) = self.layer.key_of(&request, &core.policy) else {
            let (request, invalidation) = self.layer.invalidated_by(request, &core);
            let answer = inner.call(request);
            return Box::pin(async move {
                match (answer.await, invalidation) {
                    (Ok(response), Some(invalidation)) => {
                        invalidation.settle(response.status()).await;
                        Ok(response.map(CachedBody::passed))
                    }
                    (Err(error), Some(invalidation)) => {
                        invalidation.give_up();
                        Err(error)
                    }
                    (answer, None) => Ok(answer?.map(CachedBody::passed)),
                }
            });
        };
        let (mut request, tagging) = self.layer.tagging_of(request, &key, &core.policy);
        Box::pin(async move {
            let is_head = request.method() == Method::HEAD;
            if is_head {
                *request.method_mut() = Method::GET;
            }
            let ends_at_ms = Deadline::of(request.extensions(), &core.clock);
            let preconditions = Preconditions::of(request.method(), request.headers());
            let collects = Arc::clone(&core);
            let load = async move {
                make_canonical(request.headers_mut());
                Ok(collects.collect(inner.call(request).await?).await)
            };
            let (mut response, status) = match core
                .answer(&key, tagging.as_deref(), ends_at_ms, load)
                .await?
            {
                Answer::Cacheable { entry, age, status, refresh } => {
                    let response = cacheable_response(entry, age, &core.policy);
                    if let Some(refresh) = refresh {
                        let refreshed =
                            Arc::clone(&core).refresh(key, tagging, refresh, ends_at_ms);
                        core.defer(refreshed);
                    }
                    (response, status)
                }
                Answer::Uncacheable { passed, status } => (uncacheable_response(passed), status),
            };
            if response.status() == StatusCode::OK
                && let Some(status) = preconditions.status(response.headers())
            {
                response = in_its_place(response, status);
            }
            if is_head {
                response = without_body(response);
            }
            tell(&mut response, status);
            Ok(response)
        })
    }
}

fn cacheable_response<B: Body>(
    entry: Entry,
    age: Option<Duration>,
    policy: &Policy,
) -> Response<CachedBody<B>> {
    let etag = entry.etag_value();
    let mut response = Response::new(CachedBody::from(entry.body));
    *response.status_mut() = entry.status;
    *response.headers_mut() = entry.headers;
    let headers = response.headers_mut();
    if let (Some(etag), None) = (etag, headers.get(ETAG)) {
        headers.insert(ETAG, etag);
    }
    // Rounded up to whole seconds, so that `max-age` minus `Age` never exceeds the remaining freshness.
    let age = age.map(|age| age.as_secs() + u64::from(age.subsec_nanos() > 0));
    let (ttl, passed) = (entry.ttl.as_secs(), age.unwrap_or_default());
    if !headers.contains_key(CACHE_CONTROL) && !headers.contains_key(EXPIRES) {
        limit_freshness(headers, ttl, passed, policy.client_max_age);
    } else if let Some(at_most) = policy.client_max_age {
        // The limit is the only change to what the service says to clients.
        let loaded_at = UNIX_EPOCH + Duration::from_millis(entry.load_started_at_ms);
        limit_said_freshness(headers, loaded_at, ttl, passed, at_most);
    }
    if let Some(age) = age {
        headers.insert(AGE, age.into());
    }
    response
}

/// The response for a client whose preconditions replace the 200 by this status.
fn in_its_place<B: Body>(
    mut response: Response<CachedBody<B>>,
    status: StatusCode,
) -> Response<CachedBody<B>> {
    *response.status_mut() = status;
    *response.body_mut() = CachedBody::empty();
    // These fields describe the omitted body (RFC 9110 §15.4.5).
    for name in [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE] {
        response.headers_mut().remove(name);
    }
    if status == StatusCode::PRECONDITION_FAILED {
        // The 412 answers this request alone; no cache may store it.
        response.headers_mut().typed_insert(CacheControl::new().with_no_store());
        response.headers_mut().remove(AGE);
    }
    response
}

fn uncacheable_response<B>(mut response: Response<B>) -> Response<B> {
    // Otherwise a client may store a 404 and the like for as long as it chooses (RFC 9111 §4.2.2). A 304 is about a
    // response that the client already has.
    let says_nothing =
        [CACHE_CONTROL, EXPIRES].iter().all(|name| !response.headers().contains_key(name));
    if ![StatusCode::OK, StatusCode::NOT_MODIFIED].contains(&response.status()) && says_nothing {
        response.headers_mut().typed_insert(CacheControl::new().with_no_store());
    }
    response
}

/// The response to a `HEAD`: the same head as for a `GET`, with the length of the omitted body (RFC 9110 §9.3.2).
fn without_body<B: Body<Data = Bytes>>(
    mut response: Response<CachedBody<B>>,
) -> Response<CachedBody<B>> {
    let body = std::mem::replace(response.body_mut(), CachedBody::empty());
    let is_told = response.headers().contains_key(CONTENT_LENGTH);
    if let Some(length) = body.size_hint().exact()
        && !is_told
        && !matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED
        )
    {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// Says how long a client may store a response; times are in seconds.
///
/// `max-age` is the entry's full TTL, from which a client subtracts the `Age` itself (RFC 9111 §4.2). A response that
/// was just loaded has no `Age`: the client counts the time that it waited (§4.2.3), which includes the load. If
/// `at_most` limits clients to less than what is left, `max-age` is the age plus that limit.
fn limit_freshness(headers: &mut HeaderMap, ttl: u64, age: u64, at_most: Option<Duration>) {
    let max_age = match at_most {
        Some(Duration::ZERO) => {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
            return;
        }
        Some(at_most) => ttl.min(age.saturating_add(at_most.as_secs())),
        None => ttl,
    };
    insert(headers, CACHE_CONTROL, format_args!("private, max-age={max_age}"));
}

/// The same if the service sets its own freshness.
fn limit_said_freshness(
    headers: &mut HeaderMap,
    loaded_at: SystemTime,
    ttl: u64,
    age: u64,
    at_most: Duration,
) {
    if at_most.is_zero() {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        return;
    }
    let limited = freshness::limited(headers, loaded_at, ttl, age, at_most.as_secs());
    insert(headers, CACHE_CONTROL, format_args!("{limited}"));
}

/// Reports the outcome: to the client, to recorders, and at DEBUG to the log.
fn tell<B>(response: &mut Response<B>, status: CacheStatus) {
    record(|report| report.status = Some(status));
    debug!(status = response.status().as_u16(), cache_status = %status, "answered");
    let headers = response.headers_mut();
    let Some(value) = value_of(format_args!("{status}")) else { return };
    if status.is_from_entry() {
        // Inner caches described the request that loaded the entry.
        headers.insert(CACHE_STATUS, value);
    } else {
        // After the members of caches nearer to the origin (RFC 9211 §2).
        headers.append(CACHE_STATUS, value);
    }
}

/// Inserts a value of words and numbers, which is always valid.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: fmt::Arguments<'_>) {
    if let Some(value) = value_of(value) {
        headers.insert(name, value);
    }
}

fn value_of(value: fmt::Arguments<'_>) -> Option<HeaderValue> {
    // Fits the longest of them.
    let mut text = String::with_capacity(64);
    // Writing to a String cannot fail.
    let _ = text.write_fmt(value);
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}

#[cfg(all(test, feature = "memory"))]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tower::{ServiceExt as _, service_fn};

    use http_body_util::{BodyExt as _, Full};
    use tower_layer::Layer as _;

    use super::*;
    use crate::body::tests::parts as parts_of;
    use crate::clock::Clock;
    use crate::read_through::ReadThrough;
    use crate::{Expected, Found, MemoryStore, Namespace, StoreError};

    type Error = Box<dyn std::error::Error + Send + Sync>;

    const START_MS: u64 = 1_780_000_000_000;
    /// How long a pass is remembered.
    const A_SECOND: Duration = Duration::from_secs(1);
    const ANOTHERS_LEASE: &[u8] = b"lease:00000000000000000000000000000000";
    /// A lease that outlasts the loads of these tests.
    const A_MINUTE: Duration = Duration::from_mins(1);

    type TestCache =
        ResponseCacheLayer<Arc<MemoryStore>, fn(&Request<Full<Bytes>>) -> Option<CacheKey>>;

    /// A cache in front of a service that responds as the test says and counts its calls.
    pub(crate) struct Fixture {
        cache: TestCache,
        pub(crate) clock: Clock,
        loads: Arc<AtomicUsize>,
    }

    fn key_of(request: &Request<Full<Bytes>>) -> Option<CacheKey> {
        let path = request.uri().path();
        (path != "/uncached").then(|| Namespace::parse("test").unwrap().key([path]))
    }

    impl Fixture {
        pub(crate) fn new(policy: Policy) -> Self {
            let clock = Clock::held_at(START_MS);
            let store = Arc::new(MemoryStore::with_clock(clock.clone()));
            let core = ReadThrough::new(store, policy, clock.clone());
            let cache = ResponseCacheLayer::of(core, key_of as fn(&_) -> _);
            Self { cache, clock, loads: Arc::default() }
        }

        /// The store of this cache, as another process would share it.
        fn shared(&self) -> Arc<MemoryStore> {
            Arc::clone(&self.cache.core().shared.store)
        }

        /// Sends `request`; on a load, the inner service responds with `inside`.
        pub(crate) async fn ask(
            &self,
            request: Request<Full<Bytes>>,
            inside: Response<&'static str>,
        ) -> Response<Bytes> {
            let loads = Arc::clone(&self.loads);
            let service = service_fn(move |request: Request<Full<Bytes>>| {
                assert!(request.method() != Method::HEAD || request.uri() == "/uncached");
                loads.fetch_add(1, Ordering::SeqCst);
                let inside = inside.clone().map(Full::from);
                async { Ok::<_, Error>(inside) }
            });
            let (parts, body) =
                self.cache.layer(service).oneshot(request).await.unwrap().into_parts();
            Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
        }

        /// Stores a value under the key of `get`.
        async fn put(&self, value: Bytes) {
            let (key, life) = (key_of(&get()).unwrap(), Duration::from_mins(2));
            let store = self.shared();
            assert!(store.put(&key, Expected::Anything, value, life).await.unwrap());
        }

        pub(crate) async fn get(&self, inside: Response<&'static str>) -> Response<Bytes> {
            self.ask(get(), inside).await
        }

        pub(crate) fn loads(&self) -> usize {
            self.loads.load(Ordering::SeqCst)
        }
    }

    pub(crate) fn minutes_2() -> Policy {
        Policy::new(Duration::from_mins(2))
    }

    /// Refreshes as early as allowed.
    fn eager() -> Policy {
        Policy { early_refresh: 1_000_000.0, ..minutes_2().with_inline_refresh() }
    }

    pub(crate) fn get() -> Request<Full<Bytes>> {
        Request::default()
    }

    /// A request with this deadline.
    fn get_until(end_ms: u64) -> Request<Full<Bytes>> {
        let mut request = get();
        let end = std::time::UNIX_EPOCH + Duration::from_millis(end_ms);
        request.extensions_mut().insert(Deadline::at(end));
        request
    }

    fn get_if_none_match(value: &str) -> Request<Full<Bytes>> {
        let mut request = get();
        request.headers_mut().insert("if-none-match", HeaderValue::from_str(value).unwrap());
        request
    }

    fn head() -> Request<Full<Bytes>> {
        let mut request = get();
        *request.method_mut() = Method::HEAD;
        request
    }

    fn ok(body: &'static str) -> Response<&'static str> {
        Response::builder().header("content-type", "application/json").body(body).unwrap()
    }

    fn not_found() -> Response<&'static str> {
        Response::builder().status(404).body("gone").unwrap()
    }

    pub(crate) fn status<B>(response: &Response<B>) -> &str {
        header(response, "cache-status")
    }

    pub(crate) fn header<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn the_first_request_loads_and_the_next_ones_do_not() {
        let fixture = Fixture::new(minutes_2());
        let miss = fixture.get(ok("first")).await;
        assert_eq!(status(&miss), "response-boost; fwd=uri-miss; stored");
        assert_eq!((miss.body().as_ref(), header(&miss, "age")), (&b"first"[..], ""));

        fixture.clock.advance(Duration::from_millis(33_500));
        let hit = fixture.get(ok("second")).await;
        assert_eq!(status(&hit), "response-boost; hit; ttl=86");
        assert_eq!(hit.body(), "first");
        assert_eq!(header(&hit, "age"), "34");
        assert_eq!(header(&hit, "content-type"), "application/json");
        assert_eq!(header(&hit, "cache-control"), "private, max-age=120");
        assert_eq!(header(&hit, "etag"), header(&miss, "etag"));
        assert_eq!(fixture.loads(), 1);
    }

    #[tokio::test]
    async fn an_entry_ends_with_its_time_to_live() {
        let fixture = Fixture::new(minutes_2());
        fixture.get(ok("first")).await;
        fixture.clock.advance(Duration::from_millis(119_999));
        assert_eq!(status(&fixture.get(ok("second")).await), "response-boost; hit; ttl=0");
        fixture.clock.advance(Duration::from_millis(1));
        let after = fixture.get(ok("second")).await;
        assert_eq!(status(&after), "response-boost; fwd=uri-miss; stored");
        assert_eq!(after.body(), "second");
    }

    #[tokio::test]
    async fn the_time_to_live_counts_from_the_start_of_the_load() {
        let fixture =
            Fixture::new(minutes_2().with_lease(A_MINUTE).with_early_refresh(0.0).unwrap());
        let (clock, slow) = (fixture.clock.clone(), Duration::from_secs(20));
        let load = service_fn(move |_: Request<Full<Bytes>>| {
            clock.advance(slow);
            async { Ok::<_, Error>(ok("slow").map(Full::from)) }
        });
        fixture.cache.layer(load).oneshot(get()).await.unwrap();
        let hit = fixture.get(ok("second")).await;
        assert_eq!((status(&hit), header(&hit, "age")), ("response-boost; hit; ttl=100", "20"));
    }

    #[tokio::test]
    async fn a_load_that_takes_longer_than_the_time_to_live_is_not_kept() {
        let fixture = Fixture::new(minutes_2());
        let clock = fixture.clock.clone();
        let load = service_fn(move |_: Request<Full<Bytes>>| {
            clock.advance(Duration::from_mins(2));
            async { Ok::<_, Error>(ok("slow").map(Full::from)) }
        });
        let miss = fixture.cache.layer(load).oneshot(get()).await.unwrap();
        let expected = "response-boost; fwd=uri-miss; detail=slow-load";
        assert_eq!(miss.headers()["cache-status"], expected);
    }

    #[tokio::test]
    async fn a_clock_that_runs_behind_makes_no_negative_age() {
        let fixture = Fixture::new(minutes_2());
        fixture.get(ok("first")).await;
        let behind = Clock::held_at(START_MS - 5_000);
        let core = ReadThrough::new(fixture.shared(), minutes_2(), behind);
        let cache = ResponseCacheLayer::of(core, key_of as fn(&_) -> _);
        let load = service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Error>(ok("second").map(Full::from))
        });
        let hit = cache.layer(load).oneshot(get()).await.unwrap();
        assert_eq!(hit.headers()["age"], "0");
        assert_eq!(hit.headers()["cache-status"], "response-boost; hit; ttl=120");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_kept_under_the_key_there_is_an_answer(
            bytes in crate::entry::tests::damaged_entry(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.unwrap().block_on(async {
                let fixture = Fixture::new(minutes_2());
                fixture.put(bytes).await;
                let response = fixture.get(ok("loaded")).await;
                assert!(Policy::may_store(response.status()));
                for name in ["etag", "cache-control", "cache-status"] {
                    assert_eq!(response.headers().get_all(name).iter().count(), 1, "{name}");
                }
                if fixture.loads() > 0 {
                    assert_eq!(response.body(), "loaded");
                    assert!(status(&response).contains("; stored"), "{}", status(&response));
                }
            });
        }
    }

    #[tokio::test]
    async fn an_invalidated_answer_is_loaded_anew() {
        let fixture = Fixture::new(minutes_2());
        fixture.get(ok("first")).await;
        fixture.cache.invalidate(&key_of(&get()).unwrap()).await.unwrap();
        let after = fixture.get(ok("second")).await;
        assert_eq!(status(&after), "response-boost; fwd=uri-miss; stored");
        assert_eq!(after.body(), "second");
    }

    #[tokio::test]
    async fn a_request_without_a_key_goes_straight_through() {
        let fixture = Fixture::new(minutes_2());
        for method in [Method::GET, Method::HEAD] {
            let mut request = get();
            *request.uri_mut() = "/uncached".parse().unwrap();
            *request.method_mut() = method;
            let response = fixture.ask(request, ok("body")).await;
            assert_eq!(response.body(), "body");
            assert_eq!(response.headers().len(), 1, "{:?}", response.headers());
        }
        assert_eq!(fixture.loads(), 2);
    }

    #[tokio::test]
    async fn head_and_get_share_an_entry() {
        let fixture = Fixture::new(minutes_2());
        let miss = fixture.ask(head(), ok("body")).await;
        assert_eq!(status(&miss), "response-boost; fwd=uri-miss; stored");
        assert!(miss.body().is_empty());
        let hit = fixture.get(ok("second")).await;
        assert_eq!(hit.body(), "body");
        let head = fixture.ask(head(), ok("third")).await;
        let mut headers = head.headers().clone();
        assert_eq!(headers.remove("content-length").unwrap(), "4");
        assert_eq!(&headers, hit.headers());
        assert!(head.body().is_empty());
    }

    #[tokio::test]
    async fn a_client_that_has_the_answer_is_told_so() {
        let fixture = Fixture::new(minutes_2());
        let etag = header(&fixture.get(ok("body")).await, "etag").to_owned();
        assert_eq!(etag, "\"230d8358dc8e8890b4c58deeb62912ee\"");
        for condition in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".into()] {
            let response = fixture.ask(get_if_none_match(&condition), ok("second")).await;
            assert_eq!(response.status(), 304, "{condition}");
            assert!(response.body().is_empty());
            assert_eq!(header(&response, "etag"), etag);
            assert_eq!(status(&response), "response-boost; hit; ttl=120");
            assert_eq!(header(&response, "cache-control"), "private, max-age=120");
            assert_eq!(header(&response, "content-type"), "");
        }
        for other in [
            "\"other\"",
            "\"a b\"",
            "\"\t\"",
            "\"",
            "",
            "x",
            "\"a\" b\"",
            "W/",
            &format!("\"a b\", {etag}"),
        ] {
            let other = fixture.ask(get_if_none_match(other), ok("second")).await;
            assert_eq!((other.status().as_u16(), other.body().as_ref()), (200, &b"body"[..]));
        }
        let spaced = fixture.ask(get_if_none_match(&format!("\"x\" ,\t{etag} ")), ok("y")).await;
        assert_eq!(spaced.status(), 304);
    }

    #[tokio::test]
    async fn a_client_that_expects_another_response_is_told_so_and_caches_keep_nothing_of_it() {
        let fixture = Fixture::new(minutes_2());
        for state in ["response-boost; fwd=uri-miss; stored", "response-boost; hit; ttl=120"] {
            let mut asked = get();
            asked.headers_mut().insert("if-match", HeaderValue::from_static("\"other\""));
            let response = fixture.ask(asked, ok("body")).await;
            assert_eq!((response.status().as_u16(), response.body().as_ref()), (412, &b""[..]));
            assert_eq!(header(&response, "cache-control"), "no-store");
            assert_eq!((header(&response, "age"), status(&response)), ("", state));
        }
    }

    #[tokio::test]
    async fn a_services_own_validators_are_kept() {
        let fixture = Fixture::new(minutes_2());
        let (etag, date) = ("W/\"7\"", "Sun, 06 Nov 1994 08:49:37 GMT");
        let inside = || {
            let response = Response::builder().header("etag", etag).header("last-modified", date);
            response.body("body").unwrap()
        };
        for _ in ["miss", "hit"] {
            let response = fixture.get(inside()).await;
            assert_eq!(
                (header(&response, "etag"), header(&response, "last-modified")),
                (etag, date)
            );
        }
        for (name, value, status) in [
            ("if-none-match", "\"7\"", 304),
            ("if-match", "\"7\"", 412),
            ("if-modified-since", date, 304),
            ("if-unmodified-since", date, 200),
        ] {
            let mut asked = get();
            asked.headers_mut().insert(name, HeaderValue::from_static(value));
            assert_eq!(fixture.ask(asked, inside()).await.status(), status, "{name}");
        }
    }

    #[tokio::test]
    async fn a_load_is_asked_for_what_any_client_could_be_answered_with() {
        let fixture = Fixture::new(minutes_2());
        let service = service_fn(async |request: Request<Full<Bytes>>| {
            let asked: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
            Ok::<_, Error>(Response::new(Full::from(asked.join(","))))
        });
        let mut asked = get();
        for name in ["range", "if-none-match", "if-modified-since", "cache-control", "accept"] {
            asked.headers_mut().insert(name, HeaderValue::from_static("bytes=0-1"));
        }
        let response = fixture.cache.layer(service).oneshot(asked).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "accept");
    }

    #[tokio::test]
    async fn a_response_that_is_not_stored_can_be_a_304_too() {
        let fixture = Fixture::new(minutes_2());
        let inside =
            Response::builder().header("etag", "\"7\"").header("cache-control", "no-store");
        let response = fixture.ask(get_if_none_match("\"7\""), inside.body("body").unwrap()).await;
        assert_eq!((response.status().as_u16(), response.body().as_ref()), (304, &b""[..]));
    }

    #[tokio::test]
    async fn a_miss_can_be_a_304_too_and_a_404_never_is() {
        let fixture = Fixture::new(minutes_2().with_not_found_ttl(Duration::from_secs(5)));
        let etag = "\"230d8358dc8e8890b4c58deeb62912ee\"";
        let miss = fixture.ask(get_if_none_match(etag), ok("body")).await;
        assert_eq!(miss.status(), 304);
        assert_eq!(status(&miss), "response-boost; fwd=uri-miss; stored");

        fixture.cache.invalidate(&key_of(&get()).unwrap()).await.unwrap();
        for _ in 0..2 {
            let response = fixture.ask(get_if_none_match("*"), not_found()).await;
            assert_eq!((response.status().as_u16(), response.body().as_ref()), (404, &b"gone"[..]));
        }
    }

    #[tokio::test]
    async fn a_404_is_kept_only_where_there_is_a_time_for_it() {
        let fixture = Fixture::new(minutes_2());
        for _ in 0..2 {
            let miss = fixture.get(not_found()).await;
            assert_eq!(status(&miss), "response-boost; fwd=uri-miss; detail=status");
            assert_eq!(header(&miss, "cache-control"), "no-store");
        }
        assert_eq!(fixture.loads(), 2);

        let fixture = Fixture::new(minutes_2().with_not_found_ttl(Duration::from_secs(5)));
        fixture.get(not_found()).await;
        let hit = fixture.get(ok("there")).await;
        assert_eq!(hit.status(), 404);
        assert_eq!(status(&hit), "response-boost; hit; ttl=5");
        assert_eq!(header(&hit, "cache-control"), "private, max-age=5");
    }

    #[tokio::test]
    async fn what_forbids_it_is_not_kept() {
        for (name, value, detail) in [
            ("x-not-text", &b"\xff"[..], "not-text"),
            ("vary", b"accept", "vary"),
            ("vary", b"*", "vary"),
            ("set-cookie", b"a=b", "set-cookie"),
            ("cache-control", b"no-store", "no-store"),
            ("cache-control", b"max-age=5, No-Store", "no-store"),
            ("cache-control", b"private", "private"),
            ("cache-control", b"private=\"x\"", "private"),
            ("cache-control", b"no-cache=\"x\"", "no-cache"),
            ("cache-control", b"max-age=never,private", "bad-cache-control"),
            ("cache-control", b"\xff", "bad-cache-control"),
            ("expires", b"0", "not-fresh"),
        ] {
            let fixture = Fixture::new(minutes_2());
            let mut inside = ok("body");
            inside.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
            for _ in 0..2 {
                let response = fixture.get(inside.clone()).await;
                let expected = format!("response-boost; fwd=uri-miss; detail={detail}");
                assert_eq!(status(&response), expected, "{inside:?}");
                assert_eq!(response.headers()[name].as_bytes(), value, "passed on as it is");
                assert_eq!(response.body(), "body");
            }
        }
    }

    #[tokio::test]
    async fn a_service_says_for_how_long_and_clients_see_what_it_says() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (fields, ttl) in [
            (&[("cache-control", "max-age=30")][..], 30),
            (&[("cache-control", "public, max-age=30, s-maxage=60")], 60),
            (&[("cache-control", "public"), ("cache-control", "max-age=30")], 30),
            (&[("cache-control", "max-age=30"), ("expires", "0")], 30),
            (&[("date", date), ("expires", "Sun, 06 Nov 1994 08:50:07 GMT")], 30),
            (&[("cache-control", "public")], 120),
            (&[("cache-control", "max-age=30"), ("age", "10")], 20),
        ] {
            let fixture = Fixture::new(minutes_2());
            let mut inside = Response::builder();
            for (name, value) in fields {
                inside = inside.header(*name, *value);
            }
            let inside = inside.body("said").unwrap();
            let miss = fixture.get(inside.clone()).await;
            assert_eq!(status(&miss), "response-boost; fwd=uri-miss; stored", "{fields:?}");
            let hit = fixture.get(ok("x")).await;
            assert_eq!(status(&hit), format!("response-boost; hit; ttl={ttl}"), "{fields:?}");
            for response in [&miss, &hit] {
                for name in ["cache-control", "expires"] {
                    let values = |headers: &HeaderMap| {
                        headers.get_all(name).iter().cloned().collect::<Vec<_>>()
                    };
                    assert_eq!(values(response.headers()), values(inside.headers()));
                }
            }
            assert_eq!(header(&hit, "date"), if ttl == 30 { header(&inside, "date") } else { "" });
            fixture.clock.advance(Duration::from_secs(ttl));
            assert_eq!(fixture.get(ok("next")).await.body(), "next", "{fields:?}");
        }
    }

    #[tokio::test]
    async fn an_age_of_a_cache_inside_counts_for_clients_too() {
        let fixture = Fixture::new(minutes_2());
        let inside = Response::builder().header("cache-control", "max-age=30").header("age", "10");
        let inside = inside.body("aged").unwrap();
        assert_eq!(header(&fixture.get(inside).await, "age"), "10");
        fixture.clock.advance(Duration::from_secs(5));
        assert_eq!(header(&fixture.get(ok("x")).await, "age"), "15");
    }

    fn kept(ttl: Duration, fields: &[(&'static str, &'static str)]) -> Response<&'static str> {
        let mut response = Response::builder();
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let mut response = response.body("kept").unwrap();
        response.extensions_mut().insert(crate::Keep::new(ttl));
        response
    }

    #[tokio::test]
    async fn keep_precedes_all_other_freshness_and_no_client_sees_it() {
        let seconds = Duration::from_secs;
        for (ttl, fields, expected, cache_control) in [
            (seconds(40), &[][..], Ok(40), "private, max-age=40"),
            (seconds(40), &[("cache-control", "max-age=0")], Ok(40), "max-age=0"),
            (seconds(40), &[("expires", "0")], Ok(40), ""),
            (Duration::MAX, &[], Ok(7_200), "private, max-age=7200"),
            (Duration::from_millis(1), &[], Ok(0), "private, max-age=0"),
            (Duration::ZERO, &[], Err("not-fresh"), ""),
            (Duration::ZERO, &[("cache-control", "max-age=60")], Err("not-fresh"), "max-age=60"),
            (seconds(40), &[("cache-control", "no-store")], Err("no-store"), "no-store"),
            (seconds(40), &[("cache-control", "private")], Err("private"), "private"),
            (seconds(40), &[("cache-control", "no-cache")], Err("no-cache"), "no-cache"),
        ] {
            let fixture = Fixture::new(minutes_2().with_max_ttl(seconds(7_200)));
            let miss = fixture.get(kept(ttl, fields)).await;
            assert_eq!(header(&miss, "cache-control"), cache_control, "{ttl:?} {fields:?}");
            match expected {
                Ok(ttl) => {
                    let hit = fixture.get(ok("x")).await;
                    assert_eq!(status(&hit), format!("response-boost; hit; ttl={ttl}"));
                    assert_eq!(header(&hit, "cache-control"), cache_control);
                }
                Err(detail) => assert_eq!(
                    status(&miss),
                    format!("response-boost; fwd=uri-miss; detail={detail}")
                ),
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_stored_for_longer_than_the_policy_allows() {
        let seconds = Duration::from_secs;
        for (cache_control, policy, ttl) in [
            ("max-age=600", minutes_2().with_max_ttl(seconds(10)), 10),
            ("public", minutes_2().with_max_ttl(seconds(10)), 10),
            ("max-age=9999999999999999999999", minutes_2(), 1_u64 << 31),
        ] {
            let fixture = Fixture::new(policy);
            let inside = Response::builder().header("cache-control", cache_control);
            fixture.get(inside.body("x").unwrap()).await;
            let hit = fixture.get(ok("y")).await;
            assert_eq!(status(&hit), format!("response-boost; hit; ttl={ttl}"));
        }
    }

    #[tokio::test]
    async fn a_policy_names_the_statuses_that_are_stored() {
        let hour = Duration::from_hours(1);
        let policy = [203, 204, 300, 301, 308, 405, 410, 414, 501]
            .into_iter()
            .fold(minutes_2(), |policy, code| {
                policy.with_status(StatusCode::from_u16(code).unwrap(), hour).unwrap()
            });
        for code in [203_u16, 204, 300, 301, 308, 405, 410, 414, 501] {
            let fixture = Fixture::new(policy.clone());
            let inside = || Response::builder().status(code).header("location", "/x").body("");
            let miss = fixture.get(inside().unwrap()).await;
            assert_eq!(status(&miss), "response-boost; fwd=uri-miss; stored", "{code}");
            for asked in [get(), get_if_none_match("*"), head()] {
                let hit = fixture.ask(asked, ok("x")).await;
                assert_eq!(status(&hit), "response-boost; hit; ttl=3600");
                assert_eq!((hit.status().as_u16(), header(&hit, "location")), (code, "/x"));
                let has_length = hit.headers().contains_key("content-length");
                assert!(code != 204 || !has_length, "RFC 9110 §8.6");
            }
        }
    }

    #[tokio::test]
    async fn vary_is_stored_where_the_key_covers_each_field_that_it_names() {
        let policy =
            || minutes_2().with_key_headers([http::header::ACCEPT_LANGUAGE, http::header::ORIGIN]);
        for (lines, detail) in [
            (&["accept-language"][..], None),
            (&["Accept-Language, , ORIGIN"], None),
            (&["origin", "accept-language"], None),
            (&[""], None),
            (&["accept-language, accept"], Some("vary")),
            (&["accept-language", "accept"], Some("vary")),
            (&["*"], Some("vary")),
            (&["accept-language, *"], Some("vary")),
            (&["accept language"], Some("vary")),
        ] {
            let fixture = Fixture::new(policy());
            let mut inside = ok("x");
            for line in lines {
                inside.headers_mut().append("vary", HeaderValue::from_static(line));
            }
            let miss = fixture.get(inside.clone()).await;
            let rest = detail.map_or("stored".to_owned(), |word| format!("detail={word}"));
            assert_eq!(status(&miss), format!("response-boost; fwd=uri-miss; {rest}"), "{lines:?}");
            let told = miss.headers().get_all("vary").iter().count();
            assert_eq!(told, lines.len(), "clients and caches behind see it");
        }
    }

    #[tokio::test]
    async fn caches_inside_are_named_on_a_load_and_not_on_a_hit() {
        let inside = |code: u16| {
            let response = Response::builder().status(code).header("cache-status", "Inside; hit");
            response.body("x").unwrap()
        };
        let all = |response: &Response<Bytes>| -> Vec<String> {
            let values = response.headers().get_all("cache-status").iter();
            values.map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        let fixture = Fixture::new(minutes_2());
        let miss = fixture.get(inside(200)).await;
        assert_eq!(all(&miss), ["Inside; hit", "response-boost; fwd=uri-miss; stored"]);
        assert_eq!(all(&fixture.get(ok("y")).await), ["response-boost; hit; ttl=120"]);
        fixture.cache.invalidate(&key_of(&get()).unwrap()).await.unwrap();
        let failed = fixture.get(inside(500)).await;
        assert_eq!(all(&failed), ["Inside; hit", "response-boost; fwd=uri-miss; detail=status"]);
    }

    #[tokio::test]
    async fn a_service_can_forbid_that_a_stale_response_is_served_or_say_for_how_long() {
        let seconds = Duration::from_secs;
        for (cache_control, window) in [
            ("max-age=60", 30),
            ("max-age=60, must-revalidate", 0),
            ("max-age=60, proxy-revalidate", 0),
            ("s-maxage=60", 0),
            ("max-age=60, stale-if-error=10", 10),
            ("max-age=60, stale-if-error=90", 90),
            ("max-age=60, stale-if-error=10, must-revalidate", 0),
        ] {
            let fixture = Fixture::new(minutes_2().with_stale_if_error(seconds(30)));
            let inside = Response::builder().header("cache-control", cache_control);
            fixture.get(inside.body("first").unwrap()).await;
            let down = || Response::builder().status(503).body("down").unwrap();
            if window > 0 {
                fixture.clock.advance(seconds(60 + window - 1));
                let stale = fixture.get(down()).await;
                assert_eq!(stale.body(), "first", "{cache_control}");
                fixture.clock.advance(seconds(1));
            } else {
                fixture.clock.advance(seconds(60));
            }
            assert_eq!(fixture.get(down()).await.status(), 503, "{cache_control}");
        }
    }

    #[tokio::test]
    async fn a_method_that_is_let_in_gets_a_412_for_what_it_has() {
        let fixture = Fixture::new(minutes_2().with_method(Method::POST));
        let post = |name: Option<(&'static str, &'static str)>| {
            let mut request = get();
            *request.method_mut() = Method::POST;
            if let Some((name, value)) = name {
                request.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            request
        };
        for _ in ["miss", "hit"] {
            let met = fixture.ask(post(Some(("if-none-match", "*"))), ok("found")).await;
            assert_eq!((met.status().as_u16(), met.body().as_ref()), (412, &b""[..]));
            let date = "Sun, 06 Nov 1994 08:49:37 GMT";
            let ignored = fixture.ask(post(Some(("if-modified-since", date))), ok("x")).await;
            assert_eq!(ignored.body(), "found");
        }
    }

    /// A cache whose unsafe methods invalidate the key of `get`.
    fn invalidating(fixture: &Fixture) -> TestCache {
        fixture.cache.clone().with_invalidation(|request| {
            let path = request.uri.path();
            vec![Namespace::parse("test").unwrap().key([path])]
        })
    }

    #[tokio::test]
    async fn a_successful_unsafe_method_invalidates_before_the_client_has_its_response() {
        for (method, code, is_invalidated) in [
            (Method::POST, 200, true),
            (Method::PUT, 204, true),
            (Method::PATCH, 201, true),
            (Method::DELETE, 303, true),
            (Method::from_bytes(b"PURGE").unwrap(), 200, true),
            (Method::POST, 400, false),
            (Method::PUT, 412, false),
            (Method::DELETE, 500, false),
            (Method::OPTIONS, 200, false),
            (Method::TRACE, 200, false),
        ] {
            let fixture = Fixture::new(minutes_2());
            fixture.get(ok("old")).await;
            let write = service_fn(move |_: Request<Full<Bytes>>| async move {
                Ok::<_, Error>(Response::builder().status(code).body(Full::from("done")).unwrap())
            });
            let mut request = get();
            *request.method_mut() = method.clone();
            let response = invalidating(&fixture).layer(write).oneshot(request).await.unwrap();
            assert_eq!(response.headers().get("cache-status"), None, "it is not cached");
            let next = fixture.get(ok("new")).await;
            let body: &[u8] = if is_invalidated { b"new" } else { b"old" };
            assert_eq!(next.body(), body, "{method} {code}");
        }
    }

    #[tokio::test]
    async fn a_write_of_which_nobody_knows_whether_it_was_done_invalidates() {
        let fixture = Fixture::new(minutes_2());
        fixture.get(ok("old")).await;
        let hangs = service_fn(|_: Request<Full<Bytes>>| {
            std::future::pending::<Result<Response<Full<Bytes>>, Error>>()
        });
        let mut request = get();
        *request.method_mut() = Method::PUT;
        let mut service = invalidating(&fixture).layer(hangs);
        drop(service.ready().await.unwrap().call(request));
        // The invalidation is spawned on this thread, so yielding lets it run.
        let key = key_of(&get()).unwrap();
        while fixture.shared().get(&key).await.unwrap() != Found::Nothing {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_write_that_fails_or_has_no_keys_invalidates_nothing() {
        let fixture = Fixture::new(minutes_2());
        fixture.get(ok("old")).await;
        let fails = service_fn(async |_: Request<Full<Bytes>>| {
            Err::<Response<Full<Bytes>>, Error>("down".into())
        });
        let put = || {
            let mut request = get();
            *request.method_mut() = Method::PUT;
            request
        };
        assert!(invalidating(&fixture).layer(fails).oneshot(put()).await.is_err());
        let none = fixture.cache.clone().with_invalidation(|_| Vec::new());
        let works =
            service_fn(async |_: Request<Full<Bytes>>| Ok::<_, Error>(ok("x").map(Full::from)));
        assert!(none.layer(works).oneshot(put()).await.is_ok());
        assert_eq!(fixture.get(ok("new")).await.body(), "old");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_of_the_store_fails_no_write() {
        let cache = ResponseCacheLayer::new(Silent { get_limit: None }, minutes_2(), key_of)
            .with_invalidation(|_| vec![Namespace::parse("test").unwrap().key(["a"])]);
        let service =
            service_fn(async |_: Request<Full<Bytes>>| Ok::<_, Error>(ok("x").map(Full::from)));
        let mut request = get();
        *request.method_mut() = Method::PUT;
        let (started, recorder) = (tokio::time::Instant::now(), crate::Recorder::default());
        let response = recorder.watch(cache.layer(service).oneshot(request)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(started.elapsed(), Policy::DEFAULT_DEADLINE);
        assert_eq!(recorder.report().faults, 1);
    }

    #[tokio::test]
    async fn all_keys_are_tried_whatever_becomes_of_one() {
        let fixture = Fixture::new(minutes_2());
        fixture.get(ok("old")).await;
        let keys = [Namespace::parse("test").unwrap().key(["other"]), key_of(&get()).unwrap()];
        fixture.cache.invalidate_all(&keys).await.unwrap();
        assert_eq!(fixture.get(ok("new")).await.body(), "new");
        let cache = ResponseCacheLayer::new(
            Silent { get_limit: None },
            minutes_2().with_deadline(Duration::from_millis(1)),
            key_of,
        );
        assert!(cache.invalidate_all(&keys).await.is_err());
    }

    #[tokio::test]
    async fn a_request_can_go_by_a_policy_of_its_own() {
        let fixture = Fixture::new(minutes_2());
        let quick = Arc::new(Policy::new(A_SECOND).with_method(Method::POST));
        let cache = fixture.cache.clone().with_policy_of(move |request: &http::request::Parts| {
            request.uri.path().starts_with("/quick").then(|| Arc::clone(&quick))
        });
        let service =
            service_fn(async |_: Request<Full<Bytes>>| Ok::<_, Error>(ok("x").map(Full::from)));
        for (method, path, expected) in [
            (Method::GET, "/quick", "hit; ttl=1"),
            (Method::POST, "/quick/search", "hit; ttl=1"),
            (Method::GET, "/other", "hit; ttl=120"),
            (Method::POST, "/other", ""),
        ] {
            let mut told = String::new();
            for _ in ["miss", "hit"] {
                let mut request = get();
                (*request.method_mut(), *request.uri_mut()) =
                    (method.clone(), path.parse().unwrap());
                let response = cache.layer(service).oneshot(request).await.unwrap();
                told = status(&response).replace("response-boost; ", "");
            }
            assert_eq!(told, expected, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn clients_get_no_more_freshness_than_allowed_where_the_service_says_more() {
        let fixture = Fixture::new(minutes_2().with_client_max_age(Duration::from_secs(30)));
        let inside = Response::builder().header("cache-control", "public, max-age=600");
        let miss = fixture.get(inside.body("x").unwrap()).await;
        assert_eq!(header(&miss, "cache-control"), "public, max-age=30");
        fixture.clock.advance(Duration::from_mins(1));
        assert_eq!(header(&fixture.get(ok("x")).await, "cache-control"), "public, max-age=90");

        let fixture = Fixture::new(minutes_2().with_client_max_age(Duration::ZERO));
        let inside = Response::builder().header("cache-control", "public, max-age=600");
        let miss = fixture.get(inside.body("x").unwrap()).await;
        assert_eq!(header(&miss, "cache-control"), "private, no-cache");
    }

    #[tokio::test]
    async fn no_store_is_added_to_no_304_and_to_nothing_that_says_its_freshness() {
        for (code, field, expected) in [
            (304, ("x-other", "1"), ""),
            (404, ("expires", "Sun, 06 Nov 1994 08:49:37 GMT"), ""),
            (404, ("cache-control", "max-age=5"), "max-age=5"),
            (404, ("x-other", "1"), "no-store"),
        ] {
            let fixture = Fixture::new(minutes_2());
            let inside = Response::builder().status(code).header(field.0, field.1).body("");
            let response = fixture.get(inside.unwrap()).await;
            assert_eq!(header(&response, "cache-control"), expected, "{code} {field:?}");
        }
    }

    #[tokio::test]
    async fn an_entity_tag_of_any_length_is_stored_and_compared() {
        let fixture = Fixture::new(minutes_2());
        let etag = format!("\"{}\"", "x".repeat(100_000));
        let inside = || Response::builder().header("etag", &etag).body("tagged").unwrap();
        for asked in ["\"y\"", &etag] {
            let response = fixture.ask(get_if_none_match(asked), inside()).await;
            assert_eq!(response.status(), if asked == etag { 304 } else { 200 });
            assert_eq!(header(&response, "etag"), etag);
        }
        assert_eq!(fixture.loads(), 1);
    }

    #[tokio::test]
    async fn for_a_second_it_is_known_that_there_is_nothing_to_keep() {
        let fixture = Fixture::new(minutes_2());
        fixture.get(not_found()).await;
        for _ in 0..2 {
            let response = fixture.get(ok("there")).await;
            assert_eq!(
                (status(&response), response.body().as_ref()),
                ("response-boost; fwd=uri-miss; detail=pass", &b"there"[..])
            );
        }
        fixture.clock.advance(A_SECOND);
        assert_eq!(status(&fixture.get(ok("there")).await), "response-boost; fwd=uri-miss; stored");

        // An invalidation removes it, like any entry.
        let fixture = Fixture::new(minutes_2());
        fixture.get(not_found()).await;
        fixture.cache.invalidate(&key_of(&get()).unwrap()).await.unwrap();
        assert_eq!(status(&fixture.get(ok("there")).await), "response-boost; fwd=uri-miss; stored");
    }

    #[tokio::test]
    async fn an_entry_stands_in_for_a_load_that_fails_and_no_longer_than_it_may() {
        let failing = |code| Response::builder().status(code).body("down").unwrap();
        for code in [500, 502, 503, 504] {
            let fixture = Fixture::new(minutes_2().with_stale_if_error(Duration::from_secs(30)));
            let etag = header(&fixture.get(ok("first")).await, "etag").to_owned();
            fixture.clock.advance(Duration::from_millis(123_500));
            let stale = fixture.get(failing(code)).await;
            assert_eq!((stale.status().as_u16(), stale.body().as_ref()), (200, &b"first"[..]));
            let expected = format!("response-boost; fwd=stale; fwd-status={code}; ttl=-4");
            assert_eq!(status(&stale), expected);
            assert_eq!(header(&stale, "age"), "124");
            assert_eq!(header(&stale, "cache-control"), "private, max-age=120");
            let not_modified = fixture.ask(get_if_none_match(&etag), failing(code)).await;
            assert_eq!(not_modified.status(), 304);

            fixture.clock.advance(Duration::from_millis(26_499));
            assert_eq!(fixture.get(failing(code)).await.status(), 200);
            fixture.clock.advance(Duration::from_millis(1));
            assert_eq!(fixture.get(failing(code)).await.status(), code);
        }

        // The service's own error, and a status that is not a failure.
        let fixture = Fixture::new(minutes_2().with_stale_if_error(Duration::from_secs(30)));
        fixture.get(ok("first")).await;
        fixture.clock.advance(Duration::from_secs(125));
        let down = service_fn(async |_: Request<Full<Bytes>>| {
            Err::<Response<Full<Bytes>>, Error>("down".into())
        });
        let stale = fixture.cache.layer(down).oneshot(get()).await.unwrap();
        assert_eq!(stale.headers()["cache-status"], "response-boost; fwd=stale; ttl=-5");
        fixture.clock.advance(A_SECOND);
        assert_eq!(fixture.get(not_found()).await.status(), 404);
        assert_eq!(fixture.get(failing(503)).await.status(), 503, "it was told that it is gone");
    }

    #[tokio::test]
    async fn a_load_that_works_takes_the_place_of_a_stale_entry() {
        let fixture = Fixture::new(minutes_2().with_stale_if_error(Duration::from_secs(30)));
        fixture.get(ok("first")).await;
        fixture.clock.advance(Duration::from_mins(2));
        let fresh = fixture.get(ok("second")).await;
        assert_eq!(
            (status(&fresh), header(&fresh, "age")),
            ("response-boost; fwd=stale; stored", "")
        );
        let hit = fixture.get(ok("third")).await;
        assert_eq!(
            (status(&hit), hit.body().as_ref()),
            ("response-boost; hit; ttl=120", &b"second"[..])
        );
    }

    #[tokio::test]
    async fn near_its_end_an_entry_is_loaded_anew_the_likelier_the_longer_its_load_took() {
        // With 10 s left: e^(-10/(beta·cost)) of a thousand, within six standard deviations. None with more than a
        // tenth of its life left, or with less time left than a load takes.
        for (load, beta, left, expected) in [
            (Duration::from_secs(9), 1.0, 10, 240..=418),
            (Duration::from_secs(9), 4.0, 10, 676..=838),
            (Duration::from_secs(9), 0.0, 10, 0..=0),
            (Duration::from_secs(9), 1_000_000.0, 8, 0..=0),
            (Duration::from_millis(4), 1_000_000.0, 10, 0..=0),
            (Duration::from_millis(5), 1_000_000.0, 10, 900..=1_000),
            (Duration::from_secs(10), 1_000_000.0, 13, 0..=0),
            (Duration::from_secs(10), 1_000_000.0, 12, 900..=1_000),
        ] {
            let mut early = 0;
            for _ in 0..1_000 {
                let policy =
                    minutes_2().with_lease(A_MINUTE).with_deadline(A_MINUTE).with_inline_refresh();
                let policy = Policy { early_refresh: beta, ..policy };
                let fixture = Fixture::new(policy);
                let clock = fixture.clock.clone();
                let slow = service_fn(move |_: Request<Full<Bytes>>| {
                    clock.advance(load);
                    async { Ok::<_, Error>(ok("slow").map(Full::from)) }
                });
                fixture.cache.layer(slow).oneshot(get()).await.unwrap();
                fixture.clock.advance(Duration::from_secs(120 - left).saturating_sub(load));
                let answer = fixture.get(ok("second")).await;
                let is_early =
                    status(&answer) == "response-boost; fwd=stale; stored; detail=early-refresh";
                let is_hit = status(&answer) == format!("response-boost; hit; ttl={left}");
                assert!(is_early || is_hit, "{}", status(&answer));
                assert_eq!(fixture.loads(), usize::from(is_early));
                early += usize::from(is_early);
            }
            assert!(expected.contains(&early), "{early} of 1000 for {load:?}, {beta}, {left}");
        }
    }

    #[tokio::test]
    async fn an_early_load_that_fails_leaves_the_entry_alone() {
        let fixture = Fixture::new(eager());
        let clock = fixture.clock.clone();
        let slow = service_fn(move |_: Request<Full<Bytes>>| {
            clock.advance(Duration::from_millis(5));
            async { Ok::<_, Error>(ok("slow").map(Full::from)) }
        });
        fixture.cache.layer(slow).oneshot(get()).await.unwrap();
        fixture.clock.advance(Duration::from_secs(115));
        let down = Response::builder().status(503).body("down").unwrap();
        let stands_in = fixture.get(down).await;
        assert_eq!(stands_in.body(), "slow");
        assert_eq!(status(&stands_in), "response-boost; fwd=stale; fwd-status=503; ttl=4");
        // The refresh was announced, so the next request leaves it to the first.
        assert_eq!(status(&fixture.get(ok("x")).await), "response-boost; hit; ttl=4");
        assert_eq!(fixture.loads(), 1);
    }

    #[tokio::test]
    async fn near_its_end_an_entry_is_the_answer_and_is_loaded_anew_after_the_reply() {
        let fixture = Fixture::new(Policy { refreshes_inline: false, ..eager() });
        let clock = fixture.clock.clone();
        let slow = service_fn(move |_: Request<Full<Bytes>>| {
            clock.advance(Duration::from_millis(5));
            async { Ok::<_, Error>(ok("slow").map(Full::from)) }
        });
        fixture.cache.layer(slow).oneshot(get()).await.unwrap();
        fixture.clock.advance(Duration::from_secs(115));
        let early = fixture.get(ok("new")).await;
        assert_eq!(early.body(), "slow");
        assert_eq!(status(&early), "response-boost; hit; ttl=4; detail=early-refresh");
        // The spawned refresh runs while others wait.
        while fixture.loads() == 0 {
            tokio::task::yield_now().await;
        }
        let fresh = loop {
            let answer = fixture.get(ok("newer")).await;
            if answer.body() != "slow" {
                break answer;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!((fresh.body().as_ref(), fixture.loads()), (&b"new"[..], 1));
    }

    #[tokio::test]
    async fn without_leases_everyone_loads_and_keeps() {
        let fixture = Fixture::new(minutes_2().with_lease(Duration::ZERO));
        fixture.put(Bytes::from_static(ANOTHERS_LEASE)).await;
        let miss = fixture.get(ok("first")).await;
        assert_eq!(status(&miss), "response-boost; fwd=uri-miss; stored");
        assert_eq!(status(&fixture.get(ok("second")).await), "response-boost; hit; ttl=120");
    }

    #[tokio::test(start_paused = true)]
    async fn another_s_lease_is_waited_for_as_long_as_it_lasts_and_then_taken() {
        let fixture = Fixture::new(minutes_2());
        fixture.put(Bytes::from_static(ANOTHERS_LEASE)).await;
        let started = tokio::time::Instant::now();
        let answer = fixture.get(ok("own")).await;
        assert_eq!(status(&answer), "response-boost; fwd=uri-miss; stored");
        assert_eq!(started.elapsed(), Duration::from_millis(2_250));
    }

    #[tokio::test(start_paused = true)]
    async fn another_s_lease_is_not_waited_for_where_there_is_no_time_left_to_load() {
        let fixture = Fixture::new(minutes_2());
        fixture.put(Bytes::from_static(ANOTHERS_LEASE)).await;
        let policy = minutes_2().with_lease(Duration::MAX);
        let core = ReadThrough::new(fixture.shared(), policy, fixture.clock.clone());
        let cache = ResponseCacheLayer::of(core, key_of as fn(&_) -> _);
        let ends_at_ms = START_MS + 19;
        let load =
            service_fn(async |_: Request<Full<Bytes>>| Ok::<_, Error>(ok("own").map(Full::from)));
        let started = tokio::time::Instant::now();
        let request = get_until(ends_at_ms);
        let answer = cache.layer(load).oneshot(request).await.unwrap();
        let expected = "response-boost; fwd=uri-miss; collapsed=?0; detail=no-time";
        assert_eq!(answer.headers()["cache-status"], expected);
        assert_eq!(answer.headers().get("age"), None);
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_pass_that_has_lost_its_end_is_replaced() {
        let fixture = Fixture::new(minutes_2());
        fixture.put(crate::mark::new_pass(START_MS)).await;
        let miss = fixture.get(ok("x")).await;
        assert_eq!(status(&miss), "response-boost; fwd=uri-miss; detail=pass");
        fixture.clock.advance(Duration::from_secs(66));
        assert_eq!(status(&fixture.get(ok("x")).await), "response-boost; fwd=uri-miss; stored");
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_fills_in_is_the_answer() {
        let fixture = Fixture::new(minutes_2());
        fixture.put(Bytes::from_static(ANOTHERS_LEASE)).await;
        let entry = Entry::of_response(
            ok("another's").map(Bytes::from),
            START_MS,
            Duration::from_millis(200),
            Duration::from_mins(2),
        );
        let filled = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            fixture.put(entry.encode(&key_of(&get()).unwrap())).await;
        };
        let (answer, ()) = tokio::join!(fixture.get(ok("own")), filled);
        assert_eq!(status(&answer), "response-boost; fwd=uri-miss; collapsed");
        assert_eq!((answer.body().as_ref(), header(&answer, "age")), (&b"another's"[..], "0"));
        assert_eq!(fixture.loads(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_has_gone_is_taken_and_one_that_is_passed_is_not() {
        for (is_passed, expected) in [
            (false, "response-boost; fwd=uri-miss; stored"),
            (true, "response-boost; fwd=uri-miss; collapsed=?0; detail=pass"),
        ] {
            let fixture = Fixture::new(minutes_2());
            fixture.put(Bytes::from_static(ANOTHERS_LEASE)).await;
            let gone = async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if is_passed {
                    fixture.put(crate::mark::new_pass(START_MS)).await;
                } else {
                    fixture.cache.invalidate(&key_of(&get()).unwrap()).await.unwrap();
                }
            };
            let started = tokio::time::Instant::now();
            let (answer, ()) = tokio::join!(fixture.get(ok("own")), gone);
            assert_eq!(status(&answer), expected);
            assert!(started.elapsed() <= Duration::from_millis(300), "{:?}", started.elapsed());
        }
    }

    #[tokio::test]
    async fn a_load_that_blocks_its_thread_past_its_lease_is_not_stored() {
        for (lease, expected) in
            [(9_999, "fwd=uri-miss; detail=invalidated"), (10_001, "fwd=uri-miss; stored")]
        {
            let fixture = Fixture::new(minutes_2().with_lease(Duration::from_millis(lease)));
            let clock = fixture.clock.clone();
            let slow = service_fn(move |_: Request<Full<Bytes>>| {
                clock.advance(Duration::from_secs(10));
                async { Ok::<_, Error>(ok("slow").map(Full::from)) }
            });
            let answer = fixture.cache.layer(slow).oneshot(get()).await.unwrap();
            let expected = format!("response-boost; {expected}");
            assert_eq!(answer.headers()["cache-status"], expected.as_str());
        }
    }

    #[tokio::test]
    async fn what_was_loaded_before_an_invalidation_is_not_kept_after_it() {
        for early in [false, true] {
            let fixture = Fixture::new(eager());
            let load = |body: &'static str, invalidates: bool| {
                let (cache, clock) = (fixture.cache.clone(), fixture.clock.clone());
                service_fn(move |_: Request<Full<Bytes>>| {
                    let (cache, clock) = (cache.clone(), clock.clone());
                    async move {
                        clock.advance(Duration::from_millis(5));
                        if invalidates {
                            cache.invalidate(&key_of(&get()).unwrap()).await.unwrap();
                        }
                        Ok::<_, Error>(ok(body).map(Full::from))
                    }
                })
            };
            if early {
                fixture.cache.layer(load("older", false)).oneshot(get()).await.unwrap();
                fixture.clock.advance(Duration::from_secs(115));
            }
            let old = fixture.cache.layer(load("old", true)).oneshot(get()).await.unwrap();
            assert!(!old.headers()["cache-status"].to_str().unwrap().contains("stored"));
            let new = fixture.get(ok("new")).await;
            assert_eq!(
                (status(&new), new.body().as_ref()),
                ("response-boost; fwd=uri-miss; stored", &b"new"[..])
            );
        }
    }

    #[tokio::test]
    async fn other_statuses_are_not_kept() {
        for code in [201, 203, 204, 206, 301, 400, 410, 500, 503] {
            let fixture = Fixture::new(minutes_2().with_not_found_ttl(Duration::from_secs(5)));
            let inside = Response::builder().status(code).body("x").unwrap();
            let response = fixture.get(inside).await;
            assert_eq!(response.status(), code);
            assert_eq!(status(&response), "response-boost; fwd=uri-miss; detail=status");
            assert_eq!(header(&response, "cache-control"), "no-store");
            fixture.clock.advance(A_SECOND);
            assert_eq!(status(&fixture.get(ok("y")).await), "response-boost; fwd=uri-miss; stored");
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_kept() {
        let encoded = {
            let entry = Entry::of_response(
                ok("body").map(Bytes::from),
                START_MS,
                Duration::ZERO,
                Duration::from_mins(2),
            );
            entry.encode(&key_of(&get()).unwrap()).len()
        };
        for (limit, header) in [
            (encoded - 1, "response-boost; fwd=uri-miss; detail=too-large"),
            (encoded, "response-boost; fwd=uri-miss; stored"),
        ] {
            let fixture = Fixture::new(minutes_2().with_max_entry_bytes(limit));
            assert_eq!(status(&fixture.get(ok("body")).await), header);
        }
    }

    #[tokio::test]
    async fn clients_get_no_more_freshness_than_allowed() {
        let fixture = Fixture::new(minutes_2().with_client_max_age(Duration::from_secs(30)));
        assert_eq!(header(&fixture.get(ok("x")).await, "cache-control"), "private, max-age=30");
        fixture.clock.advance(Duration::from_mins(1));
        // 90 minus the `Age` of 60 leaves 30.
        assert_eq!(header(&fixture.get(ok("x")).await, "cache-control"), "private, max-age=90");
        fixture.clock.advance(Duration::from_secs(50));
        assert_eq!(header(&fixture.get(ok("x")).await, "cache-control"), "private, max-age=120");

        let fixture = Fixture::new(minutes_2().with_client_max_age(Duration::ZERO));
        assert_eq!(header(&fixture.get(ok("x")).await, "cache-control"), "private, no-cache");
    }

    #[tokio::test]
    async fn max_age_less_age_is_what_an_entry_has_left() {
        let seconds = |response: &Response<Bytes>, name, prefix| {
            let value = header(response, name).strip_prefix(prefix).unwrap().to_owned();
            value.parse::<u64>().unwrap()
        };
        for at_most in [None, Some(1), Some(30), Some(119), Some(120), Some(1_000)] {
            let mut policy = minutes_2();
            policy.client_max_age = at_most.map(Duration::from_secs);
            let fixture = Fixture::new(policy);
            let at_most = at_most.unwrap_or(u64::MAX);
            let miss = fixture.get(ok("x")).await;
            assert_eq!(seconds(&miss, "cache-control", "private, max-age="), at_most.min(120));

            let step_ms = 250;
            for age_ms in (step_ms..120_000).step_by(250) {
                fixture.clock.advance(Duration::from_millis(step_ms));
                let hit = fixture.get(ok("y")).await;
                let left = (120_000 - age_ms) / 1_000;
                assert_eq!(status(&hit), format!("response-boost; hit; ttl={left}"));
                let max_age = seconds(&hit, "cache-control", "private, max-age=");
                let age = seconds(&hit, "age", "");
                assert_eq!(max_age - age, left.min(at_most), "{age_ms} ms old");
            }
        }
    }

    #[test]
    fn a_stale_answer_is_at_least_as_old_as_its_max_age() {
        for at_most in [None, Some(Duration::from_secs(30)), Some(Duration::from_mins(5))] {
            let mut policy = minutes_2();
            policy.client_max_age = at_most;
            for age_ms in [120_000, 120_001, 121_000, 500_000] {
                let (body, age) = (ok("x").map(Bytes::from), Duration::from_millis(age_ms));
                let entry = Entry::of_response(body, START_MS, Duration::ZERO, policy.ttl);
                let stale = cacheable_response::<Full<Bytes>>(entry, Some(age), &policy);
                assert_eq!(header(&stale, "cache-control"), "private, max-age=120");
                assert!(header(&stale, "age").parse::<u64>().unwrap() >= 120);
            }
        }
    }

    #[tokio::test]
    async fn an_error_of_the_service_is_passed_on_and_nothing_kept() {
        let fixture = Fixture::new(minutes_2());
        let failing = service_fn(async |_: Request<Full<Bytes>>| {
            Err::<Response<Full<Bytes>>, Error>("down".into())
        });
        let error = fixture.cache.layer(failing).oneshot(get()).await.unwrap_err();
        assert_eq!(error.to_string(), "down");
        fixture.clock.advance(A_SECOND);
        assert_eq!(status(&fixture.get(ok("x")).await), "response-boost; fwd=uri-miss; stored");
    }

    /// A store that never answers, as a real one when packets are swallowed.
    struct Silent {
        get_limit: Option<Duration>,
    }

    impl Store for Silent {
        async fn get(&self, _: &CacheKey) -> Result<Found, StoreError> {
            std::future::pending().await
        }

        async fn put(
            &self,
            _: &CacheKey,
            _: Expected<'_>,
            _: Bytes,
            _: Duration,
        ) -> Result<bool, StoreError> {
            std::future::pending().await
        }

        async fn delete(&self, _: &CacheKey) -> Result<(), StoreError> {
            std::future::pending().await
        }

        fn get_limit(&self) -> Option<Duration> {
            self.get_limit
        }
    }

    /// Misses, grants a lease, and never answers a store of an entry.
    struct SilentOnPut;

    impl Store for SilentOnPut {
        async fn get(&self, _: &CacheKey) -> Result<Found, StoreError> {
            Ok(Found::Nothing)
        }

        async fn put(
            &self,
            _: &CacheKey,
            expected: Expected<'_>,
            _: Bytes,
            _: Duration,
        ) -> Result<bool, StoreError> {
            match expected {
                Expected::Nothing => Ok(true),
                _ => std::future::pending().await,
            }
        }

        async fn delete(&self, _: &CacheKey) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_gets_half_of_what_the_load_has_left_of_an_invocation() {
        let clock = Clock::held_at(START_MS);
        let policy = minutes_2().with_deadline(Duration::from_millis(600));
        let core = ReadThrough::new(SilentOnPut, policy, clock.clone());
        let cache = ResponseCacheLayer::of(core, key_of as fn(&_) -> _);
        for (load_ms, waited_ms) in [(0, 600), (9_000, 500), (9_900, 50), (10_000, 0), (11_000, 0)]
        {
            let load_clock = clock.clone();
            let service = service_fn(move |_: Request<Full<Bytes>>| {
                load_clock.advance(Duration::from_millis(load_ms));
                async { Ok::<_, Error>(ok("body").map(Full::from)) }
            });
            let ends_at_ms = clock.now_ms() + 10_000;
            let started = tokio::time::Instant::now();
            let request = get_until(ends_at_ms);
            let response = cache.layer(service).oneshot(request).await.unwrap();
            let expected = "response-boost; fwd=uri-miss; detail=store-timeout";
            assert_eq!(response.headers()["cache-status"], expected);
            assert_eq!(started.elapsed(), Duration::from_millis(waited_ms), "load of {load_ms} ms");
        }
    }

    #[tokio::test]
    async fn an_end_of_the_invocation_that_is_past_already_says_nothing() {
        let fixture = Fixture::new(minutes_2());
        for end_ms in [0, START_MS - 1] {
            let request = get_until(end_ms);
            assert!(!status(&fixture.ask(request, ok("body")).await).contains("bypass"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_store_costs_the_deadline_and_no_more() {
        let policy = minutes_2().with_deadline(Duration::from_millis(600));
        let service =
            service_fn(async |_: Request<Full<Bytes>>| Ok::<_, Error>(ok("body").map(Full::from)));
        // Whatever limit the store claims: it may exceed the request's.
        for get_limit in [None, Some(Duration::from_millis(601))] {
            let cache = ResponseCacheLayer::new(Silent { get_limit }, policy.clone(), key_of);
            let started = tokio::time::Instant::now();
            let response = cache.layer(service).oneshot(get()).await.unwrap();
            assert_eq!(started.elapsed(), Duration::from_millis(600));
            assert_eq!(response.status(), 200);
            assert_eq!(
                response.headers()["cache-status"],
                "response-boost; fwd=bypass; detail=store-timeout"
            );
            let error = cache.invalidate(&key_of(&get()).unwrap()).await.unwrap_err();
            assert!(matches!(error, StoreError::Timeout(_)), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_keeps_to_the_deadline_is_cut_off_where_the_invocation_ends_before() {
        let clock = Clock::held_at(START_MS);
        let policy = minutes_2().with_deadline(Duration::from_millis(600));
        let store = Silent { get_limit: Some(Duration::from_millis(600)) };
        let core = ReadThrough::new(store, policy, clock);
        let cache = ResponseCacheLayer::of(core, key_of as fn(&_) -> _);
        let service =
            service_fn(async |_: Request<Full<Bytes>>| Ok::<_, Error>(ok("body").map(Full::from)));
        let ends_at_ms = START_MS + 1_000;
        let started = tokio::time::Instant::now();
        let request = get_until(ends_at_ms);
        assert_eq!(cache.layer(service).oneshot(request).await.unwrap().status(), 200);
        assert_eq!(started.elapsed(), Duration::from_millis(500));
    }

    #[tokio::test]
    async fn only_get_and_head_go_through_the_cache_unless_the_policy_names_another_method() {
        let request = |method: &Method| {
            let mut request = get();
            *request.method_mut() = method.clone();
            request
        };
        let others = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
        let fixture = Fixture::new(minutes_2());
        fixture.get(ok("cached")).await;
        for method in &others {
            let response = fixture.ask(request(method), ok("asked")).await;
            assert_eq!(
                (response.body().as_ref(), status(&response)),
                (&b"asked"[..], ""),
                "{method}"
            );
        }
        assert_eq!(fixture.get(ok("asked")).await.body(), "cached");

        let fixture = Fixture::new(minutes_2().with_method(Method::POST));
        fixture.ask(request(&Method::POST), ok("first")).await;
        let hit = fixture.ask(request(&Method::POST), ok("second")).await;
        assert_eq!(
            (hit.body().as_ref(), status(&hit)),
            (&b"first"[..], "response-boost; hit; ttl=120")
        );
        assert_eq!(status(&fixture.ask(request(&Method::PUT), ok("asked")).await), "");
    }

    #[tokio::test]
    async fn a_head_is_answered_with_the_length_that_its_get_has() {
        let fixture = Fixture::new(minutes_2());
        for (inside, length) in
            [(ok("twelve bytes"), "12"), (ok("another"), "12"), (not_found(), "12")]
        {
            let response = fixture.ask(head(), inside).await;
            assert_eq!(
                (header(&response, "content-length"), response.body().as_ref()),
                (length, &b""[..])
            );
        }
        let fixture = Fixture::new(minutes_2());
        assert_eq!(header(&fixture.ask(head(), not_found()).await, "content-length"), "4");
        let mut unchanged = get_if_none_match("*");
        *unchanged.method_mut() = Method::HEAD;
        let response = fixture.ask(unchanged, ok("body")).await;
        assert_eq!((response.status().as_u16(), header(&response, "content-length")), (304, ""));
    }

    /// Requests a response whose body arrives in these parts.
    async fn ask_for(
        cache: &TestCache,
        parts: &[Result<&'static str, &'static str>],
    ) -> (String, Vec<Result<Bytes, &'static str>>) {
        let parts = parts.to_vec();
        let service = service_fn(move |_: Request<Full<Bytes>>| {
            let response = Response::new(parts_of(&parts));
            async { Ok::<_, Error>(response) }
        });
        let response = cache.layer(service).oneshot(get()).await.unwrap();
        let (told, mut body) = (status(&response).to_owned(), response.into_body());
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            seen.push(frame.map(|frame| frame.into_data().unwrap()));
        }
        (told, seen)
    }

    #[tokio::test]
    async fn a_body_over_the_limit_streams_on_and_is_not_kept() {
        let fixture = Fixture::new(minutes_2().with_max_entry_bytes(5));
        for _ in 0..2 {
            let (told, seen) = ask_for(&fixture.cache, &[Ok("abc"), Ok("def"), Ok("g")]).await;
            assert_eq!(told, "response-boost; fwd=uri-miss; detail=too-large");
            assert_eq!(seen, ["abc", "def", "g"].map(|part| Ok(part.into())));
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_a_failed_load() {
        let fixture = Fixture::new(minutes_2().with_stale_if_error(Duration::from_secs(30)));
        let broken = [Ok("ab"), Err("cut off")];
        let (told, seen) = ask_for(&fixture.cache, &broken).await;
        assert_eq!(
            (told.as_str(), seen),
            (
                "response-boost; fwd=uri-miss; detail=broke-off",
                vec![Ok("ab".into()), Err("cut off")]
            )
        );

        fixture.shared().delete(&key_of(&get()).unwrap()).await.unwrap();
        ask_for(&fixture.cache, &[Ok("whole")]).await;
        fixture.clock.advance(Duration::from_mins(2));
        let (told, seen) = ask_for(&fixture.cache, &broken).await;
        assert_eq!(told, "response-boost; fwd=stale; fwd-status=200; ttl=0");
        assert_eq!(seen, [Ok("whole".into())]);
    }

    /// A service that becomes ready when polled, and must not be called before.
    #[derive(Clone, Default)]
    struct Shy {
        is_ready: bool,
    }

    impl Service<Request<Full<Bytes>>> for Shy {
        type Response = Response<Full<Bytes>>;
        type Error = Error;
        type Future = std::future::Ready<Result<Self::Response, Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            self.is_ready = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            assert!(std::mem::take(&mut self.is_ready), "called before it was asked");
            std::future::ready(Ok(ok("shy").map(Full::from)))
        }
    }

    #[tokio::test]
    async fn the_service_inside_is_asked_whether_it_is_ready() {
        let fixture = Fixture::new(minutes_2());
        let mut service = fixture.cache.layer(Shy::default());
        let mut uncached = get();
        *uncached.uri_mut() = "/uncached".parse().unwrap();
        for request in [get(), get(), uncached] {
            assert_eq!(service.ready().await.unwrap().call(request).await.unwrap().status(), 200);
        }
    }

    #[tokio::test]
    async fn a_service_of_closures_can_be_spawned() {
        let cache = ResponseCacheLayer::new(MemoryStore::default(), minutes_2(), key_of);
        let mut service = cache.layer(service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, std::convert::Infallible>(ok("spawned").map(Full::<Bytes>::from))
        }));
        let answer = tokio::spawn(async move { service.ready().await?.call(get()).await });
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}
