//! A real cluster of six nodes in which a primary dies and slots move.

use std::time::Duration;

use crate::support::lambda::Function;
use crate::support::{MANAS, STORED};
use response_boost::{Expected, Namespace, RedisSettings, RedisStore, Store as _};
use test_peers::PATIENCE;
use test_peers::cluster::Cluster;
use test_peers::redis::{OPERATOR, RedisServer};

const KEY: &str = "users:user:1";

async fn function(url: &str) -> Function {
    Function::start(&[("REDIS_URL", url), ("REDIS_CLUSTER", "true")]).await
}

#[tokio::test]
async fn keys_of_all_primaries_are_stored_over_one_connection_to_each() {
    let cluster = Cluster::start().await;
    let function = function(&cluster.nodes[0].url()).await;
    for id in 1..=3 {
        let path = format!("/users/{id}");
        assert_eq!(function.get(&path).await.cache_status(), STORED);
        assert!(function.get(&path).await.cache_status().contains("; hit; "));
        let key = format!("users:user:{id}");
        let primary = &cluster.nodes[cluster.primary_of(&key)];
        assert!((1..=120_000).contains(&primary.command::<i64>(&["PTTL", &key])));
    }
    for _ in 0..50 {
        function.get("/users/1").await;
    }
    for node in &cluster.nodes {
        let clients: String = node.command(&["CLIENT", "LIST", "TYPE", "normal"]);
        let of_function = clients.lines().filter(|client| client.contains("user=default"));
        assert!(of_function.count() <= 1, "{clients}");
    }
}

#[tokio::test]
async fn a_purge_reaches_every_primary() {
    let cluster = Cluster::start().await;
    let settings = RedisSettings::parse(&cluster.nodes[4].operator_url()).unwrap().with_cluster();
    let settings = settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE);
    let store = RedisStore::new(settings);
    let namespace = Namespace::parse("users").unwrap();
    for id in 0..300 {
        let (key, life) = (namespace.key(["user", &id.to_string()]), Duration::from_mins(1));
        assert!(store.put(&key, Expected::Anything, "x".into(), life).await.unwrap());
    }
    let sizes = || cluster.nodes[..3].iter().map(|node| node.command::<u64>(&["DBSIZE"]));
    assert!(sizes().all(|size| size > 50));
    assert_eq!(store.purge(&namespace, |_| {}).await.unwrap(), 300);
    assert!(sizes().all(|size| size == 0));
}

#[tokio::test]
async fn a_user_and_a_password_go_to_every_node() {
    let cluster = Cluster::start().await;
    for node in &cluster.nodes {
        node.command::<()>(&["ACL", "SETUSER", "cache", "on", ">pw", "~*", "+@all"]);
        node.command::<()>(&["ACL", "SETUSER", "default", "-get", "-set"]);
    }
    let function = function(&cluster.nodes[1].url().replace("://", "://cache:pw@")).await;
    for id in 1..=3 {
        assert_eq!(function.get(&format!("/users/{id}")).await.cache_status(), STORED);
    }
}

#[tokio::test]
async fn a_primary_that_dies_is_followed_by_its_replica() {
    let mut cluster = Cluster::start().await;
    let dying = cluster.primary_of(KEY);
    let surviving = (dying + 1) % 3;
    let function = function(&cluster.nodes[surviving].url()).await;
    function.get_until_hit("/users/1").await;
    cluster.nodes[dying].kill();
    // `get_until_hit` checks that each response is the correct 200.
    wait_for_promotion(&cluster.nodes[dying + 3], &function).await;
    function.get_until_hit("/users/1").await;
    assert_eq!(cluster.nodes[dying + 3].command::<u64>(&["EXISTS", KEY]), 1);
}

async fn wait_for_promotion(replica: &RedisServer, function: &Function) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !replica.command::<String>(&["INFO", "replication"]).contains("role:master") {
        let reply = function.get("/users/1").await;
        reply.assert_correct();
        assert!(std::time::Instant::now() < deadline, "the replica is not promoted");
    }
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_without_a_fault() {
    let cluster = Cluster::start().await;
    let (from, slot) = (cluster.primary_of(KEY), cluster.slot_of(KEY).to_string());
    let to = (from + 1) % 3;
    let function = function(&cluster.nodes[(from + 2) % 3].url()).await;
    function.get_until_hit("/users/1").await;
    // There and back, three times, with requests during each step.
    for round in 0..6 {
        let (source, target) = if round % 2 == 0 { (from, to) } else { (to, from) };
        let (source, target) = (&cluster.nodes[source], &cluster.nodes[target]);
        let source_id: String = source.command(&["CLUSTER", "MYID"]);
        let target_id: String = target.command(&["CLUSTER", "MYID"]);
        target.command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
        source.command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
        assert_undisturbed(&function).await;
        // Half moved: the request goes to the source, but the key is on the target already (ASK).
        let port = target.port().to_string();
        let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, KEY, "0", "5000", "AUTH2"];
        migrate.extend([OPERATOR, "any"]);
        source.command::<redis::Value>(&migrate);
        assert_undisturbed(&function).await;
        // On neither node: a miss, stored on the target.
        target.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        source.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        assert_undisturbed(&function).await;
        target.command::<u64>(&["DEL", KEY]);
        assert_eq!(function.get("/users/1").await.cache_status(), STORED);
    }
}

/// Asserts that the function sees neither faults nor misses.
async fn assert_undisturbed(function: &Function) {
    for _ in 0..20 {
        let reply = function.get("/users/1").await;
        assert_eq!(reply.body, MANAS);
        assert!(reply.cache_status().contains("; hit; "), "{}", reply.cache_status());
    }
}

#[tokio::test]
async fn a_cluster_that_stands_still_costs_one_deadline() {
    let cluster = Cluster::start().await;
    let url = cluster.nodes[0].url();
    let timeouts = [("REDIS_CONNECT_TIMEOUT_MS", "2000"), ("REDIS_RESPONSE_TIMEOUT_MS", "2000")];
    let variables = [&[("REDIS_URL", &*url), ("REDIS_CLUSTER", "true")][..], &timeouts].concat();
    let function = Function::start(&variables).await;
    function.get_until_hit("/users/1").await;
    for node in &cluster.nodes {
        node.signal("STOP");
    }
    let started = std::time::Instant::now();
    let reply = function.get("/users/1").await;
    reply.assert_correct();
    // The deadline, and as much again for a busy machine.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let reply = function.get("/users/1").await;
    assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=breaker-open");
    for node in &cluster.nodes {
        node.signal("CONT");
    }
    function.get_until_hit("/users/1").await;
}
