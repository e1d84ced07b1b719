//! The connections of a store: how many it opens, which commands it may repeat, and what the log would say.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use response_boost::{
    CacheKey, Expected, Found, Namespace, RedisSettings, RedisStore, Store, StoreError,
};
use test_peers::cluster::{Cluster, Shape};
use test_peers::proxy::{Mode, Proxy};
use test_peers::redis::{RedisServer, info, send};
use test_peers::tls::{Ca, TlsFiles, TlsServer};
use test_peers::{PATIENCE, wait_for};

use crate::environment::{NAMESPACE, key};

const LIFE: Duration = Duration::from_mins(10);
/// Longer than a busy machine takes; a request that waits for a silent server reaches it.
const TIMEOUT: Duration = Duration::from_secs(2);

fn settings(url: &str) -> RedisSettings {
    let settings = RedisSettings::parse(url).unwrap();
    settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE)
}

fn hasty(url: &str) -> RedisSettings {
    settings(url).with_connect_timeout(TIMEOUT).with_response_timeout(TIMEOUT)
}

async fn put(store: &RedisStore, key: &CacheKey, value: &'static str) -> bool {
    store.put(key, Expected::Anything, value.into(), LIFE).await.unwrap()
}

/// The text of a fault and of its cause, as the log shows them.
fn told(fault: &StoreError) -> String {
    let cause = fault.source().map(ToString::to_string).unwrap_or_default();
    format!("{}: {fault}: {cause}", fault.word("redis"))
}

/// The error of a failed lookup, which must not show a client's secret.
async fn get(settings: RedisSettings) -> String {
    let fault = RedisStore::new(settings).get(&key("a-key")).await.unwrap_err();
    let told = told(&fault);
    for secret in ["alice", "hunter2", key("a-key").as_str()] {
        assert!(!told.contains(secret) && !format!("{fault:?}").contains(secret), "{told}");
    }
    told
}

