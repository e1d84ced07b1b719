//! Many invocations of one process while its Redis suffers every kind of fault.
//!
//! `SOAK_INVOCATIONS` sets the number; `make soak` runs 20,000.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::lambda::{BY_DEFAULT, Function};
use test_peers::Folder;
use test_peers::cluster::{Cluster, Shape};
use test_peers::proxy::{Mode, Proxy};
use test_peers::redis::{RedisServer, info};

/// The resources of the process.
#[derive(Debug)]
struct Holds {
    kilobytes: u64,
    files: usize,
    threads: usize,
}

impl Holds {
    fn of(function: &Function) -> Option<Self> {
        let status = std::fs::read_to_string(function.proc("status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(Self {
            kilobytes: resident.trim().trim_end_matches(" kB").parse().ok()?,
            files: std::fs::read_dir(function.proc("fd")).ok()?.count(),
            threads: std::fs::read_dir(function.proc("task")).ok()?.count(),
        })
    }
}

#[tokio::test]
async fn nothing_that_happens_to_redis_changes_an_answer_or_leaks() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(redis.port()).await;
    let url = proxy.url();
    soak(redis, proxy, &[("REDIS_URL", &url)], false).await;
}

async fn soak(redis: RedisServer, proxy: Proxy, variables: &[(&str, &str)], is_frozen: bool) {
    let invocations = std::env::var("SOAK_INVOCATIONS").map_or(2_000, |text| text.parse().unwrap());
    redis.command::<()>(&["ACL", "SETUSER", "cache", "on", ">pw", "~*", "+@all"]);
    let url = variables[0].1.replace("://", "://cache:pw@");
    let variables = [&[("REDIS_URL", &*url)][..], &variables[1..], &BY_DEFAULT].concat();
    let function = Function::start(&variables).await;
    function.get_until_hit("/users/1").await;
    for _ in 0..200 {
        function.get("/users/1").await;
    }
    let before = Holds::of(&function);

    let is_over = Arc::new(AtomicBool::new(false));
    let faults = tokio::spawn(make_trouble(redis, proxy, is_frozen, Arc::clone(&is_over)));
    let (mut hits, mut bypasses) = (0, 0);
    for _ in 0..invocations {
        let reply = function.get("/users/1").await;
        reply.assert_correct();
        hits += usize::from(reply.cache_status().contains("; hit; "));
        bypasses += usize::from(reply.cache_status().contains("fwd=bypass"));
        // The pace of a busy environment, so that faults have time to happen.
        let pause = tokio::time::sleep(Duration::from_millis(5));
        if is_frozen {
            function.wait_until_idle().await;
            function.signal("STOP");
            pause.await;
            function.signal("CONT");
        } else {
            pause.await;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    let (redis, _proxy, troubles) = faults.await.unwrap();
    assert!(hits > 0 && bypasses > 0, "{hits} hits, {bypasses} bypasses: that was no soak");

    function.get_until_hit("/users/1").await;
    let mut connection = redis.connect();
    let clients = test_peers::wait_for("one connection to be left", || {
        (info(&mut connection, "connected_clients") == 2).then_some(2)
    });
    assert_eq!(clients.await, 2, "this test's and the function's");
    println!(
        "frozen: {is_frozen}; {invocations} invocations, {troubles} faults: {hits} hits, {bypasses} bypasses"
    );
    if let (Some(before), Some(after)) = (before, Holds::of(&function)) {
        println!("before {before:?}, after {after:?}");
        assert!(after.files <= before.files, "{before:?}, then {after:?}");
        assert!(after.threads <= before.threads, "{before:?}, then {after:?}");
        assert!(after.kilobytes < before.kilobytes + 4_096, "{before:?}, then {after:?}");
    }
}

/// Causes one fault after another, each for a moment and with a moment in between.
async fn make_trouble(
    mut redis: RedisServer,
    proxy: Proxy,
    is_cluster: bool,
    is_over: Arc<AtomicBool>,
) -> (RedisServer, Proxy, usize) {
    let mut troubles = 0;
    while !is_over.load(Ordering::SeqCst) {
        let long = Duration::from_millis(20 + 37 * (troubles as u64 % 8));
        match troubles % 11 {
            0 => proxy.set(Mode::Silent),
            1 => proxy.set(Mode::Part(7)),
            2 => proxy.set(Mode::Reset(7)),
            3 => proxy.set(Mode::Late(Duration::from_millis(150))),
            4 => proxy.set(Mode::LateOnce(Duration::from_millis(300))),
            5 => redis.signal("STOP"),
            // After a restart, a cluster node refuses its keys for two seconds.
            6 if is_cluster => proxy.set(Mode::Closed),
            6 => redis.kill(),
            7 => redis.command::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]),
            8 => redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]),
            9 => redis.command::<()>(&["ACL", "SETUSER", "cache", "resetpass", ">other"]),
            _ => redis.command::<()>(&["SET", "users:user:1", "garbage"]),
        }
        if troubles % 11 == 9 {
            // A new password alone does not affect connections that are signed in.
            redis.command::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        }
        tokio::time::sleep(long).await;

        proxy.set(Mode::Pass);
        match troubles % 11 {
            5 => redis.signal("CONT"),
            6 if !is_cluster => redis.restart().await,
            8 => redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]),
            _ => {}
        }
        redis.command::<()>(&["ACL", "SETUSER", "cache", "on", "resetpass", ">pw", "~*", "+@all"]);
        tokio::time::sleep(long * 3).await;
        troubles += 1;
    }
    (redis, proxy, troubles)
}

/// In a module, so that `make test` can leave it out by name if the redis-server has no TLS.
mod tls {
    use super::*;

    /// TLS, the cluster protocol, and a freeze after each reply: what the template deploys.
    #[tokio::test]
    async fn nor_in_the_shape_that_is_deployed() {
        let shape = Shape { primaries: 1, has_replicas: false, is_tls: true };
        let mut cluster = Cluster::of(shape).await;
        let folder = Folder::new();
        let ca_file = folder.write("ca.pem", cluster.ca_pem().unwrap());
        let proxy = Proxy::before(cluster.client_port(0)).await;
        let url = proxy.url().replace("redis://", "rediss://");
        let variables =
            [("REDIS_URL", &*url), ("REDIS_CLUSTER", "true"), ("REDIS_TLS_CA_FILE", &ca_file)];
        soak(cluster.nodes.remove(0), proxy, &variables, true).await;
    }
}
