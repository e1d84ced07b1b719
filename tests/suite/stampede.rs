//! Many environments request one key at once: one loads, the others wait for it.

use std::time::{Duration, Instant};

use crate::support::dynamodb::{DynamoDb, Mode};
use crate::support::lambda::{BY_DEFAULT, Function, Reply};
use crate::support::{MANAS, STORED};
use futures_util::future::join_all;
use test_peers::cluster::Cluster;
use test_peers::proxy::Proxy;
use test_peers::redis::RedisServer;

const LOAD: Duration = Duration::from_millis(200);
const ANOTHERS_LEASE: &str = "lease:00000000000000000000000000000000";
/// For tests in which no holder dies, so that a holder slowed by a busy machine does not look dead.
const LONG_LEASE: (&str, &str) = ("CACHE_LEASE_MS", "60000");

/// `STAMPEDE_ENVIRONMENTS` sets how many environments request a popular key.
fn many() -> usize {
    std::env::var("STAMPEDE_ENVIRONMENTS").map_or(40, |count| count.parse().unwrap())
}

async fn environments(
    count: usize,
    table: &DynamoDb,
    redis: &RedisServer,
    more: &[(&str, &str)],
) -> Vec<Function> {
    environments_at(count, table, &redis.url(), more).await
}

async fn environments_at(
    count: usize,
    table: &DynamoDb,
    url: &str,
    more: &[(&str, &str)],
) -> Vec<Function> {
    let variables = table.variables();
    let mut all: Vec<(&str, &str)> = vec![
        ("REDIS_URL", url),
        // Connected beforehand, so that all of them request at the same time.
        ("WARM_UP", "true"),
    ];
    all.extend(variables.iter().map(|(name, value)| (*name, value.as_str())));
    all.extend(more);
    let mut functions = Vec::new();
    for _ in 0..count {
        functions.push(Function::start(&all).await);
    }
    table.requests();
    functions
}

/// Sends a request to all of them at once; returns each response and its time.
async fn ask_all(functions: &[Function], path: &'static str) -> Vec<(Reply, Duration)> {
    let started = Instant::now();
    let asked = functions.iter().map(|function| async move {
        let reply = function.get(path).await;
        (reply, started.elapsed())
    });
    join_all(asked).await
}

fn slowest(answers: &[(Reply, Duration)]) -> Duration {
    answers.iter().map(|(_, time)| *time).max().unwrap()
}

// `STAMPEDE_ROUNDS` sets the number of rounds.
#[tokio::test]
async fn a_cold_key_is_loaded_once() {
    let rounds = std::env::var("STAMPEDE_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let functions = environments(many(), &table, &redis, &[LONG_LEASE]).await;
    table.set(Mode::Late(LOAD));
    let (mut loads, mut slowest) = (Vec::new(), Duration::ZERO);
    for _ in 0..rounds {
        redis.command::<()>(&["DEL", "users:user:1"]);
        let answers = ask_all(&functions, "/users/1").await;
        let stored = answers.iter().filter(|(reply, _)| reply.cache_status() == STORED).count();
        for (reply, time) in &answers {
            assert_eq!(reply.body, MANAS, "{}", reply.cache_status());
            let status = reply.cache_status();
            let is_expected = status == STORED
                || status == "response-boost; fwd=uri-miss; collapsed"
                || status.starts_with("response-boost; hit");
            assert!(is_expected, "{status}");
            slowest = slowest.max(*time);
        }
        assert_eq!(stored, 1);
        loads.push(table.requests().len());
    }
    println!("loads {loads:?}, slowest {slowest:?}");
    assert!(loads.iter().all(|&loads| loads == 1), "{loads:?}");
}

#[tokio::test]
async fn a_cold_key_of_a_cluster_is_loaded_once() {
    let (table, cluster) = (DynamoDb::start().await, Cluster::start().await);
    let url = cluster.nodes[0].url();
    let functions =
        environments_at(20, &table, &url, &[("REDIS_CLUSTER", "true"), LONG_LEASE]).await;
    table.set(Mode::Late(LOAD));
    for path in ["/users/1", "/users/2", "/users/3"] {
        let answers = ask_all(&functions, path).await;
        let stored = answers.iter().filter(|(reply, _)| reply.cache_status() == STORED).count();
        assert_eq!((stored, table.requests().len()), (1, 1), "{path}");
        assert!(answers.iter().all(|(reply, _)| reply.status == 200));
    }
}

#[tokio::test]
async fn a_holder_that_dies_is_followed_by_one_other() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let mut functions = environments(20, &table, &redis, &[]).await;
    let holder = functions.remove(0);
    // The holder sends its request and never gets a reply.
    table.set(Mode::Silent);
    holder.ask("/users/1");
    test_peers::wait_for("the holder's request", || (!table.requests().is_empty()).then_some(()))
        .await;
    table.set(Mode::Late(LOAD));
    holder.signal("KILL");

    let answers = ask_all(&functions, "/users/1").await;
    for (reply, time) in &answers {
        assert_eq!(reply.body, MANAS, "{}", reply.cache_status());
        // One lease and one load, on a busy machine.
        assert!(*time < Duration::from_secs(9), "{time:?}: {}", reply.cache_status());
    }
    println!("all after {:?}, the load's {LOAD:?} included", slowest(&answers));
    assert_eq!(table.requests().len(), 1, "one has taken over");
}

