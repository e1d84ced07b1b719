//! Logs and metrics. (`support/lambda.rs` checks, when a function ends, that every line of the whole suite follows the
//! schema and shows nothing secret.)

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::dynamodb::{DynamoDb, Mode};
use crate::support::lambda::{BY_DEFAULT, Function};
use crate::support::log::{assert_line, schema, series};
use crate::support::request;
use futures_util::future::join_all;
use http::Response;
use lambda_gateway::{Gateway, Payload};
use lambda_http::{Body, Context, Error, LambdaEvent, Request};
use lambda_runtime::LambdaInvocation;
use serde_json::{Value, json};
use test_peers::proxy::BlackHole;
use test_peers::redis::RedisServer;
use tower::util::MapRequest;
use tower::{Layer as _, Service, service_fn};
use users_function::config::Config;
use users_function::telemetry::{self, LogSettings, Telemetry};

const REQUEST: &str = "\"outcome\":";

/// The lines of requests, once this many were written.
async fn request_lines(function: &Function, count: usize) -> Vec<Value> {
    let output = function.output_with(REQUEST, count).await;
    let lines: Vec<_> = output.lines().filter(|line| line.contains(REQUEST)).collect();
    assert_eq!(lines.len(), count, "one for each:\n{output}");
    lines.into_iter().map(assert_line).collect()
}

/// Other lines with this message, once one was written.
async fn lines_that_say(function: &Function, message: &str) -> Vec<Value> {
    let output = function.output_with(message, 1).await;
    output.lines().filter(|line| line.contains(message)).map(assert_line).collect()
}

fn assert_metrics(line: &Value, expected: &[&str]) {
    let names: BTreeSet<String> = series(line).into_iter().map(|[name, ..]| name).collect();
    assert_eq!(names, expected.iter().map(|&name| name.to_owned()).collect(), "{line}");
}

