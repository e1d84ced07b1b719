//! The examples do what they say.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use response_boost::{NotStored, StoreError};
use serde_json::{Value, json};
use test_peers::Folder;
use test_peers::redis::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

/// The program of an example. Cargo builds all examples before it runs the tests, into the folder beside the tests',
/// except when it runs a single test by name.
fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().unwrap().parent().unwrap().join("examples");
    let program = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    let source = format!("{}/examples/{name}.rs", env!("CARGO_MANIFEST_DIR"));
    let changed = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let is_current = changed(&program) >= changed(Path::new(&source));
    assert!(is_current, "the example {name} is not built: cargo build --examples --all-features");
    let mut command = Command::new(program);
    command.env_clear().stdout(Stdio::piped()).stdin(Stdio::null());
    command
}

/// Kills the process when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn axum_serves_a_miss_and_then_hits() {
    let mut server = Running(example("axum").env("PORT", "0").spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().strip_suffix("/prices/7").unwrap();
    for cache_status in ["response-boost; fwd=uri-miss; stored", "response-boost; hit; ttl="] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /prices/7 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("\r\n\r\n700 cents\n"), "{response}");
        assert!(response.contains(cache_status), "{response}");
    }
}

#[tokio::test]
async fn values_of_the_demonstration_are_stored_under_its_keys() {
    let redis = RedisServer::start().await;
    let command = |name| {
        let mut command = example(name);
        command.env("PORT", "0").env("REDIS_URL", redis.operator_url());
        command
    };
    let mut server = Running(command("values").spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().strip_suffix("/users/1").unwrap();
    let user = r#"{"id":1,"name":"Manas","email":"manas@example.com","age":25}"#;
    for (path, start, end) in [
        ("/users/1", "HTTP/1.1 200", user),
        ("/users/1", "HTTP/1.1 200", user),
        ("/users/2", "HTTP/1.1 404", "\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with(start) && response.ends_with(end), "{response}");
        assert!(redis.command::<String>(&["GET", "users:user:1"]).ends_with(user));
    }
    assert!(redis.command::<bool>(&["EXISTS", "users:user:2"]));
}

#[tokio::test]
async fn a_change_of_a_user_invalidates_the_list_of_its_team() {
    let mut server = Running(example("tags").env("PORT", "0").spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap();
    let (address, _) = address.split_once('/').unwrap();
    let ask = async |request: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    };
    let assert_list = async |team: &str, cache_status: &str, names: &str| {
        let response = ask(&format!("GET /teams/{team}/users")).await;
        assert!(response.contains(&format!("response-boost; {cache_status}")), "{response}");
        assert!(response.ends_with(&format!("\r\n\r\n{names}")), "{response}");
    };
    let (miss, hit) = ("fwd=uri-miss; stored", "hit; ttl=");
    for (team, names) in [("red", "Ada\nGrace\n"), ("blue", ""), ("green", "")] {
        assert_list(team, miss, names).await;
        assert_list(team, hit, names).await;
    }
    assert!(ask("PUT /users/1/blue").await.starts_with("HTTP/1.1 204"));
    assert_list("red", miss, "Grace\n").await;
    assert_list("blue", miss, "Ada\n").await;
    assert_list("green", hit, "").await;
}

#[test]
fn a_store_of_ones_own_serves_what_an_earlier_process_has_stored() {
    let folder = Folder::new();
    for first in ["response-boost; fwd=uri-miss; stored", "response-boost; hit; ttl="] {
        let output = example("own_store").arg(folder.path()).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = printed.lines().collect();
        assert!(lines[0].starts_with(first), "{printed}");
        assert!(lines[1].starts_with("response-boost; hit; ttl="), "{printed}");
    }
}

#[tokio::test]
async fn axum_on_lambda_serves_a_miss_and_then_hits() {
    let redis = RedisServer::start().await;
    let mut lambda = Lambda::start("axum_on_lambda", &redis).await;
    assert_miss_and_hit(&mut lambda, "/prices/7", "700 cents\n").await;
    assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*"]), ["prices:path:/prices/7"]);
}

/// What is after the reply is done before the next event is asked for, so the next reply is from what was loaded there.
#[tokio::test]
async fn axum_on_lambda_refreshes_an_entry_after_the_reply() {
    let redis = RedisServer::start().await;
    let mut lambda = Lambda::start("axum_on_lambda", &redis).await;
    lambda.get("/prices/7").await;
    let key = "prices:path:/prices/7";
    // As if it had been loaded a minute ago.
    let entry: String = redis.command(&["GET", key]);
    let (metadata, body) = entry.split_once('\n').unwrap();
    let mut metadata: Value = serde_json::from_str(metadata).unwrap();
    let loaded_at_ms = metadata["load_started_at_ms"].as_u64().unwrap();
    metadata["load_started_at_ms"] = (loaded_at_ms - 60_000).into();
    redis.command::<()>(&["SET", key, &format!("{metadata}\n{body}"), "PX", "600000"]);
    for (starts, ends) in [("hit; ttl=-", "; detail=refresh-after-reply"), ("hit; ttl=2", "")] {
        let reply = lambda.get("/prices/7").await;
        assert_eq!(reply["body"], "700 cents\n", "{reply}");
        let found = reply["headers"]["cache-status"].as_str().unwrap_or_default();
        assert!(found.starts_with(&format!("response-boost; {starts}")), "{found}");
        assert!(found.ends_with(ends), "{found}");
    }
}

#[tokio::test]
async fn a_service_fn_on_lambda_serves_a_miss_and_then_hits() {
    let redis = RedisServer::start().await;
    let mut lambda = Lambda::start("service_fn_on_lambda", &redis).await;
    assert_miss_and_hit(&mut lambda, "/Ada", "Hello, Ada!\n").await;
    assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*"]), ["greetings:to:Ada"]);
}

async fn assert_miss_and_hit(lambda: &mut Lambda, path: &str, body: &str) {
    for cache_status in ["response-boost; fwd=uri-miss; stored", "response-boost; hit; ttl="] {
        let reply = lambda.get(path).await;
        assert_eq!(reply["body"], body, "{reply}");
        let found = reply["headers"]["cache-status"].as_str().unwrap_or_default();
        assert!(found.starts_with(cache_status), "{reply}");
    }
}

/// A Lambda for an example, which asks for events and posts its replies.
struct Lambda {
    events: mpsc::Sender<Value>,
    replies: mpsc::Receiver<Value>,
    _function: Running,
}

impl Lambda {
    async fn start(name: &str, redis: &RedisServer) -> Self {
        let (events, waiting) = mpsc::channel::<Value>(1);
        let (posted, replies) = mpsc::channel(1);
        let next = async |State(waiting): State<Arc<Mutex<mpsc::Receiver<Value>>>>| {
            // The test is over when its end of the channel closes.
            let Some(event) = waiting.lock().await.recv().await else {
                return std::future::pending().await;
            };
            let in_a_minute = test_peers::now_ms() + 60_000;
            let headers = [
                ("lambda-runtime-aws-request-id", "1".to_owned()),
                ("lambda-runtime-deadline-ms", in_a_minute.to_string()),
                ("lambda-runtime-invoked-function-arn", "arn".to_owned()),
            ];
            (headers, event.to_string())
        };
        let reply = async move |body: String| {
            let reply = serde_json::from_str(&body).expect("a reply is JSON");
            posted.send(reply).await.expect("the test waits for it");
            axum::http::StatusCode::ACCEPTED
        };
        let api = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/1/response", post(reply))
            .with_state(Arc::new(Mutex::new(waiting)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, api).await });
        let function = example(name)
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .envs([
                ("AWS_LAMBDA_FUNCTION_NAME", "example"),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
                ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ])
            .env("REDIS_URL", redis.operator_url())
            .spawn()
            .unwrap();
        Self { events, replies, _function: Running(function) }
    }

    /// The reply to the event of an HTTP API.
    async fn get(&mut self, path: &str) -> Value {
        let event = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": "",
            "headers": {},
            "requestContext": {
                "http": { "method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1" },
                "stage": "$default",
                "timeEpoch": 1,
            },
            "isBase64Encoded": false,
        });
        self.events.send(event).await.unwrap();
        self.replies.recv().await.unwrap()
    }
}

#[test]
fn the_docs_name_each_reason_why_a_response_is_not_stored() {
    let docs = include_str!("../../../../docs/http.md");
    let timeout = StoreError::Timeout("late".into()).word("redis");
    for reason in [
        NotStored::Status,
        NotStored::NoStore,
        NotStored::Private,
        NotStored::NoCache,
        NotStored::BadCacheControl,
        NotStored::NotFresh,
        NotStored::SetCookie,
        NotStored::Vary,
        NotStored::NotText,
        NotStored::NotJson,
        NotStored::Tags,
        NotStored::TooLarge,
        NotStored::Trailers,
        NotStored::BrokeOff,
        NotStored::CutOff,
        NotStored::SlowLoad,
        NotStored::Pass,
        NotStored::Invalidated,
        NotStored::FillRefused,
        NotStored::NoTime,
        NotStored::Fault(timeout),
    ] {
        let (cell, detail) = (format!("`{reason}`"), format!("detail={reason}`"));
        assert!(docs.contains(&cell) || docs.contains(&detail), "{reason}");
    }
}