#[tokio::test]
async fn environments_that_may_not_run_scripts_load_side_by_side() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    redis.command::<()>(&[
        "ACL",
        "SETUSER",
        "unscripted",
        "on",
        ">pw",
        "~*",
        "+@all",
        "-eval",
        "-evalsha",
    ]);
    let url = redis.url().replace("://", "://unscripted:pw@");
    // Longer than the test, so that waiting for a lease that cannot be filled shows.
    let lease = ("CACHE_LEASE_MS", "600000");
    let functions = environments_at(6, &table, &url, &[lease]).await;
    table.set(Mode::Late(LOAD));
    for round in 0..2 {
        let answers = ask_all(&functions, "/users/1").await;
        println!("round {round}: load {LOAD:?}, all after {:?}", slowest(&answers));
        assert!(answers.iter().all(|(reply, _)| reply.body == MANAS));
        assert_eq!(table.requests().len(), functions.len());
    }
}

#[tokio::test]
async fn in_an_outage_of_the_table_one_request_a_second_waits_for_it() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let variables = [
        ("CACHE_TTL_SECONDS", "5"),
        ("CACHE_STALE_IF_ERROR_SECONDS", "600"),
        ("CACHE_EARLY_REFRESH", "0"),
    ];
    let functions = environments(many(), &table, &redis, &variables).await;
    table.set(Mode::Late(Duration::from_secs(1)));
    assert_eq!(functions[0].get("/users/1").await.cache_status(), STORED);
    // The SDK does not retry this error, so each request to the table is one load.
    table.set(Mode::Refuse { status: 400, code: "AccessDeniedException" });
    until(&functions[0], |status| status.contains("fwd=stale; fwd-status=503")).await;
    table.requests();

    let started = Instant::now();
    let mut times = Vec::new();
    for _ in 0..20 {
        let asked = Instant::now();
        let reply = functions[0].get("/users/1").await;
        times.push(asked.elapsed());
        assert_eq!((reply.status, reply.body.as_str()), (200, MANAS));
    }
    let at_once = ask_all(&functions, "/users/1").await;
    assert!(at_once.iter().all(|(reply, _)| reply.body == MANAS));
    let (loads, seconds) = (table.requests().len(), started.elapsed().as_secs_f64());
    times.sort_unstable();
    println!(
        "20 in turn: {times:?}; all at once: {:?}; {loads} loads in {seconds} s",
        slowest(&at_once)
    );
    assert!(f64::from(u32::try_from(loads).unwrap()) <= seconds + 1.0, "{loads} in {seconds} s");
}

