//! Values over a real Redis: what is stored, what a load may return, errors, many keys at once. What holds of responses
//! and values alike is tested elsewhere, for both (see `caches`).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use response_boost::{
    AfterReplyLayer, CacheStatus, Deadline, Keep, Namespace, NotStored, Policy, Recorder,
    RedisSettings, RedisStore, ValueCache, ValueError,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use test_peers::PATIENCE;
use test_peers::cluster::Cluster;
use test_peers::redis::RedisServer;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::log::{LevelFilter, Log};

const KEY: [&str; 2] = ["user", "1"];
const STORED_KEY: &str = "users:user:1";
const MINUTE: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
}

type Users = ValueCache<User, RedisStore>;
type Loaded = Result<Option<User>, &'static str>;

fn manas() -> User {
    User { id: 1, name: "Manas".to_owned() }
}

fn policy() -> Policy {
    Policy::new(MINUTE).with_lease(10 * MINUTE).with_deadline(PATIENCE)
}

fn values<T>(settings: RedisSettings, policy: Policy) -> ValueCache<T, RedisStore>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    // A busy machine is not a fault of Redis.
    let settings = settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE);
    ValueCache::new(RedisStore::new(settings), policy, Namespace::parse("users").unwrap())
}

fn users(redis: &RedisServer, policy: Policy) -> Users {
    values(RedisSettings::parse(&redis.url()).unwrap(), policy)
}

fn no_load() -> std::future::Ready<Loaded> {
    panic!("loaded")
}

