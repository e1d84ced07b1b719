//! Tests the contract of `Store` with every store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use response_boost::{
    CacheKey, Expected, Found, MemoryStore, Namespace, RedisSettings, RedisStore, Store, StoreError,
};
use test_peers::PATIENCE;
use test_peers::redis::{RedisServer, info, send};

const LIFE: Duration = Duration::from_mins(1);

/// Runs each test for each store.
macro_rules! contract {
    ($($promise:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::MemoryStore::default()).await;
            })+
        }

        mod without_stamps_of_its_own {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Least(super::MemoryStore::default())).await;
            })+
        }

        mod redis {
            $(#[tokio::test]
            async fn $promise() {
                let server = super::RedisServer::start().await;
                let store = super::RedisStore::new(super::patient(&server.url()));
                super::$promise(store).await;
            })+
        }
    };
}

contract!(
    nothing_is_there_at_first,
    what_was_put_is_got_byte_for_byte,
    a_later_put_replaces_an_earlier_one,
    what_was_deleted_is_gone,
    deleting_nothing_is_no_error,
    keys_do_not_mix,
    a_life_ends,
    a_put_renews_the_life,
    nothing_is_replaced_but_what_is_expected,
    a_conditional_put_has_a_life_of_its_own,
    one_of_many_gets_a_key_that_is_free,
    many_at_once_do_not_disturb_each_other,
    the_first_id_is_that_of_all_until_it_is_deleted,
    one_of_many_ids_is_that_of_all,
    an_id_lives_for_half_of_its_life_after_each_stamp,
);

/// A custom store that implements only what it must.
struct Least(MemoryStore);

impl Store for Least {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        self.0.get(key).await
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        // Lets another call come in between.
        tokio::task::yield_now().await;
        self.0.put(key, expected, value, life).await
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.0.delete(key).await
    }
}

/// A busy machine is not a fault of the store.
fn patient(url: &str) -> RedisSettings {
    let settings = RedisSettings::parse(url).unwrap();
    settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE)
}

fn key(parts: &[&str]) -> CacheKey {
    Namespace::parse("contract").unwrap().key(parts)
}

async fn get(store: &impl Store, key: &CacheKey) -> Option<Bytes> {
    match store.get(key).await.unwrap() {
        Found::Nothing => None,
        Found::Value(value) => Some(value),
        Found::Foreign => panic!("nobody else is here"),
    }
}

async fn put(store: &impl Store, key: &CacheKey, value: impl Into<Bytes>) {
    assert!(put_if(store, key, Expected::Anything, value).await);
}

async fn put_if(
    store: &impl Store,
    key: &CacheKey,
    expected: Expected<'_>,
    value: impl Into<Bytes>,
) -> bool {
    store.put(key, expected, value.into(), LIFE).await.unwrap()
}

async fn nothing_is_there_at_first(store: impl Store) {
    assert_eq!(get(&store, &key(&["a"])).await, None);
}

async fn what_was_put_is_got_byte_for_byte(store: impl Store) {
    let every_byte: Vec<u8> = (0..=255).collect();
    for value in [vec![], b"text".to_vec(), b"\r\n$-1\r\n".to_vec(), every_byte, vec![7; 1 << 20]] {
        put(&store, &key(&["a"]), value.clone()).await;
        assert_eq!(get(&store, &key(&["a"])).await.unwrap(), value);
    }
}

async fn a_later_put_replaces_an_earlier_one(store: impl Store) {
    put(&store, &key(&["a"]), "a longer first value").await;
    put(&store, &key(&["a"]), "second").await;
    assert_eq!(get(&store, &key(&["a"])).await.unwrap(), "second");
}

async fn what_was_deleted_is_gone(store: impl Store) {
    put(&store, &key(&["a"]), "x").await;
    put(&store, &key(&["b"]), "y").await;
    store.delete(&key(&["a"])).await.unwrap();
    assert_eq!(get(&store, &key(&["a"])).await, None);
    assert_eq!(get(&store, &key(&["b"])).await.unwrap(), "y");
}