#[tokio::test]
async fn a_table_that_hangs_costs_nobody_the_entry_that_is_there() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let variables = [
        ("CACHE_TTL_SECONDS", "1"),
        ("CACHE_STALE_IF_ERROR_SECONDS", "600"),
        ("CACHE_EARLY_REFRESH", "0"),
    ];
    let functions = environments(1, &table, &redis, &variables).await;
    assert_eq!(functions[0].get("/users/1").await.cache_status(), STORED);
    table.set(Mode::Silent);
    let until = Instant::now() + test_peers::PATIENCE;
    loop {
        let asked = Instant::now();
        let reply = functions[0].get_within("/users/1", Duration::from_secs(3)).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, MANAS), "{}", reply.cache_status());
        if reply.cache_status().contains("fwd=stale") {
            println!("{} after {:?} of 3 s", reply.cache_status(), asked.elapsed());
            break;
        }
        assert!(Instant::now() < until, "{}", reply.cache_status());
    }
}

/// A lost store leaves a lease, which the environment releases before it sleeps.
#[tokio::test]
async fn a_lease_is_released_before_the_next_event_is_asked_for() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let proxy = Proxy::before(redis.port()).await;
    let more = [&[("CACHE_LEASE_MS", "600000")][..], &BY_DEFAULT].concat();
    let functions = environments_at(1, &table, &proxy.url(), &more).await;
    let [function] = &functions[..] else { panic!("one") };
    table.set(Mode::Late(LOAD));
    let loading = async {
        test_peers::wait_for("the load", || (!table.requests().is_empty()).then_some(())).await;
        proxy.set(test_peers::proxy::Mode::Silent);
    };
    let (reply, ()) = tokio::join!(function.get("/users/1"), loading);
    assert_eq!(reply.body, MANAS);
    let status = reply.cache_status();
    assert!(status.starts_with("response-boost; fwd=uri-miss; detail="), "{status}");
    proxy.set(test_peers::proxy::Mode::Pass);
    function.wait_until_idle().await;
    let left: Option<String> = redis.command(&["GET", "users:user:1"]);
    assert_eq!(left, None);
}

#[tokio::test]
async fn an_unknown_id_keeps_nobody_waiting_in_line() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let functions = environments(many(), &table, &redis, &[LONG_LEASE]).await;
    table.set(Mode::Late(LOAD * 3));
    let answers = ask_all(&functions, "/users/4").await;
    assert!(answers.iter().all(|(reply, _)| reply.status == 404));
    // First the holder loads, and then all others at once, not one after another.
    let at_once = table.most_at_once();
    println!("{at_once} loads at once");
    assert!(at_once >= 5, "{at_once} loads at once");
}

#[tokio::test]
async fn when_redis_goes_away_nobody_waits_for_a_lease() {
    let (table, mut redis) = (DynamoDb::start().await, RedisServer::start().await);
    let functions = environments(20, &table, &redis, &[]).await;
    redis.command::<()>(&["SET", "users:user:1", ANOTHERS_LEASE, "PX", "600000"]);
    let gone = async {
        // The waiters have seen the lease by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.kill();
    };
    let (answers, ()) = tokio::join!(ask_all(&functions, "/users/1"), gone);
    for (reply, time) in &answers {
        assert_eq!(reply.body, MANAS, "{}", reply.cache_status());
        // The lease would last much longer.
        assert!(*time < Duration::from_secs(10), "{time:?}: {}", reply.cache_status());
    }
    assert_eq!(table.requests().len(), functions.len());
}

/// How long an entry lives, and over how many of its lives requests arrive.
const TTL: Duration = Duration::from_secs(1);
const LIVES: u32 = 20;
/// The pause of each environment between its requests. Without it, the requests leave no processor time for the loads.
const REST: Duration = Duration::from_millis(50);

