//! The cache for values: what a function returns, rather than what a service answers.

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

/// Stores what a function of yours returns in a [`Store`], and returns it again: permissions, configuration, what
/// another API has said.
///
/// It is the same core as that of [`ResponseCacheLayer`](crate::ResponseCacheLayer), with all that its [`Policy`] says:
/// leases, serving stale, deadlines, the breaker, the [`Report`](crate::Report). What concerns HTTP alone (methods,
/// statuses but 404, clients, key headers) has no effect.
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
/// A line of metadata and the value as JSON, which reads well in `redis-cli`; [`None`] leaves the second line empty. What
/// does not deserialize, since another release of the type has written it, is a miss: it is loaded and replaced, and
/// logged once a minute at most. Where a new release gives a field another meaning and the same form, it has to give
/// the key another part.
///
/// `Some` is stored for the policy's time to live, `None` for its [`with_not_found_ttl`](Policy::with_not_found_ttl),
/// and not at all without one. The load may say otherwise: it then returns `(value, Keep::new(ttl))`, and
/// [`Keep::new`] with zero for what is not to be stored.
///
/// Clones share the store.
pub struct ValueCache<T, S> {
    core: Arc<ReadThrough<S>>,
    namespace: Arc<Namespace>,
    deadline: Option<Deadline>,
    tags_of: Option<Arc<TagsOf>>,
    value: PhantomData<fn() -> T>,
}

/// The tags of the value under a key.
type TagsOf = dyn Fn(&CacheKey) -> Result<Vec<Tag>, InvalidTag> + Send + Sync;

/// Why there is no value.
///
/// It is an [`Error`](std::error::Error) whatever `E` is, so that `?` makes a `Box<dyn Error>` or an `anyhow::Error` of
/// it also where `E` is one of these, which do not implement `Error` themselves. It has no `source`: find the causes in
/// the `E` of [`Load`](Self::Load).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueError<E> {
    /// The load failed, in its own words, and no stored value may be returned instead.
    Load(E),
    /// The load was cut off: it took longer than [`Policy::with_load_limit`] or the [`Deadline`] lets it, and no stored
    /// value may be returned instead. (The layer answers 503.)
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

/// What a value is stored under: a list of parts, which the cache puts in its [`Namespace`], or a [`CacheKey`] as it
/// stands.
pub trait ValueKey: sealed::ValueKey {}

/// What a load may return: the value alone, or with how it is to be stored.
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
    /// A cache that stores in `store`, by the rules of `policy`, under keys of `namespace`.
    #[must_use]
    pub fn new(store: S, policy: Policy, namespace: Namespace) -> Self {
        let core = Arc::new(ReadThrough::new(store, policy, Clock::default()));
        let namespace = Arc::new(namespace);
        Self { core, namespace, deadline: None, tags_of: None, value: PhantomData }
    }

    /// Gives each value the [`Tag`]s that this function gives for its key. A load may add some that only it knows:
    /// [`Keep::with_tags`].
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

    /// The same cache for a request that must be answered by then. None is known otherwise but that of the invocation
    /// inside [`AfterReplyLayer`](crate::AfterReplyLayer); [`Deadline::of_request`] finds that of an HTTP request.
    #[must_use]
    pub fn until(&self, deadline: impl Into<Option<Deadline>>) -> Self {
        Self { deadline: deadline.into().or(self.deadline), ..self.clone() }
    }

    /// The value stored under `key`, else the one that `load` returns, which is then stored.
    ///
    /// A fault of the store makes it slower and is never an error. While one process loads, the others wait for its
    /// value. `load` is called only where a load is due, and may run after this has returned (a refresh), so it and its
    /// future own what they use: `async move || db.find(id).await`.
    ///
    /// # Errors
    ///
    /// What `load` returns as an error, or that it was cut off; in either case a stored value is returned instead within
    /// [`Policy::with_stale_if_error`].
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
        // No `async fn`: that it is `Send` is to be known here, since the compiler fails to prove it of a `dyn DynStore`.
        async move {
            let ends_at_ms = Deadline::left_of(self.deadline, self.core.clock.now_ms());
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

    /// The values stored under many keys, and of those that are not there what `load` returns for each; in the order of
    /// the keys.
    ///
    /// The lookups are sent all at once, over the one connection to each node: they cost one round trip. Those that
    /// miss are loaded at the same time as each other. In a [`Report`](crate::Report) their times add up.
    ///
    /// # Errors
    ///
    /// The first error in the order of the keys, once all loads have ended, so that what the others have loaded is
    /// stored.
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

    /// Removes the value stored under `key`, so that the next call loads it: first the change, then this.
    ///
    /// It waits for the store as long as a lookup would. The [crate] says what it guarantees.
    ///
    /// # Errors
    ///
    /// The store failed, and the old value may still be there.
    pub fn invalidate(
        &self,
        key: impl ValueKey,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let key = key.within(&self.namespace);
        async move { self.core.invalidate(&key).await }
    }

    /// Invalidates all values that have this tag, by at most two commands and one more for each further shard.
    ///
    /// # Errors
    ///
    /// The store failed, and values with this tag may still be returned.
    pub fn invalidate_tag(&self, tag: &Tag) -> impl Future<Output = Result<(), StoreError>> + Send {
        let tag = tag.clone();
        async move { self.core.invalidate_tag(&tag).await }
    }

    /// Removes the values stored under all of these keys; each is tried, whatever becomes of the others.
    ///
    /// # Errors
    ///
    /// The first fault: at least one old value may still be there.
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
