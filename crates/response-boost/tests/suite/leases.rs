//! Leases between processes over a real Redis: which process loads, which ones wait, and how a lease ends, however its
//! load ends. A process is a cache, of responses or of values, with its own store.
//!
//! Most leases here live for ten minutes, so a request that waited for one in vain would wait until the test times out.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use http::Response;
use response_boost::{
    CacheKey, Deadline, Expected, Found, Namespace, Policy, RedisSettings, RedisStore, Store,
    StoreError,
};
use test_peers::PATIENCE;
use test_peers::cluster::Cluster;
use test_peers::proxy::{Mode, Proxy};
use test_peers::redis::RedisServer;
use tokio::sync::Barrier;

use crate::caches::{self, Body, Cache, Kind, for_both};

type Process<S = RedisStore> = Cache<S>;

const KEY: &str = "contract:lease";
/// The first 128 bits of its SHA-256.
const KEY_HASH: &str = "9c8fd22854ca1f98198784653b77f0e0";
const STORED: &str = "response-boost; fwd=uri-miss; stored";
const COLLAPSED: &str = "response-boost; fwd=uri-miss; collapsed";
/// The life of a lease that no test outlasts.
const TEN_MINUTES: Duration = Duration::from_mins(10);
const LOAD: Duration = Duration::from_millis(300);

for_both!(
    a_cold_key_is_loaded_once,
    a_load_of_three_leases_is_made_once_and_stored,
    a_load_of_three_leases_is_made_once_in_a_cluster,
    a_miss_costs_three_commands_and_one_for_each_half_of_a_lease,
    a_request_that_is_cancelled_leaves_no_lease,
    a_panic_leaves_no_lease,
    a_fill_that_is_lost_leaves_no_lease,
    a_process_takes_over_at_once_what_its_own_lost_claim_has_left,
    without_the_right_to_run_scripts_nobody_queues,
    a_process_whose_fills_are_refused_takes_no_lease_for_a_while,
    a_server_that_is_full_at_the_fill_holds_nobody_up,
    a_server_that_is_demoted_during_a_load_holds_nobody_up,
    in_an_outage_one_request_a_second_loads_and_the_others_are_served_stale_at_once,
    those_who_wait_for_a_refresh_that_fails_are_served_stale,
    an_entry_stays_in_hand_when_redis_goes_away_during_the_wait,
    only_an_answer_that_may_be_kept_or_says_gone_replaces_an_entry,
    a_service_that_hangs_is_cut_off_and_the_entry_answers,
    a_deadline_shorter_than_the_limit_of_a_load_does_not_forbid_to_wait,
    what_is_never_stored_is_remembered_for_longer_than_what_is_not_today,
);

fn policy() -> Policy {
    Policy::new(Duration::from_mins(5)).with_lease(TEN_MINUTES).with_deadline(PATIENCE)
}

/// A busy machine is not a fault of Redis.
fn settings(url: &str) -> RedisSettings {
    let settings = RedisSettings::parse(url).unwrap();
    settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE)
}

fn process(kind: Kind, url: &str, policy: &Policy) -> Process {
    Cache::new(kind, RedisStore::new(settings(url)), policy.clone())
}

fn processes(kind: Kind, count: usize, url: &str, policy: &Policy) -> Vec<Process> {
    (0..count).map(|_| process(kind, url, policy)).collect()
}

/// The service behind the caches, which counts its loads.
#[derive(Clone)]
struct Origin {
    loads: Arc<AtomicUsize>,
    answer: Arc<dyn Fn() -> BoxFuture<'static, Response<Body>> + Send + Sync>,
}

impl Origin {
    fn new<F>(answer: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self { loads: Arc::default(), answer: Arc::new(move || answer().boxed()) }
    }

    fn after(time: Duration, status: u16, body: &'static str) -> Self {
        Self::new(move || async move {
            tokio::time::sleep(time).await;
            response(status, body)
        })
    }

    fn at_once(status: u16, body: &'static str) -> Self {
        Self::after(Duration::ZERO, status, body)
    }

