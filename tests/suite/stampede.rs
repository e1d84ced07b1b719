//! Many environments at once on one key: one loads, the others wait for it.

use std::time::{Duration, Instant};

use crate::support::dynamodb::{DynamoDb, Mode};
use crate::support::lambda::{BY_DEFAULT, Function, Reply};
use crate::support::{MANAS, STORED};
use futures_util::future::join_all;
use test_peers::cluster::Cluster;
use test_peers::proxy::Proxy;
use test_peers::redis::RedisServer;

/// As many environments as a popular key meets.
const ENVIRONMENTS: usize = 100;
const LOAD: Duration = Duration::from_millis(200);
const ANOTHERS_LEASE: &str = "lease:00000000000000000000000000000000";

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
        // Connected, so that all of them ask at the same time.
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

/// Asks all of them at the same time, and gives what each answers and when.
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

// `STAMPEDE_ROUNDS` is how often.
#[tokio::test]
async fn a_cold_key_is_loaded_once() {
    let rounds = std::env::var("STAMPEDE_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let functions = environments(ENVIRONMENTS, &table, &redis, &[]).await;
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
    let functions = environments_at(20, &table, &url, &[("REDIS_CLUSTER", "true")]).await;
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
    // It asks, and never hears an answer.
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

/// A load that takes three times as long as a lease lives.
async fn assert_a_long_load_is_made_once(url: &str, more: &[(&str, &str)]) {
    let table = DynamoDb::start().await;
    let load = Duration::from_millis(1_200);
    let variables = [&[("CACHE_LEASE_MS", "400")][..], more].concat();
    let functions = environments_at(4, &table, url, &variables).await;
    table.set(Mode::Late(load));
    let answers = ask_all(&functions, "/users/1").await;
    println!("load {load:?}, all after {:?}", slowest(&answers));
    let with =
        |status: &str| answers.iter().filter(|(reply, _)| reply.cache_status() == status).count();
    assert_eq!((with(STORED), with("response-boost; fwd=uri-miss; collapsed")), (1, 3));
    assert_eq!(table.requests().len(), 1);
    let hit = functions[0].get("/users/1").await;
    assert!(hit.cache_status().starts_with("response-boost; hit; "), "{}", hit.cache_status());
}

#[tokio::test]
async fn a_load_of_three_leases_is_made_once_and_stored() {
    let redis = RedisServer::start().await;
    assert_a_long_load_is_made_once(&redis.url(), &[]).await;
}

#[tokio::test]
async fn a_load_of_three_leases_is_made_once_in_a_cluster() {
    let cluster = Cluster::start().await;
    let url = cluster.nodes[0].url();
    assert_a_long_load_is_made_once(&url, &[("REDIS_CLUSTER", "true")]).await;
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
    // Longer than the test: whoever waits for one that cannot be filled is late.
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
    let functions = environments(50, &table, &redis, &variables).await;
    table.set(Mode::Late(Duration::from_secs(1)));
    assert_eq!(functions[0].get("/users/1").await.cache_status(), STORED);
    // No other attempt is made for this one, so that a request is a load.
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
        "20 in turn: {times:?}; 50 at once: {:?}; {loads} loads in {seconds} s",
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

/// What a lost fill leaves behind is released before the environment sleeps.
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
    let functions = environments(ENVIRONMENTS, &table, &redis, &[]).await;
    table.set(Mode::Late(LOAD * 3));
    let answers = ask_all(&functions, "/users/4").await;
    assert!(answers.iter().all(|(reply, _)| reply.status == 404));
    // The holder, and then everyone, and not one after the other.
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
        // They have seen the lease by then.
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

/// How long an entry lives, and for how many of its lives it is asked for.
const TTL: Duration = Duration::from_secs(1);
const LIVES: u32 = 20;

/// Asks many environments for a key all the time, over many of its lives. It is loaded once in each of them,
/// and how many these are the clock says: one begins no earlier than the part `least_life` of the TTL after
/// the one before it.
async fn assert_one_load_a_life(early_refresh: &str, least_life: f64) {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let variables = [("CACHE_TTL_SECONDS", "1"), ("CACHE_EARLY_REFRESH", early_refresh)];
    let functions = environments(50, &table, &redis, &variables).await;
    table.set(Mode::Late(LOAD));
    let started = Instant::now();
    let ends = started + TTL * LIVES;
    let busy = functions.iter().map(|function| async move {
        while Instant::now() < ends {
            let reply = function.get("/users/1").await;
            assert_eq!(reply.body, MANAS, "{}", reply.cache_status());
        }
    });
    join_all(busy).await;
    let lives = started.elapsed().div_duration_f64(TTL.mul_f64(least_life));
    let loads = u32::try_from(table.requests().len()).unwrap();
    println!("{loads} loads in {lives:.1} lives");
    // A few of them end so close to a load that this machine makes two of it.
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

/// Each is answered with what is there, and one of them loads it anew when it has given its reply.
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
    // Its line tells of it, and none of its own times do.
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

/// Lambda may freeze an environment at any time, and end it.
#[tokio::test]
async fn a_refresh_that_is_frozen_or_killed_costs_nobody_the_entry_and_leaves_nothing_for_long() {
    for signal in ["STOP", "KILL"] {
        let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
        let variables =
            [("CACHE_TTL_SECONDS", "2"), ("CACHE_STALE_WHILE_REVALIDATE_SECONDS", "600")];
        let functions = environments(2, &table, &redis, &variables).await;
        let [refreshing, other] = &functions[..] else { panic!("two") };
        assert_eq!(refreshing.get("/users/1").await.cache_status(), STORED);
        table.requests();
        // The load of the refresh does not end by itself.
        table.set(Mode::Silent);
        let in_five_seconds = Duration::from_secs(5);
        let loading = || (!table.requests().is_empty()).then_some(());
        let mut pauses = tokio::time::interval(Duration::from_millis(100));
        let stale = loop {
            pauses.tick().await;
            let reply = refreshing.get_within("/users/1", in_five_seconds).await;
            if reply.cache_status().contains("detail=") {
                break reply;
            }
        };
        stale.assert_correct();
        test_peers::wait_for("the load", loading).await;
        refreshing.signal(signal);
        table.set(Mode::Pass);

        let left_ms: i64 = redis.command(&["PTTL", "users:user:1:refresh"]);
        // The announcement of the refresh ends by itself, no later than a lease. (-1 is without end, -2 gone.)
        assert!(left_ms <= 2_000 && left_ms != -1, "{signal}: {left_ms}");
        let reply = other.get("/users/1").await;
        reply.assert_correct();
        assert!(reply.cache_status().starts_with("response-boost; hit; ttl=-"), "{signal}");
        let fresh = until(other, |status| !status.contains("ttl=-")).await;
        assert!(fresh.cache_status().starts_with("response-boost; hit; "), "{signal}");
        if signal == "STOP" {
            refreshing.signal("CONT");
            let reply = refreshing.get("/users/1").await;
            reply.assert_correct();
            assert!(reply.cache_status().starts_with("response-boost; hit; "), "{signal}");
        }
        let only_the_entry = || {
            let keys: Vec<String> = redis.command(&["KEYS", "*"]);
            (keys == ["users:user:1"]).then_some(())
        };
        test_peers::wait_for("all else to end", only_the_entry).await;
    }
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
    // Long enough that all of them have come before it is over.
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

/// What has no end of its own would stay in Redis until it is full.
#[tokio::test]
async fn every_key_that_is_written_has_an_end() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let commands = redis.monitor();
    let variables = [("CACHE_TTL_SECONDS", "1"), ("CACHE_STALE_IF_ERROR_SECONDS", "60")];
    let [function] = &environments(1, &table, &redis, &variables).await[..] else { panic!("one") };
    assert_eq!(function.get("/users/1").await.cache_status(), STORED);
    until(function, |status| status.contains("fwd=stale; stored")).await;
    // What is not kept leaves a mark, and what is foreign is replaced.
    assert_eq!(function.get("/users/4").await.status, 404);
    redis.command::<()>(&["HSET", "users:user:2", "field", "value"]);
    assert_eq!(function.get("/users/2").await.cache_status(), STORED);

    let commands = commands.until_now(&redis);
    let written: Vec<_> =
        commands.iter().filter(|line| line.contains(r#""SET" "users:"#)).collect();
    // Leases, entries by scripts (as they are called: `lua`), and the word that one is refreshed.
    for part in ["lease:", " lua] ", "pass:", r#"users:user:1:refresh""#] {
        assert!(written.iter().any(|line| line.contains(part)), "{part} in {written:?}");
    }
    for line in written {
        assert!(line.contains(r#""PX""#), "{line}");
    }
    for writing in ["MSET", "SETNX", "SETEX", "PERSIST", "HSET", "RENAME", "APPEND", "SETRANGE"] {
        let name = format!(r#"] "{writing}" "#);
        let others = commands.iter().filter(|line| line.contains(&name));
        // The test's own.
        assert_eq!(others.count(), usize::from(writing == "HSET"), "{writing}");
    }
}

/// Asks until the answer is of this kind.
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
