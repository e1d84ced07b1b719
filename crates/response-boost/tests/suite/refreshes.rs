//! Refreshes after the reply, over a real Redis: no client waits for the refresh of an existing entry, one process
//! loads it, and no invalidated response reappears.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Response;
use response_boost::{
    AfterReplyLayer, Deadline, Policy, Recorder, RedisSettings, RedisStore, Report,
};
use test_peers::redis::RedisServer;
use test_peers::{PATIENCE, wait_for};
use tokio::sync::Semaphore;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use crate::caches::{self, Body, Cache, Kind, for_both};
use crate::environment::key;

const SECOND: Duration = Duration::from_secs(1);
/// How long an entry may be served past its freshness.
const WINDOW: Duration = Duration::from_mins(10);
const STALE: &str = "detail=refresh-after-reply";

for_both!(
    an_entry_past_its_freshness_is_the_answer_and_is_loaded_anew_after_the_reply,
    one_of_many_loads_an_entry_anew_and_nobody_waits_for_it,
    the_next_request_tells_of_a_refresh_that_was_spawned,
    what_another_has_announced_is_left_to_it,
    a_refresh_that_fails_costs_no_client_anything_and_is_not_tried_again_for_a_second,
    what_was_loaded_before_an_invalidation_is_not_stored_by_a_refresh,
    a_refresh_that_would_outlast_the_invocation_is_cut_off_before,
    a_policy_can_have_the_request_load_it,
    past_the_window_the_request_loads_it,
);

/// A service that answers with the number of its loads, and with a status that the test sets.
#[derive(Clone)]
struct Origin {
    loads: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
    /// A load takes one permit.
    gate: Arc<Semaphore>,
}

impl Origin {
    fn new() -> Self {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { loads: Arc::default(), is_down: Arc::default(), gate }
    }

    /// The same, but no load ends before the test permits it.
    fn closed() -> Self {
        Self { gate: Arc::new(Semaphore::new(1)), ..Self::new() }
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    async fn wait_until_loads(&self, loads: usize) {
        wait_for("the load", || (self.loads() >= loads).then_some(())).await;
    }

    async fn answer(self) -> Response<Body> {
        let number = self.loads.fetch_add(1, Ordering::SeqCst) + 1;
        self.gate.acquire().await.unwrap().forget();
        let status = if self.is_down.load(Ordering::SeqCst) { 503 } else { 200 };
        Response::builder().status(status).body(number.to_string().into()).unwrap()
    }
}

struct Answer {
    body: String,
    cache_status: String,
    report: Report,
}

/// Serves requests as on Lambda, or as a server.
struct Process {
    cache: Cache<RedisStore>,
    origin: Origin,
    is_frozen: bool,
}

impl Process {
    fn new(kind: Kind, redis: &RedisServer, policy: Policy, origin: &Origin) -> Self {
        let settings = RedisSettings::parse(&redis.url()).unwrap();
        let settings = settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE);
        let cache = Cache::new(kind, RedisStore::new(settings), policy);
        Self { cache, origin: origin.clone(), is_frozen: true }
    }

    fn on_a_server(self) -> Self {
        Self { is_frozen: false, ..self }
    }

    /// The response; if the process is frozen after the reply, once the work after it is done.
    async fn get(&self) -> Answer {
        self.get_within(PATIENCE).await
    }

    async fn get_within(&self, left: Duration) -> Answer {
        let (cache, origin) = (self.cache.clone(), self.origin.clone());
        let answered = Arc::new(Mutex::new(None));
        let reply = Arc::clone(&answered);
        let gateway = service_fn(move |()| {
            let (cache, origin, reply) = (cache.clone(), origin.clone(), Arc::clone(&reply));
            async move {
                let load = move || origin.clone().answer();
                let deadline = Some(Deadline::after(left));
                *reply.lock().unwrap() = Some(cache.ask(&key("user"), deadline, load).await);
                Ok::<_, Infallible>(())
            }
        });
        let recorder = Recorder::default();
        if self.is_frozen {
            let layer = AfterReplyLayer::new(move |(): &()| Deadline::after(left));
            let mut gateway = layer.layer(gateway);
            recorder.watch(async { gateway.ready().await.unwrap().call(()).await }).await.unwrap();
        } else {
            recorder.watch(gateway.oneshot(())).await.unwrap();
        }
        let caches::Answer { body, cache_status, .. } = answered.lock().unwrap().take().unwrap();
        let cache_status = cache_status.replace("response-boost; ", "");
        Answer { body, cache_status, report: recorder.report() }
    }
}

