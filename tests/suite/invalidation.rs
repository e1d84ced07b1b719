//! The invalidation function: real stream batches, a real Redis, and its report.

use std::time::{Duration, Instant};

use crate::support::lambda::{BY_DEFAULT, Function};
use crate::support::{MANAS, STORED};
use serde_json::{Value, json};
use test_peers::cluster::Cluster;
use test_peers::proxy::{Mode, Proxy};
use test_peers::redis::RedisServer;

const A_WHILE: Duration = Duration::from_secs(20);

fn record(change: &str, id: &str, number: usize) -> Value {
    let images = match change {
        "INSERT" => json!({ "NewImage": { "id": { "N": id }, "name": { "S": "A" } } }),
        "REMOVE" => json!({ "OldImage": { "id": { "N": id } } }),
        // Keys only.
        _ => json!({}),
    };
    let mut record = json!({
        "eventID": format!("event-{number}"),
        "eventName": change,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "eu-west-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_795_393_547.0,
            "Keys": { "id": { "N": id } },
            "SequenceNumber": number.to_string(),
            "SizeBytes": 26,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        "eventSourceARN": "arn:aws:dynamodb:eu-west-1:123456789012:table/users/stream/2026",
    });
    record["dynamodb"].as_object_mut().unwrap().extend(images.as_object().unwrap().clone());
    record
}

/// A batch of changes to these users, in this order; the sequence numbers start at 1000.
fn batch(ids: impl IntoIterator<Item = usize>) -> Value {
    let changes = ["INSERT", "MODIFY", "REMOVE"];
    let records = ids.into_iter().enumerate();
    let records: Vec<Value> = records
        .map(|(place, id)| record(changes[place % 3], &id.to_string(), 1_000 + place))
        .collect();
    json!({ "Records": records })
}

fn all_done() -> Value {
    json!({ "batchItemFailures": [] })
}

fn undone_from(number: &str) -> Value {
    json!({ "batchItemFailures": [{ "itemIdentifier": number }] })
}

fn fill(redis: &RedisServer, ids: impl Iterator<Item = usize>) {
    let mut set = vec!["MSET".to_owned()];
    set.extend(ids.flat_map(|id| [format!("users:user:{id}"), "x".to_owned()]));
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    redis.command::<()>(&set);
}