/// Lets many environments request a key continuously over many of its lives, and asserts one load for each life. The
/// clock gives the number of lives: one begins no earlier than `least_life` of the TTL after the one before it.
async fn assert_one_load_a_life(early_refresh: &str, least_life: f64) {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let variables =
        [("CACHE_TTL_SECONDS", "1"), ("CACHE_EARLY_REFRESH", early_refresh), LONG_LEASE];
    let functions = environments(many(), &table, &redis, &variables).await;
    table.set(Mode::Late(LOAD));
    let started = Instant::now();
    let ends = started + TTL * LIVES;
    let busy = functions.iter().map(|function| async move {
        while Instant::now() < ends {
            let reply = function.get("/users/1").await;
            assert_eq!(reply.body, MANAS, "{}", reply.cache_status());
            tokio::time::sleep(REST).await;
        }
    });
    join_all(busy).await;
    let lives = started.elapsed().div_duration_f64(TTL.mul_f64(least_life));
    let loads = u32::try_from(table.requests().len()).unwrap();
    println!("{loads} loads in {lives:.1} lives");
    // Some lives end so close to a load that this machine makes two loads of it.
    assert!(f64::from(loads) <= lives * 1.2 + 1.0, "{loads} loads in {lives:.1} lives");
    assert!(loads >= 5, "{loads} loads in {lives:.1} lives: that was no test");
}

#[tokio::test]
async fn a_key_that_ends_under_load_is_loaded_once_in_each_life() {
    assert_one_load_a_life("0", 1.0).await;
}

#[tokio::test]
async fn a_key_that_is_refreshed_early_is_loaded_hardly_more_often() {
    // In the last tenth of its life.
    assert_one_load_a_life("1", 0.9).await;
}

/// Each request gets the stored response, and one environment refreshes it after its reply.
#[tokio::test]
async fn nobody_waits_for_the_load_of_an_entry_that_is_there() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let variables = [("CACHE_TTL_SECONDS", "1"), ("CACHE_STALE_WHILE_REVALIDATE_SECONDS", "600")];
    let functions = environments(3, &table, &redis, &variables).await;
    assert_eq!(functions[0].get("/users/1").await.cache_status(), STORED);
    table.set(Mode::Late(LOAD));
    let (mut refreshed, ends) = (0, Instant::now() + 4 * TTL);
    while Instant::now() < ends {
        for (reply, _) in ask_all(&functions, "/users/1").await {
            let status = reply.cache_status();
            assert_eq!(reply.body, MANAS, "{status}");
            assert!(status.starts_with("response-boost; hit; ttl="), "{status}");
            refreshed += usize::from(status.contains("detail="));
        }
    }
    let loads = table.requests().len();
    assert!(loads >= 2 && refreshed >= loads - 1, "{loads} loads, {refreshed} refreshes");
    // Its line reports the refresh, but not in the times of the request.
    let [line] = &functions
        .iter()
        .filter_map(|function| {
            let output = function.output();
            let line = output.lines().find(|line| line.contains(r#""Refreshes":1"#))?.to_owned();
            Some(serde_json::from_str::<serde_json::Value>(&line).unwrap())
        })
        .take(1)
        .collect::<Vec<_>>()[..]
    else {
        panic!("no line tells of a refresh")
    };
    assert!(line["RefreshLatency"].as_f64() >= Some(200.0), "{line}");
    assert!(line["after_reply_ms"].as_f64() >= line["RefreshLatency"].as_f64(), "{line}");
    assert_eq!((line["outcome"].as_str(), line.get("StoreLatency")), (Some("hit"), None), "{line}");
}

/// Lambda may freeze or end an environment at any time.
#[tokio::test]
async fn an_environment_that_stops_in_a_refresh_leaves_the_entry_and_no_lease() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let variables = [
        ("CACHE_TTL_SECONDS", "1"),
        ("CACHE_STALE_WHILE_REVALIDATE_SECONDS", "600"),
        ("CACHE_EARLY_REFRESH", "0"),
    ];
    let functions = environments(3, &table, &redis, &variables).await;
    let [frozen, killed, other] = &functions[..] else { panic!("three") };
    assert_eq!(frozen.get("/users/1").await.cache_status(), STORED);
    for (stops, signal) in [(frozen, "STOP"), (killed, "KILL")] {
        table.requests();
        table.set(Mode::Silent);
        until(stops, |status| status.ends_with("; detail=refresh-after-reply")).await;
        test_peers::wait_for("the refresh", || (!table.requests().is_empty()).then_some(())).await;
        stops.signal(signal);
        table.set(Mode::Pass);
        // What it has announced ends by itself, and then another environment refreshes the entry.
        let fresh = until(other, |status| !status.contains("ttl=-")).await;
        assert!(fresh.cache_status().starts_with("response-boost; hit; "));
        assert_eq!(table.requests().len(), 1);
        test_peers::wait_for("no announcement to be left", || {
            (redis.command::<Vec<String>>(&["KEYS", "*"]) == ["users:user:1"]).then_some(())
        })
        .await;
    }
    frozen.signal("CONT");
    let reply = frozen.get("/users/1").await;
    assert!(reply.cache_status().starts_with("response-boost; hit; "), "{}", reply.cache_status());
    assert_eq!(reply.body, MANAS);
}

