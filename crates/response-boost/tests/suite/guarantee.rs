//! Tests the guarantee of leases in thousands of interleavings over a real Redis: no request that begins after an
//! invalidation gets what was there before it. Flawed variants show that the test would notice a violation.
//!
//! Requests and loads are cancelled, the store loses replies and is slow at every step, and entries are refreshed after
//! the reply. So leases are renewed, released, voided and taken over. `GUARANTEE_ANSWERS` sets how many responses each
//! run collects.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, LocalBoxFuture, Shared, join_all};
use http::Response;
use http_body_util::BodyExt as _;
use response_boost::{
    CacheKey, Expected, Found, Namespace, Policy, RedisSettings, RedisStore, Store, StoreError,
};
use test_peers::PATIENCE;
use test_peers::cluster::{Cluster, Shape};
use test_peers::peer::Peer;
use test_peers::redis::RedisServer;

use crate::caches::{Body, Cache, Kind, for_both};

const KEYS: usize = 12;
/// The number of processes with one request at a time, and of concurrent requests in the one that has several.
const ENVIRONMENTS: usize = 6;
const ANSWERS: usize = 10_000;
/// A run that has not seen everything by chance may collect this many times its responses.
const TIMES_AS_MANY: usize = 20;

/// What must have happened to leases in a run, and how often at least.
const STEPS: [(&str, usize); 3] = [("renewed", 30), ("released", 20), ("taken over", 1)];
/// The same for the status of responses.
const STATUSES: [(&str, usize); 6] = [
    ("hit", 100),
    ("uri-miss; stored", 100),
    ("uri-miss; collapsed", 20),
    ("early-refresh", 5),
    ("refresh-after-reply", 5),
    // The load failed, and the entry is served.
    (STOOD_IN, 5),
];
const STOOD_IN: &str = "fwd=stale; ttl";

/// A flaw that breaks the guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Storing an entry replaces whatever is there.
    NoTokenCheck,
    /// A renewal and a release do so too.
    NoRenewalCheck,
    /// A load may read slightly old data.
    EventualReads,
    /// A process joins a load that it has already started.
    SharedLoads,
}

/// The data behind the cache: a version for each key.
struct World {
    kind: Kind,
    flaw: Flaw,
    keys: Vec<Versions>,
    answers: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Versions {
    current: AtomicU64,
    /// The newest version whose invalidation has returned: from now on, no older one may be served.
    invalidated: AtomicU64,
}

/// What has happened, so that the test knows whether it has tested anything.
#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    too_old: usize,
    by_status: HashMap<&'static str, usize>,
    /// What happened to leases.
    by_step: HashMap<&'static str, usize>,
}

impl Seen {
    /// What has not happened often enough.
    fn missing(&self) -> Option<&'static str> {
        let is_rare = |seen: &HashMap<&str, usize>, (kind, at_least): (&str, usize)| {
            seen.get(kind).copied().unwrap_or_default() < at_least
        };
        let step = STEPS.into_iter().find(|&step| is_rare(&self.by_step, step));
        step.or(STATUSES.into_iter().find(|&status| is_rare(&self.by_status, status)))
            .map(|(kind, _)| kind)
    }
}

/// A store that is slow at every step, each time differently, and sometimes loses a reply.
struct Slow {
    store: RedisStore,
    flaw: Flaw,
    world: Arc<World>,
}

impl Store for Slow {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        delay().await;
        let found = self.store.get(key).await;
        delay().await;
        found
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        // A renewal writes the token again, and a release does so for a millisecond.
        let holds = |start: &[u8]| start.starts_with(b"lease:") && value.starts_with(start);
        let step = match expected {
            Expected::StartsWith(start) if holds(start) && life.as_millis() == 1 => "released",
            Expected::StartsWith(start) if holds(start) => "renewed",
            Expected::StartsWith(start)
                if start.starts_with(b"lease:") && value.starts_with(b"lease:") =>
            {
                "taken over"
            }
            _ => "other",
        };
        let expected = match (expected, step) {
            (Expected::StartsWith(_), "renewed" | "released")
                if self.flaw == Flaw::NoRenewalCheck =>
            {
                Expected::Anything
            }
            (Expected::StartsWith(_), "other") if self.flaw == Flaw::NoTokenCheck => {
                Expected::Anything
            }
            (expected, _) => expected,
        };
        delay().await;
        let put = self.store.put(key, expected, value, life).await;
        delay().await;
        if put.as_ref().is_ok_and(|&done| done) {
            *self.world.seen.lock().unwrap().by_step.entry(step).or_default() += 1;
        }
        // Whether it was done is unknown. Replies to claims are lost most often.
        let one_of = if expected == Expected::Nothing { 15 } else { 60 };
        if below(one_of) == 0 { Err(StoreError::Timeout("lost".into())) } else { put }
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        delay().await;
        let deleted = self.store.delete(key).await;
        delay().await;
        deleted
    }
}

fn below(end: u128) -> u128 {
    uuid::Uuid::new_v4().as_u128() % end
}