    /// No load ends before this many have started, so a request that waited for another's load would wait in vain.
    fn together(count: usize) -> Self {
        let barrier = Arc::new(Barrier::new(count));
        Self::new(move || {
            let barrier = Arc::clone(&barrier);
            async move {
                barrier.wait().await;
                response(200, "together")
            }
        })
    }

    fn silent() -> Self {
        Self::new(std::future::pending)
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    async fn has_been_asked(&self) {
        test_peers::wait_for("a load", || (self.loads() > 0).then_some(())).await;
    }
}

fn response(status: u16, body: &'static str) -> Response<Body> {
    Response::builder().status(status).body(body.into()).unwrap()
}

struct Answer {
    status: u16,
    body: String,
    cache_status: String,
    took: Duration,
}

impl Answer {
    fn assert(&self, body: &str, cache_status: &str) {
        assert_eq!((self.body.as_str(), self.cache_status.as_str()), (body, cache_status));
    }

    /// Asserts that the response was loaded and not stored, for one of these reasons.
    fn assert_alone(&self, body: &str, details: &[&str]) {
        let detail = self.cache_status.strip_prefix("response-boost; fwd=uri-miss; detail=");
        assert!(details.contains(&detail.unwrap_or_default()), "{}", self.cache_status);
        assert_eq!(self.body, body);
    }
}

async fn ask<S: Store>(process: &Process<S>, origin: &Origin) -> Answer {
    ask_until(process, origin, None).await
}

async fn ask_until<S: Store>(
    process: &Process<S>,
    origin: &Origin,
    deadline: Option<Deadline>,
) -> Answer {
    let Origin { loads, answer } = origin.clone();
    let load = move || {
        loads.fetch_add(1, Ordering::SeqCst);
        answer()
    };
    let key = Namespace::parse("contract").unwrap().key(["lease"]);
    let started = Instant::now();
    let answered = tokio::time::timeout(PATIENCE, process.ask(&key, deadline, load)).await;
    let caches::Answer { status, body, cache_status } =
        answered.expect("no response within the limit");
    Answer { status, body, cache_status, took: started.elapsed() }
}

async fn ask_all(processes: &[Process], origin: &Origin) -> Vec<Answer> {
    join_all(processes.iter().map(|process| ask(process, origin))).await
}

fn with(answers: &[Answer], cache_status: &str) -> usize {
    answers.iter().filter(|answer| answer.cache_status == cache_status).count()
}

fn slowest(answers: &[Answer]) -> Duration {
    answers.iter().map(|answer| answer.took).max().unwrap()
}

/// The value under the key.
fn value(redis: &RedisServer) -> String {
    redis.command::<Option<String>>(&["GET", KEY]).unwrap_or_default()
}

/// Waits for a release, which runs in the background.
async fn until_gone(redis: &RedisServer) {
    test_peers::wait_for("the lease to be gone", || value(redis).is_empty().then_some(())).await;
}

/// Several processes, each with many callers at once.
async fn a_cold_key_is_loaded_once(kind: Kind) {
    let redis = RedisServer::start().await;
    let processes = processes(kind, 8, &redis.url(), &policy());
    for round in 1..=3 {
        // No load ends before all callers have had time to ask.
        let origin = Origin::after(LOAD, 200, "x");
        let callers = (0..10).flat_map(|_| &processes).map(|process| ask(process, &origin));
        let answers = join_all(callers).await;
        assert!(answers.iter().all(|answer| answer.body == "x"));
        assert_eq!((with(&answers, STORED), origin.loads()), (1, 1), "round {round}");
        redis.command::<()>(&["DEL", KEY]);
    }
}

async fn assert_a_long_load_is_made_once(kind: Kind, url: &str, settings: RedisSettings) {
    // So long that even a busy machine renews in time.
    let lease = Duration::from_secs(2);
    let policy = policy().with_lease(lease);
    let origin = Origin::after(3 * lease, 200, "slow");
    let processes: Vec<_> = (0..4)
        .map(|_| Cache::new(kind, RedisStore::new(settings.clone()), policy.clone()))
        .collect();
    let answers = ask_all(&processes, &origin).await;
    println!("{url}: all after {:?}", slowest(&answers));
    assert_eq!((with(&answers, STORED), with(&answers, COLLAPSED)), (1, 3));
    assert_eq!(origin.loads(), 1);
    assert!(ask(&processes[0], &origin).await.cache_status.contains("; hit; "));
}

async fn a_load_of_three_leases_is_made_once_and_stored(kind: Kind) {
    let redis = RedisServer::start().await;
    assert_a_long_load_is_made_once(kind, "one server", settings(&redis.url())).await;
}

async fn a_load_of_three_leases_is_made_once_in_a_cluster(kind: Kind) {
    let cluster = Cluster::start().await;
    let settings = settings(&cluster.nodes[0].url()).with_cluster();
    assert_a_long_load_is_made_once(kind, "a cluster", settings).await;
}

async fn a_miss_costs_three_commands_and_one_for_each_half_of_a_lease(kind: Kind) {
    let redis = RedisServer::start().await;
    let count = async |policy: &Policy, load: Duration| {
        let process = process(kind, &redis.url(), policy);
        // From now on the process knows that the store accepts its writes.
        ask(&process, &Origin::at_once(200, "first")).await.assert("first", STORED);
        redis.command::<()>(&["DEL", KEY]);
        let commands = redis.monitor();
        ask(&process, &Origin::after(load, 200, "x")).await.assert("x", STORED);
        let commands = commands.until_now(&redis);
        // `MONITOR` also shows the commands inside a script.
        let sent = commands.iter().filter(|line| line.contains(KEY) && !line.contains(" lua] "));
        let sent = sent.count();
        redis.command::<()>(&["DEL", KEY]);
        sent
    };
    assert_eq!(count(&policy(), LOAD).await, 3, "look, lease, fill");
    let renewed = count(&policy().with_lease(4 * LOAD / 3), LOAD).await;
    assert!(renewed >= 4, "{renewed}");
    let first = redis.monitor();
    let fresh = process(kind, &redis.url(), &policy());
    ask(&fresh, &Origin::at_once(200, "x")).await.assert("x", STORED);
    let first = first.until_now(&redis);
    let sent = first.iter().filter(|line| line.contains(KEY) && !line.contains(" lua] "));
    assert_eq!(sent.count(), 3, "a quick load renews nothing: {first:?}");
}

async fn a_request_that_is_cancelled_leaves_no_lease(kind: Kind) {
    let redis = RedisServer::start().await;
    let (first, second) =
        (process(kind, &redis.url(), &policy()), process(kind, &redis.url(), &policy()));
    let origin = Origin::silent();
    tokio::select! {
        _ = ask(&first, &origin) => panic!("the service is silent"),
        () = origin.has_been_asked() => {}
    }
    // For another process too: the lease is released, not just known to be void in its own process.
    let next = ask(&second, &Origin::at_once(200, "next")).await;
    println!("after a request that was cancelled: {:?}", next.took);
    next.assert("next", next.cache_status.clone().as_str());
    assert_eq!(next.status, 200);
    let hit = ask(&first, &Origin::at_once(200, "other")).await;
    assert_eq!(hit.body, "next", "{}", hit.cache_status);
}

async fn a_panic_leaves_no_lease(kind: Kind) {
    let redis = RedisServer::start().await;
    let (first, second) =
        (process(kind, &redis.url(), &policy()), process(kind, &redis.url(), &policy()));
    let origin = Origin::new(|| async { panic!("as the test wants it") });
    let panicking = AssertUnwindSafe(ask(&first, &origin)).catch_unwind();
    assert!(panicking.await.is_err());
    until_gone(&redis).await;
    ask(&second, &Origin::at_once(200, "next")).await.assert("next", STORED);
}

async fn a_fill_that_is_lost_leaves_no_lease(kind: Kind) {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(redis.port()).await;
    let settings = RedisSettings::parse(&proxy.url())
        .unwrap()
        .with_connect_timeout(PATIENCE)
        .with_response_timeout(Duration::from_millis(200));
    let process = Cache::new(kind, RedisStore::new(settings), policy());
    let proxy = Arc::new(proxy);
    let cuts_off = {
        let proxy = Arc::clone(&proxy);
        Origin::new(move || {
            proxy.set(Mode::Silent);
            async { response(200, "first") }
        })
    };
    ask(&process, &cuts_off)
        .await
        .assert_alone("first", &["redis-timeout", "breaker-open", "redis-error"]);
    assert!(value(&redis).starts_with("lease:"), "the fill was lost: {}", value(&redis));
    proxy.set(Mode::Pass);
    let origin = Origin::at_once(200, "next");
    let until = Instant::now() + PATIENCE;
    loop {
        let next = ask(&process, &origin).await;
        // While the breaker is open, requests bypass the cache. None waits.
        if !next.cache_status.contains("bypass") {
            next.assert("next", STORED);
            break;
        }
        assert!(Instant::now() < until, "{}", next.cache_status);
    }
}

/// A store that loses the reply to its first claim, which Redis has run, and never receives a release.
struct Lossy {
    store: RedisStore,
    is_lost: AtomicBool,
}

impl Store for Lossy {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        self.store.get(key).await
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        if life == Duration::from_millis(1) {
            return Err(StoreError::BreakerOpen);
        }
        let done = self.store.put(key, expected, value, life).await;
        if self.is_lost.swap(true, Ordering::SeqCst) {
            done
        } else {
            Err(StoreError::Timeout("lost".into()))
        }
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.store.delete(key).await
    }
}