/// The result of `get_or_load`, and the status of the call.
async fn ask<F>(
    users: &Users,
    load: impl FnOnce() -> F + Send + 'static,
) -> (Result<Option<User>, ValueError<&'static str>>, String)
where
    F: Future<Output = Loaded> + Send + 'static,
{
    let recorder = Recorder::default();
    let value = recorder.watch(users.get_or_load(KEY, load)).await;
    (value, recorder.report().status.map_or_else(String::new, |status| status.to_string()))
}

async fn until_stale(redis: &RedisServer) {
    test_peers::wait_for("a life less than the window", || {
        (redis.command::<i64>(&["PTTL", STORED_KEY]) < 60_000).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_value_is_loaded_once_and_reads_well_in_redis() {
    let redis = RedisServer::start().await;
    let users = users(&redis, policy());
    let (value, status) = ask(&users, async || Ok(Some(manas()))).await;
    assert_eq!((value, &*status), (Ok(Some(manas())), "response-boost; fwd=uri-miss; stored"));
    let (value, status) = ask(&users, no_load).await;
    assert_eq!(value, Ok(Some(manas())));
    assert!(status.starts_with("response-boost; hit; ttl="), "{status}");
    let stored: String = redis.command(&["GET", STORED_KEY]);
    assert!(stored.ends_with("\n{\"id\":1,\"name\":\"Manas\"}"), "{stored}");
    users.invalidate(KEY).await.unwrap();
    assert!(!redis.command::<bool>(&["EXISTS", STORED_KEY]));
}

#[tokio::test]
async fn none_is_stored_by_the_ttl_of_what_is_not_found_and_else_not() {
    let redis = RedisServer::start().await;
    let loads = Arc::new(AtomicUsize::new(0));
    let load = || {
        let loads = Arc::clone(&loads);
        async move || {
            loads.fetch_add(1, Ordering::SeqCst);
            Loaded::Ok(None)
        }
    };
    let forgets = users(&redis, policy());
    for loaded in 1..=2 {
        assert_eq!(ask(&forgets, load()).await.0, Ok(None));
        assert_eq!(loads.load(Ordering::SeqCst), loaded);
    }
    forgets.invalidate(KEY).await.unwrap();
    let remembers = users(&redis, policy().with_not_found_ttl(MINUTE));
    for _ in 0..2 {
        assert_eq!(ask(&remembers, load()).await.0, Ok(None));
        assert_eq!(loads.load(Ordering::SeqCst), 3);
    }
    assert!(redis.command::<String>(&["GET", STORED_KEY]).ends_with("\"value_bytes\":0}\n"));
}

#[tokio::test]
async fn a_load_says_for_how_long_its_value_is_stored_and_whether() {
    let redis = RedisServer::start().await;
    let users = users(&redis, policy());
    let keep = |ttl| async move || Ok::<_, Infallible>((Some(manas()), Keep::new(ttl)));
    users.get_or_load(KEY, keep(10 * MINUTE)).await.unwrap();
    assert!(redis.command::<u64>(&["PTTL", STORED_KEY]) > 60_000);
    users.invalidate(KEY).await.unwrap();
    let recorder = Recorder::default();
    let value = recorder.watch(users.get_or_load(KEY, keep(Duration::ZERO))).await;
    assert_eq!(value.unwrap(), Some(manas()));
    let Some(CacheStatus::Miss { stored: false, detail, .. }) = recorder.report().status else {
        panic!("{:?}", recorder.report())
    };
    assert_eq!(detail, Some(NotStored::NotFresh));
}

#[tokio::test]
async fn what_json_cannot_hold_is_returned_and_not_stored() {
    type Pairs = std::collections::BTreeMap<(u8, u8), u8>;
    let redis = RedisServer::start().await;
    let pairs = values::<Pairs>(RedisSettings::parse(&redis.url()).unwrap(), policy());
    let recorder = Recorder::default();
    let load = async || Ok::<_, Infallible>(Some(Pairs::from([((1, 2), 3)])));
    let value = recorder.watch(pairs.get_or_load(KEY, load)).await.unwrap();
    assert_eq!(value.unwrap()[&(1, 2)], 3);
    let status = recorder.report().status.unwrap().to_string();
    assert_eq!(status, "response-boost; fwd=uri-miss; detail=not-json");
}

#[tokio::test]
async fn a_value_of_another_form_is_replaced() {
    let redis = RedisServer::start().await;
    let old = values::<String>(RedisSettings::parse(&redis.url()).unwrap(), policy());
    old.get_or_load(KEY, async || Ok::<_, Infallible>(Some("Manas".to_owned()))).await.unwrap();
    let new = users(&redis, policy());
    let (value, status) = ask(&new, async || Ok(Some(manas()))).await;
    assert_eq!((value, &*status), (Ok(Some(manas())), "response-boost; fwd=uri-miss; stored"));
    assert_eq!(ask(&new, no_load).await.0, Ok(Some(manas())));
}

/// As after a release that has changed the type.
#[tokio::test]
async fn values_of_another_form_are_logged_once() {
    let redis = RedisServer::start().await;
    let old = values::<String>(RedisSettings::parse(&redis.url()).unwrap(), policy());
    let new = users(&redis, policy());
    let log = Log::of_this_thread(LevelFilter::WARN);
    for id in 0..5 {
        let key = ["user".to_owned(), id.to_string()];
        let name = async || Ok::<_, Infallible>(Some("Manas".to_owned()));
        old.get_or_load(key.clone(), name).await.unwrap();
        new.get_or_load(key.clone(), async || Loaded::Ok(Some(manas()))).await.unwrap();
        assert_eq!(new.get_or_load(key, no_load).await.unwrap(), Some(manas()));
    }
    let lines = log.written();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.contains("no entry; replacing it error=a value of another form"), "{lines}");
    assert!(!lines.contains("Manas"), "{lines}");
}

#[tokio::test]
async fn a_failed_load_is_its_own_error_and_leaves_no_lease() {
    let redis = RedisServer::start().await;
    let users = users(&redis, policy());
    let (value, _) = ask(&users, async || Err("no database")).await;
    assert_eq!(value, Err(ValueError::Load("no database")));
    assert_eq!(value.unwrap_err().to_string(), "no database");
    assert_eq!(ask(&users, async || Ok(Some(manas()))).await.0, Ok(Some(manas())));
}

#[tokio::test]
async fn a_load_that_hangs_is_cut_off() {
    let redis = RedisServer::start().await;
    let users = users(&redis, policy().with_load_limit(Duration::from_millis(20)));
    let (value, _) = ask(&users, std::future::pending::<Loaded>).await;
    assert_eq!(value, Err(ValueError::TimedOut));
}

#[tokio::test]
async fn a_deadline_cuts_a_load_off_whoever_says_it() {
    let redis = RedisServer::start().await;
    let users = users(&redis, policy());
    let soon = || Deadline::after(Duration::from_secs(1));
    let (value, _) = ask(&users.until(soon()), std::future::pending::<Loaded>).await;
    assert_eq!(value, Err(ValueError::TimedOut));

    let invoked = service_fn(move |()| {
        let users = users.clone();
        async move { Ok::<_, Infallible>(ask(&users, std::future::pending::<Loaded>).await.0) }
    });
    let layer = AfterReplyLayer::new(move |(): &()| soon());
    let value = layer.layer(invoked).oneshot(()).await.unwrap();
    assert_eq!(value, Err(ValueError::TimedOut));
}

#[tokio::test]
async fn a_stored_value_stands_in_for_a_load_that_fails() {
    let redis = RedisServer::start().await;
    let ttl = Duration::from_millis(50);
    let users = users(&redis, policy().with_stale_if_error(MINUTE));
    let keep = async move || Ok::<_, Infallible>((Some(manas()), Keep::new(ttl)));
    users.get_or_load(KEY, keep).await.unwrap();
    until_stale(&redis).await;
    let (value, status) = ask(&users, async || Err("no database")).await;
    assert_eq!(value, Ok(Some(manas())));
    assert!(status.starts_with("response-boost; fwd=stale; ttl=-"), "{status}");
}

#[tokio::test]
async fn past_its_freshness_a_value_is_returned_at_once_and_loaded_anew() {
    let redis = RedisServer::start().await;
    let users = users(&redis, policy().with_stale_while_revalidate(MINUTE));
    let ttl = Duration::from_millis(50);
    let keep = async move || Ok::<_, Infallible>((Some(manas()), Keep::new(ttl)));
    users.get_or_load(KEY, keep).await.unwrap();
    until_stale(&redis).await;
    let ada = User { id: 1, name: "Ada".to_owned() };
    let loaded = ada.clone();
    let (value, status) = ask(&users, async move || Ok(Some(loaded))).await;
    assert_eq!(value, Ok(Some(manas())));
    assert!(status.ends_with("; detail=refresh-after-reply"), "{status}");
    test_peers::wait_for("the refresh", || {
        redis.command::<String>(&["GET", STORED_KEY]).contains("Ada").then_some(())
    })
    .await;
    assert_eq!(ask(&users, no_load).await.0, Ok(Some(ada)));
}

#[tokio::test]
async fn without_redis_values_are_loaded() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let users = users(&redis, policy());
    let (value, status) = ask(&users, async || Ok(Some(manas()))).await;
    assert_eq!(value, Ok(Some(manas())));
    assert!(status.starts_with("response-boost; fwd=bypass; detail="), "{status}");
}

fn key(number: u64) -> [String; 2] {
    ["user".to_owned(), number.to_string()]
}

async fn load_many(users: &Users, numbers: std::ops::Range<u64>, loads: &Arc<AtomicUsize>) {
    let loads = Arc::clone(loads);
    let load = move |key: response_boost::CacheKey| {
        loads.fetch_add(1, Ordering::SeqCst);
        let id: u64 = key.as_str().rsplit(':').next().unwrap().parse().unwrap();
        async move { Loaded::Ok(Some(User { id, name: "A".to_owned() })) }
    };
    let values = users.get_or_load_many(numbers.clone().map(key), load).await.unwrap();
    let ids: Vec<u64> = values.into_iter().map(|value| value.unwrap().id).collect();
    assert_eq!(ids, numbers.collect::<Vec<_>>());
}

/// How often a server has read from a socket.
fn reads(redis: &RedisServer) -> u64 {
    let stats: String = redis.command(&["INFO", "stats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
    line.unwrap().trim().parse().unwrap()
}

/// The reads that these measurements cause themselves.
fn reads_of_asking(redis: &RedisServer) -> u64 {
    let before = reads(redis);
    reads(redis) - before
}

#[tokio::test]
async fn a_hundred_values_are_looked_up_at_once_and_only_those_that_miss_are_loaded() {
    let redis = RedisServer::start().await;
    let (users, loads) = (users(&redis, policy()), Arc::default());
    load_many(&users, 0..90, &loads).await;
    assert_eq!(loads.load(Ordering::SeqCst), 90);
    load_many(&users, 0..100, &loads).await;
    assert_eq!(loads.load(Ordering::SeqCst), 100);
    let (asking, before) = (reads_of_asking(&redis), reads(&redis));
    load_many(&users, 0..100, &loads).await;
    let reads = reads(&redis) - before - asking;
    println!("{reads} reads by the server for 100 lookups");
    assert_eq!(loads.load(Ordering::SeqCst), 100);
    // One lookup after another would be 100 reads. The server reads commands that were sent together as they arrive.
    assert!(reads <= 3, "{reads}");
}

#[tokio::test]
async fn a_hundred_values_are_looked_up_at_once_on_each_node_of_a_cluster() {
    let cluster = Cluster::start().await;
    let settings = RedisSettings::parse(&cluster.nodes[0].url()).unwrap().with_cluster();
    let (users, loads) = (values::<User>(settings, policy()), Arc::default());
    load_many(&users, 0..100, &loads).await;
    load_many(&users, 0..100, &loads).await;
    assert_eq!(loads.load(Ordering::SeqCst), 100);
}
