//! The value cache: it stores what a function returns, where the layer stores what a service responds.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::debug;

use crate::clock::Clock;
use crate::join::join_all;
use crate::read_through::{Answer, ReadThrough};
use crate::report::record;
use crate::stamps::Tagging;
use crate::value_entry::{CutOff, LoadedValue};
use crate::{
    CacheKey, CacheStatus, Deadline, InvalidTag, Keep, Namespace, Policy, Store, StoreError, Tag,
};

/// Stores what a function of yours returns in a [`Store`], and returns it again: permissions, configuration, the
/// response of another API.
///
/// It shares its core with [`ResponseCacheLayer`](crate::ResponseCacheLayer), so everything that its [`Policy`] sets
/// applies: leases, serving stale, deadlines, the breaker, the [`Report`](crate::Report). Settings that concern HTTP
/// alone (methods, statuses other than 404, clients, key headers) have no effect.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use response_boost::{MemoryStore, Namespace, Policy, ValueCache};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct User {
///     name: String,
/// }
///
/// async fn find(id: u64) -> Result<Option<User>, Infallible> {
///     Ok((id == 1).then(|| User { name: "Manas".to_owned() }))
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let policy = Policy::new(Duration::from_secs(120)).with_not_found_ttl(Duration::from_secs(5));
/// let users = ValueCache::new(MemoryStore::default(), policy, Namespace::parse("users")?);
///
/// // Under the key `users:user:1`.
/// let user = users.get_or_load(["user", "1"], || find(1)).await?;
/// assert_eq!(user.unwrap().name, "Manas");
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(example())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What is stored
///
/// An entry is a line of metadata and the value as JSON, which is readable in `redis-cli`; for [`None`] the second line
/// is empty. If the value does not deserialize, because another release of the type wrote it, the lookup is a miss: the
/// cache loads and replaces the value, and logs this once a minute at most. If a new release changes what a field means
/// but not its form, change a part of the key as well.
///
/// `Some` is stored for the policy's TTL, `None` for its [`with_not_found_ttl`](Policy::with_not_found_ttl), and not at
/// all if that is not set. A load can override this by returning `(value, Keep::new(ttl))`; a `ttl` of zero means that
/// the value is not stored.
///
/// Clones share the store.
pub struct ValueCache<T, S> {
    core: Arc<ReadThrough<S>>,
    namespace: Arc<Namespace>,
    deadline: Option<Deadline>,
    tags_of: Option<Arc<TagsOf>>,
    value: PhantomData<fn() -> T>,
}

/// Returns the tags of the value under a key.
type TagsOf = dyn Fn(&CacheKey) -> Result<Vec<Tag>, InvalidTag> + Send + Sync;

/// Why [`ValueCache::get_or_load`] returned no value.
///
/// It implements [`Error`](std::error::Error) for any displayable `E`, so `?` turns it into a `Box<dyn Error>` or an
/// `anyhow::Error` even if `E` is one of these two, which do not implement `Error` themselves. It has no `source`: the
/// cause is the `E` in [`Load`](Self::Load).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueError<E> {
    /// The load returned this error, and the cache had no usable stored value to return instead.
    Load(E),
    /// The load took longer than [`Policy::with_load_limit`] or the [`Deadline`] allows, and the cache had no stored
    /// value to return instead. (The layer responds with a 503.)
    TimedOut,
}