async fn a_process_takes_over_at_once_what_its_own_lost_claim_has_left(kind: Kind) {
    let redis = RedisServer::start().await;
    let store = Lossy { store: RedisStore::new(settings(&redis.url())), is_lost: false.into() };
    let process = Cache::new(kind, store, policy());
    let origin = Origin::at_once(200, "x");
    ask(&process, &origin).await.assert_alone("x", &["store-timeout"]);
    ask(&process, &origin).await.assert("x", STORED);
}

/// Asserts, with six processes on a key that nobody can fill, that no request waits for a lease in vain.
async fn assert_nobody_queues(kind: Kind, redis: &RedisServer, url: &str, what: &str) {
    for origin in [Origin::together(6), Origin::after(LOAD, 200, "x")] {
        let processes = processes(kind, 6, url, &policy());
        for round in 0..3 {
            let answers = ask_all(&processes, &origin).await;
            println!("{what}, round {round}: all after {:?} of {LOAD:?}", slowest(&answers));
            assert_eq!(with(&answers, STORED) + with(&answers, COLLAPSED), 0);
            redis.command::<()>(&["FLUSHALL"]);
        }
    }
}

async fn without_the_right_to_run_scripts_nobody_queues(kind: Kind) {
    let redis = RedisServer::start().await;
    for (user, rights) in [("few", "-@all +get +set"), ("unscripted", "+@all -eval -evalsha")] {
        let mut command = vec!["ACL", "SETUSER", user, "on", ">pw", "~*"];
        command.extend(rights.split(' '));
        redis.command::<()>(&command);
        let url = redis.url().replace("://", &format!("://{user}:pw@"));
        assert_nobody_queues(kind, &redis, &url, rights).await;
    }
}

