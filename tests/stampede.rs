//! Many environments at once on one key: one loads, the others wait for it.

mod support;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use support::dynamodb::{DynamoDb, Mode};
use support::lambda::{Function, Reply};
use support::redis::RedisServer;
use support::{MANAS, STORED};

/// As many environments as a popular key meets.
const ENVIRONMENTS: usize = 100;
const LOAD: Duration = Duration::from_millis(200);

async fn environments(
    count: usize,
    table: &DynamoDb,
    redis: &RedisServer,
    more: &[(&str, &str)],
) -> Vec<Function> {
    let url = redis.url();
    let variables = table.variables();
    let mut all: Vec<(&str, &str)> = vec![
        ("REDIS_URL", &url),
        // A hundred processes on a small machine are slow; that is not what is tested.
        ("REDIS_CONNECT_TIMEOUT_MS", "5000"),
        ("REDIS_RESPONSE_TIMEOUT_MS", "5000"),
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

#[tokio::test]
async fn a_cold_key_is_loaded_once() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let functions = environments(ENVIRONMENTS, &table, &redis, &[]).await;
    table.set(Mode::Late(LOAD));
    let (mut loads, mut slowest) = (Vec::new(), Duration::ZERO);
    for _ in 0..5 {
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
async fn a_holder_that_dies_is_followed_by_one_other() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let lease = ("CACHE_LEASE_MS", "4500");
    let mut functions = environments(20, &table, &redis, &[lease]).await;
    let holder = functions.remove(0);
    // It asks, and never hears an answer.
    table.set(Mode::Silent);
    holder.ask("/users/1");
    support::wait_for("the holder's request", || (!table.requests().is_empty()).then_some(()))
        .await;
    table.set(Mode::Late(LOAD));
    holder.signal("KILL");

    let answers = ask_all(&functions, "/users/1").await;
    for (reply, time) in &answers {
        assert_eq!(reply.body, MANAS, "{}", reply.cache_status());
        assert!(*time < Duration::from_secs(6), "{time:?}: {}", reply.cache_status());
    }
    assert_eq!(table.requests().len(), 1, "one has taken over");
}

#[tokio::test]
async fn an_unknown_id_keeps_nobody_waiting_in_line() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let functions = environments(ENVIRONMENTS, &table, &redis, &[]).await;
    table.set(Mode::Late(LOAD));
    let answers = ask_all(&functions, "/users/4").await;
    let slowest = answers.iter().map(|(_, time)| *time).max().unwrap();
    println!("slowest {slowest:?}");
    assert!(answers.iter().all(|(reply, _)| reply.status == 404));
    // The holder, and then everyone at once; the rest is this machine's.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test]
async fn when_redis_goes_away_nobody_waits_for_a_lease() {
    let (table, mut redis) = (DynamoDb::start().await, RedisServer::start().await);
    let functions = environments(20, &table, &redis, &[]).await;
    redis.command::<()>(&["SET", "users:user:1", "lease:of-another", "PX", "600000"]);
    let gone = async {
        // They have seen the lease by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.kill();
    };
    let (answers, ()) = tokio::join!(ask_all(&functions, "/users/1"), gone);
    for (reply, time) in &answers {
        assert_eq!(reply.body, MANAS, "{}", reply.cache_status());
        assert!(*time < Duration::from_secs(2), "{time:?}: {}", reply.cache_status());
    }
    assert_eq!(table.requests().len(), functions.len());
}
