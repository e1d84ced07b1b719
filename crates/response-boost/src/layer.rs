//! The tower layer.

use std::fmt;
use std::sync::Arc;

use http::{Request, request};
use tower_layer::Layer;

use crate::clock::Clock;
use crate::invalidation::{Invalidation, Outdated};
use crate::read_through::ReadThrough;
use crate::stamps::Tagging;
use crate::{CacheKey, InvalidTag, Policy, ResponseCache, Store, StoreError, Tag};

/// Stores the responses of the inner service in a [`Store`] and serves them again. To cache what a function returns,
/// see [`ValueCache`](crate::ValueCache).
///
/// A layer needs a store, a [`Policy`], and a function that derives the [`CacheKey`] from a request. Where that
/// function returns `None`, the request bypasses the cache. So does every request whose method is neither `GET` nor
/// `HEAD`, whatever its key, unless [`Policy::with_method`] names the method. `GET` and `HEAD` share a key, because the
/// layer loads with `GET` for both.
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
/// The layer stores a 200, a 404 if [`Policy::with_not_found_ttl`] sets a TTL for it, and the statuses that
/// [`Policy::with_status`] names, unless the response forbids it. The first of these that is present sets the TTL:
/// [`Keep`](crate::Keep), `s-maxage`, `max-age`, `Expires`, the policy. [`Policy::with_max_ttl`] caps it. With
/// `Policy::new(Duration::from_secs(120)).with_stale_if_error(Duration::from_secs(30))`:
///
#[doc = include_str!("directives.md")]
///
/// A response larger than [`Policy::with_max_entry_bytes`] is streamed through and not stored. Only a response that is
/// stored, a 404 or a 410 replaces an entry; after any other response, such as a 429, the cache serves the entry.
///
/// # What clients get
///
/// Each response that may be stored carries an `ETag` (the service's own, otherwise a hash of the body) and
/// `Cache-Status`, and `Age` if it comes from the store. The service's own `Cache-Control` and `Expires` reach the
/// client unchanged. If the service sends neither, the layer adds `private, max-age=…` with the full TTL.
/// [`Policy::with_client_max_age`] limits both.
///
/// The layer evaluates preconditions against the response in the order of RFC 9110 §13.2.2: `If-Match` and
/// `If-Unmodified-Since` give a 412, `If-None-Match` and `If-Modified-Since` a 304 (a 412 for a method that is neither
/// `GET` nor `HEAD`). A load must fetch the response that suits all clients, so the request to the service carries no
/// `If-*`, no `Range` and no client `Cache-Control`. The cache ignores the client's `Cache-Control` because it is part
/// of the origin (RFC 9111 §5.2.1).
///
/// # Authorization
///
/// The key alone decides which response a client gets. In particular, `Authorization` neither bypasses the cache nor
/// enters the key, unlike in a cache between client and origin (RFC 9111 §3.5): this layer is part of the origin, and
/// authorization happens before it. **If responses differ by caller, put the caller in the key**
/// ([`CacheKey::with_secret_header`]).
///
/// # Observability
///
/// `Cache-Status` (RFC 9211) says what the cache did, and its `detail` says why the cache did not store a response
/// ([`NotStored`](crate::NotStored)). On a load, the layer's member follows those of inner caches; on a hit it is the
/// only one. [`Recorder`](crate::Recorder) collects what the cache did for a request. The layer emits a `tracing` event
/// at DEBUG for each response, with its `status` and `cache_status`, and one at WARN for each fault of the store.
pub struct ResponseCacheLayer<S, K> {
    core: Arc<ReadThrough<S>>,
    key_of: K,
    policy_of: Option<OfRequest<Option<Arc<Policy>>>>,
    tags_of: Option<OfRequest<Result<Vec<Tag>, InvalidTag>>>,
    invalidated_by: Option<OfRequest<Vec<CacheKey>>>,
    tags_invalidated_by: Option<OfRequest<Vec<Tag>>>,
}