async fn a_process_whose_fills_are_refused_takes_no_lease_for_a_while(kind: Kind) {
    let redis = RedisServer::start().await;
    redis.command::<()>(&["ACL", "SETUSER", "few", "on", ">pw", "~*", "-@all", "+get", "+set"]);
    let process = process(kind, &redis.url().replace("://", "://few:pw@"), &policy());
    let until = Instant::now() + PATIENCE;
    loop {
        let commands = redis.monitor();
        ask(&process, &Origin::at_once(200, "x")).await.assert_alone("x", &["fill-refused"]);
        let commands = commands.until_now(&redis);
        redis.command::<()>(&["DEL", KEY]);
        // Each refusal is remembered for longer than the one before it.
        if !commands.iter().any(|line| line.contains(r#""SET""#)) {
            return;
        }
        assert!(Instant::now() < until, "{commands:?}");
    }
}

/// Makes the server refuse the store during a load, and asserts that no other request waits.
async fn assert_a_refused_fill_holds_nobody_up(
    kind: Kind,
    what: &str,
    refuse: &[&str],
    allow: &[&str],
) {
    let redis = Arc::new(RedisServer::start().await);
    let all = processes(kind, 7, &redis.url(), &policy());
    let (first, others) = all.split_first().unwrap();
    // Now the process is connected, and knows that the store accepts its writes.
    ask(first, &Origin::at_once(200, "before")).await.assert("before", STORED);
    redis.command::<()>(&["DEL", KEY]);
    let refuses = {
        let redis = Arc::clone(&redis);
        let refuse: Vec<String> = refuse.iter().map(|&word| word.to_owned()).collect();
        Origin::new(move || {
            redis.command::<()>(&refuse.iter().map(String::as_str).collect::<Vec<_>>());
            async { response(200, "x") }
        })
    };
    ask(first, &refuses).await.assert_alone("x", &["fill-refused"]);
    let next = ask(first, &Origin::at_once(200, "next")).await;
    println!("{what}: the next request after {:?}", next.took);
    assert_eq!(next.body, "next");
    let answers = ask_all(others, &Origin::after(LOAD, 200, "six")).await;
    println!("{what}: load {LOAD:?}, six at once after {:?}", slowest(&answers));
    ask_all(others, &Origin::together(6)).await;

    redis.command::<()>(allow);
    let until = Instant::now() + PATIENCE;
    while !ask(first, &Origin::at_once(200, "y")).await.cache_status.contains("; stored") {
        assert!(Instant::now() < until, "never stored again: {}", value(&redis));
    }
}

async fn a_server_that_is_full_at_the_fill_holds_nobody_up(kind: Kind) {
    let (refuse, allow) =
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]);
    assert_a_refused_fill_holds_nobody_up(kind, "full", &refuse, &allow).await;
}