async fn deleting_nothing_is_no_error(store: impl Store) {
    store.delete(&key(&["a"])).await.unwrap();
    store.delete(&key(&["a"])).await.unwrap();
}

async fn keys_do_not_mix(store: impl Store) {
    let lists: [&[&str]; 8] =
        [&[], &["a"], &["a", "b"], &["a:b"], &["a%3Ab"], &["A", "b"], &["a", "b", ""], &["ä\0 {}"]];
    for (number, parts) in lists.iter().enumerate() {
        put(&store, &key(parts), number.to_string()).await;
    }
    for (number, parts) in lists.iter().enumerate() {
        assert_eq!(get(&store, &key(parts)).await.unwrap(), number.to_string(), "{parts:?}");
    }
}

async fn a_life_ends(store: impl Store) {
    let a_moment = Duration::from_millis(1);
    assert!(store.put(&key(&["a"]), Expected::Anything, "x".into(), a_moment).await.unwrap());
    let end = async { while get(&store, &key(&["a"])).await.is_some() {} };
    tokio::time::timeout(PATIENCE, end).await.expect("a life of 1 ms does not end");
}

async fn a_put_renews_the_life(store: impl Store) {
    let a_moment = Duration::from_millis(1);
    assert!(store.put(&key(&["a"]), Expected::Anything, "x".into(), a_moment).await.unwrap());
    put(&store, &key(&["a"]), "y").await;
    let well_past_the_first_end = Instant::now() + Duration::from_millis(5);
    while Instant::now() < well_past_the_first_end {
        assert_eq!(get(&store, &key(&["a"])).await.unwrap(), "y");
    }
}

async fn nothing_is_replaced_but_what_is_expected(store: impl Store) {
    let key = key(&["a"]);
    for expected in [Expected::StartsWith(b""), Expected::StartsWith(b"x"), Expected::Foreign] {
        assert!(!put_if(&store, &key, expected, "1").await, "nothing is no {expected:?}");
    }
    assert!(put_if(&store, &key, Expected::Nothing, "first\0\u{ff}").await);
    assert!(!put_if(&store, &key, Expected::Nothing, "2").await);
    let longer = "first\0\u{ff}, and more";
    for start in ["irst", "First", "first ", longer] {
        assert!(
            !put_if(&store, &key, Expected::StartsWith(start.as_bytes()), "2").await,
            "{start}"
        );
    }
    assert!(!put_if(&store, &key, Expected::Foreign, "2").await);
    assert!(get(&store, &key).await.unwrap().starts_with(b"first"));

    for (start, value) in [("first\0", "second"), ("", "third"), ("third", "")] {
        assert!(put_if(&store, &key, Expected::StartsWith(start.as_bytes()), value).await);
        assert_eq!(get(&store, &key).await.unwrap(), value);
    }
    // An empty value is not nothing.
    assert!(!put_if(&store, &key, Expected::Nothing, "4").await);
    assert!(put_if(&store, &key, Expected::StartsWith(b""), "4").await);
    store.delete(&key).await.unwrap();
    assert!(!put_if(&store, &key, Expected::StartsWith(b"4"), "5").await);
    assert_eq!(get(&store, &key).await, None);
}

async fn a_conditional_put_has_a_life_of_its_own(store: impl Store) {
    let a_moment = Duration::from_millis(1);
    for expected in [Expected::Nothing, Expected::StartsWith(b"long")] {
        assert!(store.put(&key(&["a"]), expected, "short".into(), a_moment).await.unwrap());
        let end = async { while get(&store, &key(&["a"])).await.is_some() {} };
        tokio::time::timeout(PATIENCE, end).await.expect("a life of 1 ms does not end");
        put(&store, &key(&["a"]), "long").await;
    }
}

