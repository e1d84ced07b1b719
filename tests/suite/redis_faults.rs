//! The responses while Redis, or the network to it, fails. The faults are real: killed or stopped processes, cut
//! sockets, full queues.

use std::time::{Duration, Instant};

use crate::support::STORED;
use crate::support::lambda::{BY_DEFAULT, Function, Reply};
use test_peers::proxy::{BlackHole, Mode, Proxy};
use test_peers::redis::{RedisServer, info};
use test_peers::{Folder, wait_for};

/// The status of a miss if the server answers but does not store.
const REFUSED: &str = "response-boost; fwd=uri-miss; detail=fill-refused";
/// The same for a second after a refused store.
const PASS: &str = "response-boost; fwd=uri-miss; detail=pass";
/// The connect timeout and the response timeout of an impatient function. So long that waiting for one of them differs
/// from waiting for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Both timeouts together.
const DEADLINE: Duration = TIMEOUT.saturating_mul(2);
/// How long a busy machine may take for something that needs no waiting.
const AT_ONCE: Duration = TIMEOUT.saturating_mul(3).checked_div(4).unwrap();

/// A function that waits patiently for Redis.
async fn function(url: &str) -> Function {
    Function::start(&[("REDIS_URL", url)]).await
}

/// A function with this timeout for Redis.
async fn function_with_timeout(url: &str, timeout: Duration) -> Function {
    let timeout_ms = timeout.as_millis().to_string();
    Function::start(&[
        ("REDIS_URL", url),
        ("REDIS_CONNECT_TIMEOUT_MS", &timeout_ms),
        ("REDIS_RESPONSE_TIMEOUT_MS", &timeout_ms),
    ])
    .await
}

fn bypass(detail: &str) -> String {
    format!("response-boost; fwd=bypass; detail={detail}")
}