#[expect(clippy::needless_pass_by_value, reason = "it reads better where it is called")]
fn assert_all(told: String, parts: &[&str]) {
    for part in parts {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
}

/// A key for each primary, by the primary's index.
fn keys_by_primary(cluster: &Cluster) -> Vec<CacheKey> {
    let mut keys = BTreeMap::new();
    for number in 0.. {
        let key = key(&number.to_string());
        keys.entry(cluster.primary_of(key.as_str())).or_insert(key);
        if keys.len() == cluster.primaries() {
            break;
        }
    }
    keys.into_values().collect()
}

/// The number of connections that stores have: those of the tests belong to the operator, and replicas do not count as
/// clients.
fn connections(cluster: &Cluster) -> usize {
    cluster.nodes.iter().map(|node| clients_of(node, "default")).sum()
}

/// How many connections a user has.
fn clients_of(node: &RedisServer, user: &str) -> usize {
    let clients: String = node.command(&["CLIENT", "LIST", "TYPE", "normal"]);
    clients.lines().filter(|client| client.contains(&format!("user={user} "))).count()
}

const THREE_WITH_REPLICAS: Shape = Shape { primaries: 3, has_replicas: true, is_tls: false };
const THREE: Shape = Shape { has_replicas: false, ..THREE_WITH_REPLICAS };
const ONE: Shape = Shape { primaries: 1, ..THREE };

#[tokio::test]
async fn only_the_nodes_that_are_asked_are_connected_to() {
    let serverless = Cluster::of(ONE).await;
    let store = RedisStore::new(settings(&serverless.url(0)).with_cluster());
    assert_eq!(connections(&serverless), 0);
    let monitor = serverless.nodes[0].monitor();
    for number in 0..20 {
        put(&store, &key(&number.to_string()), "x").await;
    }
    assert_eq!(connections(&serverless), 1);
    let commands = monitor.until_now(&serverless.nodes[0]);
    assert!(!commands.iter().any(|line| line.contains("CLUSTER")), "no topology is needed");

    let cluster = Cluster::of(THREE_WITH_REPLICAS).await;
    let store = RedisStore::new(settings(&cluster.url(0)).with_cluster());
    let keys = keys_by_primary(&cluster);
    put(&store, &keys[1], "x").await;
    assert!(connections(&cluster) <= 2);
    for number in 0..100 {
        put(&store, &key(&number.to_string()), "x").await;
    }
    wait_for("one connection to each primary", || (connections(&cluster) == 3).then_some(())).await;

    // A connection to a replica, or to a node under another name, is closed once the slots are known.
    let store = RedisStore::new(settings(&cluster.url(4)).with_cluster());
    for number in 0..100 {
        put(&store, &key(&number.to_string()), "x").await;
    }
    wait_for("no connection to the replica", || (connections(&cluster) == 6).then_some(())).await;
}

#[tokio::test]
async fn keys_of_healthy_nodes_are_hits_while_another_is_silent_or_dead() {
    for is_killed in [false, true] {
        let mut cluster = Cluster::of(THREE).await;
        let store = RedisStore::new(hasty(&cluster.url(0)).with_cluster());
        let keys = keys_by_primary(&cluster);
        for key in &keys {
            put(&store, key, "x").await;
        }
        if is_killed {
            cluster.nodes[2].kill();
        } else {
            cluster.nodes[2].signal("STOP");
        }
        let mut answered = 0;
        for _ in 0..200 {
            for key in &keys[..2] {
                assert_eq!(store.get(key).await.unwrap(), Found::Value("x".into()));
            }
            answered += usize::from(store.get(&keys[2]).await.is_ok());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(answered, 0, "the node is away");
        if !is_killed {
            cluster.nodes[2].signal("CONT");
            wait_until_ok(&store, &keys[2]).await;
        }
    }
}

async fn wait_until_ok(store: &RedisStore, key: &CacheKey) {
    let end = std::time::Instant::now() + PATIENCE;
    while let Err(fault) = store.get(key).await {
        assert!(std::time::Instant::now() < end, "{}", told(&fault));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A primary dies that the settings do not name. The node that they name leads to its replica.
#[tokio::test]
async fn a_replica_that_takes_over_is_found() {
    let mut cluster = Cluster::of(THREE_WITH_REPLICAS).await;
    let store = RedisStore::new(hasty(&cluster.url(0)).with_cluster());
    let keys = keys_by_primary(&cluster);
    put(&store, &keys[1], "x").await;
    wait_for("the replica to have it", || {
        let replicas: u64 = cluster.nodes[4].command(&["DBSIZE"]);
        (replicas == 1).then_some(())
    })
    .await;
    cluster.nodes[1].kill();
    wait_until_ok(&store, &keys[1]).await;
    assert_eq!(store.get(&keys[1]).await.unwrap(), Found::Value("x".into()));
    assert!(put(&store, &keys[1], "y").await, "by the new primary");
}

/// A node is replaced behind the same name: the open connection leads to the old node, which redirects to that very
/// name.
#[tokio::test]
async fn a_moved_to_the_node_that_answered_costs_one_connection() {
    let (old, new) = (cluster_node().await, cluster_node().await);
    let proxy = Proxy::before(old.port()).await;
    for node in [&old, &new] {
        let port = proxy.port().to_string();
        node.command::<()>(&["CONFIG", "SET", "cluster-announce-ip", "127.0.0.1"]);
        node.command::<()>(&["CONFIG", "SET", "cluster-announce-port", &port]);
        node.command::<()>(&["CONFIG", "SET", "cluster-announce-bus-port", &node.bus_port()]);
    }
    old.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    old.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", "1"]);
    new.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", "2"]);
    let port = new.port().to_string();
    old.command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &new.bus_port()]);
    let id: String = old.command(&["CLUSTER", "MYID"]);
    wait_for("the nodes to meet", || {
        let known: String = new.command(&["CLUSTER", "NODES"]);
        known.contains(&id).then_some(())
    })
    .await;
    wait_for("the new node to follow", || {
        let client = redis::Client::open(new.operator_url()).ok()?;
        let mut connection = client.get_connection().ok()?;
        redis::cmd("CLUSTER").arg("REPLICATE").arg(&id).query::<()>(&mut connection).ok()
    })
    .await;
    wait_for("the new node to have what the old one has", || {
        let text: String = new.command(&["INFO", "replication"]);
        text.contains("master_link_status:up").then_some(())
    })
    .await;

    wait_for("the cluster to be ready", || {
        let is_ready = |node: &RedisServer| -> bool {
            node.command::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        };
        [&old, &new].into_iter().all(is_ready).then_some(())
    })
    .await;
    let store = RedisStore::new(settings(&proxy.url()).with_cluster());
    let key = key("a");
    put(&store, &key, "x").await;
    wait_for("the entry to be copied", || (new.command::<u64>(&["DBSIZE"]) == 1).then_some(()))
        .await;
    proxy.lead_to(new.port());
    new.command::<()>(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    wait_for("the old node to know", || {
        let known: String = old.command(&["CLUSTER", "NODES"]);
        known.lines().any(|line| line.contains("myself,slave")).then_some(())
    })
    .await;
    for _ in 0..3 {
        assert_eq!(store.get(&key).await.unwrap(), Found::Value("x".into()));
    }
    // The nodes' own connections go through the proxy too, as the operator.
    let of_stores = |node: &RedisServer| {
        let clients: String = node.command(&["CLIENT", "LIST"]);
        clients.lines().filter(|client| client.contains("user=default")).count()
    };
    wait_for("one connection, to the new node", || {
        ([&old, &new].map(of_stores) == [0, 1]).then_some(())
    })
    .await;
}

async fn cluster_node() -> RedisServer {
    RedisServer::start_with(|_| {
        let port = test_peers::redis::free_port().to_string();
        let arguments = ["--cluster-enabled", "yes", "--cluster-port", &port];
        let quick = ["--cluster-node-timeout", "60000", "--repl-diskless-sync-delay", "0"];
        arguments.into_iter().chain(quick).map(ToOwned::to_owned).collect()
    })
    .await
}

/// A slot that is moving: for a key that has moved, the source redirects to the target (`ASK`). If the redirection
/// omits the host, it is that of the node that sent it.
#[tokio::test]
async fn a_slot_on_its_way_is_followed() {
    let cluster = Cluster::of(THREE).await;
    let keys = keys_by_primary(&cluster);
    let slot = cluster.slot_of(keys[1].as_str()).to_string();
    let [from, to] = [&cluster.nodes[1], &cluster.nodes[2]];
    for endpoint in ["ip", "unknown-endpoint"] {
        for node in &cluster.nodes {
            node.command::<()>(&["CONFIG", "SET", "cluster-preferred-endpoint-type", endpoint]);
        }
        let store = RedisStore::new(settings(&cluster.url(0)).with_cluster());
        from.command::<u64>(&["DEL", keys[1].as_str()]);
        let [from_id, to_id]: [String; 2] =
            [from, to].map(|node| node.command(&["CLUSTER", "MYID"]));
        to.command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        from.command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
        assert!(put(&store, &keys[1], "x").await, "{endpoint}");
        assert_eq!(store.get(&keys[1]).await.unwrap(), Found::Value("x".into()), "{endpoint}");
        // A claim, and an entry stored by a script, follow the same redirection.
        let expected = Expected::StartsWith(b"x");
        assert!(store.put(&keys[1], expected, "y".into(), LIFE).await.unwrap(), "{endpoint}");
        assert_eq!(to.command::<u64>(&["DBSIZE"]), 1, "{endpoint}");
        store.delete(&keys[1]).await.unwrap();
        assert_eq!(to.command::<u64>(&["DBSIZE"]), 0, "{endpoint}");
        for node in [from, to] {
            node.command::<()>(&["CLUSTER", "SETSLOT", &slot, "STABLE"]);
        }
    }
}

/// A server that is not a cluster never redirects.
#[tokio::test]
async fn a_server_that_is_no_cluster_serves_all_slots() {
    let server = RedisServer::start().await;
    let store = RedisStore::new(settings(&server.url()).with_cluster());
    put(&store, &key("a"), "x").await;
    assert_eq!(store.get(&key("a")).await.unwrap(), Found::Value("x".into()));
}

/// Sends each command of a store and loses its reply once. The store must repeat those that may run twice, and no
/// others.
#[tokio::test]
async fn a_claim_is_never_done_twice_and_what_may_be_is_named() {
    let server = RedisServer::start().await;
    let proxy = Proxy::before(server.port()).await;
    let store = RedisStore::new(settings(&proxy.url()));
    let lease = format!("lease:{}", "0".repeat(32));
    let lease = || lease.clone().into();
    let reset = async |name: &str, prepare: &[&[&str]], expected: Option<Expected<'_>>, claims| {
        let key = key(name);
        for command in prepare {
            let command =
                command.iter().map(|&part| if part == "KEY" { key.as_str() } else { part });
            server.command::<redis::Value>(&command.collect::<Vec<_>>());
        }
        // The connection must be open: only then is a command sent again.
        let end = std::time::Instant::now() + PATIENCE;
        while store.get(&key).await.is_err() {
            assert!(std::time::Instant::now() < end);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let monitor = server.monitor();
        proxy.set(Mode::ResetOnce);
        let is_ok = match (name, expected) {
            ("get", _) => store.get(&key).await.is_ok(),
            ("delete", _) => store.delete(&key).await.is_ok(),
            (_, Some(expected)) => {
                let value = if claims { lease() } else { "entry".into() };
                store.put(&key, expected, value, LIFE).await.is_ok()
            }
            _ => unreachable!(),
        };
        proxy.set(Mode::Pass);
        let sent = monitor
            .until_now(&server)
            .into_iter()
            .filter(|line| line.contains(key.as_str()) && !line.contains(" lua]"));
        (is_ok, sent.count())
    };
    let standing: &[&[&str]] = &[&["SET", "KEY", "x"]];
    let foreign: &[&[&str]] = &[&["HSET", "KEY", "a", "b"]];
    let x = Expected::StartsWith(b"x");

    assert_eq!(reset("get", &[], None, false).await, (true, 2));
    assert_eq!(reset("delete", &[], None, false).await, (true, 2));
    assert_eq!(reset("set", &[], Some(Expected::Anything), false).await, (true, 2));
    // From now on the server knows the script, whatever other tests have sent to other servers.
    put(&store, &key("known"), "x").await;
    assert!(store.put(&key("known"), x, "y".into(), LIFE).await.unwrap());
    assert_eq!(reset("fill", standing, Some(x), false).await, (true, 2));
    for (name, prepare, expected) in [
        ("claim", &[][..], Expected::Nothing),
        ("claim-of-what-does-not-decode", standing, x),
        ("claim-of-another-type", foreign, Expected::Foreign),
    ] {
        assert_eq!(reset(name, prepare, Some(expected), true).await, (false, 1), "{name}");
    }
}

#[tokio::test]
async fn a_script_is_sent_whole_where_its_hash_is_refused() {
    let server = RedisServer::start().await;
    server.command::<()>(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-evalsha"]);
    let store = RedisStore::new(settings(&server.url().replace("://", "://app:pw@")));
    for round in 0..3 {
        put(&store, &key("a"), "x").await;
        let replaced = store.put(&key("a"), Expected::StartsWith(b"x"), "y".into(), LIFE).await;
        assert!(replaced.unwrap(), "{round}");
    }
}

/// Like a proxy that cannot reach its server, or a server that rejects all clients.
#[tokio::test]
async fn an_unknown_error_to_a_read_opens_the_breaker() {
    let server =
        RedisServer::start_with(|_| ["--rename-command", "GET", "LOOK"].map(Into::into).to_vec())
            .await;
    let store = RedisStore::new(settings(&server.url()));
    let fault = store.get(&key("a")).await.unwrap_err();
    assert!(told(&fault).contains("ERR unknown command"), "{}", told(&fault));
    assert!(matches!(store.get(&key("a")).await, Err(StoreError::BreakerOpen)));
}

#[tokio::test]
async fn an_old_connection_that_cannot_be_replaced_is_used_on() {
    let server = RedisServer::start().await;
    let mut operator = server.connect();
    send::<()>(&mut operator, &["ACL", "SETUSER", "app", "on", ">old", "~*", "+@all"]);
    let url = server.url().replace("://", "://app:old@");
    let store = RedisStore::new(settings(&url).with_max_age(Duration::ZERO));
    put(&store, &key("a"), "x").await;
    send::<()>(&mut operator, &["ACL", "SETUSER", "app", "resetpass", ">new"]);
    let before = info(&mut operator, "total_connections_received");
    let started = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(store.get(&key("a")).await.unwrap(), Found::Value("x".into()));
        tokio::task::yield_now().await;
    }
    let attempts = info(&mut operator, "total_connections_received") - before;
    // One at once, then one for each step of the backoff, each twice as long as the one before.
    let most = 2 + u64::from(started.elapsed().as_millis().div_ceil(100).max(1).ilog2());
    assert!((1..=most).contains(&attempts), "{attempts} of {most}");
}

/// The store reads the slots beside requests, and less often each time that the cluster refuses. Meanwhile a `MOVED`
/// from the node that is asked leads to every key.
#[tokio::test]
async fn slots_that_are_refused_are_asked_for_less_and_less() {
    let cluster = Cluster::of(THREE).await;
    for node in &cluster.nodes {
        let rights = "on >pw ~* +@all -cluster|slots";
        let user = format!("ACL SETUSER app {rights}");
        node.command::<()>(&user.split(' ').collect::<Vec<_>>());
    }
    let url = cluster.url(0).replace("://", "://app:pw@");
    let store = RedisStore::new(settings(&url).with_cluster());
    let mut operators: Vec<_> = cluster.nodes.iter().map(RedisServer::connect).collect();
    let started = std::time::Instant::now();
    for number in 0..100 {
        assert!(put(&store, &key(&number.to_string()), "x").await);
        tokio::task::yield_now().await;
    }
    let mut asked = 0;
    for operator in &mut operators {
        let stats: String = send(operator, &["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_cluster|slots:"));
        let rejected = line.and_then(|line| line.split("rejected_calls=").nth(1)).unwrap_or("0");
        asked += rejected.split(',').next().unwrap().parse::<u64>().unwrap();
    }
    // All three are asked at once, then again at each step of the backoff, each twice as long as the one before.
    let most = 3 * (1 + u64::from(started.elapsed().as_millis().div_ceil(100).max(1).ilog2()));
    assert!((1..=most).contains(&asked), "{asked} of {most}");
    let connections: usize = cluster.nodes.iter().map(|node| clients_of(node, "app")).sum();
    assert!((2..=3).contains(&connections), "{connections}");
}

/// Like a server in protected mode, before it has read a command.
#[tokio::test]
async fn a_server_that_lets_nobody_in_is_seldom_tried() {
    let protected = |_| ["--bind", "0.0.0.0", "--protected-mode", "yes"].map(Into::into).to_vec();
    let server = RedisServer::start_with(protected).await;
    let mut operator = server.connect();
    // Protected mode applies because the default user has no password.
    let own = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    own.connect("192.0.2.1:9").unwrap();
    let own = own.local_addr().unwrap().ip();
    let store = RedisStore::new(settings(&format!("redis://{own}:{}", server.port())));
    assert_all(told(&store.get(&key("a")).await.unwrap_err()), &["DENIED"]);
    let before = info(&mut operator, "total_connections_received");
    let started = std::time::Instant::now();
    for _ in 0..100 {
        assert!(store.get(&key("a")).await.is_err());
        tokio::task::yield_now().await;
    }
    let attempts = info(&mut operator, "total_connections_received") - before;
    let most = 2 + u64::from(started.elapsed().as_millis().div_ceil(100).max(1).ilog2());
    assert!(attempts <= most, "{attempts} of {most}");
}

/// A large reply over a slow link takes longer than the response timeout: the store waits as long as it keeps arriving,
/// and nobody else loses the cache.
#[tokio::test]
async fn a_large_entry_over_a_slow_link_is_no_fault() {
    let server = RedisServer::start().await;
    let proxy = Proxy::before(server.port()).await;
    let response = Duration::from_millis(400);
    let large = "x".repeat(900_000);
    server.command::<()>(&["SET", key("large").as_str(), &large]);
    server.command::<()>(&["SET", key("small").as_str(), "small"]);

    // Until the deadline, which is about a second.
    let settings = settings(&proxy.url()).with_response_timeout(response);
    let store = RedisStore::new(settings);
    proxy.set(Mode::Slow(900_000));
    let Found::Value(value) = store.get(&key("large")).await.unwrap() else { panic!("no value") };
    assert_eq!(value, large);
    assert_eq!(store.get(&key("small")).await.unwrap(), Found::Value("small".into()));

    // Too slow even for that: this request does without the cache, but no other.
    let store = RedisStore::new(hasty(&proxy.url()).with_response_timeout(response));
    proxy.set(Mode::Slow(200_000));
    let before = proxy.accepted();
    let fault = store.get(&key("large")).await.unwrap_err();
    assert!(matches!(fault, StoreError::Timeout(_)), "{}", told(&fault));
    proxy.set(Mode::Pass);
    let small = store.get(&key("small")).await.map_err(|fault| told(&fault)).unwrap();
    assert_eq!(small, Found::Value("small".into()));
    assert_eq!(proxy.accepted(), before + 1, "over the same connection");
}

/// The store cannot know how much of a large entry was sent. It drops the connection, and holds up nobody else.
#[tokio::test]
async fn a_large_entry_that_does_not_get_through_opens_no_breaker() {
    let server = RedisServer::start().await;
    let proxy = Proxy::before(server.port()).await;
    let store = RedisStore::new(hasty(&proxy.url()));
    put(&store, &key("small"), "small").await;
    proxy.set(Mode::Silent);
    let large = "x".repeat(100_000).into();
    let fault = store.put(&key("large"), Expected::Anything, large, LIFE).await.unwrap_err();
    assert!(matches!(fault, StoreError::Timeout(_)), "{}", told(&fault));
    proxy.set(Mode::Pass);
    assert_eq!(store.get(&key("small")).await.unwrap(), Found::Value("small".into()));
    // A small write that fails is a fault like any other.
    proxy.set(Mode::Silent);
    let small = store.put(&key("small"), Expected::Anything, "x".into(), LIFE).await;
    assert!(matches!(small, Err(StoreError::Timeout(_))));
    assert!(matches!(store.get(&key("small")).await, Err(StoreError::BreakerOpen)));
}

#[tokio::test]
async fn a_fault_names_the_node_the_servers_words_and_a_hint() {
    let server = RedisServer::start().await;
    let at = format!("127.0.0.1:{}", server.port());
    server.command::<()>(&["ACL", "SETUSER", "alice", "on", ">hunter2", "~*", "+@all", "-get"]);
    let with = |credentials: &str| settings(&server.url().replace("://", credentials));
    assert_all(get(with("://alice:hunter2@")).await, &["redis-error", &at, "NOPERM"]);
    assert_all(get(with("://alice:hunter3@")).await, &["redis-auth", &at, "WRONGPASS"]);

    let cluster = Cluster::of(THREE).await;
    let keys = keys_by_primary(&cluster);
    let fault = RedisStore::new(settings(&cluster.url(0))).get(&keys[1]).await.unwrap_err();
    assert_all(told(&fault), &["redis-error", "MOVED", "is REDIS_CLUSTER=true missing?"]);
}

/// In a module, so that `make test` can leave it out by name if the redis-server has no TLS.
mod tls {
    use super::*;

    #[tokio::test]
    async fn a_fault_of_tls_comes_with_a_hint() {
        let tls = TlsServer::good().await;
        let plain = format!("redis://127.0.0.1:{}", tls.tls_port);
        assert_all(
            get(settings(&plain)).await,
            &["does the port want TLS? then the URL begins with rediss://"],
        );
        let trusting =
            |url: &str, files: &TlsFiles| hasty(url).with_own_ca(files.ca.pem.as_bytes()).unwrap();
        let no_tls = format!("rediss://localhost:{}", tls.redis.port());
        assert_all(get(trusting(&no_tls, &tls.files)).await, &["does the port speak TLS?"]);
        let other_name = format!("rediss://127.0.0.1:{}", tls.tls_port);
        assert_all(
            get(trusting(&other_name, &tls.files)).await,
            &[
                "redis-error",
                "127.0.0.1",
                "not valid for name",
                "the certificate is for another name",
            ],
        );
    }

    #[tokio::test]
    async fn a_server_that_wants_a_client_certificate_is_shown_one() {
        let server = TlsServer::start(&["localhost"], |_| (), &["--tls-auth-clients", "yes"]).await;
        let ca = &server.files.ca;
        let trusting = || settings(&server.url()).with_own_ca(ca.pem.as_bytes()).unwrap();
        let fault = RedisStore::new(trusting()).get(&key("a")).await.unwrap_err();
        assert!(told(&fault).contains("REDIS_TLS_CERT_FILE"), "{}", told(&fault));

        let (certificate, private_key) = ca.certificate(&["function"], |_| ());
        let showing = |certificate: &str, private_key: &str| {
            trusting().with_client_certificate(certificate.as_bytes(), private_key.as_bytes())
        };
        let store = RedisStore::new(showing(&certificate, &private_key).unwrap());
        put(&store, &key("a"), "x").await;

        let (_, other_key) = Ca::new().certificate(&["function"], |_| ());
        assert!(showing(&certificate, &other_key).is_err());
        assert!(showing("no certificate", &private_key).is_err());
        assert!(showing(&certificate, "no key").is_err());
    }

    /// In a cluster, too, each connection signs in with a new token.
    #[tokio::test]
    async fn a_sign_in_is_made_afresh_for_each_connection() {
        use response_boost::{AwsCredentials, IamName, IamSettings};

        let server = TlsServer::good().await;
        server.redis.command::<()>(&["ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all"]);
        let signed = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&signed);
        let name = |text| IamName::parse(text).unwrap();
        let iam = IamSettings::new(name("app"), name("cache"), move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            std::future::ready(Ok(AwsCredentials::new("key", "secret", "eu-west-1")))
        });
        let settings = settings(&server.url()).with_own_ca(server.files.ca.pem.as_bytes()).unwrap();
        let store = RedisStore::new(settings.with_iam(iam).with_cluster());
        for round in 1..=3 {
            put(&store, &Namespace::parse(NAMESPACE).unwrap().key(["a"]), "x").await;
            assert_eq!(signed.load(std::sync::atomic::Ordering::SeqCst), round);
            server.redis.command::<u64>(&["CLIENT", "KILL", "USER", "app"]);
        }
    }
}