async fn a_server_that_is_demoted_during_a_load_holds_nobody_up(kind: Kind) {
    let (refuse, allow) = (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]);
    assert_a_refused_fill_holds_nobody_up(kind, "demoted", &refuse, &allow).await;
}

/// Stores an entry under the key whose load began this long ago.
fn put_entry(kind: Kind, redis: &RedisServer, age: Duration, ttl: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let id = uuid::Uuid::new_v4().simple();
    let (started_at_ms, ttl_ms) = (now.as_millis() - age.as_millis(), ttl.as_millis());
    let times =
        format!(r#""load_started_at_ms":{started_at_ms},"load_cost_ms":100,"ttl_ms":{ttl_ms}"#);
    let entry = match kind {
        Kind::Responses => format!(
            r#"{{"version":1,"id":"{id}","status":200,"headers":[],"etag":"{id}",{times},"body_bytes":4}}
kept"#
        ),
        Kind::Values => format!(
            r#"{{"version":2,"id":"{id}","key":"{KEY_HASH}",{times},"value_bytes":6}}
"kept""#
        ),
    };
    redis.command::<()>(&["SET", KEY, &entry, "PX", "600000"]);
}

/// Stores a stale entry.
fn put_stale_entry(kind: Kind, redis: &RedisServer) {
    put_entry(kind, redis, Duration::from_secs(5), Duration::from_secs(1));
}

fn stale_policy() -> Policy {
    policy().with_stale_if_error(TEN_MINUTES)
}

/// Stores an entry in the last tenth of its life, which outlasts the test.
fn put_entry_about_to_end(kind: Kind, redis: &RedisServer) {
    put_entry(kind, redis, Duration::from_mins(19), Duration::from_mins(20));
}

fn eager_policy() -> Policy {
    policy().with_inline_refresh().with_early_refresh(1_000.0).unwrap()
}

/// Sends requests until one of them refreshes the entry.
async fn ask_for_refresh(process: &Process, origin: &Origin) -> Answer {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = ask(process, origin).await;
        if origin.loads() > 0 {
            return answer;
        }
        assert!(Instant::now() < until, "{}", answer.cache_status);
    }
}