fn policy() -> Policy {
    let policy = Policy::new(SECOND).with_deadline(PATIENCE);
    policy.with_early_refresh(0.0).unwrap().with_stale_while_revalidate(WINDOW)
}

/// Waits until the entry is stale.
async fn until_stale(redis: &RedisServer) {
    let ends_after_ms: i64 = redis.command(&["PTTL", key("user").as_str()]);
    let fresh_ms = ends_after_ms - i64::try_from(WINDOW.as_millis()).unwrap();
    tokio::time::sleep(Duration::from_millis(u64::try_from(fresh_ms + 5).unwrap_or(0))).await;
}

async fn an_entry_past_its_freshness_is_the_answer_and_is_loaded_anew_after_the_reply(kind: Kind) {
    let (redis, origin) = (RedisServer::start().await, Origin::new());
    let process = Process::new(kind, &redis, policy(), &origin);
    assert_eq!(process.get().await.cache_status, "fwd=uri-miss; stored");
    until_stale(&redis).await;
    let stale = process.get().await;
    assert_eq!((stale.body.as_str(), origin.loads()), ("1", 2));
    assert!(stale.cache_status.starts_with("hit; ttl=-"), "{}", stale.cache_status);
    assert!(stale.cache_status.ends_with(STALE), "{}", stale.cache_status);
    // The times of the request are its own: it loaded nothing.
    let Report { load, refreshes, refresh, after_reply, .. } = stale.report;
    assert_eq!((load, refreshes), (None, 1));
    assert!(after_reply.unwrap() >= refresh.unwrap());
    let fresh = process.get().await;
    assert_eq!((fresh.body.as_str(), fresh.report.after_reply), ("2", None));
    wait_for("the announcement to go", || (!is_announced(&redis)).then_some(())).await;
}

/// Whether a process is refreshing the entry, or has just failed to.
fn is_announced(redis: &RedisServer) -> bool {
    redis.command(&["EXISTS", "contract:user:refresh"])
}

async fn one_of_many_loads_an_entry_anew_and_nobody_waits_for_it(kind: Kind) {
    let (redis, origin) = (RedisServer::start().await, Origin::closed());
    let processes: Vec<_> =
        (0..20).map(|_| Process::new(kind, &redis, policy(), &origin).on_a_server()).collect();
    // An announcement lives for twice as long as the last load took, unless it is renewed. This makes it long enough
    // for a busy machine to renew it in time.
    origin.gate.forget_permits(1);
    let (_, ()) = tokio::join!(processes[0].get(), async {
        origin.wait_until_loads(1).await;
        tokio::time::sleep(SECOND / 2).await;
        origin.gate.add_permits(1);
    });
    until_stale(&redis).await;
    for answer in futures_util::future::join_all(processes.iter().map(Process::get)).await {
        assert_eq!(answer.body, "1");
        assert!(answer.cache_status.ends_with(STALE), "{}", answer.cache_status);
    }
    origin.wait_until_loads(2).await;
    origin.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    wait_for("the announcement to go", || (!is_announced(&redis)).then_some(())).await;
    assert_ne!(processes[1].get().await.body, "1");
    assert_eq!(origin.loads(), 2);
}

/// On a server no request waits for the refresh that it has left, so another one tells of it.
async fn the_next_request_tells_of_a_refresh_that_was_spawned(kind: Kind) {
    let (redis, origin) = (RedisServer::start().await, Origin::closed());
    let process = Process::new(kind, &redis, policy(), &origin).on_a_server();
    process.get().await;
    until_stale(&redis).await;
    let stale = process.get().await;
    assert!(stale.cache_status.ends_with(STALE), "{}", stale.cache_status);
    origin.wait_until_loads(2).await;
    origin.gate.add_permits(1);
    wait_for("the entry to be replaced", || {
        let stored = redis.command::<String>(&["GET", key("user").as_str()]);
        (stored.ends_with("\n2") || stored.ends_with("\n\"2\"")).then_some(())
    })
    .await;
    let mut told = Vec::new();
    let deadline = std::time::Instant::now() + PATIENCE;
    while told.is_empty() {
        assert!(std::time::Instant::now() < deadline, "no request tells of it");
        let Report { refreshes, refresh, load, .. } = process.get().await.report;
        assert_eq!(load, None);
        told.extend(refresh.map(|_| refreshes));
    }
    assert_eq!((stale.report.refreshes, told), (0, vec![1]));
    assert_eq!(process.get().await.report.refreshes, 0);
}

