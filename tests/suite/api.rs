//! The users function as its callers see it: the real binary, real gateway events, a real Redis.

use crate::support::dynamodb::Users;
use crate::support::lambda::{Function, Reply, command};
use crate::support::{MANAS, STORED, event, request};
use serde_json::{Value, json};
use test_peers::redis::{RedisServer, info, send};

/// Runs each test for each source of users.
macro_rules! for_all_users {
    ($($sentence:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $sentence() {
                super::$sentence(super::Users::Embedded).await;
            })+
        }

        mod dynoxide {
            $(#[tokio::test]
            async fn $sentence() {
                super::$sentence(super::Users::Dynoxide).await;
            })+
        }

        mod moto {
            $(#[tokio::test]
            #[ignore = "scripts/with-moto.sh starts what it asks"]
            async fn $sentence() {
                super::$sentence(super::Users::Moto).await;
            })+
        }
    };
}

for_all_users!(
    a_user_is_loaded_once_and_then_comes_from_redis,
    what_redis_holds_is_what_is_answered,
    another_process_is_answered_from_the_same_entry,
    a_get_after_a_head_is_a_hit_with_its_whole_body,
    what_a_client_sends_beside_the_path_does_not_keep_it_from_its_answer,
    unknown_and_impossible_ids_leave_nothing_in_redis,
    a_hit_is_one_command_and_a_miss_is_three,
    a_missing_user_is_kept_where_that_is_asked_for,
    a_hundred_requests_share_one_connection_that_the_first_opens,
    without_redis_the_answer_is_the_same_and_redis_is_found_again,
    a_redis_that_is_away_at_the_start_is_used_once_it_is_there,
    a_connection_that_was_closed_while_it_lay_idle_costs_no_miss,
    a_redis_that_says_nothing_costs_no_more_than_its_deadline,
    a_wrong_password_is_told_from_other_faults_and_shown_nowhere,
    what_is_no_entry_is_replaced_by_one,
    preconditions_are_those_of_rfc_9110,
    different_namespaces_and_ids_do_not_mix,
    without_a_redis_url_the_process_keeps_the_answers_itself,
    every_kind_of_gateway_is_answered_in_its_own_form,
    a_stage_in_front_of_the_path_is_no_part_of_it,
    an_event_that_is_no_request_is_a_400,
    a_json_log_line_has_what_lambda_filters_by,
);

/// A function in front of a Redis, and that Redis.
async fn function_and_redis(users: Users) -> (Function, RedisServer) {
    let redis = RedisServer::start().await;
    let function = users.function(&[("REDIS_URL", &redis.url())]).await;
    (function, redis)
}

fn assert_hit(reply: &Reply) {
    assert_eq!(reply.status, 200);
    let ttl = reply.cache_status().strip_prefix("response-boost; hit; ttl=");
    let ttl = ttl.unwrap_or_else(|| panic!("no hit: {}", reply.cache_status()));
    assert!(ttl.parse::<u64>().unwrap() <= 120);
}

async fn a_user_is_loaded_once_and_then_comes_from_redis(users: Users) {
    let (function, redis) = function_and_redis(users).await;

    let miss = function.get("/users/1").await;
    miss.assert_correct();
    assert_eq!(miss.header("content-type"), "application/json");
    assert_eq!(miss.cache_status(), STORED);
    assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*"]), ["users:user:1"]);
    let left_ms: i64 = redis.command(&["PTTL", "users:user:1"]);
    assert!((100_000..=120_000).contains(&left_ms), "{left_ms}");

    let hit = function.get("/users/1").await;
    assert_eq!(hit.body, MANAS);
    assert_hit(&hit);
    assert_eq!(hit.header("etag"), miss.header("etag"));
    assert_eq!(hit.header("cache-control"), "private, max-age=120");
}

