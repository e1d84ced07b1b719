//! What leases guarantee, in thousands of interleavings over a real Redis: no request that begins
//! after an invalidation is answered with what was there before it. And that this test would notice.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, LocalBoxFuture, Shared, join_all};
use http::Response;
use http_body_util::{BodyExt as _, Full};
use response_boost::{
    CacheKey, Expected, Found, Namespace, Policy, RedisSettings, RedisStore, ResponseCacheLayer,
    Store, StoreError,
};
use test_peers::PATIENCE;
use test_peers::cluster::{Cluster, Shape};
use test_peers::redis::RedisServer;
use tower::{Layer as _, ServiceExt as _, service_fn};

type Request = http::Request<()>;
type Body = Full<Bytes>;

const KEYS: usize = 12;
/// Processes with one request at a time, and one process with as many at a time.
const ENVIRONMENTS: usize = 6;
const INVALIDATIONS: usize = 3_000;

/// What can be wrong, so that the guarantee does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// A fill replaces whatever is there.
    NoTokenCheck,
    /// A load may see what was there a moment ago.
    EventualReads,
    /// A process joins a load that it has begun already.
    SharedLoads,
}

/// The data behind the cache: a version for each key.
struct World {
    flaw: Flaw,
    keys: Vec<Versions>,
    invalidations: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Versions {
    current: AtomicU64,
    /// The newest whose invalidation has returned: nothing older may be the answer from now on.
    invalidated: AtomicU64,
}

/// What has happened, so that the test can tell whether it has tested anything.
#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    too_old: usize,
    by_status: HashMap<&'static str, usize>,
}

/// A store that is slow at every step, in another way each time.
struct Slow {
    store: RedisStore,
    flaw: Flaw,
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
        let expected = match expected {
            Expected::StartsWith(_) if self.flaw == Flaw::NoTokenCheck => Expected::Anything,
            expected => expected,
        };
        delay().await;
        let put = self.store.put(key, expected, value, life).await;
        delay().await;
        put
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
    // Mostly none, sometimes longer than a lease lasts.
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

fn number(request: &Request) -> usize {
    request.uri().path()[1..].parse().unwrap()
}

type TestCache = ResponseCacheLayer<Slow, fn(&Request) -> Option<CacheKey>>;

fn environment(redis: &RedisServer, flaw: Flaw) -> TestCache {
    let settings = RedisSettings::parse(&redis.url()).unwrap();
    let is_cluster = redis.command::<String>(&["INFO", "cluster"]).contains("cluster_enabled:1");
    let settings = if is_cluster { settings.with_cluster() } else { settings };
    // A busy machine is no fault of Redis.
    let settings = settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE);
    let policy = Policy::new(Duration::from_millis(150))
        .with_deadline(PATIENCE)
        // Some loads outlast it.
        .with_lease(Duration::from_millis(30))
        .with_stale_if_error(Duration::from_millis(300))
        .with_early_refresh(50.0)
        .unwrap();
    let store = Slow { store: RedisStore::new(settings), flaw };
    ResponseCacheLayer::new(store, policy, |request| Some(key(number(request))))
}

impl World {
    fn new(flaw: Flaw) -> Arc<Self> {
        let keys = (0..KEYS).map(|_| Versions::default()).collect();
        Arc::new(Self { flaw, keys, invalidations: AtomicUsize::new(0), seen: Mutex::default() })
    }

    fn is_over(&self) -> bool {
        let found = self.flaw != Flaw::None && self.seen.lock().unwrap().too_old > 0;
        found || self.invalidations.load(Ordering::SeqCst) >= INVALIDATIONS
    }

    /// A load: it reads at some moment of its own, and may fail.
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

    /// One request, held against what had been invalidated before it.
    async fn read(self: &Arc<Self>, cache: &TestCache, loads: &Loads, key: usize) {
        let floor = self.keys[key].invalidated.load(Ordering::SeqCst);
        let (world, loads) = (Arc::clone(self), loads.clone());
        let service = service_fn(move |request: Request| {
            let (world, loads) = (Arc::clone(&world), loads.clone());
            async move { Ok::<_, Infallible>(loads.load(world, number(&request)).await) }
        });
        let mut request = Request::default();
        *request.uri_mut() = format!("/{key}").parse().unwrap();
        let (parts, body) = cache.layer(service).oneshot(request).await.unwrap().into_parts();
        if parts.status != 200 {
            return;
        }
        let body = body.collect().await.unwrap().to_bytes();
        let version: u64 = std::str::from_utf8(&body).unwrap().parse().unwrap();
        let status = parts.headers["cache-status"].to_str().unwrap();
        let kinds =
            ["hit", "uri-miss; stored", "uri-miss; collapsed", "early-refresh", "fwd-status=503"];
        let mut seen = self.seen.lock().unwrap();
        seen.answers += 1;
        seen.too_old += usize::from(version < floor);
        for kind in kinds.iter().filter(|&&kind| status.contains(kind)) {
            *seen.by_status.entry(kind).or_default() += 1;
        }
    }