async fn delay() {
    // Usually no delay, sometimes a longer one than a lease lasts.
    let ms = [0, 0, 0, 1, 2, 5, 40][usize::try_from(below(7)).unwrap()];
    if ms > 0 && below(3) == 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    } else {
        tokio::task::yield_now().await;
    }
}

fn key(number: usize) -> CacheKey {
    Namespace::parse("guarantee").unwrap().key([number.to_string()])
}

fn environment(peer: &Peer, world: &Arc<World>) -> Cache<Slow> {
    let settings = RedisSettings::parse(&peer.url()).unwrap();
    let settings = if peer.is_cluster() { settings.with_cluster() } else { settings };
    // A busy machine is not a fault of Redis.
    let settings = settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE);
    let policy = Policy::new(Duration::from_millis(150))
        .with_deadline(PATIENCE)
        // Many loads take longer.
        .with_lease(Duration::from_millis(30))
        .with_load_limit(Duration::from_millis(90))
        .with_stale_if_error(Duration::from_millis(300))
        // Refreshes are spawned, and end at any time.
        .with_stale_while_revalidate(Duration::from_millis(100))
        .with_early_refresh(50.0)
        .unwrap();
    let (flaw, kind, world) = (world.flaw, world.kind, Arc::clone(world));
    Cache::new(kind, Slow { store: RedisStore::new(settings), flaw, world }, policy)
}

impl World {
    fn new(kind: Kind, flaw: Flaw) -> Arc<Self> {
        let keys = (0..KEYS).map(|_| Versions::default()).collect();
        let answers = std::env::var("GUARANTEE_ANSWERS").map_or(ANSWERS, |n| n.parse().unwrap());
        Arc::new(Self { kind, flaw, keys, answers, seen: Mutex::default() })
    }

    fn is_over(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        let has_seen_all = match self.flaw {
            Flaw::None => seen.answers >= self.answers && seen.missing().is_none(),
            _ => seen.too_old > 0,
        };
        has_seen_all || seen.answers >= TIMES_AS_MANY * self.answers
    }

    /// A load: it reads at a random moment, and may fail.
    async fn load(&self, key: usize) -> Response<Body> {
        if below(2) == 0 {
            tokio::time::sleep(Duration::from_millis(u64::try_from(below(14)).unwrap())).await;
        }
        delay().await;
        let mut version = self.keys[key].current.load(Ordering::SeqCst);
        if self.flaw == Flaw::EventualReads && below(4) == 0 {
            version = version.saturating_sub(1);
        }
        delay().await;
        let status = if below(10) == 0 { 503 } else { 200 };
        Response::builder().status(status).body(version.to_string().into()).unwrap()
    }

    /// Sends one request, and compares the response with what had been invalidated before it.
    async fn read(self: &Arc<Self>, cache: &Cache<Slow>, loads: &Loads, key: usize) {
        let floor = self.keys[key].invalidated.load(Ordering::SeqCst);
        let load = {
            let (world, loads) = (Arc::clone(self), loads.clone());
            move || {
                let (world, loads) = (Arc::clone(&world), loads.clone());
                async move { loads.load(world, key).await }
            }
        };
        let at = self::key(key);
        let answer = cache.ask(&at, None, load);
        // Some clients disconnect, usually during a load.
        let patience = if below(20) == 0 { 1 + below(40) } else { u128::from(u64::MAX) };
        let patience = Duration::from_millis(u64::try_from(patience).unwrap());
        let Ok(answer) = tokio::time::timeout(patience, answer).await else { return };
        if answer.status != 200 {
            return;
        }
        let (version, status): (u64, _) = (answer.body.parse().unwrap(), answer.cache_status);
        // Only a response has an HTTP status.
        let status = status.replace("; fwd-status=503", "");
        let mut seen = self.seen.lock().unwrap();
        seen.answers += 1;
        seen.too_old += usize::from(version < floor);
        for (kind, _) in STATUSES.into_iter().filter(|(kind, _)| status.contains(kind)) {
            *seen.by_status.entry(kind).or_default() += 1;
        }
    }

    /// Changes a key once and invalidates it, by the library or by hand.
    async fn write(&self, cache: &Cache<Slow>, peer: &Peer) {
        // Some keys are rarely changed, so that their entries live until they expire.
        let among = if below(20) == 0 { KEYS } else { KEYS / 3 };
        let number = usize::try_from(below(among as u128)).unwrap();
        let version = self.keys[number].current.fetch_add(1, Ordering::SeqCst) + 1;
        delay().await;
        if below(4) == 0 {
            peer.delete(key(number).as_str());
        } else {
            // Its connection may be closed twice; then the caller must retry.
            while cache.invalidate(&key(number)).await.is_err() {}
        }
        self.keys[number].invalidated.fetch_max(version, Ordering::SeqCst);
        delay().await;
    }
}

/// A load that several requests wait for: its status and its body.
type SharedLoad = Shared<BoxFuture<'static, (u16, String)>>;

