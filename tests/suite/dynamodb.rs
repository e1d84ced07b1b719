//! Users in a DynamoDB table: the requests that the function sends, and how it handles the table's faults.

use std::time::{Duration, Instant};

use crate::support::dynamodb::{DynamoDb, Mode, TABLE, item};
use crate::support::lambda::{Function, Reply};
use crate::support::{MANAS, STORED};
use serde_json::{Value, json};
use test_peers::redis::RedisServer;

/// A function in front of this table and this Redis.
async fn function(table: &DynamoDb, redis: &RedisServer, more: &[(&str, &str)]) -> Function {
    let url = redis.url();
    let variables = table.variables();
    let mut all: Vec<(&str, &str)> = vec![("REDIS_URL", &url)];
    all.extend(variables.iter().map(|(name, value)| (*name, value.as_str())));
    all.extend(more);
    Function::start(&all).await
}

fn assert_unavailable(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.json);
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(reply.cache_status(), "response-boost; fwd=uri-miss; detail=status");
}

#[tokio::test]
async fn a_miss_asks_the_table_once_and_a_hit_not_at_all() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let first = function(&table, &redis, &[]).await;
    assert_eq!(table.connections(), 0, "nothing is asked at the start");
    let miss = first.get("/users/1").await;
    assert_eq!((miss.body.as_str(), miss.cache_status()), (MANAS, STORED));
    let [asked] = &table.requests()[..] else { panic!("one request") };
    assert_eq!(
        *asked,
        json!({
            "TableName": TABLE,
            "Key": { "id": { "N": "1" } },
            "ConsistentRead": true,
            "ProjectionExpression": "#id,#name,#email,#age",
            "ExpressionAttributeNames": {
                "#id": "id",
                "#name": "name",
                "#email": "email",
                "#age": "age",
            },
        })
    );

    let second = function(&table, &redis, &[]).await;
    for function in [&first, &second] {
        assert!(function.get("/users/1").await.cache_status().starts_with("response-boost; hit"));
    }
    assert_eq!((table.requests().len(), table.connections()), (0, 1));

    // The connection is reused, and an unknown user takes one request too.
    assert_eq!(first.get("/users/4").await.status, 404);
    assert_eq!((table.requests().len(), table.connections()), (1, 1));
}

#[tokio::test]
async fn a_warm_start_has_connected_before_the_first_request() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let function = function(&table, &redis, &[("WARM_UP", "true")]).await;
    assert_eq!((table.requests().len(), table.connections()), (1, 1));
    assert_eq!(function.get("/users/1").await.body, MANAS);
    assert_eq!((table.requests().len(), table.connections()), (1, 1));
}

#[tokio::test]
async fn a_table_that_is_silent_does_not_hold_up_a_warm_start() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    table.set(Mode::Silent);
    let started = Instant::now();
    let function = function(&table, &redis, &[("WARM_UP", "true")]).await;
    // Lambda allows ten seconds for initialisation.
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    function.output_with("user store not warmed up", 1).await;
    table.set(Mode::Pass);
    assert_eq!(function.get("/users/1").await.body, MANAS);
}

#[tokio::test]
async fn a_table_that_refuses_is_a_503_that_is_never_kept() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let function = function(&table, &redis, &[]).await;
    for (status, code, cause, attempts) in [
        (400, "ProvisionedThroughputExceededException", "throttled", 3),
        (400, "ThrottlingException", "throttled", 3),
        (400, "RequestLimitExceeded", "throttled", 3),
        (500, "InternalServerError", "failed", 3),
        (400, "AccessDeniedException", "denied", 1),
        (400, "UnrecognizedClientException", "denied", 1),
        (400, "ResourceNotFoundException", "no such table", 1),
        (400, "ValidationException", "failed", 1),
    ] {
        table.set(Mode::Refuse { status, code });
        assert_unavailable(&function.get("/users/1").await);
        assert_eq!(table.requests().len(), attempts, "{code}");
        redis.assert_passed("users:user:1");
        let line = format!("DynamoDB table {TABLE}: {cause} ({code}: as the test wants it)");
        let output = function.output_with(&line, 1).await;
        assert_eq!(output.matches(code).count(), 1, "one line for each:\n{output}");

        table.set(Mode::Pass);
        assert_eq!(function.get("/users/1").await.cache_status(), STORED);
        redis.command::<()>(&["FLUSHALL"]);
        table.requests();
    }
}