async fn in_an_outage_one_request_a_second_loads_and_the_others_are_served_stale_at_once(
    kind: Kind,
) {
    let redis = RedisServer::start().await;
    let processes = processes(kind, 50, &redis.url(), &stale_policy());
    put_stale_entry(kind, &redis);
    let origin = Origin::after(LOAD, 503, "down");
    let started = Instant::now();
    let assert_stale = |answer: &Answer| {
        assert_eq!((answer.status, answer.body.as_str()), (200, "kept"));
        let is_stale = answer.cache_status.starts_with(&kind.stood_in(503));
        assert!(is_stale, "{}", answer.cache_status);
    };
    let mut times = Vec::new();
    for _ in 0..20 {
        let answer = ask(&processes[0], &origin).await;
        assert_stale(&answer);
        times.push(answer.took);
    }
    let at_once = ask_all(&processes, &origin).await;
    at_once.iter().for_each(assert_stale);
    println!("one after the other {times:?}, 50 at once {:?}", slowest(&at_once));
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!(origin.loads() <= seconds + 1, "{} loads in {seconds} s", origin.loads());
    // The failure mark expires, and the service, which is back, is called again.
    let back = Origin::at_once(200, "back");
    let until = Instant::now() + PATIENCE;
    while ask(&processes[1], &back).await.body != "back" {
        assert!(Instant::now() < until, "the service is back");
    }
}

async fn those_who_wait_for_a_refresh_that_fails_are_served_stale(kind: Kind) {
    let redis = RedisServer::start().await;
    let processes = processes(kind, 20, &redis.url(), &stale_policy());
    put_stale_entry(kind, &redis);
    let origin = Origin::after(LOAD, 503, "down");
    let answers = ask_all(&processes, &origin).await;
    assert!(answers.iter().all(|answer| answer.body == "kept"));
    assert_eq!(origin.loads(), 1);
}

async fn an_entry_stays_in_hand_when_redis_goes_away_during_the_wait(kind: Kind) {
    let mut redis = RedisServer::start().await;
    let (first, second) = (
        process(kind, &redis.url(), &stale_policy()),
        process(kind, &redis.url(), &stale_policy()),
    );
    put_stale_entry(kind, &redis);
    let silent = Origin::silent();
    let failing = Origin::at_once(503, "down");
    let killed = async {
        silent.has_been_asked().await;
        let waits = async {
            // Long enough to see which process refreshes.
            tokio::time::sleep(LOAD).await;
            redis.kill();
        };
        let (answer, ()) = tokio::join!(ask(&second, &failing), waits);
        answer
    };
    tokio::select! {
        _ = ask(&first, &silent) => panic!("the service is silent"),
        answer = killed => {
            assert_eq!((answer.status, answer.body.as_str()), (200, "kept"));
            assert_eq!(failing.loads(), 1, "it has waited, and then tried for itself");
        }
    }
}

/// The response during a refresh, and whether the entry is still there afterwards.
async fn only_an_answer_that_may_be_kept_or_says_gone_replaces_an_entry(kind: Kind) {
    for is_fresh in [true, false] {
        let redis = RedisServer::start().await;
        let policy = if is_fresh { eager_policy() } else { stale_policy() };
        for (status, replaces) in [
            (429, false),
            (401, false),
            (403, false),
            (302, false),
            (500, false),
            (503, false),
            (404, true),
            (410, true),
            (200, true),
        ] {
            let process = process(kind, &redis.url(), &policy);
            if is_fresh {
                put_entry_about_to_end(kind, &redis);
            } else {
                put_stale_entry(kind, &redis);
            }
            let before = value(&redis);
            let answer = ask_for_refresh(&process, &Origin::at_once(status, "new")).await;
            // A `None` has no body.
            assert_eq!(answer.body != "kept", replaces, "{status}");
            if !replaces {
                let told = kind.stood_in(status);
                assert!(answer.cache_status.starts_with(&told), "{}", answer.cache_status);
            }
            assert_eq!(value(&redis) != before, replaces, "{status}: {}", value(&redis));
            redis.command::<()>(&["FLUSHALL"]);
        }
    }
}

