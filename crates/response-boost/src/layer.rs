//! The tower layer.

use std::fmt;
use std::sync::Arc;

use http::Request;
use tower_layer::Layer;

use crate::clock::Clock;
use crate::read_through::ReadThrough;
use crate::{CacheKey, Policy, ResponseCache, Store, StoreError};

/// Keeps the answers of the service inside in a [`Store`] and gives them again.
///
/// It is made of the store, the [`Policy`], and a function from a request to the [`CacheKey`] of
/// its answer. `None`: this request is not cached and goes straight through, as does each whose method is
/// neither `GET` nor `HEAD` (unless [`Policy::with_method`] names it), whatever its key. Both share a key, since
/// the service inside is asked with `GET` for either.
///
/// # Example
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use response_boost::{MemoryStore, Namespace, Policy, ResponseCacheLayer};
/// use tower::{Layer, Service, ServiceExt, service_fn};
///
/// type Body = Full<Bytes>;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let namespace = Namespace::parse("prices")?;
/// let cache = ResponseCacheLayer::new(
///     MemoryStore::default(),
///     Policy::new(Duration::from_secs(30)),
///     move |request: &Request<Body>| Some(namespace.key(["path", request.uri().path()])),
/// );
/// let mut prices = cache.layer(service_fn(async |_request: Request<Body>| {
///     Ok::<_, Infallible>(Response::new(Body::from("42")))
/// }));
///
/// let miss = prices.ready().await?.call(Request::default()).await?;
/// assert_eq!(miss.headers()["cache-status"], "response-boost; fwd=uri-miss; stored");
/// let hit = prices.ready().await?.call(Request::default()).await?;
/// assert!(hit.headers()["cache-status"].to_str()?.starts_with("response-boost; hit; ttl="));
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(example())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What is kept
///
/// A 200, and a 404 where the policy has a time for it; never an answer with `Vary`,
/// `Set-Cookie`, or `Cache-Control: no-store` or `private`; never one that is too large, which streams on as it
/// comes. An entry that is there is replaced only by an answer that may be kept, a 404 or a 410; after any other, such
/// as a 429, the entry is served. An answer that may be kept carries `ETag`, `Cache-Control: private, max-age=…`, `Cache-Status`, and
/// `Age` if it comes from the store; `If-None-Match` is answered with 304.
///
/// # Who may ask
///
/// The key alone decides what is answered. In particular `Authorization` neither bypasses the
/// cache nor enters the key, other than in a cache between client and origin (RFC 9111 §3.5): this
/// layer is part of the origin, and who may ask is decided before it. **If the answers differ by
/// caller, put the caller into the key.**
///
/// # What there is to see
///
/// [`Recorder`](crate::Recorder) collects what the cache did for a request. Each answer is an event of
/// `tracing` at DEBUG with its `status` and `cache_status`, each fault of the store one at WARN.
pub struct ResponseCacheLayer<S, K> {
    core: Arc<ReadThrough<S>>,
    key_of: K,
}

impl<S: Store, K> ResponseCacheLayer<S, K> {
    /// A layer that keeps in `store`, by the rules of `policy`, what has a key by `key_of`.
    pub fn new(store: S, policy: Policy, key_of: K) -> Self {
        Self::of(ReadThrough::new(store, policy, Clock::default()), key_of)
    }

    /// Removes the answer kept under `key`, so that the next request loads it anew.
    ///
    /// For those who change the data through their own code: first the change, then this. It waits for
    /// the store as long as a request would, and `Err` means that the old answer may still be there.
    /// The [crate] says what it guarantees.
    ///
    /// ```
    /// use std::time::Duration;
    /// use response_boost::{MemoryStore, Namespace, Policy, ResponseCacheLayer, StoreError};
    ///
    /// # async fn rename() {}
    /// # async fn example() -> Result<(), StoreError> {
    /// # let users = Namespace::parse("users").unwrap();
    /// # let key_of = |_: &http::Request<()>| None::<response_boost::CacheKey>;
    /// let policy = Policy::new(Duration::from_secs(120));
    /// let cache = ResponseCacheLayer::new(MemoryStore::default(), policy, key_of);
    /// rename().await;
    /// cache.invalidate(&users.key(["user", "1"])).await?;
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(example()).unwrap();
    /// ```
    pub async fn invalidate(&self, key: &CacheKey) -> Result<(), StoreError> {
        tokio::time::timeout(self.core.policy.deadline, self.core.store.delete(key))
            .await
            .unwrap_or_else(|_| Err(StoreError::Timeout("deadline of the request".into())))
    }
}

impl<S, K> ResponseCacheLayer<S, K> {
    pub(crate) fn of(core: ReadThrough<S>, key_of: K) -> Self {
        Self { core: Arc::new(core), key_of }
    }

    pub(crate) fn core(&self) -> Arc<ReadThrough<S>> {
        Arc::clone(&self.core)
    }

    /// The key of a request, if it goes through the cache.
    pub(crate) fn key_of<B>(&self, request: &Request<B>) -> Option<CacheKey>
    where
        K: Fn(&Request<B>) -> Option<CacheKey>,
    {
        self.core.policy.has_method(request.method()).then(|| (self.key_of)(request))?
    }
}

impl<S, K: Clone> Clone for ResponseCacheLayer<S, K> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core), key_of: self.key_of.clone() }
    }
}

impl<S: fmt::Debug, K> fmt::Debug for ResponseCacheLayer<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseCacheLayer").field("core", &self.core).finish_non_exhaustive()
    }
}

impl<Svc, S, K: Clone> Layer<Svc> for ResponseCacheLayer<S, K> {
    type Service = ResponseCache<Svc, S, K>;

    fn layer(&self, inner: Svc) -> Self::Service {
        ResponseCache::new(inner, self.clone())
    }
}
