//! The ids that an entry's [tags](crate::Tag) had when its load began. The entry may be served while the ids are
//! unchanged.
//!
//! An id is random, so it never reappears, neither after an invalidation nor after an eviction. The cache reads it
//! before the load. If a tag is invalidated after the load has read its data, the entry carries an id that is gone.

use std::borrow::Cow;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::budget::Budget;
use crate::join::join_all;
use crate::read_through::ReadThrough;
use crate::{
    CacheKey, DecodeError, Found, InvalidTag, NotStored, Policy, Store, StoreError, Tag, tag,
};

/// The shortest life of a tag once a load has read it. An entry that outlives its tags is a miss.
const LEAST_LIFE: Duration = Duration::from_hours(12);
/// The longest: Redis rejects a TTL that overflows when added to the current time.
const LONGEST_LIFE: Duration = Duration::from_hours(24 * 365 * 10);

/// A tag of an entry, and the id that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) key: CacheKey,
    pub(crate) id: String,
}

/// The tags that are known before the entry: those of the request and of the policy.
pub(crate) struct Tagging {
    keys: Vec<CacheKey>,
    /// The key that every invalidation changes, if the response may name more tags.
    changes: Option<CacheKey>,
    /// How long the entry lives, unless its response says otherwise.
    entry_life: Duration,
    is_valid: bool,
}

/// The ids that were read before a load.
#[derive(Default)]
pub(crate) struct Stamps {
    tags: Vec<Stamp>,
    changes: Option<Stamp>,
    /// How long they live at least from then on.
    life: Duration,
}

impl Tagging {
    /// The tagging of the entry under `key`. `None`: it has no tags, and its response may not name any.
    pub(crate) fn of(
        key: &CacheKey,
        of_request: Option<Result<Vec<Tag>, InvalidTag>>,
        policy: &Policy,
    ) -> Option<Box<Self>> {
        let of_request = of_request.unwrap_or_else(|| Ok(Vec::new()));
        let (of_request, is_valid) = of_request.map_or((Vec::new(), false), |tags| (tags, true));
        if is_valid
            && of_request.is_empty()
            && policy.tags.is_empty()
            && policy.response_tags.is_none()
        {
            return None;
        }
        let mut keys: Vec<CacheKey> = Vec::with_capacity(of_request.len() + policy.tags.len());
        for key in of_request.into_iter().map(|tag| tag.into_key_for(key)) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys.extend(distinct(policy.tags.iter(), key, &keys));
        Some(Box::new(Self {
            is_valid: is_valid && keys.len() <= Tag::MOST,
            keys,
            changes: policy.response_tags.as_ref().map(crate::Namespace::changes),
            entry_life: policy.longest_life(),
        }))
    }

    /// Whether the entry may have these tags. If not, the cache neither looks it up nor stores it.
    pub(crate) fn is_valid(&self) -> bool {
        self.is_valid
    }

    /// The keys of the tags.
    pub(crate) fn keys(&self) -> &[CacheKey] {
        &self.keys
    }

    /// Reads the current ids of the tags, and creates missing ones.
    pub(crate) async fn stamp<S: Store>(&self, store: &S) -> Result<Stamps, StoreError> {
        let life = self.entry_life.max(LEAST_LIFE);
        let mut tags = stamp(store, self.keys.iter().chain(&self.changes), life).await?;
        let changes = self.changes.as_ref().and_then(|_| tags.pop());
        Ok(Stamps { tags, changes, life })
    }
}

impl Stamps {
    /// Whether no tags are known before the response.
    pub(crate) fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }
}

impl<S: Store> ReadThrough<S> {
    /// Whether an entry with these stamps may be served. It must have all known tags, with the ids that were `found`;
    /// the ids of its other tags are looked up now.
    pub(crate) async fn is_alive(
        &self,
        stamps: &[Stamp],
        tagging: Option<(&Tagging, Vec<Found>)>,
        budget: &mut Budget<'_>,
    ) -> Result<bool, StoreError> {
        let (known, found) = tagging
            .map_or((&[][..], Vec::new()), |(tagging, found)| (tagging.keys.as_slice(), found));
        for (key, found) in known.iter().zip(&found) {
            // An entry that lacks a tag was stored by a release that did not have the tag.
            if !stamps.iter().any(|stamp| stamp.key == *key && stamp.is(found)) {
                return Ok(false);
            }
        }
        let others: Vec<_> = stamps.iter().filter(|stamp| !known.contains(&stamp.key)).collect();
        if others.is_empty() {
            return Ok(true);
        }
        let keys: Vec<_> = others.iter().map(|stamp| &stamp.key).collect();
        let found = budget.look_up(&self.shared.store, &keys).await?;
        Ok(others.iter().zip(&found).all(|(stamp, found)| stamp.is(found)))
    }