/// Its request has its line by then.
#[tokio::test]
async fn a_later_line_tells_of_a_refresh_that_was_spawned() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let variables = [
        ("CACHE_TTL_SECONDS", "1"),
        ("CACHE_STALE_WHILE_REVALIDATE_SECONDS", "600"),
        ("AWS_LAMBDA_MAX_CONCURRENCY", "10"),
    ];
    let [function] = &environments(1, &table, &redis, &variables).await[..] else { panic!("one") };
    assert_eq!(function.get("/users/1").await.cache_status(), STORED);
    table.set(Mode::Late(LOAD));
    let patience = Instant::now() + test_peers::PATIENCE;
    let line = loop {
        function.get("/users/1").await.assert_correct();
        let output = function.output();
        if let Some(line) = output.lines().find(|line| line.contains(r#""Refreshes":"#)) {
            break serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        assert!(Instant::now() < patience, "no line tells of a refresh");
    };
    assert_eq!((line["outcome"].as_str(), line.get("StoreLatency")), (Some("hit"), None), "{line}");
    assert!(line["RefreshLatency"].as_f64() >= Some(200.0), "{line}");
    assert_eq!(line.get("after_reply_ms"), None, "{line}");
}

#[tokio::test]
async fn in_an_outage_of_the_table_no_client_waits_within_the_window() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let variables = [("CACHE_TTL_SECONDS", "1"), ("CACHE_STALE_WHILE_REVALIDATE_SECONDS", "600")];
    let functions = environments(6, &table, &redis, &variables).await;
    assert_eq!(functions[0].get("/users/1").await.cache_status(), STORED);
    table.set(Mode::Refuse { status: 400, code: "AccessDeniedException" });
    table.requests();
    let started = Instant::now();
    let mut loads = 0;
    while loads < 3 {
        assert!(started.elapsed() < test_peers::PATIENCE, "{loads} loads");
        for (reply, _) in ask_all(&functions, "/users/1").await {
            reply.assert_correct();
            let status = reply.cache_status();
            assert!(status.starts_with("response-boost; hit; ttl="), "{status}");
        }
        loads += table.requests().len();
    }
    // The first one comes no earlier than the entry ends, and a failure is remembered for a second.
    let seconds = started.elapsed().as_secs_f64();
    assert!(f64::from(u32::try_from(loads).unwrap()) <= seconds + 1.0, "{loads} in {seconds} s");
}

#[tokio::test]
async fn requests_at_once_in_one_environment_wait_for_each_other_as_in_many() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let concurrency = [("AWS_LAMBDA_MAX_CONCURRENCY", "10")];
    let functions = environments(1, &table, &redis, &concurrency).await;
    // Long enough that all requests arrive before the load ends.
    let load = LOAD * 5;
    table.set(Mode::Late(load));
    let started = Instant::now();
    let asked = (0..10).map(|_| functions[0].get("/users/1"));
    let answers = join_all(asked).await;
    assert!(started.elapsed() < load * 5, "one after the other: {:?}", started.elapsed());
    let with = |status: &str| answers.iter().filter(|reply| reply.cache_status() == status).count();
    assert_eq!(with(STORED), 1);
    assert_eq!(with("response-boost; fwd=uri-miss; collapsed"), 9);
    assert!(answers.iter().all(|reply| reply.body == MANAS));
    assert_eq!(table.requests().len(), 1);
}