async fn what_another_has_announced_is_left_to_it(kind: Kind) {
    let (redis, origin) = (RedisServer::start().await, Origin::new());
    let process = Process::new(kind, &redis, policy(), &origin);
    process.get().await;
    until_stale(&redis).await;
    let token = format!("lease:{}", "0".repeat(32));
    redis.command::<()>(&["SET", "contract:user:refresh", &token]);
    assert!(process.get().await.cache_status.ends_with(STALE));
    assert_eq!(origin.loads(), 1);
    redis.command::<()>(&["DEL", "contract:user:refresh"]);
    assert!(process.get().await.cache_status.ends_with(STALE));
    assert_eq!(origin.loads(), 2);
}

async fn a_refresh_that_fails_costs_no_client_anything_and_is_not_tried_again_for_a_second(
    kind: Kind,
) {
    let (redis, origin) = (RedisServer::start().await, Origin::new());
    let process = Process::new(kind, &redis, policy(), &origin);
    process.get().await;
    until_stale(&redis).await;
    origin.is_down.store(true, Ordering::SeqCst);
    let started = std::time::Instant::now();
    for _ in 0..100 {
        let answer = process.get().await;
        assert_eq!(answer.body, "1");
        assert!(answer.cache_status.ends_with(STALE), "{}", answer.cache_status);
    }
    let most = 1 + usize::try_from(started.elapsed().as_secs() + 1).unwrap();
    assert!((2..=most).contains(&origin.loads()), "{} of {most}", origin.loads());
    origin.is_down.store(false, Ordering::SeqCst);
    wait_for("the failure to be forgotten", || (!is_announced(&redis)).then_some(())).await;
    process.get().await;
    // A whole second may be left, if the refresh took less than a millisecond.
    let fresh = process.get().await.cache_status;
    assert!(["hit; ttl=0", "hit; ttl=1"].contains(&&*fresh), "{fresh}");
}

async fn what_was_loaded_before_an_invalidation_is_not_stored_by_a_refresh(kind: Kind) {
    let (redis, origin) = (RedisServer::start().await, Origin::closed());
    let process = Process::new(kind, &redis, policy(), &origin).on_a_server();
    process.get().await;
    until_stale(&redis).await;
    process.get().await;
    origin.wait_until_loads(2).await;
    redis.command::<()>(&["DEL", key("user").as_str()]);
    origin.gate.add_permits(1);
    wait_for("the announcement to go", || (!is_announced(&redis)).then_some(())).await;
    assert!(!redis.command::<bool>(&["EXISTS", key("user").as_str()]));
}

async fn a_refresh_that_would_outlast_the_invocation_is_cut_off_before(kind: Kind) {
    let (redis, origin) = (RedisServer::start().await, Origin::closed());
    let hasty = policy().with_deadline(SECOND / 2);
    let process = Process::new(kind, &redis, hasty, &origin);
    process.get().await;
    until_stale(&redis).await;
    let started = std::time::Instant::now();
    // The load never ends.
    let answer = process.get_within(4 * SECOND).await;
    let took = started.elapsed();
    assert!(answer.cache_status.ends_with(STALE), "{}", answer.cache_status);
    assert!(took < 4 * SECOND && answer.report.refresh.unwrap() > SECOND, "{took:?}");
    let next = process.get_within(4 * SECOND).await;
    assert_eq!(next.body, "1");
}

async fn a_policy_can_have_the_request_load_it(kind: Kind) {
    let (redis, origin) = (RedisServer::start().await, Origin::new());
    let process = Process::new(kind, &redis, policy().with_inline_refresh(), &origin);
    process.get().await;
    until_stale(&redis).await;
    let answer = process.get().await;
    assert_eq!((answer.body.as_str(), answer.cache_status.as_str()), ("2", "fwd=stale; stored"));
    assert_eq!(answer.report.after_reply, None);
}

async fn past_the_window_the_request_loads_it(kind: Kind) {
    let redis = RedisServer::start().await;
    let origin = Origin::new();
    let brief = policy().with_stale_while_revalidate(Duration::from_millis(1));
    let process = Process::new(kind, &redis, brief, &origin);
    process.get().await;
    wait_for("the entry to end", || {
        (!redis.command::<bool>(&["EXISTS", key("user").as_str()])).then_some(())
    })
    .await;
    assert_eq!(process.get().await.cache_status, "fwd=uri-miss; stored");
}