    /// The stamps of an entry that is about to be stored under `key` for `life`, including the tags that its response
    /// names.
    ///
    /// `Err`: it may not be stored.
    pub(crate) async fn stamps_of(
        &self,
        key: &CacheKey,
        stamps: Stamps,
        named: &[Tag],
        life: Duration,
        budget: &mut Budget<'_>,
    ) -> Result<Vec<Stamp>, NotStored> {
        let Stamps { mut tags, changes, life: lasts } = stamps;
        let known: Vec<_> = tags.iter().map(|stamp| stamp.key.clone()).collect();
        let named = distinct(named.iter(), key, &known);
        if tags.len() + named.len() > Tag::MOST {
            return Err(NotStored::Tags);
        }
        let fault = |fault| {
            let word = self.tell(&fault, "tags not read; the answer is not stored");
            NotStored::of(&fault, word)
        };
        // The response lives longer than its tags may, so renew them.
        if life > lasts && !tags.is_empty() {
            let keys = tags.iter().map(|stamp| &stamp.key);
            let now = budget.spend(stamp(&self.shared.store, keys, life)).await.map_err(fault)?;
            if now != tags {
                return Err(NotStored::Invalidated);
            }
        }
        if named.is_empty() {
            return Ok(tags);
        }
        let Some(changes) = changes else { return Err(NotStored::Tags) };
        let life = life.max(LEAST_LIFE);
        let stamped = budget.spend(stamp(&self.shared.store, named.iter(), life)).await;
        tags.extend(stamped.map_err(fault)?);
        // An invalidation may have come after the load read its data and before these ids were read. It deleted the
        // tags in vain, but it changed this key first.
        let found = budget.spend(self.shared.store.get(&changes.key)).await.map_err(fault)?;
        if changes.is(&found) { Ok(tags) } else { Err(NotStored::Invalidated) }
    }

    /// Deletes the keys of a tag, within the time that a request may wait for the store.
    pub(crate) async fn invalidate_tag(&self, tag: &Tag) -> Result<(), StoreError> {
        self.within_deadline(invalidate_tags(&self.shared.store, std::slice::from_ref(tag))).await
    }
}

impl Budget<'_> {
    /// Looks up these keys.
    pub(crate) async fn look_up<S: Store>(
        &mut self,
        store: &S,
        keys: &[&CacheKey],
    ) -> Result<Vec<Found>, StoreError> {
        let found = self.spend_within(store.get_limit(), pin!(store.get_many(keys))).await?;
        // A custom store must not revive an entry by skipping the lookup of its tag.
        if found.len() == keys.len() {
            Ok(found)
        } else {
            Err(StoreError::Failed("not as many values as keys".into()))
        }
    }
}

/// Deletes the key that loads read a second time, for each namespace, and then the keys of all tags. It tries all of
/// them. `Err`: the first fault; at least one tag may not be invalidated.
pub(crate) async fn invalidate_tags<S: Store>(store: &S, tags: &[Tag]) -> Result<(), StoreError> {
    let mut changes: Vec<CacheKey> = Vec::new();
    for key in tags.iter().map(Tag::changes) {
        if !changes.contains(&key) {
            changes.push(key);
        }
    }
    let keys: Vec<_> = tags.iter().flat_map(Tag::keys).collect();
    let announced = delete(store, &changes).await;
    let deleted = delete(store, &keys).await;
    announced.and(deleted)
}

async fn delete<S: Store>(store: &S, keys: &[CacheKey]) -> Result<(), StoreError> {
    let deletions = keys.iter().map(|key| Box::pin(store.delete(key))).collect();
    join_all(deletions).await.into_iter().collect()
}

/// Reads or creates the ids of these tags, each of which then lives for at least `life`.
async fn stamp<'a, S: Store>(
    store: &S,
    keys: impl Iterator<Item = &'a CacheKey>,
    life: Duration,
) -> Result<Vec<Stamp>, StoreError> {
    // Twice as long, so that not every load renews it.
    let life = life.saturating_mul(2).min(LONGEST_LIFE);
    let stamped = keys.map(|key| {
        Box::pin(async move {
            let id = store.stamp(key, new_id(), life).await?;
            let id = String::from_utf8(id.into()).ok().filter(|id| is_id(id));
            let id = id.ok_or_else(|| StoreError::Failed("the key of a tag holds no id".into()))?;
            Ok(Stamp { key: key.clone(), id })
        })
    });
    join_all(stamped.collect()).await.into_iter().collect()
}

/// The distinct keys of these tags for the entry under `key`, without the known ones.
fn distinct<'a>(
    tags: impl Iterator<Item = &'a Tag>,
    key: &CacheKey,
    known: &[CacheKey],
) -> Vec<CacheKey> {
    let mut keys = Vec::new();
    for key in tags.map(|tag| tag.key_for(key)) {
        if !keys.contains(&key) && !known.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// A new id for each call: an id that is used twice could reappear after an invalidation.
fn new_id() -> Bytes {
    Uuid::new_v4().simple().to_string().into()
}

fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Stamps as an entry stores them: the key of the tag, and its id.
pub(crate) type Written<'a> = Vec<(Cow<'a, str>, &'a str)>;

pub(crate) fn written(stamps: &[Stamp]) -> Written<'_> {
    stamps.iter().map(|stamp| (stamp.key.as_str().into(), stamp.id.as_str())).collect()
}

pub(crate) fn read_from(written: Written<'_>) -> Result<Vec<Stamp>, DecodeError> {
    let stamps = written.into_iter().map(|(key, id)| {
        let is_stamp = tag::is_tag(&key) && is_id(id);
        is_stamp.then(|| Stamp { key: CacheKey::from_raw(key.into_owned()), id: id.to_owned() })
    });
    stamps.collect::<Option<_>>().ok_or(DecodeError::Tag)
}

impl Stamp {
    fn is(&self, found: &Found) -> bool {
        matches!(found, Found::Value(id) if *id == self.id)
    }
}