#[tokio::test]
async fn an_entry_stands_in_for_a_table_that_fails_until_its_window_is_over() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let variables = [
        ("CACHE_TTL_SECONDS", "1"),
        ("CACHE_STALE_IF_ERROR_SECONDS", "8"),
        ("CACHE_EARLY_REFRESH", "0"),
    ];
    let functions = environments(2, &table, &redis, &variables).await;
    let [first, second] = &functions[..] else { panic!("two") };
    assert_eq!(first.get("/users/1").await.cache_status(), STORED);
    let left_ms: i64 = redis.command(&["PTTL", "users:user:1"]);
    assert!((2_000..=9_000).contains(&left_ms), "its time and the window: {left_ms}");

    table.set(Mode::Refuse { status: 500, code: "InternalServerError" });
    let stale = until(second, |status| !status.contains("; hit; ")).await;
    assert_eq!((stale.status, stale.body.as_str()), (200, MANAS));
    assert!(
        stale.cache_status().starts_with("response-boost; fwd=stale; fwd-status=503; ttl=-"),
        "{}",
        stale.cache_status()
    );
    assert!(stale.header("age").parse::<u64>().unwrap() >= 1);
    assert_eq!(stale.header("cache-control"), "private, max-age=1");
    second.output_with("the entry that is kept stands in", 1).await;

    table.set(Mode::Pass);
    // The failure is remembered for a second.
    until(first, |status| status == "response-boost; fwd=stale; stored").await;

    table.set(Mode::Refuse { status: 500, code: "InternalServerError" });
    let over = until(second, |status| status.contains("uri-miss")).await;
    assert_eq!(
        (over.status, over.cache_status()),
        (503, "response-boost; fwd=uri-miss; detail=status")
    );
}

/// A key without a TTL would stay in Redis until it is full.
#[tokio::test]
async fn every_key_that_is_written_has_an_end() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let commands = redis.monitor();
    let variables = [("CACHE_TTL_SECONDS", "1"), ("CACHE_STALE_IF_ERROR_SECONDS", "60")];
    let [function] = &environments(1, &table, &redis, &variables).await[..] else { panic!("one") };
    assert_eq!(function.get("/users/1").await.cache_status(), STORED);
    until(function, |status| status.contains("fwd=stale; stored")).await;
    // An uncacheable response leaves a pass, and a foreign value is replaced.
    assert_eq!(function.get("/users/4").await.status, 404);
    redis.command::<()>(&["HSET", "users:user:2", "field", "value"]);
    assert_eq!(function.get("/users/2").await.cache_status(), STORED);

    let commands = commands.until_now(&redis);
    let written: Vec<_> =
        commands.iter().filter(|line| line.contains(r#""SET" "users:"#)).collect();
    // Leases, entries written by scripts (logged as `lua`), and the announcement of a refresh.
    for part in ["lease:", " lua] ", "pass:", r#"users:user:1:refresh""#] {
        assert!(written.iter().any(|line| line.contains(part)), "{part} in {written:?}");
    }
    for line in written {
        assert!(line.contains(r#""PX""#), "{line}");
    }
    for writing in ["MSET", "SETNX", "SETEX", "PERSIST", "HSET", "RENAME", "APPEND", "SETRANGE"] {
        let name = format!(r#"] "{writing}" "#);
        let others = commands.iter().filter(|line| line.contains(&name));
        // The command is the test's own.
        assert_eq!(others.count(), usize::from(writing == "HSET"), "{writing}");
    }
}

/// Sends requests until the response has this status.
async fn until(function: &Function, is_it: impl Fn(&str) -> bool) -> Reply {
    let patience = Instant::now() + test_peers::PATIENCE;
    loop {
        let reply = function.get("/users/1").await;
        if is_it(reply.cache_status()) {
            return reply;
        }
        assert!(Instant::now() < patience, "{}", reply.cache_status());
    }
}