async fn one_of_many_gets_a_key_that_is_free(store: impl Store) {
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..50)
        .map(|number: u32| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                put_if(&*store, &key(&["a"]), Expected::Nothing, number.to_string()).await
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += u32::from(task.await.unwrap());
    }
    assert_eq!(done, 1);
}

async fn many_at_once_do_not_disturb_each_other(store: impl Store) {
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..100)
        .map(|number: u32| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let key = key(&[&number.to_string()]);
                put(&*store, &key, number.to_string().repeat(100)).await;
                get(&*store, &key).await.unwrap()
            })
        })
        .collect();
    let mut seen = HashSet::new();
    for (number, task) in tasks.into_iter().enumerate() {
        let value = task.await.unwrap();
        assert_eq!(value, number.to_string().repeat(100));
        seen.insert(value);
    }
    assert_eq!(seen.len(), 100);
}

async fn the_first_id_is_that_of_all_until_it_is_deleted(store: impl Store) {
    let (one, other) = (key(&["a"]), key(&["b"]));
    let stamp = async |key, id: &'static str| store.stamp(key, id.into(), LIFE).await.unwrap();
    assert_eq!(stamp(&one, "1").await, "1");
    assert_eq!(stamp(&one, "2").await, "1");
    assert_eq!(stamp(&other, "3").await, "3");
    assert_eq!(get(&store, &one).await.unwrap(), "1");
    store.delete(&one).await.unwrap();
    assert_eq!(stamp(&one, "4").await, "4");
    assert_eq!(stamp(&other, "5").await, "3");
}

async fn one_of_many_ids_is_that_of_all(store: impl Store) {
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..50)
        .map(|number: u32| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                store.stamp(&key(&["a"]), number.to_string().into(), LIFE).await.ok()
            })
        })
        .collect();
    let mut ids = HashSet::new();
    for task in tasks {
        ids.extend(task.await.unwrap());
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(get(&*store, &key(&["a"])).await, ids.into_iter().next());
}

