//! The tower layer.

use std::fmt;
use std::sync::Arc;

use http::{Request, request};
use tower_layer::Layer;

use crate::clock::Clock;
use crate::invalidation::Invalidation;
use crate::read_through::ReadThrough;
use crate::{CacheKey, Policy, ResponseCache, Store, StoreError};

/// Stores the responses of the service inside in a [`Store`] and serves them again. For what a function returns, see
/// [`ValueCache`](crate::ValueCache).
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
///     move |request: &Request<Body>| Some(namespace.path_key(request.uri())),
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
/// # What is stored, and for how long
///
/// A 200, a 404 where [`Policy::with_not_found_ttl`] has a time for it, and the statuses that
/// [`Policy::with_status`] names, unless the response forbids it. The first of these that there is says how long:
/// [`Keep`](crate::Keep), `s-maxage`, `max-age`, `Expires`, the policy; never longer than [`Policy::with_max_ttl`].
/// With `Policy::new(Duration::from_secs(120)).with_stale_if_error(Duration::from_secs(30))`:
///
#[doc = include_str!("directives.md")]
///
/// A response over [`Policy::with_max_entry_bytes`] streams on as it comes and is not stored. Only a response that is
/// stored, a 404 or a 410 replaces an entry; after any other, such as a 429, the cache serves the entry.
///
/// # What clients get
///
/// Each response that may be stored carries an `ETag` (the service's own, else a hash of the body) and `Cache-Status`,
/// and `Age` if it comes from the store. `Cache-Control` and `Expires` go to the client as the service says them; only
/// where it says neither, the layer says `private, max-age=…` with the whole time to live.
/// [`Policy::with_client_max_age`] limits either.
///
/// The layer evaluates preconditions against the response in the order of RFC 9110 §13.2.2: `If-Match` and
/// `If-Unmodified-Since` make a 412, `If-None-Match` and `If-Modified-Since` a 304 (a 412 for a method that is neither
/// `GET` nor `HEAD`). A load asks the service for what holds for all clients: without `If-*`, `Range` and the client's
/// `Cache-Control`, which the cache, as a part of the origin, does not obey (RFC 9111 §5.2.1).
///
/// # Who may ask
///
/// The key alone decides what is answered. In particular `Authorization` neither bypasses the
/// cache nor enters the key, other than in a cache between client and origin (RFC 9111 §3.5): this
/// layer is part of the origin, and who may ask is decided before it. **If the responses differ by
/// caller, put the caller in the key** ([`CacheKey::with_secret_header`]).
///
/// # What there is to see
///
/// `Cache-Status` (RFC 9211) says what the cache did, and in its `detail` why it did not store a response
/// ([`NotStored`](crate::NotStored)). On a load it comes after those of caches inside; a hit has it alone.
/// [`Recorder`](crate::Recorder) collects what the cache did for a request. Each answer is an event of
/// `tracing` at DEBUG with its `status` and `cache_status`, each fault of the store one at WARN.
pub struct ResponseCacheLayer<S, K> {
    core: Arc<ReadThrough<S>>,
    key_of: K,
    policy_of: Option<OfRequest<Option<Arc<Policy>>>>,
    invalidated_by: Option<OfRequest<Vec<CacheKey>>>,
}

