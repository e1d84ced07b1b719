//! Tests the guarantee of tags in thousands of interleavings over a real Redis: no request that begins after a tag's
//! invalidation gets what a tagged entry held before it. Flawed variants show that the test would notice a violation.
//!
//! Clocks differ by up to 50 ms, the keys of tags are evicted, replies are lost, connections close, clients disconnect.
//! `GUARANTEE_ANSWERS` sets how many responses each run collects.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join_all};
use http::Response;
use http_body_util::Full;
use test_peers::PATIENCE;
use test_peers::cluster::{Cluster, Shape};
use test_peers::peer::Peer;
use test_peers::redis::RedisServer;
use uuid::Uuid;

use crate::caches::{Answer, Body, Cache, Kind, Responses, for_both, key_of};
use crate::clock::Clock;
use crate::read_through::ReadThrough;
use crate::{
    CacheKey, Expected, Found, Keep, Namespace, Policy, RedisSettings, RedisStore, Store,
    StoreError, Tag, ValueCache,
};

type TestCache = Cache<Arc<Rough>>;

const KEYS: usize = 12;
const TAGS: usize = 6;
const ENVIRONMENTS: usize = 6;
const ANSWERS: usize = 5_000;
/// A run that has not seen everything by chance may collect this many times its responses.
const TIMES_AS_MANY: usize = 20;
/// Clocks are right, or off by this much.
const SKEWS_MS: [i64; 3] = [0, -50, 50];

/// What names the tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Request,
    /// Only the response knows its tag, which changes all the time.
    Answer,
}

/// A flaw that breaks the guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// An entry is dead if, by the clocks, its tag was invalidated after its load.
    WallClock,
    /// The ids are read after the load.
    ReadLate,
    /// The id of the namespace's changes is not compared.
    NoChangeId,
}

struct World {
    kind: Kind,
    by: By,
    flaw: Flaw,
    answers: usize,
    /// The version of each tag's data.
    tags: Vec<Versions>,
    /// The tag of each key's data, if the key does not determine it.
    tag_of: Vec<AtomicU64>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Versions {
    current: AtomicU64,
    /// The newest version whose invalidation has returned: from now on, no older one may be served.
    invalidated: AtomicU64,
}

#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    hits: usize,
    stored: usize,
    stood_in: usize,
    refreshed: usize,
    /// Because a tag was invalidated before it was known.
    not_stored: usize,
    bypassed: usize,
    too_old: usize,
}

impl Seen {
    /// Whether everything to test has happened.
    fn has_all(&self, by: By) -> bool {
        let Self { hits, stored, stood_in, refreshed, not_stored, .. } = *self;
        [hits, stored, stood_in, refreshed].iter().all(|&count| count >= 5)
            && (by == By::Request || not_stored >= 5)
    }
}

/// A store that is slow at every step, sometimes loses a reply, and has the flaw.
struct Rough {
    store: RedisStore,
    flaw: Flaw,
    clock: Clock,
}

/// The id of every tag, if tags are ignored.
const SAME: &str = "00000000000000000000000000000000";

impl Rough {
    /// This process's current time, as an id.
    fn now(&self) -> Bytes {
        format!("{:032x}", self.clock.now_ms()).into()
    }

    /// Replaces the ids of an entry by those of the flaw, which have the same length.
    async fn restamped(&self, value: Bytes) -> Bytes {
        let Ok(text) = std::str::from_utf8(&value) else { return value };
        let Some(start) = text.find(r#""tags":["#) else { return value };
        let Some(end) = text[start..].find("]]").map(|end| start + end + 2) else { return value };
        let mut tags: Vec<(String, String)> = serde_json::from_str(&text[start + 7..end]).unwrap();
        for (key, id) in &mut tags {
            *id = self.other_id(&CacheKey::from_raw(key.clone()), id).await;
        }
        let tags = serde_json::to_string(&tags).unwrap();
        [&text[..start + 7], &tags, &text[end..]].concat().into()
    }

    async fn other_id(&self, tag: &CacheKey, id: &str) -> String {
        if self.flaw == Flaw::ReadLate {
            let id = self.store.stamp(tag, new_id(), PATIENCE).await;
            return id.map_or_else(|_| SAME.to_owned(), |id| String::from_utf8(id.into()).unwrap());
        }
        let is_alive = match self.store.get(tag).await {
            Ok(Found::Value(invalidated_at)) => invalidated_at < id.as_bytes(),
            found => found.is_ok_and(|found| found == Found::Nothing),
        };
        if is_alive { SAME.to_owned() } else { "f".repeat(32) }
    }
}

fn is_tag(key: &CacheKey) -> bool {
    key.as_str().contains(":%tag:")
}

fn is_changes(key: &CacheKey) -> bool {
    key.as_str().ends_with(":%changes")
}

impl Store for Rough {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        delay().await;
        if (self.flaw == Flaw::WallClock && is_tag(key))
            || (self.flaw == Flaw::NoChangeId && is_changes(key))
        {
            return Ok(Found::Value(SAME.into()));
        }
        let mut found = self.store.get(key).await?;
        if let (Flaw::WallClock, Found::Value(value)) = (self.flaw, &found) {
            found = Found::Value(self.restamped(value.clone()).await);
        }
        delay().await;
        Ok(found)
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        mut value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        delay().await;
        if self.flaw == Flaw::ReadLate {
            value = self.restamped(value).await;
        }
        let put = self.store.put(key, expected, value, life).await;
        delay().await;
        if below(60) == 0 { Err(lost()) } else { put }
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        delay().await;
        let deleted = if self.flaw == Flaw::WallClock && is_tag(key) {
            let put = self.store.put(key, Expected::Anything, self.now(), PATIENCE).await;
            put.map(drop)
        } else {
            self.store.delete(key).await
        };
        delay().await;
        if below(60) == 0 { Err(lost()) } else { deleted }
    }

