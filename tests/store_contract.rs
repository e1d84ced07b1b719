//! What `Store` promises, held against every store there is.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use response_boost::cache::{CacheKey, MemoryStore, Namespace, RedisSettings, RedisStore, Store};
use support::PATIENCE;
use support::redis::{RedisServer, info, send};

const LIFE: Duration = Duration::from_mins(1);

/// Each promise, as a test of its own for each store.
macro_rules! contract {
    ($($promise:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::MemoryStore::default()).await;
            })+
        }

        mod redis {
            $(#[tokio::test]
            async fn $promise() {
                let server = super::RedisServer::start().await;
                let settings = super::RedisSettings::parse(&server.url()).unwrap();
                // A busy machine is no fault of the store.
                let settings = settings
                    .with_connect_timeout(super::PATIENCE)
                    .with_response_timeout(super::PATIENCE);
                super::$promise(super::RedisStore::new(settings)).await;
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
    many_at_once_do_not_disturb_each_other,
);

fn key(parts: &[&str]) -> CacheKey {
    Namespace::parse("contract").unwrap().key(parts)
}

async fn get(store: &impl Store, key: &CacheKey) -> Option<Bytes> {
    store.get(key).await.unwrap()
}

async fn put(store: &impl Store, key: &CacheKey, value: impl Into<Bytes>) {
    store.put(key, value.into(), LIFE).await.unwrap();
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
    store.put(&key(&["a"]), "x".into(), Duration::from_millis(1)).await.unwrap();
    let end = async { while get(&store, &key(&["a"])).await.is_some() {} };
    tokio::time::timeout(PATIENCE, end).await.expect("a life of 1 ms does not end");
}

async fn a_put_renews_the_life(store: impl Store) {
    store.put(&key(&["a"]), "x".into(), Duration::from_millis(1)).await.unwrap();
    put(&store, &key(&["a"]), "y").await;
    let well_past_the_first_end = Instant::now() + Duration::from_millis(5);
    while Instant::now() < well_past_the_first_end {
        assert_eq!(get(&store, &key(&["a"])).await.unwrap(), "y");
    }
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

/// Redis alone has a connection, which does not last for ever.
#[tokio::test]
async fn an_old_connection_is_replaced_without_a_fault() {
    let server = RedisServer::start().await;
    let settings = RedisSettings::parse(&server.url()).unwrap();
    let store = RedisStore::new(settings.with_max_age(Duration::from_millis(20)));
    put(&store, &key(&["a"]), "x").await;
    let mut connection = server.connect();
    let before = info(&mut connection, "total_connections_received");
    let enough = Instant::now() + PATIENCE;
    while info(&mut connection, "total_connections_received") < before + 5 {
        assert_eq!(get(&store, &key(&["a"])).await.unwrap(), "x");
        assert!(Instant::now() < enough, "not replaced");
    }
    // The old ones are closed: what is left is this test's own, the last, and one on its way out.
    let clients: String = send(&mut connection, &["CLIENT", "LIST"]);
    assert!(clients.lines().count() <= 3, "{clients}");
}