/// A function of a request, whatever its body.
type OfRequest<T> = Arc<dyn Fn(&request::Parts) -> T + Send + Sync>;

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
        self.core.invalidate(key).await
    }

    /// Removes the responses stored under all of these keys; each is tried, whatever becomes of the others.
    ///
    /// `Err` is the first fault, and means that at least one old response may still be there.
    pub async fn invalidate_all<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a CacheKey>,
    ) -> Result<(), StoreError> {
        let mut done = Ok(());
        for key in keys {
            let removed = self.core.invalidate(key).await;
            done = done.and(removed);
        }
        done
    }

    /// Invalidates what a request has changed: the keys that `keys_of` gives for it, once the service has answered
    /// with a 2xx or 3xx, and before the client has the response (RFC 9111 §4.4).
    ///
    /// It concerns requests that may change something: each method but `GET`, `HEAD`, `OPTIONS` and `TRACE` (RFC 9110
    /// §9.2.1), and but those that [`Policy::with_method`] lets through the cache. A write of which nobody knows
    /// whether it was done, since the request was cancelled or its handler panicked, invalidates too.
    ///
    /// Only these keys are removed: a key with another query or another header field is one of its own, and has to be
    /// named too.
    ///
    /// A fault of the store fails no request: it is logged, the keys are tried once more after the reply, and if that
    /// is in vain the old response stands until it ends. Where that is not acceptable, call
    /// [`invalidate`](Self::invalidate) in the service.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::request::Parts;
    /// use response_boost::{MemoryStore, Namespace, Policy, ResponseCacheLayer};
    ///
    /// let users = Namespace::parse("users")?;
    /// let written = users.clone();
    /// let cache = ResponseCacheLayer::new(
    ///     MemoryStore::default(),
    ///     Policy::new(Duration::from_secs(30)),
    ///     move |request: &http::Request<()>| Some(users.path_key(request.uri())),
    /// )
    /// .with_invalidation(move |request: &Parts| vec![written.path_key(&request.uri)]);
    /// # Ok::<(), response_boost::InvalidNamespace>(())
    /// ```
    #[must_use]
    pub fn with_invalidation(
        mut self,
        keys_of: impl Fn(&request::Parts) -> Vec<CacheKey> + Send + Sync + 'static,
    ) -> Self {
        self.invalidated_by = Some(Arc::new(keys_of));
        self
    }

    /// Chooses a policy by request; `None`: the layer's own. For what a response cannot say itself: a deadline, a
    /// lease, which statuses are stored, whether a method is let in.
    ///
    /// All policies share the store. Make each policy once, and not for each request.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::time::Duration;
    /// use http::request::Parts;
    /// use response_boost::{MemoryStore, Namespace, Policy, ResponseCacheLayer};
    ///
    /// let shop = Namespace::parse("shop")?;
    /// let prices = Arc::new(Policy::new(Duration::from_secs(5)));
    /// let cache = ResponseCacheLayer::new(
    ///     MemoryStore::default(),
    ///     Policy::new(Duration::from_secs(600)),
    ///     move |request: &http::Request<()>| Some(shop.path_key(request.uri())),
    /// )
    /// .with_policy_of(move |request: &Parts| {
    ///     request.uri.path().starts_with("/prices/").then(|| prices.clone())
    /// });
    /// # Ok::<(), response_boost::InvalidNamespace>(())
    /// ```
    #[must_use]
    pub fn with_policy_of(
        mut self,
        policy_of: impl Fn(&request::Parts) -> Option<Arc<Policy>> + Send + Sync + 'static,
    ) -> Self {
        self.policy_of = Some(Arc::new(policy_of));
        self
    }
}

impl<S, K> ResponseCacheLayer<S, K> {
    #[cfg(test)]
    pub(crate) fn core(&self) -> Arc<ReadThrough<S>> {
        Arc::clone(&self.core)
    }

    pub(crate) fn of(core: ReadThrough<S>, key_of: K) -> Self {
        Self { core: Arc::new(core), key_of, policy_of: None, invalidated_by: None }
    }

    /// What answers a request: by the layer's policy, or by the request's own.
    pub(crate) fn core_of<B>(&self, request: Request<B>) -> (Request<B>, Arc<ReadThrough<S>>) {
        let Some(policy_of) = &self.policy_of else {
            return (request, Arc::clone(&self.core));
        };
        let (request, policy) = with_parts(request, policy_of.as_ref());
        let core = match policy {
            Some(policy) => Arc::new(self.core.with_policy(policy)),
            None => Arc::clone(&self.core),
        };
        (request, core)
    }

    /// The key of a request, if it goes through the cache.
    pub(crate) fn key_of<B>(&self, request: &Request<B>, policy: &Policy) -> Option<CacheKey>
    where
        K: Fn(&Request<B>) -> Option<CacheKey>,
    {
        policy.has_method(request.method()).then(|| (self.key_of)(request))?
    }

    /// What a request that does not go through the cache is going to make old.
    pub(crate) fn invalidated_by<B>(
        &self,
        request: Request<B>,
        core: &Arc<ReadThrough<S>>,
    ) -> (Request<B>, Option<Invalidation<S>>)
    where
        S: Store,
    {
        match &self.invalidated_by {
            Some(keys_of) if core.policy.may_change(request.method()) => {
                let (request, keys) = with_parts(request, keys_of.as_ref());
                (request, Invalidation::of(core, keys))
            }
            _ => (request, None),
        }
    }
}

/// A request, and what a function says of it that does not look at its body.
fn with_parts<B, T>(request: Request<B>, of: &dyn Fn(&request::Parts) -> T) -> (Request<B>, T) {
    let (parts, body) = request.into_parts();
    let said = of(&parts);
    (Request::from_parts(parts, body), said)
}

impl<S, K: Clone> Clone for ResponseCacheLayer<S, K> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
            key_of: self.key_of.clone(),
            policy_of: self.policy_of.clone(),
            invalidated_by: self.invalidated_by.clone(),
        }
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