    async fn stamp(&self, key: &CacheKey, id: Bytes, life: Duration) -> Result<Bytes, StoreError> {
        delay().await;
        match self.flaw {
            Flaw::WallClock if is_tag(key) => return Ok(self.now()),
            Flaw::NoChangeId if is_changes(key) => return Ok(SAME.into()),
            Flaw::ReadLate if is_tag(key) => return Ok(SAME.into()),
            _ => {}
        }
        let stamped = self.store.stamp(key, id, life).await;
        delay().await;
        if below(60) == 0 { Err(lost()) } else { stamped }
    }
}

fn new_id() -> Bytes {
    Uuid::new_v4().simple().to_string().into()
}

fn lost() -> StoreError {
    StoreError::Timeout("lost".into())
}

fn below(end: usize) -> usize {
    usize::try_from(Uuid::new_v4().as_u128() % end as u128).unwrap()
}

async fn delay() {
    let ms = [0, 0, 0, 1, 2, 5, 20][below(7)];
    if ms > 0 && below(3) == 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    } else {
        tokio::task::yield_now().await;
    }
}

fn namespace() -> Namespace {
    Namespace::parse("guarantee").unwrap()
}

fn tag(number: usize) -> Tag {
    // One of them has shards.
    let tag = namespace().tag(&number.to_string()).unwrap();
    if number == 0 { tag.with_shards(3) } else { tag }
}

fn tags_of(key: usize) -> [usize; 2] {
    [key % TAGS, (key + 1) % TAGS]
}

fn key(number: usize) -> CacheKey {
    namespace().key([number.to_string()])
}

/// The tags of a key, if the request names them.
fn tags_of_key(key: &CacheKey) -> Vec<Tag> {
    let number = key.as_str().rsplit(':').next().unwrap().parse().unwrap();
    tags_of(number).into_iter().map(tag).collect()
}

fn environment(peer: &Peer, world: &World, number: usize) -> TestCache {
    let settings = RedisSettings::parse(&peer.url()).unwrap();
    let settings = if peer.is_cluster() { settings.with_cluster() } else { settings };
    let settings = settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE);
    let policy = Policy::new(Duration::from_millis(150))
        .with_deadline(PATIENCE)
        .with_lease(Duration::from_millis(200))
        .with_load_limit(Duration::from_millis(150))
        .with_stale_if_error(Duration::from_millis(300))
        .with_stale_while_revalidate(Duration::from_millis(100))
        .with_early_refresh(50.0)
        .unwrap();
    let policy = match world.by {
        By::Request => policy,
        By::Answer => policy.with_response_tags(namespace()),
    };
    let clock = Clock::skewed(SKEWS_MS[number % SKEWS_MS.len()]);
    let store = RedisStore::new(settings);
    let store = Arc::new(Rough { store, flaw: world.flaw, clock: clock.clone() });
    let core = ReadThrough::new(store, policy, clock);
    let by_request = world.by == By::Request;
    match world.kind {
        Kind::Responses => {
            let layer = Responses::of(core, key_of);
            Cache::Responses(if by_request {
                layer.with_tags(|request| {
                    Ok(request.extensions.get().map(tags_of_key).unwrap_or_default())
                })
            } else {
                layer
            })
        }
        Kind::Values => {
            let values = ValueCache::of(core, namespace());
            Cache::Values(if by_request {
                values.with_tags(|key| Ok(tags_of_key(key)))
            } else {
                values
            })
        }
    }
}