    /// One change and its invalidation, by the library or by hand.
    async fn write(&self, cache: &TestCache, redis: &RedisServer) {
        // Some are seldom changed, so that they live until their end.
        let among = if below(20) == 0 { KEYS } else { KEYS / 3 };
        let number = usize::try_from(below(among as u128)).unwrap();
        let version = self.keys[number].current.fetch_add(1, Ordering::SeqCst) + 1;
        delay().await;
        if below(4) == 0 {
            redis.command::<()>(&["DEL", key(number).as_str()]);
        } else {
            // Its connection may be closed twice; then it is the caller's to try again.
            while cache.invalidate(&key(number)).await.is_err() {}
        }
        self.keys[number].invalidated.fetch_max(version, Ordering::SeqCst);
        self.invalidations.fetch_add(1, Ordering::SeqCst);
        delay().await;
    }
}

/// A load that several wait for: its status and its body.
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

async fn run(flaw: Flaw) -> Seen {
    run_on(&RedisServer::start().await, flaw, false).await
}

/// With connections that are closed now and then, if so.
async fn run_on(redis: &RedisServer, flaw: Flaw, are_closed: bool) -> Seen {
    let world = World::new(flaw);
    let mut tasks: Vec<LocalBoxFuture<'_, ()>> = Vec::new();
    for _ in 0..ENVIRONMENTS {
        let (world, cache) = (Arc::clone(&world), environment(redis, flaw));
        tasks.push(Box::pin(async move {
            let loads = Loads::default();
            while !world.is_over() {
                world.read(&cache, &loads, usize::try_from(below(KEYS as u128)).unwrap()).await;
            }
        }));
    }
    let (concurrent, loads) = (environment(redis, flaw), Loads::default());
    for _ in 0..ENVIRONMENTS {
        let (world, cache, loads) = (Arc::clone(&world), concurrent.clone(), loads.clone());
        tasks.push(Box::pin(async move {
            while !world.is_over() {
                world.read(&cache, &loads, usize::try_from(below(KEYS as u128)).unwrap()).await;
            }
        }));
    }
    for _ in 0..2 {
        let (world, cache, redis) = (Arc::clone(&world), environment(redis, flaw), redis);
        tasks.push(Box::pin(async move {
            while !world.is_over() {
                world.write(&cache, redis).await;
            }
        }));
    }
    if are_closed {
        let world = Arc::clone(&world);
        tasks.push(Box::pin(async move {
            while !world.is_over() {
                redis.command::<u64>(&["CLIENT", "KILL", "USER", "default"]);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }
    join_all(tasks).await;
    let mut seen = world.seen.lock().unwrap();
    std::mem::take(&mut *seen)
}

#[tokio::test]
async fn no_answer_is_older_than_an_invalidation_before_it() {
    let seen = run(Flaw::None).await;
    println!("{seen:?}");
    assert_eq!(seen.too_old, 0, "{seen:?}");
    for (kind, at_least) in [
        ("hit", 100),
        ("uri-miss; stored", 100),
        ("uri-miss; collapsed", 20),
        ("early-refresh", 5),
        ("fwd-status=503", 5),
    ] {
        let times = seen.by_status.get(kind).copied().unwrap_or_default();
        assert!(times >= at_least, "{kind} came {times} times: {seen:?}");
    }
}

#[tokio::test]
async fn nor_in_a_cluster_whose_connections_are_closed() {
    let shape = Shape { primaries: 1, has_replicas: false, is_tls: false };
    let cluster = Cluster::of(shape).await;
    let seen = run_on(&cluster.nodes[0], Flaw::None, true).await;
    assert_eq!(seen.too_old, 0, "{seen:?}");
    assert!(seen.answers > 1_000, "{seen:?}");
}

#[tokio::test]
async fn without_the_check_of_the_token_it_does_not_hold() {
    assert!(run(Flaw::NoTokenCheck).await.too_old > 0);
}

#[tokio::test]
async fn with_reads_that_lag_behind_it_does_not_hold() {
    assert!(run(Flaw::EventualReads).await.too_old > 0);
}

#[tokio::test]
async fn with_loads_that_are_shared_in_a_process_it_does_not_hold() {
    assert!(run(Flaw::SharedLoads).await.too_old > 0);
}