#[tokio::test]
async fn a_changed_user_is_loaded_anew() {
    let redis = RedisServer::start().await;
    let variables = [("REDIS_URL", &*redis.url())];
    let users = Function::start(&variables).await;
    let invalidation = Function::start_invalidation(&variables).await;
    for change in ["INSERT", "MODIFY", "REMOVE"] {
        assert_eq!(users.get("/users/1").await.cache_status(), STORED);
        users.get("/users/2").await;
        let batch = json!({ "Records": [record(change, "1", 7)] });
        for _ in 0..2 {
            assert_eq!(invalidation.outcome(&batch, A_WHILE).await, all_done(), "{change}");
        }
        assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*"]), ["users:user:2"]);
        assert_eq!(users.get("/users/1").await.body, MANAS);
        redis.command::<()>(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn the_event_in_the_folder_of_events_is_one() {
    let redis = RedisServer::start().await;
    fill(&redis, 1..=3);
    let function = Function::start_invalidation(&[("REDIS_URL", &redis.url())]).await;
    assert_eq!(
        function.outcome(&crate::support::event("stream-changed"), A_WHILE).await,
        all_done()
    );
    assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*"]), ["users:user:3"]);
}

#[tokio::test]
async fn that_there_is_no_such_user_ends_when_there_is_one() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let variables = [("REDIS_URL", &*url), ("CACHE_NOT_FOUND_TTL_SECONDS", "100")];
    let users = Function::start(&variables).await;
    assert_eq!(users.get("/users/4").await.cache_status(), STORED);
    let invalidation = Function::start_invalidation(&variables).await;
    let created = json!({ "Records": [record("INSERT", "4", 7)] });
    assert_eq!(invalidation.outcome(&created, A_WHILE).await, all_done());
    assert_eq!(redis.command::<u64>(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn a_thousand_changes_are_done_at_once_on_one_connection() {
    let redis = RedisServer::start().await;
    let function = Function::start_invalidation(&[("REDIS_URL", &redis.url())]).await;
    // The first batch opens the connection.
    assert_eq!(function.outcome(&batch(1..=1), A_WHILE).await, all_done());
    fill(&redis, 1..=2_000);
    let started = Instant::now();
    let outcome = function.outcome(&batch(1..=1_000), A_WHILE).await;
    let time = started.elapsed();
    assert_eq!(outcome, all_done());
    assert_eq!(redis.command::<u64>(&["DBSIZE"]), 1_000);
    println!("a thousand changes: {time:?}");
    let clients: String = redis.command(&["CLIENT", "LIST"]);
    assert_eq!(clients.lines().count(), 2, "{clients}");
}

#[tokio::test]
async fn a_cluster_is_told_each_key_where_it_is() {
    let cluster = Cluster::start().await;
    let url = cluster.nodes[0].url();
    let variables = [("REDIS_URL", &*url), ("REDIS_CLUSTER", "true")];
    let users = Function::start(&variables).await;
    for id in 1..=3 {
        assert_eq!(users.get(&format!("/users/{id}")).await.cache_status(), STORED);
    }
    let function = Function::start_invalidation(&variables).await;
    assert_eq!(function.outcome(&batch(1..=200), A_WHILE).await, all_done());
    for id in 1..=3 {
        assert_eq!(users.get(&format!("/users/{id}")).await.cache_status(), STORED);
    }
}

#[tokio::test]
async fn a_record_that_is_not_understood_is_passed_over() {
    let redis = RedisServer::start().await;
    let function = Function::start_invalidation(&[("REDIS_URL", &redis.url())]).await;
    fill(&redis, 1..=2);
    let odd = [
        json!(null),
        json!("x"),
        json!({}),
        json!({ "dynamodb": { "Keys": { "id": { "S": "1" } }, "SequenceNumber": "8" } }),
        json!({ "dynamodb": { "Keys": { "email": { "S": "a@example.com" } } } }),
        record("MODIFY", "-1", 9),
        record("MODIFY", "1.5", 10),
    ];
    let mut records = vec![record("MODIFY", "1", 7)];
    records.extend(odd.clone());
    records.push(record("MODIFY", "2", 11));
    let outcome = function.outcome(&json!({ "Records": records }), A_WHILE).await;
    assert_eq!(outcome, all_done());
    assert_eq!(redis.command::<u64>(&["DBSIZE"]), 0);
    let output = function.output_with("\n", 1).await;
    let line = crate::support::log::assert_line(output.trim_end());
    assert_eq!(line["level"], "WARN");
    assert_eq!((&line["records"], &line["deleted"]), (&json!(9), &json!(2)));
    assert_eq!(line["not_understood"], odd.len());
    assert_eq!(line["reason"], "no change of an item with a number `id`");
}

#[tokio::test]
async fn what_redis_has_not_answered_is_not_done() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(redis.port()).await;
    let url = proxy.url();
    let variables = [&[("REDIS_URL", &*url)][..], &BY_DEFAULT].concat();
    let function = Function::start_invalidation(&variables).await;
    assert_eq!(function.outcome(&batch(1..=1), A_WHILE).await, all_done());

    // Redis is away all the time: the report comes before the invocation ends, and starts at the first change.
    proxy.set(Mode::Silent);
    let time_left = Duration::from_secs(2);
    let started = Instant::now();
    let outcome = function.outcome(&batch(5..=50), time_left).await;
    assert_eq!(outcome, undone_from("1000"));
    // A function that waited for Redis to return would never end.
    assert!(started.elapsed() < 3 * time_left, "{:?}", started.elapsed());
    let output = function.output_with("not all changes done", 1).await;
    let line = crate::support::log::assert_line(output.lines().nth(1).unwrap());
    assert_eq!((&line["records"], &line["deleted"]), (&json!(46), &json!(0)));
    assert_eq!((&line["undone"], &line["from"]), (&json!(46), &json!(0)));
    assert_eq!(line["fault"], "redis-timeout");
    assert_eq!(line["trace_id"], "1-5759e988-bd862e3fe1be46a994272793");
    assert!(line["request_id"].is_string() && line["total_ms"].as_u64() > Some(1_000), "{line}");

    // Redis returns before the time is up, so everything is done.
    let back = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        proxy.set(Mode::Pass);
    };
    fill(&redis, 5..=50);
    let batch = batch(5..=50);
    let (outcome, ()) = tokio::join!(function.outcome(&batch, A_WHILE), back);
    assert_eq!(outcome, all_done());
    assert_eq!(redis.command::<u64>(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn nothing_undone_goes_unreported_when_redis_goes_away_in_the_middle() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(redis.port()).await;
    let url = proxy.url();
    let variables = [&[("REDIS_URL", &*url)][..], &BY_DEFAULT].concat();
    let function = Function::start_invalidation(&variables).await;
    for heard_bytes in [0, 100, 1_000, 10_000, 30_000] {
        proxy.set(Mode::Pass);
        assert_eq!(function.outcome(&batch(9_000..=9_000), A_WHILE).await, all_done());
        fill(&redis, 1..=1_000);
        proxy.set(Mode::Hears(heard_bytes));
        let outcome = function.outcome(&batch(1..=1_000), Duration::from_secs(2)).await;
        let [first_undone] = &outcome["batchItemFailures"].as_array().unwrap()[..] else {
            panic!("{outcome}");
        };
        let first_undone: usize =
            first_undone["itemIdentifier"].as_str().unwrap().parse::<usize>().unwrap() - 1_000;
        let left = redis.command::<u64>(&["DBSIZE"]);
        assert!(left > 0 && (heard_bytes == 0) == (left == 1_000), "{left} of {heard_bytes} bytes");
        for place in 0..first_undone {
            let key = format!("users:user:{}", place + 1);
            assert!(!redis.command::<bool>(&["EXISTS", &key]), "{key} was passed over");
        }
        redis.command::<()>(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn what_is_no_batch_is_an_error_and_what_it_needs_is_named() {
    let redis = RedisServer::start().await;
    let function = Function::start_invalidation(&[("REDIS_URL", &redis.url())]).await;
    assert_eq!(function.outcome(&json!({ "Records": [] }), A_WHILE).await, all_done());
    let error = function.error(&json!({ "httpMethod": "GET" })).await;
    assert!(error.contains("Records"), "{error}");
}