async fn an_id_lives_for_half_of_its_life_after_each_stamp(store: impl Store) {
    let a_moment = Duration::from_millis(2);
    for id in ["1", "2"] {
        assert_eq!(store.stamp(&key(&["a"]), id.into(), a_moment).await.unwrap(), id);
        let end = async { while get(&store, &key(&["a"])).await.is_some() {} };
        tokio::time::timeout(PATIENCE, end).await.expect("a life of 2 ms does not end");
    }
    // Renewed: the id outlives its first TTL.
    let stamp = async |id: &'static str, life| store.stamp(&key(&["a"]), id.into(), life).await;
    let short = Duration::from_millis(100);
    loop {
        let first = stamp("3", short).await.unwrap();
        if stamp("4", LIFE).await.unwrap() == first {
            break;
        }
        store.delete(&key(&["a"])).await.unwrap();
    }
    let past_the_first_end = Instant::now() + 2 * short;
    while Instant::now() < past_the_first_end {
        assert_eq!(get(&store, &key(&["a"])).await.unwrap(), "3");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Only Redis lets a test see the TTL of a key.
#[tokio::test]
async fn an_id_is_renewed_seldom_and_its_life_is_never_cut() {
    let server = RedisServer::start().await;
    let store = RedisStore::new(patient(&server.url()));
    let tag = key(&["a"]);
    let pttl = || server.command::<i64>(&["PTTL", tag.as_str()]);
    store.stamp(&tag, "1".into(), Duration::from_secs(1_000)).await.unwrap();
    server.command::<()>(&["PEXPIRE", tag.as_str(), "500100"]);
    // Still half of its life, and far more than a shorter one.
    for life in [1, 1_000] {
        store.stamp(&tag, "2".into(), Duration::from_secs(life)).await.unwrap();
        assert!(pttl() <= 500_100, "renewed");
    }
    server.command::<()>(&["PEXPIRE", tag.as_str(), "499900"]);
    store.stamp(&tag, "2".into(), Duration::from_secs(1_000)).await.unwrap();
    assert!(pttl() > 900_000, "not renewed");
    // A restore may have lost its TTL.
    server.command::<()>(&["PERSIST", tag.as_str()]);
    assert_eq!(store.stamp(&tag, "2".into(), Duration::from_secs(1_000)).await.unwrap(), "1");
    assert!(pttl() > 900_000, "without an end");
}

/// Only Redis has other types.
#[tokio::test]
async fn what_others_have_put_is_replaced_when_it_is_expected() {
    let server = RedisServer::start().await;
    let store = RedisStore::new(patient(&server.url()));
    let key = key(&["a"]);
    server.command::<()>(&["HSET", key.as_str(), "field", "value"]);
    assert_eq!(store.get(&key).await.unwrap(), Found::Foreign);
    for expected in [Expected::Nothing, Expected::StartsWith(b""), Expected::StartsWith(b"x")] {
        assert!(!put_if(&store, &key, expected, "1").await, "{expected:?}");
    }
    assert!(put_if(&store, &key, Expected::Foreign, "1").await);
    assert_eq!(get(&store, &key).await.unwrap(), "1");

    // The store sends scripts again to a server that has forgotten them.
    server.command::<()>(&["SCRIPT", "FLUSH"]);
    assert!(put_if(&store, &key, Expected::StartsWith(b"1"), "2").await);

    server.command::<()>(&["DEL", key.as_str()]);
    server.command::<()>(&["HSET", key.as_str(), "field", "value"]);
    assert_eq!(store.stamp(&key, "id".into(), LIFE).await.unwrap(), "id");
}

/// Only Redis is shared with other programs.
#[tokio::test]
async fn a_purge_removes_a_namespace_and_nothing_else() {
    let server = RedisServer::start().await;
    let store = RedisStore::new(patient(&server.operator_url()));
    let namespace = |text| Namespace::parse(text).unwrap();
    assert_eq!(store.purge(&namespace("a.b"), |_| {}).await.unwrap(), 0);
    let mut set = vec!["MSET".to_owned()];
    for id in 0..5_000 {
        for key in [format!("a.b:user:{id}"), format!("axb:user:{id}")] {
            set.extend([key, "x".to_owned()]);
        }
    }
    set.extend([
        "a.b".into(),
        "x".into(),
        "a.bc:1".into(),
        "x".into(),
        "a.b:v2:1".into(),
        "x".into(),
    ]);
    server.command::<()>(&set.iter().map(String::as_str).collect::<Vec<_>>());
    server.command::<()>(&["HSET", "a.b:foreign", "field", "value"]);

    let mut told = Vec::new();
    let removed = store.purge(&namespace("a.b"), |removed| told.push(removed)).await.unwrap();
    assert_eq!(removed, 5_002);
    assert!(told.len() > 3 && told.is_sorted() && told.last() == Some(&removed), "{told:?}");
    assert_eq!(server.command::<u64>(&["DBSIZE"]), 5_002);
    assert_eq!(server.command::<Vec<String>>(&["KEYS", "a.b:*"]), Vec::<String>::new());
}

/// Only Redis has a connection, which does not last forever.
#[tokio::test]
async fn an_old_connection_is_replaced_without_a_fault() {
    let server = RedisServer::start().await;
    let settings = patient(&server.url()).with_max_age(Duration::from_millis(20));
    let store = RedisStore::new(settings);
    put(&store, &key(&["a"]), "x").await;
    let mut connection = server.connect();
    let before = info(&mut connection, "total_connections_received");
    let enough = Instant::now() + PATIENCE;
    while info(&mut connection, "total_connections_received") < before + 5 {
        assert_eq!(get(&store, &key(&["a"])).await.unwrap(), "x");
        assert!(Instant::now() < enough, "not replaced");
    }
    // The old ones are closed. What remains: this test's own, the last one, and one that is closing.
    let clients: String = send(&mut connection, &["CLIENT", "LIST"]);
    assert!(clients.lines().count() <= 3, "{clients}");
}