/// The loads of one process.
#[derive(Clone, Default)]
struct Loads {
    under_way: Arc<Mutex<HashMap<usize, SharedLoad>>>,
}

impl Loads {
    async fn load(&self, world: Arc<World>, key: usize) -> Response<Body> {
        if world.flaw != Flaw::SharedLoads {
            return world.load(key).await;
        }
        let load = {
            let under_way = Arc::clone(&self.under_way);
            let load = async move {
                let (parts, body) = world.load(key).await.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                under_way.lock().unwrap().remove(&key);
                (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
            };
            let mut all = self.under_way.lock().unwrap();
            all.entry(key).or_insert_with(|| load.boxed().shared()).clone()
        };
        let (status, version) = load.await;
        Response::builder().status(status).body(version.into()).unwrap()
    }
}

async fn run(kind: Kind, flaw: Flaw) -> Seen {
    run_on(Peer::Server(RedisServer::start().await), kind, flaw, false).await
}

/// Runs the test on this server; if `are_closed`, connections are closed now and then.
async fn run_on(peer: Peer, kind: Kind, flaw: Flaw, are_closed: bool) -> Seen {
    let world = World::new(kind, flaw);
    let mut tasks: Vec<LocalBoxFuture<'_, ()>> = Vec::new();
    for _ in 0..ENVIRONMENTS {
        let (world, cache) = (Arc::clone(&world), environment(&peer, &world));
        tasks.push(Box::pin(async move {
            let loads = Loads::default();
            while !world.is_over() {
                world.read(&cache, &loads, usize::try_from(below(KEYS as u128)).unwrap()).await;
            }
        }));
    }
    let (concurrent, loads) = (environment(&peer, &world), Loads::default());
    for _ in 0..ENVIRONMENTS {
        let (world, cache, loads) = (Arc::clone(&world), concurrent.clone(), loads.clone());
        tasks.push(Box::pin(async move {
            while !world.is_over() {
                world.read(&cache, &loads, usize::try_from(below(KEYS as u128)).unwrap()).await;
            }
        }));
    }
    for _ in 0..2 {
        let (world, cache, peer) = (Arc::clone(&world), environment(&peer, &world), &peer);
        tasks.push(Box::pin(async move {
            while !world.is_over() {
                world.write(&cache, peer).await;
            }
        }));
    }
    if are_closed {
        let (world, peer) = (Arc::clone(&world), &peer);
        tasks.push(Box::pin(async move {
            while !world.is_over() {
                for node in peer.nodes() {
                    node.command::<u64>(&["CLIENT", "KILL", "USER", "default"]);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }
    join_all(tasks).await;
    let mut seen = world.seen.lock().unwrap();
    std::mem::take(&mut *seen)
}

for_both!(
    no_answer_is_older_than_an_invalidation_before_it,
    no_answer_is_older_than_an_invalidation_before_it_in_a_cluster,
    nor_in_a_cluster_whose_connections_are_closed,
    without_the_check_of_the_token_it_does_not_hold,
    without_the_check_of_the_token_at_a_renewal_it_does_not_hold,
    with_reads_that_lag_behind_it_does_not_hold,
    with_loads_that_are_shared_in_a_process_it_does_not_hold,
);

fn assert_holds(seen: &Seen) {
    println!("{seen:?}");
    assert_eq!(seen.too_old, 0, "{seen:?}");
    assert_eq!(seen.missing(), None, "{seen:?}");
}

async fn no_answer_is_older_than_an_invalidation_before_it(kind: Kind) {
    assert_holds(&run(kind, Flaw::None).await);
}

async fn no_answer_is_older_than_an_invalidation_before_it_in_a_cluster(kind: Kind) {
    let cluster = Peer::Cluster(Box::new(Cluster::start().await));
    assert_holds(&run_on(cluster, kind, Flaw::None, false).await);
}

async fn nor_in_a_cluster_whose_connections_are_closed(kind: Kind) {
    let shape = Shape { primaries: 1, has_replicas: false, is_tls: false };
    let cluster = Peer::Cluster(Box::new(Cluster::of(shape).await));
    let seen = run_on(cluster, kind, Flaw::None, true).await;
    assert_eq!(seen.too_old, 0, "{seen:?}");
    assert!(seen.answers > 1_000, "{seen:?}");
}

async fn without_the_check_of_the_token_it_does_not_hold(kind: Kind) {
    assert!(run(kind, Flaw::NoTokenCheck).await.too_old > 0);
}

async fn without_the_check_of_the_token_at_a_renewal_it_does_not_hold(kind: Kind) {
    assert!(run(kind, Flaw::NoRenewalCheck).await.too_old > 0);
}

async fn with_reads_that_lag_behind_it_does_not_hold(kind: Kind) {
    assert!(run(kind, Flaw::EventualReads).await.too_old > 0);
}

async fn with_loads_that_are_shared_in_a_process_it_does_not_hold(kind: Kind) {
    assert!(run(kind, Flaw::SharedLoads).await.too_old > 0);
}