#[tokio::test]
async fn each_request_has_one_line_that_says_what_became_of_it() {
    let redis = RedisServer::start().await;
    let function = Function::start(&[("REDIS_URL", &redis.url())]).await;
    for path in ["/users/1", "/users/1", "/users/abc", "/nowhere"] {
        function.get(path).await;
    }
    function.invoke(&request("DELETE", "/users/1")).await;
    function.invoke(&json!({})).await;

    let lines = request_lines(&function, 6).await;
    let [miss, hit, invalid, nowhere, not_allowed, no_request] = &lines[..] else { unreachable!() };
    for (line, status, outcome, route) in [
        (miss, 200, "miss", json!("/users/{id}")),
        (hit, 200, "hit", json!("/users/{id}")),
        (invalid, 400, "none", json!("/users/{id}")),
        (nowhere, 404, "none", Value::Null),
        (not_allowed, 405, "none", json!("/users/{id}")),
        (no_request, 400, "none", Value::Null),
    ] {
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["service"], "users");
        assert_eq!(line["trace_id"], "1-5759e988-bd862e3fe1be46a994272793");
        assert_eq!((&line["status"], &line["outcome"]), (&json!(status), &json!(outcome)));
        assert_eq!(line["route"], route, "{line}");
        assert_eq!(line.get("ColdStarts").is_some(), line == miss);
    }
    let ids: HashSet<_> = lines.iter().map(|line| line["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 6);

    assert_metrics(
        miss,
        &[
            "Requests",
            "Misses",
            "StoreLoads",
            "ColdStarts",
            "RedisLatency",
            "StoreLatency",
            "Latency",
        ],
    );
    assert_metrics(hit, &["Requests", "Hits", "RedisLatency", "Latency"]);
    assert_metrics(invalid, &["Requests", "Latency"]);
    assert_eq!((&miss["cache_status"], &hit["cache_status"]), (&json!("uri-miss"), &json!("hit")));
    for part in ["redis_connect_ms", "RedisLatency", "StoreLatency"] {
        assert!(miss[part].is_number(), "{part}: {miss}");
        assert!(miss[part].as_f64() <= miss["Latency"].as_f64(), "{part}: {miss}");
    }
    assert_eq!(hit.get("redis_connect_ms").or(hit.get("StoreLatency")), None, "{hit}");
    assert!(hit["RedisLatency"].as_f64() > Some(0.0) && hit["saved_ms"].is_number(), "{hit}");
}

#[tokio::test]
async fn a_request_whose_store_fails_or_is_silent_has_its_line_too() {
    let table = DynamoDb::start().await;
    let variables = table.variables();
    let mut variables: Vec<_> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    variables.push(("REDIS_URL", ""));
    let function = Function::start(&variables).await;
    table.set(Mode::Refuse { status: 400, code: "AccessDeniedException" });
    assert_eq!(function.get("/users/1").await.status, 503);
    table.set(Mode::Silent);
    assert_eq!(function.get_within("/users/2", Duration::from_secs(1)).await.status, 503);

    for line in request_lines(&function, 2).await {
        assert_eq!((&line["level"], &line["status"]), (&json!("ERROR"), &json!(503)));
        assert_eq!(line["outcome"], "miss");
        assert_eq!(line["StoreLoads"], 1);
        let failed = lines_that_say(&function, "user store failed").await;
        let failed = failed.iter().find(|failed| failed["request_id"] == line["request_id"]);
        assert_eq!(failed.unwrap()["trace_id"], line["trace_id"]);
    }
    let lines = request_lines(&function, 2).await;
    assert!(lines[1]["StoreLatency"].as_f64() > Some(500.0), "{}", lines[1]);
}

#[tokio::test]
async fn the_line_is_there_at_any_level_of_our_own() {
    for level in [("RUST_LOG", "error"), ("RUST_LOG", "off"), ("AWS_LAMBDA_LOG_LEVEL", "FATAL")] {
        let function = Function::start(&[level, ("REDIS_URL", "redis://127.0.0.1:1")]).await;
        function.get("/users/1").await;
        let line = &request_lines(&function, 1).await[0];
        assert_eq!((&line["level"], &line["outcome"]), (&json!("WARN"), &json!("bypass")));
    }
}

#[tokio::test]
async fn metrics_have_the_service_and_the_namespace_of_the_variables() {
    let function = Function::start(&[
        ("POWERTOOLS_SERVICE_NAME", "people"),
        ("POWERTOOLS_METRICS_NAMESPACE", "Team/People"),
    ])
    .await;
    function.get("/users/1").await;
    let line = &request_lines(&function, 1).await[0];
    for [name, namespace, dimensions] in series(line) {
        assert_eq!(namespace, "Team/People");
        let outcome = if name == "Latency" { " outcome=\"miss\"" } else { "" };
        assert_eq!(dimensions, format!("service=\"people\"{outcome}"));
    }
}

#[tokio::test]
async fn a_fault_is_logged_once_and_then_counted() {
    let mut redis = RedisServer::start().await;
    let function = Function::start(&[("REDIS_URL", &redis.url())]).await;
    function.get_until_hit("/users/1").await;
    redis.kill();
    for _ in 0..3 {
        function.get("/users/1").await.assert_correct();
    }
    let logged = lines_that_say(&function, "cache not read").await;
    let [fault] = &logged[..] else { panic!("{logged:?}") };
    assert_eq!((&fault["level"], &fault["fault"]), (&json!("WARN"), &json!("redis-refused")));
    assert!(fault["cause"].as_str().unwrap().contains("refused"), "{fault}");
    assert!((1..=100).contains(&fault["breaker_open_ms"].as_u64().unwrap()), "{fault}");

    let lines = request_lines(&function, 5).await;
    let bypasses: Vec<_> = lines.iter().filter(|line| line["outcome"] == "bypass").collect();
    assert_eq!(bypasses.len(), 3);
    assert_eq!(fault["request_id"], bypasses[0]["request_id"]);
    assert_eq!(fault["trace_id"], bypasses[0]["trace_id"]);
    for (place, line) in bypasses.iter().enumerate() {
        let word = if place == 0 { "redis-refused" } else { "breaker-open" };
        assert_eq!((&line["level"], &line["fault"]), (&json!("WARN"), &json!(word)));
        assert_eq!((&line["CacheFaults"], &line["Bypasses"]), (&json!(1), &json!(1)));
    }
}

#[tokio::test]
async fn a_fault_that_leaves_the_breaker_closed_is_logged_once_too() {
    let redis = RedisServer::start().await;
    redis.command::<()>(&["ACL", "SETUSER", "cache", "on", ">pw", "~*", "+get"]);
    let function =
        Function::start(&[("REDIS_URL", &redis.url().replace("://", "://cache:pw@"))]).await;
    for _ in 0..5 {
        function.get("/users/1").await.assert_correct();
    }
    for line in request_lines(&function, 5).await {
        assert_eq!((&line["fault"], &line["CacheFaults"]), (&json!("redis-error"), &json!(1)));
    }
    let logged = lines_that_say(&function, "no lease").await;
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert_eq!(logged[0]["error"], "error reply NOPERM");
    assert_eq!(logged[0].get("breaker_open_ms"), None);
}

#[tokio::test]
async fn an_outage_that_is_over_is_told_with_how_long_it_was() {
    let mut redis = RedisServer::start().await;
    let function = Function::start(&[("REDIS_URL", &redis.url())]).await;
    function.get_until_hit("/users/1").await;
    redis.kill();
    // Each failed probe doubles the wait, so after four of them Redis has been away for more than a second.
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_millis(1_200) {
        function.get("/users/1").await.assert_correct();
    }
    redis.restart().await;
    function.get_until_hit("/users/1").await;
    let back = lines_that_say(&function, "Redis is back").await;
    assert_eq!(back.len(), 1, "{back:?}");
    assert!(back[0]["away_ms"].as_u64() > Some(1_000), "{back:?}");
}

#[tokio::test]
async fn waiting_for_a_connection_and_for_another_is_told_apart() {
    let hole = BlackHole::new();
    let url = hole.url();
    let function = Function::start(&[&[("REDIS_URL", &*url)][..], &BY_DEFAULT].concat()).await;
    function.get("/users/1").await.assert_correct();
    let line = &request_lines(&function, 1).await[0];
    assert!(line["redis_connect_ms"].as_f64() > Some(400.0), "{line}");
    assert_eq!(line.get("RedisLatency"), None);

    let redis = RedisServer::start().await;
    let function = Function::start(&[("REDIS_URL", &redis.url())]).await;
    assert_eq!(function.get("/users/2").await.status, 200);
    let token = "lease:00000000000000000000000000000000";
    redis.command::<()>(&["SET", "users:user:1", token, "PX", "1500"]);
    function.get("/users/1").await.assert_correct();
    let line = &request_lines(&function, 2).await[1];
    assert!(line["lease_wait_ms"].as_f64() > Some(100.0), "{line}");
    assert!(line["RedisLatency"].as_f64() < line["lease_wait_ms"].as_f64(), "{line}");
}

#[tokio::test]
async fn requests_at_the_same_time_have_a_line_each() {
    let redis = RedisServer::start().await;
    let variables = [("REDIS_URL", &*redis.url()), ("AWS_LAMBDA_MAX_CONCURRENCY", "8")];
    let function = Function::start(&variables).await;
    function.get_until_hit("/users/1").await;
    let before = request_lines(&function, 2).await.len();
    let paths = ["/users/1", "/users/x", "/", "/users/1"].repeat(25);
    join_all(paths.iter().map(|path| function.get(path))).await;

    let lines = request_lines(&function, before + paths.len()).await;
    let lines = &lines[before..];
    for (status, outcome, route, count) in [
        (200, "hit", json!("/users/{id}"), 50),
        (400, "none", json!("/users/{id}"), 25),
        (404, "none", Value::Null, 25),
    ] {
        let of_kind = lines.iter().filter(|line| {
            (&line["status"], &line["outcome"], &line["route"])
                == (&json!(status), &json!(outcome), &route)
        });
        assert_eq!(of_kind.count(), count, "{outcome}");
    }
    let ids: HashSet<_> = lines.iter().map(|line| line["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), paths.len());
}

#[tokio::test]
async fn as_text_a_request_is_one_readable_line_and_no_metrics() {
    let variables = [("AWS_LAMBDA_LOG_FORMAT", "Text"), ("REDIS_URL", "redis://127.0.0.1:1")];
    let function = Function::start(&variables).await;
    function.get("/users/1").await;
    function.get("/users/x").await;
    let output = function.output_with(": request", 2).await;
    let lines: Vec<_> = output.lines().collect();
    let [fault, bypass, invalid] = &lines[..] else { panic!("{output}") };
    assert!(fault.contains(" WARN ") && fault.contains("fault=\"redis-refused\""), "{fault}");
    assert!(bypass.contains(" WARN ") && invalid.contains(" INFO "), "{output}");
    for part in ["status=200", "route=\"/users/{id}\"", "outcome=\"bypass\"", "ColdStarts=1"] {
        assert!(bypass.contains(part), "{bypass}");
    }
    for line in &lines {
        assert!(line.contains("trace_id=\"1-5759e988-bd862e3fe1be46a994272793\""), "{line}");
        assert!(line.contains("request_id="), "{line}");
    }
    assert!(!output.contains("_aws") && !output.contains('\u{1b}'), "no terminal: {output}");
}

/// The output, and the number of write calls.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<(Vec<u8>, usize)>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (written, calls) = &mut *self.0.lock().unwrap();
        written.extend(bytes);
        *calls += 1;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn line(&self) -> Value {
        let (written, calls) = &*self.0.lock().unwrap();
        assert_eq!(*calls, 1, "one call for a line");
        assert_line(std::str::from_utf8(written).unwrap().strip_suffix('\n').unwrap())
    }
}

/// Settings for JSON lines.
fn settings() -> LogSettings {
    let config =
        Config::from_lookup(|name| (name == "AWS_LAMBDA_LOG_FORMAT").then(|| "JSON".into()));
    config.unwrap().log
}

/// A telemetry layer, and its output.
fn telemetry() -> (Telemetry, Output) {
    let output = Output::default();
    (Telemetry::writing_to(output.clone(), &settings()), output)
}

/// A function in this process with the test's service.
fn gateway<S>(service: S) -> MapRequest<Gateway<S>, fn(LambdaInvocation) -> Event> {
    fn event(LambdaInvocation { body, context, .. }: LambdaInvocation) -> Event {
        LambdaEvent { payload: body.into(), context }
    }
    MapRequest::new(Gateway::new(service).on_reply(telemetry::answered), event)
}

type Event = LambdaEvent<Payload>;

fn invocation(time_left: Duration) -> LambdaInvocation {
    let body = request("GET", "/users/1").to_string().into();
    let (parts, ()) = Response::new(()).into_parts();
    let deadline = std::time::SystemTime::now() + time_left;
    let deadline = deadline.duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut context = Context::default();
    context.deadline = u64::try_from(deadline.as_millis()).unwrap();
    LambdaInvocation { parts, body, context }
}

async fn panics(_: Request) -> Result<Response<Body>, Error> {
    tokio::task::yield_now().await;
    panic!("as the test wants it")
}

async fn never_answers(_: Request) -> Result<Response<Body>, Error> {
    std::future::pending().await
}

#[tokio::test]
async fn a_request_that_panics_or_is_given_up_has_a_line_without_a_status() {
    let (telemetry, output) = telemetry();
    let mut function = telemetry.layer(gateway(service_fn(panics)));
    let call = tokio::spawn(function.call(invocation(Duration::from_secs(10))));
    assert!(call.await.unwrap_err().is_panic());
    let line = output.line();
    assert_eq!((&line["level"], line.get("status")), (&json!("ERROR"), None));

    let (telemetry, output) = self::telemetry();
    let mut function = telemetry.layer(gateway(service_fn(never_answers)));
    drop(function.call(invocation(Duration::from_secs(10))));
    assert_eq!(output.line().get("status"), None);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_answers_is_given_up_before_lambda_ends_the_invocation() {
    let (telemetry, output) = telemetry();
    let mut function = telemetry.layer(gateway(service_fn(never_answers)));
    let started = tokio::time::Instant::now();
    assert!(function.call(invocation(Duration::from_secs(10))).await.is_ok());
    let waited = started.elapsed();
    assert!((9_000..9_600).contains(&waited.as_millis()), "{waited:?}");
    let line = output.line();
    assert_eq!((&line["level"], &line["status"]), (&json!("ERROR"), &json!(503)));
}

#[tokio::test]
async fn nobody_waits_for_the_line_and_to_give_the_answer_is_no_part_of_its_latency() {
    let (telemetry, output) = telemetry();
    let ready = service_fn(async |_: Request| Ok::<_, Error>(Response::new(Body::Empty)));
    let mut gateway = gateway(ready);
    let seen = output.clone();
    // As in the runtime, which returns the response within the layer.
    let mut function = telemetry.layer(service_fn(move |invocation| {
        let (answer, seen) = (gateway.call(invocation), seen.clone());
        async move {
            answer.await.map_err(|error| error.error_message)?;
            let started = Instant::now();
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(seen.0.lock().unwrap().1, 0, "a line before the answer is given");
            Ok::<_, Error>(started.elapsed())
        }
    }));
    let started = Instant::now();
    let giving = function.call(invocation(Duration::from_secs(10))).await.unwrap();
    let working = started.elapsed().checked_sub(giving).unwrap();
    let line = output.line();
    assert_eq!(line["status"], 200);
    assert!(line["Latency"].as_f64() <= Some(working.as_secs_f64() * 1e3), "{line}");
}

#[test]
fn a_panic_is_a_line_like_others_and_tells_no_data() {
    const NAME: &str = "telemetry::a_panic_is_a_line_like_others_and_tells_no_data";
    if std::env::var_os("PANIC").is_some() {
        telemetry::init(&settings());
        let _ = std::panic::catch_unwind(|| panic!("a literal"));
        std::panic::panic_any("manas@example.com".to_owned());
    }
    // In a separate process, because the panic hook is global.
    let this = std::env::current_exe().unwrap();
    let ended = std::process::Command::new(this).args(["--exact", NAME]).env("PANIC", "1").output();
    let output = String::from_utf8(ended.unwrap().stdout).unwrap();
    let lines: Vec<_> =
        output.lines().filter(|line| line.contains("\"panicked\"")).map(assert_line).collect();
    let [literal, data] = &lines[..] else { panic!("{output}") };
    for line in [literal, data] {
        assert_eq!(line["level"], "ERROR");
        assert!(
            line["location"].as_str().unwrap().starts_with("tests/suite/telemetry.rs:"),
            "{line}"
        );
    }
    assert_eq!((&literal["reason"], data.get("reason")), (&json!("a literal"), None));
    assert!(!output.contains("example.com"), "{output}");
}

/// The members of a kind of line.
fn members(kind: &str) -> BTreeSet<&'static str> {
    let members = schema()["$defs"][kind]["properties"].as_object().unwrap();
    members.keys().map(String::as_str).collect()
}

const DOCS: &str = include_str!("../../docs/logs.md");

#[test]
fn the_docs_name_every_member_and_the_schema_describes_it() {
    for kind in ["request", "event"] {
        for member in members(kind) {
            assert!(DOCS.contains(&format!("`{member}`")), "{member}");
            let described = &schema()["$defs"][kind]["properties"][member];
            let referred = described["$ref"].as_str().unwrap_or_default().trim_start_matches('#');
            let referred = schema().pointer(referred).unwrap();
            let is_described = [described, referred].iter().any(|it| it["description"].is_string());
            assert!(is_described, "{member}");
        }
    }
}

#[test]
fn the_examples_of_the_docs_are_lines() {
    let mut examples = DOCS.split("```json\n").skip(1).map(|rest| rest.split('\n').next().unwrap());
    assert_line(examples.next().unwrap());
    assert_line(examples.next().unwrap());
    assert_eq!(examples.next(), None);
}

#[test]
fn the_queries_of_the_docs_ask_for_members_that_there_are() {
    const WORDS: [&str; 22] = [
        "filter",
        "fields",
        "stats",
        "sort",
        "limit",
        "display",
        "as",
        "by",
        "and",
        "or",
        "desc",
        "asc",
        "count",
        "sum",
        "avg",
        "max",
        "pct",
        "bin",
        "ispresent",
        "5m",
        "1h",
        "1d",
    ];
    let known: BTreeSet<_> = members("request").into_iter().chain(members("event")).collect();
    let queries: Vec<_> = DOCS.split("```sql\n").skip(1).collect();
    assert_eq!(queries.len(), 5);
    for query in queries {
        let query = query.split("```").next().unwrap();
        // Without string literals.
        let code: String = query.split('"').step_by(2).collect();
        let words: Vec<_> = code
            .split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'))
            .filter(|word| !word.is_empty() && word.parse::<u32>().is_err())
            .collect();
        let names: HashSet<_> =
            words.windows(2).filter(|pair| pair[0] == "as").map(|pair| pair[1]).collect();
        let mut asked = 0;
        for word in words {
            if WORDS.contains(&word) || names.contains(word) {
                continue;
            }
            assert!(known.contains(word), "{word} in\n{query}");
            asked += 1;
        }
        assert!(asked > 1, "{query}");
        for text in query.split('"').skip(1).step_by(2) {
            let properties = &schema()["$defs"]["request"]["properties"];
            let outcomes = properties["outcome"]["enum"].as_array().unwrap();
            assert!(outcomes.contains(&json!(text)), "{text} in\n{query}");
        }
    }
}
