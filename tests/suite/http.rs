//! The HTTP contract: every event gets a response that conforms to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::contract::{assert_within_contract, event_of, function};
use crate::support::lambda::{Function, Reply, TIME_LEFT};
use crate::support::{MANAS, event, events_dir};
use lambda_gateway::{Gateway, Payload};
use lambda_http::{Context, LambdaEvent, Request};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use response_boost::{Entry, Namespace, Policy, RedisStore, ResponseCacheLayer};
use serde_json::{Value, json};
use test_peers::redis::{RedisServer, info};
use tower::{Layer as _, Service};
use users_function::config::Config;
use users_function::users::{
    EmbeddedUsers, Route, User, UserId, UserStore, UserStoreError, UsersApi,
};

/// All files of a folder, with their names.
fn files(folder: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let listed = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = listed
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path))
        .map(|(name, path)| (name, std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// The folder to which cargo has unpacked a crate of the function.
fn crate_folder(name: &str) -> PathBuf {
    let host =
        std::process::Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap();
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        // Crates of other platforms may not be downloaded.
        .args(["--filter-platform", std::str::from_utf8(&host.stdout).unwrap().trim()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == name).unwrap();
    PathBuf::from(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

#[tokio::test]
async fn of_the_examples_of_the_crates_only_those_of_pollers_end_in_a_function_error() {
    let function = Function::start(&[]).await;
    let (mut answered, mut refused) = ([0, 0], 0);
    for folder in [
        crate_folder("aws_lambda_events").join("src/fixtures"),
        crate_folder("lambda_http").join("tests/data"),
    ] {
        for (name, text) in files(&folder) {
            let Ok(event) = serde_json::from_slice(&text) else {
                continue; // A picture, and the source that includes them.
            };
            let reply = match function.end(&event, TIME_LEFT).await {
                Ok(reply) => Reply::new(reply),
                Err(error) => {
                    assert!(error.contains("NotARequest"), "{name}: {error}");
                    refused += 1;
                    continue;
                }
            };
            assert_within_contract(&reply.json);
            // None of them requests a user, so a request gets a 404 and anything else a 400.
            if event["detail-type"] == "Scheduled Event" {
                assert_eq!(reply.status, 200, "{name}: it keeps an environment warm");
                continue;
            }
            let is_request = name.contains("alb_")
                || name.contains("alb-lambda-target-request")
                || name.contains("apigw_")
                || name.contains("function_url");
            assert!(!is_request || reply.status == 404, "{name}: {}", reply.json);
            answered[usize::from(reply.status == 404)] += 1;
        }
    }
    assert!(answered[0] > 60 && answered[1] > 25 && refused > 20, "{answered:?}, {refused}");
}

#[test]
fn the_corpus_of_entries_is_read() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/entry");
    let key = Namespace::parse("users").unwrap().key(["user", "1"]);
    let (entries, others): (Vec<_>, Vec<_>) = files(&corpus)
        .into_iter()
        .partition(|(_, bytes)| Entry::decode(&key, &bytes.clone().into()).is_ok());
    let mut names: Vec<_> = entries.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["not-found", "numbers-at-their-limits", "version-1", "version-2"]);
    assert!(others.len() > 5);
}

#[test]
fn the_corpus_of_the_fuzzer_is_answered() {
    let mut function = function();
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/event");
    for (name, input) in files(&corpus) {
        let reply = function(&event_of(&input)).unwrap_or_else(|| panic!("{name}"));
        assert_within_contract(&reply);
    }
}

#[derive(Debug, Default)]
struct CountingUsers(Arc<AtomicUsize>);

impl UserStore for CountingUsers {
    async fn find(&self, id: UserId) -> Result<Option<User>, UserStoreError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        EmbeddedUsers.find(id).await
    }
}

/// The event of each kind of gateway that requests the user with this id. `sent` is the id in the client's request,
/// `decoded` the same id decoded.
fn events_for(sent: &str, decoded: &str) -> [(&'static str, Value); 7] {
    let mut rest = event("rest-existing");
    rest["path"] = format!("/users/{sent}").into();
    rest["pathParameters"]["id"] = sent.into();

    let mut http = event("http-existing");
    http["rawPath"] = format!("/users/{decoded}").into();
    http["pathParameters"]["id"] = decoded.into();
    let mut http_by_path = http.clone();
    http_by_path["routeKey"] = "$default".into();
    http_by_path["requestContext"]["routeKey"] = "$default".into();
    http_by_path.as_object_mut().unwrap().remove("pathParameters");

    let mut function_url = event("function-url-existing");
    function_url["rawPath"] = format!("/users/{sent}").into();
    let mut alb = event("alb-existing");
    alb["path"] = format!("/users/{sent}").into();

    let mut staged = http_by_path.clone();
    staged["rawPath"] = format!("/v1/users/{decoded}").into();
    staged["requestContext"]["stage"] = "v1".into();
    let mut based = rest.clone();
    based["path"] = format!("/base/users/{sent}").into();
    based["resource"] = "/{proxy+}".into();
    based["pathParameters"] = json!({ "proxy": format!("users/{sent}") });

    [
        ("rest", rest),
        ("rest, base path", based),
        ("http", http),
        ("http, path", http_by_path),
        ("http, stage", staged),
        ("function url", function_url),
        ("alb", alb),
    ]
}

/// The function in this process, in front of a Redis, and the number of lookups in its user store.
fn counted(redis: &RedisServer) -> (impl AsyncFnMut(&Value) -> Value, Arc<AtomicUsize>) {
    let config = Config::from_lookup(|name| (name == "REDIS_URL").then(|| redis.url().into()));
    let namespace = Namespace::parse("users").unwrap();
    let cache = ResponseCacheLayer::new(
        RedisStore::new(config.unwrap().redis.unwrap()),
        Policy::new(std::time::Duration::from_mins(2)),
        move |request: &Request| Some(namespace.key(Route::of(request).user()?.key_parts())),
    );
    let loads = Arc::new(AtomicUsize::new(0));
    let mut gateway = Gateway::new(cache.layer(UsersApi::new(CountingUsers(Arc::clone(&loads)))));
    let answer = async move |event: &Value| {
        let payload = Payload::from(event.to_string());
        let reply = gateway.call(LambdaEvent { payload, context: Context::default() });
        serde_json::to_value(reply.await.unwrap()).unwrap()
    };
    (answer, loads)
}

#[tokio::test]
async fn a_second_process_needs_no_store_to_say_that_nothing_has_changed() {
    let redis = RedisServer::start().await;
    let ((mut first, _), (mut second, loads)) = (counted(&redis), counted(&redis));
    let etag = first(&event("http-existing")).await["headers"]["etag"].clone();

    for kind in ["http", "rest", "alb", "function-url"] {
        for method in ["GET", "HEAD"] {
            let mut conditional = event(&format!("{kind}-existing"));
            conditional["headers"]["if-none-match"] = etag.clone();
            let place = if kind == "rest" || kind == "alb" {
                &mut conditional["httpMethod"]
            } else {
                &mut conditional["requestContext"]["http"]["method"]
            };
            *place = method.into();
            let reply = second(&conditional).await;
            assert_eq!(reply["statusCode"], 304, "{method} by {kind}");
            assert_eq!(reply.get("body"), None);
        }
    }
    assert_eq!(loads.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn only_an_id_that_can_be_reaches_redis_or_the_store() {
    let redis = RedisServer::start().await;
    let mut connection = redis.connect();
    let (mut function, loads) = counted(&redis);
    let mut commands = || info(&mut connection, "total_commands_processed");

    let digits = "9".repeat(400);
    for (sent, decoded, is_valid) in [
        ("1", "1", true),
        // A client may encode more than it must; the id is the same.
        ("%31", "1", true),
        ("9223372036854775807", "9223372036854775807", true),
        ("9223372036854775808", "9223372036854775808", false),
        ("%2531", "%31", false),
        ("01", "01", false),
        ("+1", "+1", false),
        ("-1", "-1", false),
        ("0", "0", false),
        ("1.0", "1.0", false),
        ("1/", "1/", false),
        ("1%2F2", "1/2", false),
        ("1%2F", "1/", false),
        ("..", "..", false),
        ("%2E%2E", "..", false),
        ("%EF%BC%91", "１", false),
        (&digits, &digits, false),
        ("%00", "\0", false),
        ("1%00", "1\0", false),
        ("%F0%9F%A6%80", "🦀", false),
        ("", "", false),
        ("%20", " ", false),
        ("%201", " 1", false),
        ("1%20", "1 ", false),
        ("%FF", "\u{fffd}", false),
        ("%zz", "%zz", false),
    ] {
        for (kind, event) in events_for(sent, decoded) {
            let () = redis.command(&["FLUSHALL"]);
            let (loads_before, commands_before) = (loads.load(Ordering::SeqCst), commands());
            let reply = function(&event).await;

            // The one command is the first `INFO`.
            let asked_redis = commands() - commands_before > 1;
            let asked_store = loads.load(Ordering::SeqCst) > loads_before;
            assert_eq!((asked_redis, asked_store), (is_valid, is_valid), "{kind}: {sent:?}");
            match (is_valid, decoded) {
                (true, "1") => assert_eq!(reply["body"], MANAS, "{kind}: {sent:?}"),
                (true, _) => assert_eq!(reply["statusCode"], 404, "{kind}: {sent:?}"),
                // An encoded slash makes another path.
                _ if decoded.contains('/') => {
                    assert!([400, 404].contains(&reply["statusCode"].as_u64().unwrap()));
                }
                _ => assert_eq!(reply["statusCode"], 400, "{kind}: {sent:?}"),
            }
        }
    }
    assert_eq!(redis.command::<u64>(&["DBSIZE"]), 0, "the last ones left nothing");
}

/// Text that something upstream has damaged.
fn odd_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(&[
            "", "/", "//", "/users/1", "/users/2?x", "/users/%31", "users/1", "/users/..", "/users/\u{0}",
            "/users/１", "*", "GET", "HEAD", "get", "POST", "a b", "<", "\"", "#", "?a=<b>&c", "a=%zz",
            "%", "%FF", "é", "🦀", "localhost", "a@b", "[::1]:80", "host:99999", "http", "x\r\ny: z",
            "\"a43ee3cf8af93a7ebee04608a7d6657f\"", "W/\"x\", *", "\"a b\"", "\"\t\"", "1.0", "2.0", "$default", "GET /users/{id}",
            "/users/{id}", "/{proxy+}", "{", "e30=", "null", "9223372036854775808",
        ]).prop_map(str::to_owned),
        2 => any::<String>(),
        1 => ".{0,8}".prop_map(|text| text.repeat(2_000)),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        odd_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(odd_text(), inner, 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// The places of all values in a document.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let members: Vec<(String, &Value)> = match value {
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(n, item)| (n.to_string(), item)).collect()
        }
        _ => Vec::new(),
    };
    for (name, value) in members {
        pointers(value, &format!("{at}/{name}"), found);
    }
}

/// A real event with one to four of its values replaced or removed.
fn damaged_event() -> impl Strategy<Value = Value> {
    let real: Vec<Value> = files(&events_dir())
        .iter()
        .map(|(_, text)| serde_json::from_slice(text).unwrap())
        .collect();
    let damage = prop_oneof![
        3 => odd_text().prop_map(|text| Some(Value::from(text))),
        2 => any_json().prop_map(Some),
        1 => Just(None),
    ];
    let damages = prop::collection::vec((any::<prop::sample::Index>(), damage), 1..5);
    (prop::sample::select(real), damages).prop_map(|(mut event, damages)| {
        for (place, damage) in damages {
            let mut places = Vec::new();
            pointers(&event, "", &mut places);
            let place = place.get(&places);
            match (damage, place.rsplit_once('/')) {
                (None, Some((parent, name))) => {
                    if let Some(Value::Object(members)) = event.pointer_mut(parent) {
                        members.remove(name);
                    }
                }
                (None, None) => event = Value::Null,
                (Some(value), _) => {
                    if let Some(place) = event.pointer_mut(place) {
                        *place = value;
                    }
                }
            }
        }
        event
    })
}

/// A real event with some of its bytes changed.
fn damaged_bytes() -> impl Strategy<Value = Vec<u8>> {
    let real: Vec<Vec<u8>> = files(&events_dir()).into_iter().map(|(_, text)| text).collect();
    let damages = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    (prop::sample::select(real), damages).prop_map(|(mut event, damages)| {
        for (place, byte) in damages {
            let place = place.index(event.len());
            event[place] = byte;
        }
        event
    })
}

/// Asserts that the event comes from a queue, a stream, a bus or a background call; only these end with a function
/// error.
fn assert_names_a_source(event: &[u8]) {
    let text = String::from_utf8_lossy(event);
    let names = [
        "ecords",
        "eventSource",
        "awslogs",
        "deliveryStreamArn",
        "applicationArn",
        "detail-type",
        "invokingEvent",
        "ResponseURL",
        "CodePipeline",
        "flowDirection",
        "invocationSchemaVersion",
    ];
    assert!(names.iter().any(|name| text.contains(name)), "{text}");
}

/// A request for a user through any kind of gateway, with odd values in the places that an attacker controls.
fn odd_request() -> impl Strategy<Value = Value> {
    let id = prop_oneof![odd_text(), (0..5_u64).prop_map(|id| id.to_string())];
    let method =
        prop_oneof![3 => Just("GET".to_owned()), 2 => Just("HEAD".to_owned()), 1 => odd_text()];
    let names = prop_oneof![
        prop::sample::select(&["host", "if-none-match", "x-forwarded-proto", "cookie", "accept"])
            .prop_map(str::to_owned),
        odd_text(),
    ];
    let headers = prop::collection::hash_map(names, odd_text(), 0..4);
    let body = prop::option::of(odd_text());
    (id, method, headers, odd_text(), body, any::<bool>(), 0..7_usize).prop_map(
        |(id, method, headers, query, body, is_base64, kind)| {
            let (_, mut event) = events_for(&id, &id)[kind].clone();
            if event["httpMethod"].is_string() {
                event["httpMethod"] = method.into();
                event["queryStringParameters"] = json!({ &query: &query });
                event["multiValueHeaders"] = Value::Null;
            } else {
                event["requestContext"]["http"]["method"] = method.into();
                event["rawQueryString"] = query.into();
            }
            event["headers"] = json!(headers);
            event["body"] = json!(body);
            event["isBase64Encoded"] = is_base64.into();
            event
        },
    )
}

/// Any payload of an invocation, from a real event to noise.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let text = |event: Value| event.to_string().into_bytes();
    prop_oneof![
        2 => damaged_event().prop_map(text),
        2 => odd_request().prop_map(text),
        1 => any_json().prop_map(text),
        1 => damaged_bytes(),
        1 => any::<Vec<u8>>(),
    ]
}

fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig { source_file: Some(file!()), ..ProptestConfig::default() })
}

// `PROPTEST_CASES` sets the number of cases, here and below.
#[test]
fn any_payload_is_answered_within_the_contract() {
    let function = std::cell::RefCell::new(function());
    let checked = runner().run(&any_payload(), |payload| {
        match function.borrow_mut()(&payload) {
            Some(reply) => assert_within_contract(&reply),
            None => assert_names_a_source(&payload),
        }
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn any_payload_is_answered_by_the_real_function() {
    let executor = tokio::runtime::Runtime::new().unwrap();
    // A line for each invocation would fill the memory of the test.
    let quiet = [("AWS_LAMBDA_LOG_FORMAT", "Text"), ("AWS_LAMBDA_LOG_LEVEL", "ERROR")];
    let function = executor.block_on(Function::start(&quiet));
    let checked = runner().run(&any_payload(), |payload| {
        match executor.block_on(function.end_of_bytes(payload.clone())) {
            Ok(reply) => assert_within_contract(&reply),
            Err(error) => {
                assert!(error.contains("NotARequest"), "{error}");
                assert_names_a_source(&payload);
            }
        }
        Ok(())
    });
    checked.unwrap();
}