async fn invalidate(cache: &TestCache, tag: &Tag) -> Result<(), StoreError> {
    match cache {
        Cache::Responses(layer) => layer.invalidate_tag(tag).await,
        Cache::Values(values) => values.invalidate_tag(tag).await,
    }
}

impl World {
    fn new(kind: Kind, by: By, flaw: Flaw) -> Arc<Self> {
        let answers = std::env::var("GUARANTEE_ANSWERS").map_or(ANSWERS, |n| n.parse().unwrap());
        let tags = (0..TAGS).map(|_| Versions::default()).collect();
        let tag_of = (0..KEYS).map(|key| AtomicU64::new((key % TAGS) as u64)).collect();
        Arc::new(Self { kind, by, flaw, answers, tags, tag_of, seen: Mutex::default() })
    }

    fn is_over(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        match self.flaw {
            Flaw::None if seen.answers >= self.answers && seen.has_all(self.by) => true,
            Flaw::None => seen.answers >= TIMES_AS_MANY * self.answers,
            _ => seen.too_old > 0 || seen.answers >= TIMES_AS_MANY * self.answers,
        }
    }

    /// A load: it reads at a random moment, and may fail. Its response is the version of each of its tags.
    async fn load(&self, key: usize) -> Response<Body> {
        delay().await;
        let tags = match self.by {
            By::Request => tags_of(key).to_vec(),
            By::Answer => {
                vec![usize::try_from(self.tag_of[key].load(Ordering::SeqCst)).unwrap()]
            }
        };
        let mut versions = HashMap::new();
        for &tag in &tags {
            versions.insert(tag, self.tags[tag].current.load(Ordering::SeqCst));
            delay().await;
        }
        let status = if below(10) == 0 { 503 } else { 200 };
        let body = serde_json::to_vec(&versions).unwrap();
        let mut response = Response::builder().status(status).body(Full::from(body)).unwrap();
        if self.by == By::Answer {
            response.extensions_mut().insert(Keep::tagged(tags.into_iter().map(tag)));
        }
        response
    }

    /// Sends one request, and compares the response with what had been invalidated before it.
    async fn read(self: &Arc<Self>, cache: &TestCache) {
        let key = below(KEYS);
        let floors: Vec<_> =
            self.tags.iter().map(|tag| tag.invalidated.load(Ordering::SeqCst)).collect();
        let world = Arc::clone(self);
        let load = move || {
            let world = Arc::clone(&world);
            async move { world.load(key).await }
        };
        let at = self::key(key);
        let answer = cache.ask(&at, None, load);
        // Some clients disconnect.
        let patience = if below(30) == 0 { 1 + below(40) as u64 } else { u64::from(u32::MAX) };
        let answer = tokio::time::timeout(Duration::from_millis(patience), answer).await;
        let Ok(Answer { status: 200, body, cache_status }) = answer else { return };
        let versions: HashMap<usize, u64> = serde_json::from_str(&body).unwrap();
        let seen = &mut *self.seen.lock().unwrap();
        seen.answers += 1;
        seen.too_old += usize::from(versions.iter().any(|(tag, version)| *version < floors[*tag]));
        for (count, what) in [
            (&mut seen.hits, "; hit"),
            (&mut seen.stored, "; stored"),
            (&mut seen.stood_in, self.kind.stood_in(503).as_str()),
            (&mut seen.refreshed, "refresh-after-reply"),
            (&mut seen.not_stored, "; detail=invalidated"),
            (&mut seen.bypassed, "; fwd=bypass"),
        ] {
            *count += usize::from(cache_status.contains(what));
        }
    }