async fn what_redis_holds_is_what_is_answered(users: Users) {
    let (function, redis) = function_and_redis(users).await;
    function.get("/users/1").await;

    let entry: String = redis.command(&["GET", "users:user:1"]);
    let (metadata, body) = entry.split_once('\n').unwrap();
    assert_eq!(body, MANAS);
    let metadata: Value = serde_json::from_str(metadata).unwrap();
    assert_eq!(metadata["version"], 2);
    assert_eq!(metadata["status"], 200);
    assert_eq!(metadata["headers"], json!([["content-type", "application/json"]]));

    // A hit is served from the entry, not from the user store, which has another name.
    redis.command::<()>(&["SET", "users:user:1", &entry.replace("Manas", "Sanam")]);
    assert_eq!(function.get("/users/1").await.body, MANAS.replace("Manas", "Sanam"));
}

async fn another_process_is_answered_from_the_same_entry(users: Users) {
    let (first, redis) = function_and_redis(users).await;
    let second = users.function(&[("REDIS_URL", &redis.url())]).await;
    let etag = first.get("/users/2").await.header("etag").to_owned();

    let hit = second.get("/users/2").await;
    assert_hit(&hit);
    assert_eq!(hit.header("etag"), etag);

    let mut conditional = request("GET", "/users/2");
    conditional["headers"]["if-none-match"] = etag.as_str().into();
    let not_modified = second.invoke(&conditional).await;
    assert_eq!((not_modified.status, not_modified.body.as_str()), (304, ""));
}

async fn a_get_after_a_head_is_a_hit_with_its_whole_body(users: Users) {
    let (function, _redis) = function_and_redis(users).await;
    let miss = function.invoke(&request("HEAD", "/users/1")).await;
    assert_eq!((miss.status, miss.body.as_str()), (200, ""));
    assert_eq!(miss.cache_status(), STORED);

    let hit = function.get("/users/1").await;
    assert_hit(&hit);
    assert_eq!(hit.body, MANAS);
    let head = function.invoke(&request("HEAD", "/users/1")).await;
    assert_hit(&head);
    assert_eq!(head.body, "");
    for name in ["content-type", "etag", "cache-control"] {
        assert_eq!(head.header(name), hit.header(name));
    }
}

async fn what_a_client_sends_beside_the_path_does_not_keep_it_from_its_answer(users: Users) {
    let function = users.function(&[]).await;
    for (place, value) in [
        ("/rawQueryString", json!("a=<b>&c=\"d\" e#\u{e9}")),
        ("/headers/user-agent", json!("caf\u{e9}")),
        ("/headers/x-forwarded-proto", json!("ht tp")),
        ("/headers", Value::Null),
        ("/cookies", json!(["a=\r\n"])),
        ("/requestContext/authorizer", json!({ "jwt": { "claims": { "admin": true } } })),
    ] {
        let mut event = event("http-existing");
        let (parent, name) = place.rsplit_once('/').unwrap();
        event.pointer_mut(parent).unwrap()[name] = value;
        function.invoke(&event).await.assert_correct();
    }
}

async fn unknown_and_impossible_ids_leave_nothing_in_redis(users: Users) {
    let (function, redis) = function_and_redis(users).await;
    let mut connection = redis.connect();
    let before = info(&mut connection, "total_commands_processed");

    for (path, status) in
        [("/users/abc", 400), ("/users/01", 400), ("/users/", 400), ("/", 404), ("/users", 404)]
    {
        let reply = function.get(path).await;
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(reply.header("content-type"), "application/problem+json");
        assert_eq!(reply.header("cache-control"), "no-store");
        assert_eq!(reply.cache_status(), "", "{path}");
    }
    let reply = function.invoke(&request("DELETE", "/users/1")).await;
    assert_eq!((reply.status, reply.header("allow")), (405, "GET, HEAD"));
    // The one command is the first `INFO`.
    assert_eq!(info(&mut connection, "total_commands_processed"), before + 1);

    let reply = function.get("/users/4").await;
    assert_eq!(reply.status, 404);
    let problem: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(problem["detail"], "User not found");
    assert_eq!(reply.cache_status(), "response-boost; fwd=uri-miss; detail=status");
    redis.assert_passed("users:user:4");
}