impl<E: fmt::Display> fmt::Display for ValueError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => error.fmt(f),
            Self::TimedOut => f.write_str("the load took longer than it may"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for ValueError<E> {}

/// The key of a value: a list of parts, which the cache puts in its [`Namespace`], or a complete [`CacheKey`].
pub trait ValueKey: sealed::ValueKey {}

/// What a load may return: an `Option` of the value, alone or together with a [`Keep`] that says how to store it.
pub trait IntoValue<T>: sealed::IntoValue<T> {}

mod sealed {
    use super::{CacheKey, Keep, Namespace};

    pub trait ValueKey {
        fn within(self, namespace: &Namespace) -> CacheKey;
    }

    pub trait IntoValue<T> {
        fn into_value(self) -> (Option<T>, Option<Keep>);
    }
}

impl<P: AsRef<str>, const N: usize> ValueKey for [P; N] {}

impl<P: AsRef<str>, const N: usize> sealed::ValueKey for [P; N] {
    fn within(self, namespace: &Namespace) -> CacheKey {
        namespace.key(self)
    }
}

impl ValueKey for CacheKey {}

impl sealed::ValueKey for CacheKey {
    fn within(self, _: &Namespace) -> CacheKey {
        self
    }
}

impl ValueKey for &CacheKey {}

impl sealed::ValueKey for &CacheKey {
    fn within(self, _: &Namespace) -> CacheKey {
        self.clone()
    }
}

impl<T> IntoValue<T> for Option<T> {}

impl<T> sealed::IntoValue<T> for Option<T> {
    fn into_value(self) -> (Option<T>, Option<Keep>) {
        (self, None)
    }
}

impl<T> IntoValue<T> for (Option<T>, Keep) {}

impl<T> sealed::IntoValue<T> for (Option<T>, Keep) {
    fn into_value(self) -> (Option<T>, Option<Keep>) {
        (self.0, Some(self.1))
    }
}

impl<T, S: Store> ValueCache<T, S>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Creates a cache that stores values in `store`, under keys of `namespace`, by the rules of `policy`.
    #[must_use]
    pub fn new(store: S, policy: Policy, namespace: Namespace) -> Self {
        Self::of(ReadThrough::new(store, policy, Clock::default()), namespace)
    }

    pub(crate) fn of(core: ReadThrough<S>, namespace: Namespace) -> Self {
        let (core, namespace) = (Arc::new(core), Arc::new(namespace));
        Self { core, namespace, deadline: None, tags_of: None, value: PhantomData }
    }

    /// Gives each value the [`Tag`]s that `tags_of` returns for its key. A load may add tags that are known only after
    /// it, by [`Keep::with_tags`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use response_boost::{MemoryStore, Namespace, Policy, ValueCache};
    ///
    /// let users = Namespace::parse("users")?;
    /// let (policy, namespace) = (Policy::new(Duration::from_secs(60)), users.clone());
    /// let teams = ValueCache::<Vec<u64>, _>::new(MemoryStore::default(), policy, users)
    ///     .with_tags(move |_| Ok(vec![namespace.tag("all-teams")?]));
    /// # Ok::<(), response_boost::InvalidNamespace>(())
    /// ```
    #[must_use]
    pub fn with_tags(
        mut self,
        tags_of: impl Fn(&CacheKey) -> Result<Vec<Tag>, InvalidTag> + Send + Sync + 'static,
    ) -> Self {
        self.tags_of = Some(Arc::new(tags_of));
        self
    }

    /// The same cache, for a request that must be answered by `deadline`. Without this the cache knows only the
    /// deadline of a Lambda invocation, and only inside [`AfterReplyLayer`](crate::AfterReplyLayer).
    /// [`Deadline::of_request`] finds the deadline of an HTTP request.
    #[must_use]
    pub fn until(&self, deadline: impl Into<Option<Deadline>>) -> Self {
        Self { deadline: deadline.into().or(self.deadline), ..self.clone() }
    }

    /// Returns the value stored under `key`; on a miss, calls `load` and stores what it returns.
    ///
    /// A fault of the store slows this down and is never an error. While one process loads, the others wait for its
    /// value. The cache calls `load` only when a load is due. A refresh may run after this function has returned, so
    /// `load` and its future own what they use: `async move || db.find(id).await`.
    ///
    /// # Errors
    ///
    /// `load` returned an error, or was cancelled. Within [`Policy::with_stale_if_error`] the cache returns a stored
    /// value instead.
    pub fn get_or_load<V, E, F>(
        &self,
        key: impl ValueKey,
        load: impl FnOnce() -> F + Send + 'static,
    ) -> impl Future<Output = Result<Option<T>, ValueError<E>>> + Send
    where
        V: IntoValue<T>,
        E: fmt::Display + Send + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        let key = key.within(&self.namespace);
        let tags = self.tags_of.as_ref().map(|tags_of| tags_of(&key));
        let tagging = Tagging::of(&key, tags, &self.core.policy);
        let policy = Arc::clone(&self.core.policy);
        let load = async move {
            let (value, keep) = load().await?.into_value();
            Ok(LoadedValue::of(value, keep.as_ref(), &policy))
        };
        // Not an `async fn`: the signature must promise `Send`, because the compiler fails to prove it for a `dyn
        // DynStore`.
        async move {
            let ends_at_ms = Deadline::left_of(self.deadline, &self.core.clock);
            let answer = self.core.answer(&key, tagging.as_deref(), ends_at_ms, load).await;
            let (value, status) = match answer.map_err(ValueError::Load)? {
                Answer::Cacheable { entry, status, refresh, .. } => {
                    if let Some(refresh) = refresh {
                        let core = Arc::clone(&self.core);
                        let refreshed = core.refresh(key, tagging, refresh, ends_at_ms);
                        self.core.defer(refreshed);
                    }
                    (Ok(entry.value), status)
                }
                Answer::Uncacheable { passed, status } => (passed, status),
            };
            tell(status);
            value.map_err(|CutOff| ValueError::TimedOut)
        }
    }

    /// Returns the values stored under many keys, in the order of the keys, and calls `load` for each key that misses.
    ///
    /// The lookups are sent all at once over the one connection to each node, so they cost one round trip. The misses
    /// load concurrently. In a [`Report`](crate::Report) their times add up.
    ///
    /// # Errors
    ///
    /// The first error, in the order of the keys. The cache returns it after all loads have ended, so that the values
    /// of the successful loads are stored.
    pub fn get_or_load_many<K, V, E, F>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: impl Fn(CacheKey) -> F + Clone + Send + 'static,
    ) -> impl Future<Output = Result<Vec<Option<T>>, ValueError<E>>> + Send
    where
        K: ValueKey,
        V: IntoValue<T>,
        E: fmt::Display + Send + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        let each = keys.into_iter().map(|key| {
            let (key, load) = (key.within(&self.namespace), load.clone());
            let loaded = key.clone();
            self.get_or_load(key, move || load(loaded))
        });
        let each: Vec<_> = each.map(Box::pin).collect();
        async move { join_all(each).await.into_iter().collect() }
    }

    /// Removes the value stored under `key`, so that the next call loads it. Change the data first, then call this.
    ///
    /// It waits for the store as long as a lookup would. The [crate] documentation states the guarantee.
    ///
    /// # Errors
    ///
    /// The store failed; the old value may still be stored.
    pub fn invalidate(
        &self,
        key: impl ValueKey,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let key = key.within(&self.namespace);
        async move { self.core.invalidate(&key).await }
    }

    /// Invalidates all values with this tag, by at most two commands and one more for each further shard.
    ///
    /// # Errors
    ///
    /// The store failed, and values with this tag may still be returned.
    pub fn invalidate_tag(&self, tag: &Tag) -> impl Future<Output = Result<(), StoreError>> + Send {
        let tag = tag.clone();
        async move { self.core.invalidate_tag(&tag).await }
    }

    /// Removes the values stored under all of these keys. It tries every key, even if others fail.
    ///
    /// # Errors
    ///
    /// The first fault: at least one old value may still be stored.
    pub fn invalidate_all<K: ValueKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let each: Vec<_> = keys.into_iter().map(|key| Box::pin(self.invalidate(key))).collect();
        async move { join_all(each).await.into_iter().collect() }
    }
}

impl<T, S> Clone for ValueCache<T, S> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
            namespace: Arc::clone(&self.namespace),
            deadline: self.deadline,
            tags_of: self.tags_of.clone(),
            value: PhantomData,
        }
    }
}

impl<T, S: fmt::Debug> fmt::Debug for ValueCache<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueCache")
            .field("core", &self.core)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

fn tell(status: CacheStatus) {
    record(|report| report.status = Some(status));
    debug!(cache_status = %status, "returned");
}