/// A function of a request's head, whatever its body.
type OfRequest<T> = Arc<dyn Fn(&request::Parts) -> T + Send + Sync>;

impl<S: Store, K> ResponseCacheLayer<S, K> {
    /// Creates a layer that stores responses in `store`, under the keys that `key_of` returns, by the rules of
    /// `policy`.
    pub fn new(store: S, policy: Policy, key_of: K) -> Self {
        Self::of(ReadThrough::new(store, policy, Clock::default()), key_of)
    }

    /// Removes the response stored under `key`, so that the next request loads it.
    ///
    /// Call it after your code has changed the data. It waits for the store as long as a request would. `Err` means
    /// that the old response may still be stored. The [crate] documentation states the guarantee.
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
    // (These functions say that their futures are `Send`, because the compiler fails to prove it for a `dyn DynStore`.)
    pub fn invalidate(
        &self,
        key: &CacheKey,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<S, K> {
        let (core, key) = (Arc::clone(&self.core), key.clone());
        async move { core.invalidate(&key).await }
    }

    /// Removes the responses stored under all of these keys. It tries every key, even if others fail.
    ///
    /// `Err` is the first fault: at least one old response may still be stored.
    pub fn invalidate_all<'a, I>(
        &self,
        keys: I,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<'a, S, K, I>
    where
        I: IntoIterator<Item = &'a CacheKey>,
    {
        let core = Arc::clone(&self.core);
        let keys: Vec<_> = keys.into_iter().cloned().collect();
        async move {
            let mut done = Ok(());
            for key in &keys {
                let removed = core.invalidate(key).await;
                done = done.and(removed);
            }
            done
        }
    }

    /// Invalidates every response with this tag, however many they are, by two commands and one more for each further
    /// [shard](Tag::with_shards).
    ///
    /// As with [`invalidate`](Self::invalidate), change the data first; the guarantee is the same. `Err` means that
    /// responses with this tag may still be served.
    pub fn invalidate_tag(
        &self,
        tag: &Tag,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<S, K> {
        let (core, tag) = (Arc::clone(&self.core), tag.clone());
        async move { core.invalidate_tag(&tag).await }
    }

    /// Invalidates what a request has changed: the keys that `keys_of` returns for it. The layer does so once the
    /// service has answered with a 2xx or 3xx, and before the client gets the response (RFC 9111 §4.4).
    ///
    /// This applies to requests that may change something: every method except `GET`, `HEAD`, `OPTIONS` and `TRACE`
    /// (RFC 9110 §9.2.1) and those that [`Policy::with_method`] lets through the cache. If the request was cancelled or
    /// its handler panicked, the write may have happened, so the layer invalidates as well.
    ///
    /// Only these keys are removed. A variant with another query or header field has a key of its own, which `keys_of`
    /// must return too.
    ///
    /// A fault of the store fails no request. The layer logs it and tries the keys once more after the reply. If that
    /// fails too, the old response remains until it expires. Where that is not acceptable, call
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

    /// Invalidates the tags that `tags_of` returns for a request that may change something, in addition to the keys of
    /// [`with_invalidation`](Self::with_invalidation) and in the same way. A name that is not a valid tag is on no
    /// entry, so `tags_of` can leave it out.
    #[must_use]
    pub fn with_tag_invalidation(
        mut self,
        tags_of: impl Fn(&request::Parts) -> Vec<Tag> + Send + Sync + 'static,
    ) -> Self {
        self.tags_invalidated_by = Some(Arc::new(tags_of));
        self
    }

    /// Gives the response to each request the [`Tag`]s that `tags_of` returns, so that
    /// [`invalidate_tag`](Self::invalidate_tag) can invalidate a group of responses.
    ///
    /// A hit then also compares the ids of these tags, which the layer looks up together with the entry. If `tags_of`
    /// returns `Err` or more than 8 tags, the layer loads the response and does not store it (`detail=tags`).
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::request::Parts;
    /// use response_boost::{MemoryStore, Namespace, Policy, ResponseCacheLayer, StoreError};
    ///
    /// # async fn change_the_red_team() {}
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let teams = Namespace::parse("teams")?;
    /// let (of_request, red) = (teams.clone(), teams.tag("team-red")?);
    /// let cache = ResponseCacheLayer::new(
    ///     MemoryStore::default(),
    ///     Policy::new(Duration::from_secs(600)),
    ///     move |request: &http::Request<()>| Some(teams.path_key(request.uri())),
    /// )
    /// // `/teams/red/users`, `/teams/red/projects` …
    /// .with_tags(move |request: &Parts| {
    ///     let team = request.uri.path().split('/').nth(2);
    ///     team.map(|team| of_request.tag(&format!("team-{team}"))).into_iter().collect()
    /// });
    ///
    /// change_the_red_team().await;
    /// cache.invalidate_tag(&red).await?;
    /// # Ok(())
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(example())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_tags(
        mut self,
        tags_of: impl Fn(&request::Parts) -> Result<Vec<Tag>, InvalidTag> + Send + Sync + 'static,
    ) -> Self {
        self.tags_of = Some(Arc::new(tags_of));
        self
    }

    /// Chooses a policy for each request; `None` means the layer's own policy. Use it for settings that a response
    /// cannot carry: a deadline, a lease, the statuses to store, a further method.
    ///
    /// All policies share the store. Create each policy once, not for each request.
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
        Self {
            core: Arc::new(core),
            key_of,
            policy_of: None,
            tags_of: None,
            invalidated_by: None,
            tags_invalidated_by: None,
        }
    }

    /// The core that answers a request, with the layer's policy or the request's own.
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

    /// The key of a request; `None` if the request bypasses the cache.
    pub(crate) fn key_of<B>(&self, request: &Request<B>, policy: &Policy) -> Option<CacheKey>
    where
        K: Fn(&Request<B>) -> Option<CacheKey>,
    {
        policy.has_method(request.method()).then(|| (self.key_of)(request))?
    }

    /// The tags of the response that are known before the load: from the request and the policy.
    pub(crate) fn tagging_of<B>(
        &self,
        request: Request<B>,
        key: &CacheKey,
        policy: &Policy,
    ) -> (Request<B>, Option<Box<Tagging>>) {
        let (request, tags) = match &self.tags_of {
            Some(tags_of) => {
                let (request, tags) = with_parts(request, tags_of.as_ref());
                (request, Some(tags))
            }
            None => (request, None),
        };
        (request, Tagging::of(key, tags, policy))
    }

    /// The keys and tags that a request which bypasses the cache will invalidate.
    pub(crate) fn invalidated_by<B>(
        &self,
        request: Request<B>,
        core: &Arc<ReadThrough<S>>,
    ) -> (Request<B>, Option<Invalidation<S>>)
    where
        S: Store,
    {
        let (keys_of, tags_of) = (&self.invalidated_by, &self.tags_invalidated_by);
        if !core.policy.may_change(request.method()) || (keys_of.is_none() && tags_of.is_none()) {
            return (request, None);
        }
        let (request, outdated) = with_parts(request, &|request| {
            let keys = keys_of.iter().flat_map(|keys_of| keys_of(request)).map(Outdated::Key);
            let tags = tags_of.iter().flat_map(|tags_of| tags_of(request)).map(Outdated::Tag);
            keys.chain(tags).collect()
        });
        (request, Invalidation::of(core, outdated))
    }
}

/// Applies `of` to the head of a request, and returns the request and the result.
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
            tags_of: self.tags_of.clone(),
            invalidated_by: self.invalidated_by.clone(),
            tags_invalidated_by: self.tags_invalidated_by.clone(),
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