async fn a_service_that_hangs_is_cut_off_and_the_entry_answers(kind: Kind) {
    let redis = RedisServer::start().await;
    // Fresh: the entry answers while it lasts.
    let fresh = process(kind, &redis.url(), &eager_policy());
    put_entry_about_to_end(kind, &redis);
    let hung = Origin::silent();
    let answer = ask_for_refresh(&fresh, &hung).await;
    println!("fresh: {:?} {}", answer.took, answer.cache_status);
    assert_eq!((answer.body.as_str(), hung.loads()), ("kept", 1));
    redis.command::<()>(&["FLUSHALL"]);

    // Stale: the entry answers before the request's deadline.
    let stale = process(kind, &redis.url(), &stale_policy());
    put_stale_entry(kind, &redis);
    let hung = Origin::silent();
    let deadline = Deadline::after(Duration::from_secs(3));
    let answer = ask_until(&stale, &hung, Some(deadline)).await;
    println!("stale: {:?} {}", answer.took, answer.cache_status);
    assert_eq!((answer.status, answer.body.as_str(), hung.loads()), (200, "kept", 1));
    assert!(answer.cache_status.starts_with("response-boost; fwd=stale; ttl=-"));
    redis.command::<()>(&["FLUSHALL"]);

    // Without an entry: a failure that is not stored, at the policy's limit.
    let limited = process(kind, &redis.url(), &policy().with_load_limit(LOAD));
    let answer = ask(&limited, &Origin::silent()).await;
    assert_eq!(answer.status, 503);
    answer.assert_alone("", &["cut-off"]);
    ask(&limited, &Origin::at_once(200, "x")).await.assert_alone("x", &["pass"]);
}

async fn a_deadline_shorter_than_the_limit_of_a_load_does_not_forbid_to_wait(kind: Kind) {
    let redis = RedisServer::start().await;
    let policy = policy().with_load_limit(TEN_MINUTES);
    let processes = processes(kind, 20, &redis.url(), &policy);
    let origin = Origin::after(LOAD, 200, "x");
    let deadline = Deadline::after(PATIENCE);
    let asked = processes.iter().map(|process| ask_until(process, &origin, Some(deadline)));
    let answers = join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.body == "x"));
    assert_eq!(origin.loads(), 1);
}

async fn what_is_never_stored_is_remembered_for_longer_than_what_is_not_today(kind: Kind) {
    let redis = RedisServer::start().await;
    let process = process(kind, &redis.url(), &policy().with_max_entry_bytes(1_000));
    let cookie = Origin::new(async || {
        Response::builder().header("set-cookie", "a=b").body("x".into()).unwrap()
    });
    let large: &'static str = "x".repeat(2_000).leak();
    let nearly = "x".repeat(900).leak();
    let mut cases = vec![
        (Origin::at_once(200, large), "too-large", 1_001..=60_000),
        (Origin::at_once(200, nearly), "too-large", 1_001..=60_000),
        (Origin::at_once(404, "x"), "status", 0..=1_000),
    ];
    // A value has no headers, and an error is not returned with a reason.
    if kind == Kind::Responses {
        cases.push((cookie, "set-cookie", 1_001..=60_000));
        cases.push((Origin::at_once(503, "x"), "status", 0..=1_000));
    }
    for (origin, detail, life_ms) in cases {
        let answer = ask(&process, &origin).await;
        answer.assert_alone(&answer.body, &[detail]);
        let left_ms: i64 = redis.command(&["PTTL", KEY]);
        assert!(life_ms.contains(&left_ms), "{left_ms} ms of {life_ms:?}");
        redis.command::<()>(&["DEL", KEY]);
    }
}