    /// Changes a tag's data once, and invalidates the tag, by the library or by hand.
    async fn write(&self, cache: &TestCache, peer: &Peer) {
        // Some tags are rarely invalidated, so that their entries live until they expire.
        let number = below(if below(20) == 0 { TAGS } else { TAGS / 3 });
        let version = self.tags[number].current.fetch_add(1, Ordering::SeqCst) + 1;
        delay().await;
        if below(8) == 0 && self.flaw != Flaw::WallClock {
            peer.delete(tag(number).changes().as_str());
            for key in tag(number).keys() {
                peer.delete(key.as_str());
            }
        } else {
            // A reply may be lost or a connection closed; then the caller must retry.
            while invalidate(cache, &tag(number)).await.is_err() {}
        }
        self.tags[number].invalidated.fetch_max(version, Ordering::SeqCst);
        let pause = below(30) as u64;
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Disturbances besides invalidations: evictions, and keys that get other tags.
    async fn disturb(&self, peer: &Peer) {
        match below(4) {
            0 => peer.delete(tag(0).changes().as_str()),
            1 | 2 => peer.delete(tag(below(TAGS)).key_for(&namespace().key(["0"])).as_str()),
            _ => {}
        }
        self.tag_of[below(KEYS)].store(below(TAGS) as u64, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn cluster() -> Peer {
    let shape = Shape { primaries: 3, has_replicas: false, is_tls: false };
    Peer::Cluster(Box::new(Cluster::of(shape).await))
}

async fn run(peer: Peer, kind: Kind, by: By, flaw: Flaw) -> Seen {
    let world = World::new(kind, by, flaw);
    let mut tasks: Vec<LocalBoxFuture<'_, ()>> = Vec::new();
    let concurrent = environment(&peer, &world, 2);
    for number in 0..2 * ENVIRONMENTS {
        // Half of the caches are processes of their own; the others share one.
        let cache = if number % 2 == 0 {
            environment(&peer, &world, number / 2)
        } else {
            concurrent.clone()
        };
        let world = Arc::clone(&world);
        tasks.push(Box::pin(async move {
            while !world.is_over() {
                world.read(&cache).await;
            }
        }));
    }
    for number in [1, 2] {
        let cache = environment(&peer, &world, number);
        let (world, peer) = (Arc::clone(&world), &peer);
        tasks.push(Box::pin(async move {
            while !world.is_over() {
                world.write(&cache, peer).await;
            }
        }));
    }
    if flaw == Flaw::None {
        let (world, peer) = (Arc::clone(&world), &peer);
        tasks.push(Box::pin(async move {
            while !world.is_over() {
                world.disturb(peer).await;
                if below(10) == 0 {
                    for node in peer.nodes() {
                        node.command::<u64>(&["CLIENT", "KILL", "USER", "default"]);
                    }
                }
            }
        }));
    }
    join_all(tasks).await;
    let mut seen = world.seen.lock().unwrap();
    std::mem::take(&mut *seen)
}

for_both!(
    no_answer_is_older_than_an_invalidation_of_a_tag_before_it,
    no_answer_that_names_its_tags_is_older_than_an_invalidation_before_it,
    no_answer_is_older_than_an_invalidation_of_a_tag_before_it_in_a_cluster,
    no_answer_that_names_its_tags_is_older_than_an_invalidation_before_it_in_a_cluster,
    with_the_times_of_clocks_instead_of_ids_it_does_not_hold,
    with_ids_that_are_read_after_the_load_it_does_not_hold,
    without_the_id_of_changes_it_does_not_hold,
);

async fn server() -> Peer {
    Peer::Server(RedisServer::start().await)
}

#[expect(clippy::print_stdout, reason = "how much it has tested")]
async fn assert_holds(peer: Peer, kind: Kind, by: By) {
    let seen = run(peer, kind, by, Flaw::None).await;
    println!("{kind:?}, {by:?}: {seen:?}");
    assert_eq!(seen.too_old, 0, "{seen:?}");
    assert!(seen.has_all(by), "{seen:?}");
}

#[expect(clippy::print_stdout, reason = "how much it has tested")]
async fn assert_breaks(kind: Kind, by: By, flaw: Flaw) {
    let seen = run(server().await, kind, by, flaw).await;
    println!("{kind:?}, {by:?}, {flaw:?}: {seen:?}");
    assert!(seen.too_old > 0, "{seen:?}");
}

async fn no_answer_is_older_than_an_invalidation_of_a_tag_before_it(kind: Kind) {
    assert_holds(server().await, kind, By::Request).await;
}

async fn no_answer_that_names_its_tags_is_older_than_an_invalidation_before_it(kind: Kind) {
    assert_holds(server().await, kind, By::Answer).await;
}

async fn no_answer_is_older_than_an_invalidation_of_a_tag_before_it_in_a_cluster(kind: Kind) {
    assert_holds(cluster().await, kind, By::Request).await;
}

async fn no_answer_that_names_its_tags_is_older_than_an_invalidation_before_it_in_a_cluster(
    kind: Kind,
) {
    assert_holds(cluster().await, kind, By::Answer).await;
}

async fn with_the_times_of_clocks_instead_of_ids_it_does_not_hold(kind: Kind) {
    assert_breaks(kind, By::Request, Flaw::WallClock).await;
}

async fn with_ids_that_are_read_after_the_load_it_does_not_hold(kind: Kind) {
    assert_breaks(kind, By::Request, Flaw::ReadLate).await;
}

async fn without_the_id_of_changes_it_does_not_hold(kind: Kind) {
    assert_breaks(kind, By::Answer, Flaw::NoChangeId).await;
}
