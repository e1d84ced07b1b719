//! Tests the program over a real PostgreSQL and a real Redis, on Lambda's Runtime API and as a server.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use serde_json::{Value, json};
use test_peers::redis::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

const ID: &str = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
const STORED: &str = "response-boost; fwd=uri-miss; stored";

/// A private PostgreSQL in its own folder, behind a socket there.
struct Postgres {
    server: Child,
    folder: String,
}

impl Postgres {
    async fn start() -> Self {
        let folder = output(as_postgres("mktemp").args(["-d", "-t", "postgres-XXXXXX"]));
        let data = format!("{folder}/data");
        let rights = ["--auth=trust", "--username=postgres", "--no-sync", "-D"];
        output(as_postgres(&program("initdb")).args(rights).arg(&data));
        let server = as_postgres(&program("postgres"))
            .args(["-D", &data, "-k", &folder, "-c", "listen_addresses=", "-c", "fsync=off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let postgres = Self { server, folder };
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.sql");
        test_peers::wait_for("PostgreSQL", || {
            let mut psql = Command::new(program("psql"));
            psql.args(["--quiet", "--set=ON_ERROR_STOP=1", &postgres.url(), "--file", schema]);
            let done = psql.stderr(Stdio::null()).status().unwrap();
            done.success().then_some(())
        })
        .await;
        postgres
    }

    fn url(&self) -> String {
        format!("postgres:///postgres?user=postgres&host={}", self.folder)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The server ends its own processes.
        test_peers::signal(self.server.id(), "INT");
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A program of PostgreSQL, which distributions install outside of the PATH.
fn program(name: &str) -> String {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = std::env::split_paths(&path).chain(folders).collect();
    all.retain(|folder| folder.join(name).is_file());
    let found = all.pop().unwrap_or_else(|| panic!("no {name}: apt-get install postgresql"));
    found.join(name).to_str().unwrap().to_owned()
}

/// A command that root runs as the user of the distribution's package, because PostgreSQL refuses root.
fn as_postgres(program: &str) -> Command {
    if output(Command::new("id").arg("-u")) != "0" {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", program]);
    command.current_dir("/");
    command
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The program, which ends with the test.
struct Running(Child);

impl Running {
    fn start(postgres: &Postgres, redis: &RedisServer, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_axum-postgres"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
        command.env("DATABASE_URL", postgres.url()).env("REDIS_URL", redis.operator_url());
        command.envs(more.iter().copied());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
struct Reply {
    status: u64,
    cache_status: String,
    cache_control: String,
    body: String,
}

/// Asserts what holds for the API, whether on Lambda or as a server.
async fn assert_users(ask: impl AsyncFn(&str, &str, &str) -> Reply, redis: &RedisServer) {
    let path = format!("/users/{ID}");
    let get = async || ask("GET", &path, "").await;
    let put = async |path: &str, name: &str| {
        let user = json!({ "name": name, "email": "ada@example.com" }).to_string();
        let reply = ask("PUT", path, &user).await;
        assert_eq!((reply.status, reply.cache_status.as_str()), (204, ""), "{reply:?}");
    };
    let assert_miss_then_hit = async |status: u64, part: &str| {
        let miss = get().await;
        assert_eq!((miss.status, miss.cache_status.as_str()), (status, STORED), "{miss:?}");
        let hit = get().await;
        assert!(hit.cache_status.starts_with("response-boost; hit; ttl="), "{hit:?}");
        for reply in [miss, hit] {
            assert!(reply.status == status && reply.body.contains(part), "{reply:?}");
        }
    };

    assert_miss_then_hit(404, "").await;
    put(&path, "Ada").await;
    assert_miss_then_hit(200, r#""name":"Ada""#).await;
    assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*"]), [format!("users:user:{ID}")]);
    // The handler sets it, not the policy.
    assert_eq!(get().await.cache_control, "private, max-age=600");
    put(&path, "Ada Lovelace").await;
    assert_miss_then_hit(200, "Lovelace").await;
    // Other spellings of the id mean the same user.
    let capitals = format!("/users/{}", ID.to_uppercase());
    assert!(ask("GET", &capitals, "").await.cache_status.contains("; hit; "));
    put(&capitals, "Ada King").await;
    assert_miss_then_hit(200, "King").await;

    let removed = ask("DELETE", &path, "").await;
    assert_eq!((removed.status, removed.cache_status.as_str()), (204, ""));
    assert_miss_then_hit(404, "").await;
    assert_eq!(ask("DELETE", &path, "").await.status, 404);
    assert!(
        get().await.cache_status.contains("; hit; "),
        "nothing was removed, and nothing is loaded"
    );

    let malformed = ask("GET", "/users/1", "").await;
    assert_eq!((malformed.status, malformed.cache_status.as_str()), (400, ""));
}

#[tokio::test]
async fn as_a_server_each_write_is_seen_by_the_next_read() {
    let (postgres, redis) = (Postgres::start().await, RedisServer::start().await);
    let mut server = Running::start(&postgres, &redis, &[("PORT", "0")]);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().to_owned();
    let ask = async |method: &str, path: &str, body: &str| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        let of_body = format!("content-type: application/json\r\ncontent-length: {}", body.len());
        stream.write_all(format!("{head}{of_body}\r\n\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default().to_owned()
        };
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            cache_status: field("cache-status"),
            cache_control: field("cache-control"),
            body: body.to_owned(),
        }
    };
    assert_users(&ask, &redis).await;

    // With escapes, too: the invalidation must parse a path like the handler.
    let escaped = format!("/users/%36{}", &ID[1..]);
    ask("GET", &format!("/users/{ID}"), "").await;
    ask("PUT", &escaped, r#"{"name":"Escaped","email":"e@example.com"}"#).await;
    let read = ask("GET", &format!("/users/{ID}"), "").await;
    assert!(read.body.contains("Escaped"), "{read:?}");
}

#[tokio::test]
async fn on_lambda_each_write_is_seen_by_the_next_read() {
    let (postgres, redis) = (Postgres::start().await, RedisServer::start().await);
    let lambda = Lambda::start(&postgres, &redis).await;
    let lambda = Mutex::new(lambda);
    let ask = async |method: &str, path: &str, body: &str| {
        let reply = lambda.lock().await.invoke(method, path, body).await;
        let field = |name: &str| reply["headers"][name].as_str().unwrap_or_default().to_owned();
        Reply {
            status: reply["statusCode"].as_u64().unwrap(),
            cache_status: field("cache-status"),
            cache_control: field("cache-control"),
            body: reply["body"].as_str().unwrap_or_default().to_owned(),
        }
    };
    assert_users(ask, &redis).await;
}

/// A Lambda Runtime API for the program, which asks it for events and posts its replies.
struct Lambda {
    events: mpsc::Sender<Value>,
    replies: mpsc::Receiver<Value>,
    _function: Running,
}

impl Lambda {
    async fn start(postgres: &Postgres, redis: &RedisServer) -> Self {
        let (events, waiting) = mpsc::channel::<Value>(1);
        let (posted, replies) = mpsc::channel(1);
        let next = async |State(waiting): State<Arc<Mutex<mpsc::Receiver<Value>>>>| {
            // The test is over when its end of the channel closes.
            let Some(event) = waiting.lock().await.recv().await else {
                return std::future::pending().await;
            };
            let headers = [
                ("lambda-runtime-aws-request-id", "1".to_owned()),
                ("lambda-runtime-deadline-ms", (test_peers::now_ms() + 60_000).to_string()),
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
        let variables = [
            ("AWS_LAMBDA_RUNTIME_API", address.as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "users"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ];
        let function = Running::start(postgres, redis, &variables);
        Self { events, replies, _function: function }
    }

    async fn invoke(&mut self, method: &str, path: &str, body: &str) -> Value {
        let event = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": "",
            "headers": { "content-type": "application/json" },
            "requestContext": {
                "http": { "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1" },
                "stage": "$default",
                "timeEpoch": 1,
            },
            "body": body,
            "isBase64Encoded": false,
        });
        self.events.send(event).await.unwrap();
        self.replies.recv().await.unwrap()
    }
}