async fn a_hit_is_one_command_and_a_miss_is_three(users: Users) {
    let (function, redis) = function_and_redis(users).await;
    // Teaches Redis the script.
    function.get("/users/2").await;
    let calls = |command: &str| {
        let stats: String = redis.command(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        let calls = line.and_then(|line| line.split_once("calls=")?.1.split_once(','));
        calls.map_or(0, |(calls, _)| calls.parse::<u64>().unwrap())
    };
    for (expected, status) in [([1, 2, 1], STORED), ([1, 0, 0], "response-boost; hit; ttl=1")] {
        redis.command::<()>(&["CONFIG", "RESETSTAT"]);
        let reply = function.get("/users/1").await;
        assert!(reply.cache_status().starts_with(status), "{}", reply.cache_status());
        // The script counts as one of the two writes.
        assert_eq!(["get", "set", "evalsha"].map(calls), expected);
        assert_eq!(["eval", "del", "hello", "client"].map(calls), [0; 4]);
    }
}

async fn a_missing_user_is_kept_where_that_is_asked_for(users: Users) {
    let redis = RedisServer::start().await;
    let function =
        users.function(&[("REDIS_URL", &redis.url()), ("CACHE_NOT_FOUND_TTL_SECONDS", "10")]).await;
    assert_eq!(function.get("/users/4").await.cache_status(), STORED);
    let left_ms: i64 = redis.command(&["PTTL", "users:user:4"]);
    assert!((1..=10_000).contains(&left_ms), "{left_ms}");
    let hit = function.get("/users/4").await;
    assert_eq!(hit.status, 404);
    assert!(hit.cache_status().starts_with("response-boost; hit; ttl="));
}

async fn a_hundred_requests_share_one_connection_that_the_first_opens(users: Users) {
    let (function, redis) = function_and_redis(users).await;
    let mut connection = redis.connect();
    let before = info(&mut connection, "total_connections_received");
    let opened = |connection: &mut _| info(connection, "total_connections_received") - before;

    function.get("/users/abc").await;
    assert_eq!(opened(&mut connection), 0, "nothing to be asked of Redis yet");
    for request in 0..100 {
        function.get(&format!("/users/{}", request % 3 + 1)).await;
        assert_eq!(opened(&mut connection), 1, "at request {request}");
    }
    let clients: String = send(&mut connection, &["CLIENT", "LIST"]);
    assert_eq!(clients.lines().count(), 2, "this test's own and the function's:\n{clients}");
}

async fn without_redis_the_answer_is_the_same_and_redis_is_found_again(users: Users) {
    let (function, mut redis) = function_and_redis(users).await;
    function.get("/users/1").await;
    assert_hit(&function.get("/users/1").await);

    for _ in 0..3 {
        redis.kill();
        let reply = function.get("/users/1").await;
        reply.assert_correct();
        assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=redis-refused");
        let reply = function.get("/users/1").await;
        reply.assert_correct();
        assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=breaker-open");

        redis.restart().await;
        let before = function.get_until_hit("/users/1").await;
        assert_eq!(before.last().unwrap().cache_status(), STORED);
    }
    let fault = "cache not read";
    let output = function.output_with(fault, 1).await;
    assert_eq!(output.matches(fault).count(), 1, "one line a minute:\n{output}");
}

async fn a_redis_that_is_away_at_the_start_is_used_once_it_is_there(users: Users) {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let function = users.function(&[("REDIS_URL", &redis.url())]).await;
    let reply = function.get("/users/1").await;
    assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=redis-refused");
    redis.restart().await;
    let before = function.get_until_hit("/users/1").await;
    assert_eq!(before.last().unwrap().cache_status(), STORED);
}

async fn a_connection_that_was_closed_while_it_lay_idle_costs_no_miss(users: Users) {
    let (function, redis) = function_and_redis(users).await;
    function.get("/users/1").await;
    for _ in 0..20 {
        let killed: u64 = redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert_eq!(killed, 1);
        assert_hit(&function.get("/users/1").await);
    }
}

async fn a_redis_that_says_nothing_costs_no_more_than_its_deadline(users: Users) {
    // The kernel accepts connections, but nothing ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let function = users
        .function(&[
            ("REDIS_URL", &url),
            ("REDIS_CONNECT_TIMEOUT_MS", "1500"),
            ("REDIS_RESPONSE_TIMEOUT_MS", "1500"),
        ])
        .await;
    let started = std::time::Instant::now();
    let reply = function.get("/users/1").await;
    reply.assert_correct();
    assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=redis-timeout");
    // More than the library's default of half a second, and less than twice the deadline of 3 s, because a machine may
    // be busy.
    let time_ms = started.elapsed().as_millis();
    assert!((1_500..6_000).contains(&time_ms), "{time_ms}");
}

async fn a_wrong_password_is_told_from_other_faults_and_shown_nowhere(users: Users) {
    let redis = RedisServer::start().await;
    redis.command::<()>(&["ACL", "SETUSER", "alice", "on", ">hunter2", "~*", "+@all"]);
    let url = redis.url().replace("://", "://alice:hunter3@");
    let function = users.function(&[("REDIS_URL", &url)]).await;

    let reply = function.get("/users/1").await;
    reply.assert_correct();
    assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=redis-auth");

    redis.command::<()>(&["ACL", "SETUSER", "alice", ">hunter3"]);
    let before = function.get_until_hit("/users/1").await;
    assert_eq!(before.last().unwrap().cache_status(), STORED);

    redis.command::<()>(&["ACL", "SETUSER", "alice", "-get"]);
    let reply = function.get("/users/1").await;
    assert_eq!(reply.cache_status(), "response-boost; fwd=bypass; detail=redis-error");
    let output = function.output_with("error reply NOPERM", 1).await;
    for secret in ["alice", "hunter"] {
        assert!(!output.contains(secret), "{output}");
    }
}

async fn what_is_no_entry_is_replaced_by_one(users: Users) {
    let (function, redis) = function_and_redis(users).await;
    function.get("/users/1").await;
    let entry: String = redis.command(&["GET", "users:user:1"]);
    let next_version = entry.replace("\"version\":2", "\"version\":3");
    let truncated = &entry[..entry.len() - 1];

    for seed in [
        &["SET", "users:user:1", "garbage"][..],
        &["SET", "users:user:1", ""],
        &["SET", "users:user:1", truncated],
        &["SET", "users:user:1", &next_version],
        &["HSET", "users:user:1", "field", "value"],
        &["RPUSH", "users:user:1", "item"],
    ] {
        redis.command::<()>(&["DEL", "users:user:1"]);
        redis.command::<redis::Value>(seed);
        let reply = function.get("/users/1").await;
        assert_eq!((reply.status, reply.body.as_str()), (200, MANAS), "{seed:?}");
        assert_eq!(reply.cache_status(), STORED, "{seed:?}");
        assert_hit(&function.get("/users/1").await);
        let left_ms: i64 = redis.command(&["PTTL", "users:user:1"]);
        assert!((1..=120_000).contains(&left_ms), "{seed:?} left with {left_ms} ms");
    }
}

async fn preconditions_are_those_of_rfc_9110(users: Users) {
    let (function, _redis) = function_and_redis(users).await;
    let tag = function.get("/users/1").await.header("etag").to_owned();
    for (name, value, status) in [
        ("if-none-match", format!("{tag},"), 304),
        ("if-match", tag.clone(), 200),
        ("if-match", "\"other\"".to_owned(), 412),
    ] {
        let mut event = request("GET", "/users/1");
        event["headers"][name] = value.into();
        assert_eq!(function.invoke(&event).await.status, status, "{name}");
    }
}

async fn different_namespaces_and_ids_do_not_mix(users: Users) {
    let redis = RedisServer::start().await;
    let first = users.function(&[("REDIS_URL", &redis.url())]).await;
    let second =
        users.function(&[("REDIS_URL", &redis.url()), ("CACHE_NAMESPACE", "users:v2")]).await;

    for id in 1..=3 {
        let path = format!("/users/{id}");
        for function in [&first, &second] {
            let miss = function.get(&path).await;
            assert_eq!(miss.cache_status(), STORED, "{path}");
            assert!(miss.body.starts_with(&format!("{{\"id\":{id},")), "{}", miss.body);
            let hit = function.get(&path).await;
            assert_hit(&hit);
            assert_eq!(hit.body, miss.body);
        }
    }
    let mut keys: Vec<String> = redis.command(&["KEYS", "*"]);
    keys.sort();
    assert_eq!(
        keys,
        [
            "users:user:1",
            "users:user:2",
            "users:user:3",
            "users:v2:user:1",
            "users:v2:user:2",
            "users:v2:user:3",
        ]
    );
}

async fn without_a_redis_url_the_process_keeps_the_answers_itself(users: Users) {
    let function = users.function(&[("REDIS_URL", "")]).await;
    assert_eq!(function.get("/users/1").await.cache_status(), STORED);
    assert_hit(&function.get("/users/1").await);
}

async fn every_kind_of_gateway_is_answered_in_its_own_form(users: Users) {
    let (function, redis) = function_and_redis(users).await;
    for kind in ["rest", "http", "function-url", "alb"] {
        redis.command::<()>(&["FLUSHALL"]);
        for (case, status) in [("existing", 200), ("unknown", 404), ("invalid", 400)] {
            let name = format!("{kind}-{case}");
            let reply = function.invoke(&event(&name)).await;
            assert_eq!(reply.status, status, "{name}");
            let has_own_form = match kind {
                "rest" => reply.json["multiValueHeaders"].is_object(),
                "alb" => reply.json["statusDescription"].is_string(),
                _ => reply.json["cookies"].is_array(),
            };
            assert!(has_own_form, "{name}: {}", reply.json);
        }
        redis.command::<()>(&["DEL", "users:user:4"]);
        assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*"]), ["users:user:1"], "{kind}");
        let hit = function.invoke(&event(&format!("{kind}-existing"))).await;
        assert_eq!(hit.body, MANAS);
        assert_hit(&hit);
    }
}

async fn a_stage_in_front_of_the_path_is_no_part_of_it(users: Users) {
    let function = users.function(&[]).await;
    let mut event = request("GET", "/prod/users/1");
    assert_eq!(function.invoke(&event).await.status, 404);
    event["requestContext"]["stage"] = "prod".into();
    assert_eq!(function.invoke(&event).await.body, MANAS);
    event["rawPath"] = "/production/users/1".into();
    assert_eq!(function.invoke(&event).await.status, 404);
}

async fn an_event_that_is_no_request_is_a_400(users: Users) {
    let function = users.function(&[]).await;
    let mut bad_host = event("http-existing");
    bad_host["headers"]["host"] = "not a host".into();
    let mut bad_body = event("rest-existing");
    bad_body["body"] = "===".into();
    bad_body["isBase64Encoded"] = true.into();
    for event in [json!({}), json!([]), json!(null), json!("x"), json!(1), bad_host, bad_body] {
        let reply = function.invoke(&event).await;
        assert_eq!(reply.status, 400, "{event}");
        assert_eq!(reply.header("content-type"), "application/problem+json");
        let problem: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(problem["status"], 400);
    }
    assert_eq!(function.get("/users/1").await.body, MANAS, "the process goes on");
}

#[tokio::test]
async fn invalid_variables_stop_the_start_and_are_all_named() {
    let variables = [
        ("REDIS_URL", "redis://alice:hunter2@"),
        ("CACHE_TTL_SECONDS", "2 minutes"),
        ("CACHE_NAMESPACE", "a b"),
    ];
    let output = command(&variables).output().await.unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    for line in [
        "invalid REDIS_URL: redis://<redacted>; accepted: redis://, valkey://, rediss:// ",
        "invalid CACHE_TTL_SECONDS: 2 minutes; accepted: a whole number from 1 to 31536000",
        "invalid CACHE_NAMESPACE: a b; accepted: 1 to 64 characters out of ",
    ] {
        assert!(error.lines().any(|printed| printed.starts_with(line)), "{error}");
    }
    assert!(!error.contains("hunter2") && !error.contains("alice"), "{error}");
}

#[tokio::test]
async fn started_by_hand_it_says_how_it_is_meant_to_be_started() {
    let output = command(&[]).output().await.unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("AWS_LAMBDA_RUNTIME_API is not set") && error.contains("make run"));
}

async fn a_json_log_line_has_what_lambda_filters_by(users: Users) {
    let function = users
        .function(&[("REDIS_URL", "redis://127.0.0.1:1"), ("AWS_LAMBDA_LOG_FORMAT", "JSON")])
        .await;
    function.get("/users/1").await;
    let output = function.output_with("\n", 1).await;
    let line: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fault"], "redis-refused");
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
}
