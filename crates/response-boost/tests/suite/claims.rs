//! A claim that reaches Redis late, after an invalidation, over a lost connection: the store must not send it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use response_boost::{
    CacheKey, Expected, Found, Policy, RedisSettings, RedisStore, Store, StoreError,
};
use test_peers::cluster::{Cluster, Shape};
use test_peers::proxy::{Mode, Proxy};
use test_peers::redis::RedisServer;
use test_peers::{PATIENCE, wait_for};
use tokio::sync::Notify;

use crate::caches::{Body, Cache, Kind, for_both};
use crate::environment::key;

/// A store that resends a claim over another connection if its own was lost, like the cluster client of the redis
/// crate.
struct Resending {
    store: RedisStore,
    spare: RedisStore,
}

impl Store for Resending {
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
        match self.store.put(key, expected, value.clone(), life).await {
            Err(_) => self.spare.put(key, expected, value, life).await,
            done => done,
        }
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.store.delete(key).await
    }
}

/// The number of responses that are older than an invalidation before them.
async fn too_old<S: Store>(
    kind: Kind,
    store: impl Fn(RedisSettings) -> S,
    is_cluster: bool,
    rounds: usize,
) -> usize {
    let shape = Shape { primaries: 1, has_replicas: false, is_tls: false };
    let server = if is_cluster {
        Cluster::of(shape).await.nodes.remove(0)
    } else {
        RedisServer::start().await
    };
    let proxy = Proxy::before(server.port()).await;
    let settings = RedisSettings::parse(&proxy.url()).unwrap();
    let settings = settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE);
    let settings = if is_cluster { settings.with_cluster() } else { settings };
    // The holder would notice the loss at its first renewal, which comes after the late claim.
    let lease = Duration::from_millis(160);
    let policy = Policy::new(Duration::from_mins(10)).with_deadline(PATIENCE).with_lease(lease);
    let mut found = 0;
    for round in 0..rounds {
        let name = round.to_string();
        let key = key(&name);
        // A new cache for each request, so no breaker is open.
        let cache = || Cache::new(kind, store(settings.clone()), policy.clone());
        let version = Arc::new(AtomicU64::new(1));
        let (loads, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let load = {
            let (version, loads, go_on) = (version.clone(), loads.clone(), go_on.clone());
            move || {
                let (version, loads, go_on) = (version.clone(), loads.clone(), go_on.clone());
                async move {
                    let read = version.load(Ordering::SeqCst);
                    if read == 1 {
                        loads.notify_one();
                        go_on.notified().await;
                    }
                    Response::new(Body::from(read.to_string()))
                }
            }
        };
        let ask = async |cache: Cache<_>| cache.ask(&key, None, load.clone()).await.body;
        let holder = cache();
        // A process that has never stored anything would renew its first lease at once.
        let other = || async { Response::new(Body::from("other")) };
        holder.ask(&crate::environment::key(&format!("other-{name}")), None, other).await;
        proxy.set(Mode::ClaimLate(Duration::from_millis(40)));
        let invalidate = async {
            loads.notified().await;
            version.store(2, Ordering::SeqCst);
            server.command::<u64>(&["DEL", key.as_str()]);
            // Waits for the late claim, which may have arrived already.
            let is_there = || {
                let exists = server.command::<u64>(&["EXISTS", key.as_str()]) == 1;
                let is_past = matches!(proxy.mode(), Mode::Pass) && proxy.is_idle();
                (exists || is_past).then_some(())
            };
            wait_for("the late claim", is_there).await;
            go_on.notify_one();
        };
        let (_, ()) = tokio::join!(ask(holder), invalidate);
        found += usize::from(ask(cache()).await != "2");
    }
    found
}

for_both!(
    a_claim_that_arrives_after_an_invalidation_lets_nothing_old_be_kept,
    with_a_claim_that_is_sent_again_it_does_not_hold,
);

// `CLAIM_ROUNDS` sets the number of rounds.
async fn a_claim_that_arrives_after_an_invalidation_lets_nothing_old_be_kept(kind: Kind) {
    let rounds = std::env::var("CLAIM_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    assert_eq!(too_old(kind, RedisStore::new, false, rounds).await, 0);
    assert_eq!(too_old(kind, RedisStore::new, true, rounds).await, 0);
}

async fn with_a_claim_that_is_sent_again_it_does_not_hold(kind: Kind) {
    let resending = |settings: RedisSettings| Resending {
        store: RedisStore::new(settings.clone()),
        spare: RedisStore::new(settings),
    };
    assert!(too_old(kind, resending, true, 20).await > 0);
}