#[tokio::test]
async fn a_table_that_is_silent_is_given_up_in_time() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let function = function(&table, &redis, &[]).await;
    table.set(Mode::Silent);
    // Ended by the lookup's own limit of four seconds, or because the invocation is about to end. `at_most_s` is
    // generous.
    for (time_left_s, at_most_s, line) in
        [(30, 20, "DynamoDB table people: timed out"), (1, 4, "the invocation is about to end")]
    {
        let started = Instant::now();
        let reply = function.get_within("/users/1", Duration::from_secs(time_left_s)).await;
        assert!(started.elapsed() < Duration::from_secs(at_most_s), "{:?}", started.elapsed());
        assert_unavailable(&reply);
        function.output_with(line, 1).await;
        redis.assert_passed("users:user:1");
    }
    table.set(Mode::Pass);
    assert_eq!(function.get("/users/1").await.cache_status(), STORED);
}

#[tokio::test]
async fn a_table_that_is_not_there_or_not_reached_is_named() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    for (change, line) in [
        (
            ("USERS_TABLE", "nobody"),
            "DynamoDB table nobody: no such table (ResourceNotFoundException",
        ),
        (
            ("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1"),
            "DynamoDB table people: not reached (",
        ),
    ] {
        let function = function(&table, &redis, &[change]).await;
        assert_unavailable(&function.get("/users/1").await);
        let output = function.output_with(line, 1).await;
        assert_eq!(output.matches("DynamoDB table").count(), 1, "{output}");
        redis.assert_passed("users:user:1");
    }
}

#[tokio::test]
async fn an_item_that_is_no_user_is_a_503_and_others_are_none_the_worse() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let function = function(&table, &redis, &[]).await;
    let changed = |name: &str, value: Value| {
        let mut item = item("7", "Somebody", "somebody@example.com", "30");
        item[name] = value;
        item
    };
    let mut no_email = item("7", "Somebody", "somebody@example.com", "30");
    no_email.as_object_mut().unwrap().remove("email");
    for (item, what) in [
        (no_email, "has no email"),
        (changed("age", json!({ "N": "-1" })), "has another age than a user can have"),
        (changed("age", json!({ "N": "-7777777" })), "has another age than a user can have"),
        (changed("age", json!({ "N": "256" })), "has another age than a user can have"),
        (changed("age", json!({ "S": "30" })), "has another age than a user can have"),
        (changed("name", json!({ "NULL": true })), "has another name than a user can have"),
        (changed("name", json!({ "N": "5" })), "has another name than a user can have"),
    ] {
        table.put(&item);
        assert_unavailable(&function.get("/users/7").await);
        let line = format!("DynamoDB table {TABLE}: malformed item: 7 {what}");
        let output = function.output_with(&line, 1).await;
        assert!(!output.contains("omebody") && !output.contains("7777777"), "{output}");
        redis.assert_passed("users:user:7");
    }

    table.put(&changed("nickname", json!({ "S": "Sb" })));
    let reply = function.get("/users/7").await;
    assert_eq!(reply.body, r#"{"id":7,"name":"Somebody","email":"somebody@example.com","age":30}"#);
}

#[tokio::test]
async fn no_log_shows_a_user_or_a_secret() {
    let (table, redis) = (DynamoDb::start().await, RedisServer::start().await);
    let function = function(&table, &redis, &[("RUST_LOG", "trace")]).await;
    assert_eq!(function.get("/users/1").await.body, MANAS);
    table.set(Mode::Refuse { status: 400, code: "AccessDeniedException" });
    assert_unavailable(&function.get("/users/2").await);
    let output = function.output_with("user store failed", 1).await;
    for secret in ["manas@example.com", "Manas", "not-a-real-secret", "AKIDEXAMPLE"] {
        assert!(!output.contains(secret), "{secret} in {output}");
    }
}