async fn timed(function: &Function) -> (Reply, Duration) {
    let started = Instant::now();
    let reply = function.get("/users/1").await;
    reply.assert_correct();
    (reply, started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Sends requests for two seconds while Redis fails, during about five probes: no request may wait for one.
async fn assert_nobody_pays(function: &Function) {
    let uncached = Function::start(&[("REDIS_URL", "")]).await;
    let (mut times, mut uncached_times) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs(2);
    while times.len() < 50 || Instant::now() < until {
        let (reply, time) = timed(function).await;
        assert_eq!(reply.cache_status(), bypass("breaker-open"));
        times.push(time);
        // Alternating, so that a busy machine slows both alike. The 404 is not stored, so each request goes to the user
        // store.
        let started = Instant::now();
        assert_eq!(uncached.get("/users/4").await.status, 404);
        uncached_times.push(started.elapsed());
    }
    let (slowest, requests) = (*times.iter().max().unwrap(), times.len());
    assert!(slowest < AT_ONCE, "{slowest:?}: one of {requests} waited");
    let (time, uncached) = (median(times), median(uncached_times));
    assert!(time < uncached * 2 + Duration::from_millis(5), "{time:?}, uncached {uncached:?}");
}

/// Asserts that the first request ends within the deadline, and that later ones do not wait.
async fn assert_outage(url: &str, detail: &str) {
    let function = function_with_timeout(url, TIMEOUT).await;
    let (first, time) = timed(&function).await;
    assert_eq!(first.cache_status(), bypass(detail));
    assert!(time < DEADLINE + AT_ONCE, "{time:?}");
    assert_nobody_pays(&function).await;
}

#[tokio::test]
async fn a_refused_connection_costs_nothing() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    assert_outage(&redis.url(), "redis-refused").await;
}

#[tokio::test]
async fn a_host_that_swallows_packets_costs_one_deadline() {
    assert_outage(&BlackHole::new().url(), "redis-timeout").await;
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_costs_one_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert_outage(&format!("redis://{}", listener.local_addr().unwrap()), "redis-timeout").await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_costs_one_deadline() {
    let function = function_with_timeout("redis://cache.invalid", TIMEOUT).await;
    let (first, time) = timed(&function).await;
    assert!(
        [bypass("redis-error"), bypass("redis-timeout")].contains(&first.cache_status().to_owned())
    );
    assert!(time < DEADLINE + AT_ONCE, "{time:?}");
    assert_nobody_pays(&function).await;
}

/// A proxy whose replies will fail, and a function that has had a hit through it.
async fn behind_a_proxy(timeout: Duration) -> (Function, Proxy, RedisServer) {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(redis.port()).await;
    let function = function_with_timeout(&proxy.url(), timeout).await;
    function.get_until_hit("/users/1").await;
    (function, proxy, redis)
}

#[tokio::test]
async fn a_connection_that_falls_silent_costs_one_response_timeout() {
    let (function, proxy, _redis) = behind_a_proxy(TIMEOUT).await;
    for _ in 0..2 {
        proxy.set(Mode::Silent);
        let (reply, time) = timed(&function).await;
        assert_eq!(reply.cache_status(), bypass("redis-timeout"));
        assert!(time < TIMEOUT + AT_ONCE, "{time:?}");
        assert_nobody_pays(&function).await;
        proxy.set(Mode::Pass);
        function.get_until_hit("/users/1").await;
    }
}

#[tokio::test]
async fn half_a_reply_and_a_reset_in_the_middle_of_one_are_faults_like_others() {
    let timeout = Duration::from_secs(1);
    let (function, proxy, _redis) = behind_a_proxy(timeout).await;
    for bytes in [0, 1, 5, 100] {
        for mode in [Mode::Part(bytes), Mode::Reset(bytes)] {
            proxy.set(mode);
            let (reply, time) = timed(&function).await;
            assert!(reply.cache_status().contains("fwd=bypass"), "{mode:?}");
            assert!(time < timeout * 2 + AT_ONCE, "{mode:?}: {time:?}");
            let reply = function.get("/users/1").await;
            assert_eq!(reply.cache_status(), bypass("breaker-open"), "{mode:?}");
            proxy.set(Mode::Pass);
            function.get_until_hit("/users/1").await;
        }
    }
}

#[tokio::test]
async fn one_slow_reply_opens_the_breaker_for_its_first_step_alone() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(redis.port()).await;
    let function = Function::start(&[
        ("REDIS_URL", &proxy.url()),
        ("REDIS_RESPONSE_TIMEOUT_MS", "2000"),
        ("RUST_LOG", "response_boost=debug"),
    ])
    .await;
    function.get_until_hit("/users/1").await;
    for round in 1..=2 {
        proxy.set(Mode::LateOnce(Duration::from_secs(8)));
        let (reply, _) = timed(&function).await;
        assert_eq!(reply.cache_status(), bypass("redis-timeout"));
        let bypasses = function.get_until_hit("/users/1").await;
        assert!(bypasses.iter().all(|reply| reply.cache_status() == bypass("breaker-open")));
        let output = function.output_with("Redis is back", round).await;
        assert!(!output.contains("not back yet"), "a second step:\n{output}");
    }
}

#[tokio::test]
async fn a_server_that_is_killed_and_restarted_is_used_again() {
    let mut redis = RedisServer::start().await;
    let function = function(&redis.url()).await;
    for _ in 0..5 {
        function.get_until_hit("/users/1").await;
        redis.restart().await;
        // The old connection is closed and Redis is back, so the same request uses a new connection.
        let (reply, _) = timed(&function).await;
        assert_eq!(reply.cache_status(), STORED);
    }
}

#[tokio::test]
async fn a_server_that_hung_up_during_a_freeze_costs_no_hit() {
    let redis = RedisServer::start().await;
    redis.command::<()>(&["CONFIG", "SET", "timeout", "1"]);
    let function = function(&redis.url()).await;
    for _ in 0..3 {
        function.get_until_hit("/users/1").await;
        function.signal("STOP");
        wait_for("the server to hang up", || {
            let clients: String = redis.command(&["CLIENT", "LIST", "TYPE", "NORMAL"]);
            (clients.lines().count() == 1).then_some(())
        })
        .await;
        function.signal("CONT");
        let (reply, _) = timed(&function).await;
        assert!(reply.cache_status().contains("; hit; "), "{}", reply.cache_status());
    }
}

#[tokio::test]
async fn a_server_that_stands_still_is_used_again_when_it_goes_on() {
    let redis = RedisServer::start().await;
    let function = function_with_timeout(&redis.url(), TIMEOUT).await;
    for _ in 0..2 {
        function.get_until_hit("/users/1").await;
        redis.signal("STOP");
        let (reply, time) = timed(&function).await;
        assert_eq!(reply.cache_status(), bypass("redis-timeout"));
        assert!(time < TIMEOUT + AT_ONCE, "{time:?}");
        assert_nobody_pays(&function).await;
        redis.signal("CONT");
        function.get_until_hit("/users/1").await;
    }
}

#[tokio::test]
async fn a_probe_that_is_frozen_with_its_request_gets_through_all_the_same() {
    let mut redis = RedisServer::start().await;
    let function = function_with_timeout(&redis.url(), TIMEOUT).await;
    function.get_until_hit("/users/1").await;
    redis.kill();
    function.get("/users/1").await;
    redis.restart().await;
    // From here on as on Lambda: nothing runs between requests.
    let mut requests = 0;
    loop {
        function.signal("STOP");
        // The time between two requests; its exact length does not matter.
        tokio::time::sleep(Duration::from_millis(150)).await;
        function.signal("CONT");
        let (reply, time) = timed(&function).await;
        assert!(time < AT_ONCE, "{time:?}");
        requests += 1;
        if reply.cache_status().contains("; hit; ") {
            break;
        }
        assert!(requests < 20, "{}", reply.cache_status());
    }
}

#[tokio::test]
async fn a_user_without_rights_is_no_outage() {
    let redis = RedisServer::start().await;
    redis.command::<()>(&["ACL", "SETUSER", "cache", "on", ">pw", "~*", "+get"]);
    let function = function(&redis.url().replace("://", "://cache:pw@")).await;
    for _ in 0..3 {
        // The user may read but not write: the function stores nothing, takes no lease, and does not wait.
        let (reply, _) = timed(&function).await;
        assert_eq!(reply.cache_status(), REFUSED);
    }
    redis.command::<()>(&["ACL", "SETUSER", "cache", "-get"]);
    for _ in 0..3 {
        assert_eq!(timed(&function).await.0.cache_status(), bypass("redis-error"));
    }
    // The user may claim a lease but not replace it by an entry; then the function must not leave the lease behind.
    redis.command::<()>(&["ACL", "SETUSER", "cache", "+get", "+set", "+del"]);
    for _ in 0..3 {
        let (reply, time) = timed(&function).await;
        assert!([REFUSED, PASS].contains(&reply.cache_status()), "{}", reply.cache_status());
        // A lease that it cannot replace would delay the next request.
        assert!(time < AT_ONCE, "{time:?}");
    }
    let all = ["ACL", "SETUSER", "cache", "+eval", "+evalsha", "+type", "+getrange"];
    redis.command::<()>(&all);
    // Without a restart, as soon as the function tries again.
    for reply in function.get_until_hit("/users/1").await {
        let status = reply.cache_status();
        assert!([STORED, REFUSED, PASS].contains(&status), "{status}");
    }
}

#[tokio::test]
async fn a_full_server_stores_nothing_and_is_no_outage() {
    let redis = RedisServer::start().await;
    let function = function(&redis.url()).await;
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    for _ in 0..3 {
        assert_eq!(timed(&function).await.0.cache_status(), REFUSED);
    }
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(timed(&function).await.0.cache_status(), STORED);
}

#[tokio::test]
async fn a_replica_stores_nothing_until_it_is_promoted() {
    let (primary, replica) = (RedisServer::start().await, RedisServer::start().await);
    let function = function(&replica.url()).await;
    function.get_until_hit("/users/1").await;
    follow(&replica, &primary).await;
    for _ in 0..3 {
        assert_eq!(timed(&function).await.0.cache_status(), REFUSED);
    }
    let mut connection = replica.connect();
    let before = info(&mut connection, "total_connections_received");
    timed(&function).await;
    timed(&function).await;
    let opened = info(&mut connection, "total_connections_received") - before;
    assert_eq!(opened, 2, "each time the name is looked up again: it may lead elsewhere by now");
    replica.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(timed(&function).await.0.cache_status(), STORED);
}

async fn follow(replica: &RedisServer, primary: &RedisServer) {
    replica.command::<()>(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    wait_for("the replica to follow", || {
        let text: String = replica.command(&["INFO", "replication"]);
        text.contains("master_link_status:up").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_busy_server_is_let_alone_until_it_is_done() {
    let redis = RedisServer::start().await;
    redis.command::<()>(&["CONFIG", "SET", "busy-reply-threshold", "1"]);
    let function = function_with_timeout(&redis.url(), TIMEOUT).await;
    function.get_until_hit("/users/1").await;
    let mut connection = redis.connect();
    let script = std::thread::spawn(move || {
        let forever =
            redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut connection);
        assert!(forever.is_err(), "it was killed");
    });
    let reply = loop {
        let (reply, time) = timed(&function).await;
        assert!(time < DEADLINE + AT_ONCE);
        if reply.cache_status().contains("bypass") {
            break reply;
        }
    };
    assert!(!reply.cache_status().contains("stored"));
    let (reply, time) = timed(&function).await;
    assert_eq!(reply.cache_status(), bypass("breaker-open"));
    assert!(time < AT_ONCE, "{time:?}");
    wait_for("the script to be killed", || {
        let client = redis::Client::open(redis.operator_url()).ok()?;
        let mut connection = client.get_connection().ok()?;
        redis::cmd("SCRIPT").arg("KILL").query::<()>(&mut connection).ok()
    })
    .await;
    script.join().unwrap();
    function.get_until_hit("/users/1").await;
}

#[tokio::test]
async fn a_server_without_room_for_another_client_is_used_when_there_is() {
    let redis = RedisServer::start().await;
    let function = function_with_timeout(&redis.url(), TIMEOUT).await;
    let mut only = redis.connect();
    test_peers::redis::send::<()>(&mut only, &["CONFIG", "SET", "maxclients", "1"]);
    for _ in 0..3 {
        let (reply, time) = timed(&function).await;
        assert!(reply.cache_status().contains("fwd=bypass"), "{}", reply.cache_status());
        assert!(time < DEADLINE + AT_ONCE, "{time:?}");
    }
    test_peers::redis::send::<()>(&mut only, &["CONFIG", "SET", "maxclients", "100"]);
    function.get_until_hit("/users/1").await;
}

#[tokio::test]
async fn a_request_with_little_time_left_keeps_half_of_it_for_its_load() {
    let hole = BlackHole::new();
    let function = function(&hole.url()).await;
    let time_left = Duration::from_secs(8);
    let started = Instant::now();
    let reply = function.get_within("/users/1", time_left).await;
    // A function that waited longer would have answered 503 by then.
    reply.assert_correct();
    let time = started.elapsed();
    assert!(time > time_left.mul_f64(0.4) && time < time_left, "{time:?}");
}

#[tokio::test]
async fn warming_up_connects_before_the_first_request_and_may_fail() {
    let redis = RedisServer::start().await;
    let mut connection = redis.connect();
    let before = info(&mut connection, "total_connections_received");
    let warm = Function::start(&[("REDIS_URL", &redis.url()), ("WARM_UP", "true")]).await;
    assert_eq!(info(&mut connection, "total_connections_received"), before + 1);
    assert_eq!(warm.get("/users/1").await.cache_status(), STORED);
    assert_eq!(info(&mut connection, "total_connections_received"), before + 1);

    let hole = BlackHole::new();
    let url = hole.url();
    let variables = [&[("REDIS_URL", &*url), ("WARM_UP", "true")][..], &BY_DEFAULT].concat();
    let started = Instant::now();
    let cold = Function::start(&variables).await;
    // Lambda allows ten seconds for initialisation.
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    cold.output_with("not warmed up", 1).await;
    cold.get("/users/1").await.assert_correct();
}

#[tokio::test]
async fn a_silent_resolver_holds_up_one_request_and_one_thread() {
    // `make test` checks whether this machine allows it; otherwise it skips this test and says so.
    let _silent = std::net::UdpSocket::bind("127.0.53.53:53").expect("root on Linux");
    let folder = Folder::new();
    let resolv_conf = folder.write("resolv.conf", "nameserver 127.0.53.53\noptions timeout:30\n");
    let timeout_ms = TIMEOUT.as_millis().to_string();
    let function = Function::start_in(
        &["unshare", "--mount", "sh", "-c"],
        &format!("mount --bind {resolv_conf} /etc/resolv.conf && exec \"$0\""),
        &[
            ("REDIS_URL", "redis://cache.example"),
            ("REDIS_CONNECT_TIMEOUT_MS", &timeout_ms),
            ("REDIS_RESPONSE_TIMEOUT_MS", &timeout_ms),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ],
    )
    .await;
    let (first, time) = timed(&function).await;
    assert_eq!(first.cache_status(), bypass("redis-timeout"));
    assert!(time < DEADLINE + AT_ONCE, "{time:?}");
    // An attempt ends after five seconds, but its lookup cannot be cancelled: the next attempt must not start another
    // one.
    for _ in 0..4 {
        assert_nobody_pays(&function).await;
    }
    let threads = std::fs::read_dir(function.proc("task")).unwrap().count();
    assert!(threads <= 2, "{threads} threads: the program's, and one that looks the name up");
}

#[tokio::test]
async fn a_server_that_loads_its_data_is_let_alone_until_it_has() {
    let mut redis = RedisServer::start_with(|_| {
        ["--enable-debug-command", "yes"].map(ToOwned::to_owned).to_vec()
    })
    .await;
    let function = function(&redis.url()).await;
    function.get_until_hit("/users/1").await;
    redis.command::<()>(&["DEBUG", "POPULATE", "5000"]);
    redis.command::<()>(&["CONFIG", "SET", "key-load-delay", "1000"]);
    redis.command::<()>(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]);
    // Five thousand keys, one millisecond each.
    let mut connection = redis.connect();
    let reload = std::thread::spawn(move || {
        redis::cmd("DEBUG").arg("RELOAD").query::<()>(&mut connection).unwrap();
    });
    let reply = loop {
        let (reply, time) = timed(&function).await;
        assert!(time < DEADLINE + AT_ONCE);
        if reply.cache_status().contains("bypass") {
            break reply;
        }
    };
    assert_ne!(reply.cache_status(), bypass("redis-refused"));
    let mut bypasses = function.get_until_hit("/users/1").await;
    reload.join().unwrap();
    assert!(bypasses.pop().is_some_and(|last| last.cache_status() == bypass("breaker-open")));
    redis.kill();
}
