//! A Lambda Runtime API for the real binary.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::collections::HashMap;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc, oneshot};

use super::http::serve;
use test_peers::PATIENCE;

/// The default time limit of an invocation.
pub const TIME_LEFT: Duration = Duration::from_secs(30);

/// The default timeouts for Redis in tests, because a busy machine is not a fault of Redis.
const PATIENT: [(&str, &str); 2] =
    [("REDIS_CONNECT_TIMEOUT_MS", "10000"), ("REDIS_RESPONSE_TIMEOUT_MS", "10000")];

/// The timeouts in production.
pub const BY_DEFAULT: [(&str, &str); 2] =
    [("REDIS_CONNECT_TIMEOUT_MS", ""), ("REDIS_RESPONSE_TIMEOUT_MS", "")];

/// The users function in a process of its own: one environment. When it ends, everything that it has printed is
/// checked.
pub struct Function {
    process: Child,
    invocations: mpsc::UnboundedSender<Invocation>,
    idle: Arc<Notify>,
    output: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    logs_json: bool,
}

/// The result of an invocation.
pub struct Reply {
    pub status: u64,
    pub body: String,
    headers: HashMap<String, String>,
    pub json: Value,
}

struct Invocation {
    event: Bytes,
    time_left: Duration,
    reply: oneshot::Sender<Result<Value, String>>,
}

#[derive(Default)]
struct RuntimeApi {
    waiting: tokio::sync::Mutex<Option<mpsc::UnboundedReceiver<Invocation>>>,
    running: Mutex<HashMap<String, oneshot::Sender<Result<Value, String>>>>,
    idle: Arc<Notify>,
}

impl Function {
    /// Starts the function with these environment variables and no others, and waits until it is initialised.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::spawn(command(variables)).await
    }

    /// Starts the invalidation function instead.
    pub async fn start_invalidation(variables: &[(&str, &str)]) -> Self {
        Self::spawn(program(env!("CARGO_BIN_EXE_invalidate"), variables)).await
    }

    /// Starts the release check instead.
    pub async fn start_release_check(variables: &[(&str, &str)]) -> Self {
        Self::spawn(program(env!("CARGO_BIN_EXE_release-check"), variables)).await
    }

    /// The same inside a script that `runner` runs, which ends with `exec "$0"`.
    pub async fn start_in(runner: &[&str], script: &str, variables: &[(&str, &str)]) -> Self {
        let function = command(variables);
        let mut command = Command::new(runner[0]);
        command.args(&runner[1..]).arg(script).arg(function.as_std().get_program()).env_clear();
        for (name, value) in function.as_std().get_envs() {
            command.env(name, value.unwrap());
        }
        Self::spawn(command).await
    }

    async fn spawn(mut command: Command) -> Self {
        let (invocations, waiting) = mpsc::unbounded_channel();
        let api = Arc::new(RuntimeApi {
            waiting: tokio::sync::Mutex::new(Some(waiting)),
            ..RuntimeApi::default()
        });
        let idle = Arc::clone(&api.idle);
        let server = serve(move |request| Arc::clone(&api).answer(request)).await;

        let format = command.as_std().get_envs().find(|(name, _)| *name == "AWS_LAMBDA_LOG_FORMAT");
        let logs_json = format.is_some_and(|(_, format)| format.unwrap() == "JSON");
        let (printed, printing) = std::io::pipe().unwrap();
        let process = command
            .env("AWS_LAMBDA_RUNTIME_API", server.address.to_string())
            .stdout(printing.try_clone().unwrap())
            .stderr(printing)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // Closes this end of the pipe, so that only the process holds one.
        drop(command);
        let output = Arc::new(Mutex::new(String::new()));
        let reader = Some(collect(printed, &output));

        let function = Self { process, invocations, idle, output, reader, logs_json };
        function.wait_until_idle().await;
        function
    }

    /// Waits until the function asks for its next event.
    pub async fn wait_until_idle(&self) {
        let idle = tokio::time::timeout(PATIENCE, self.idle.notified()).await;
        assert!(idle.is_ok(), "the function asks for no event; it printed:\n{}", self.output());
    }

    /// Invokes the function and expects a response; a function error fails the test.
    pub async fn invoke(&self, event: &Value) -> Reply {
        self.invoke_within(event, TIME_LEFT).await
    }

    /// The same with this much time until Lambda would end the invocation.
    async fn invoke_within(&self, event: &Value, time_left: Duration) -> Reply {
        Reply::new(self.outcome(event, time_left).await)
    }

    /// The result of an invocation, whatever it is; a function error fails the test.
    pub async fn outcome(&self, event: &Value, time_left: Duration) -> Value {
        self.end(event, time_left)
            .await
            .unwrap_or_else(|error| panic!("function error: {error}\nfor the event {event}"))
    }

    /// The reply to an arbitrary payload.
    pub async fn invoke_bytes(&self, payload: impl Into<Bytes>) -> Reply {
        let end = self.end_of_bytes(payload).await;
        Reply::new(end.unwrap_or_else(|error| panic!("a function error: {error}")))
    }

    /// The result of an invocation with an arbitrary payload.
    pub async fn end_of_bytes(&self, payload: impl Into<Bytes>) -> Result<Value, String> {
        self.in_time(self.begin_with(payload.into(), TIME_LEFT)).await
    }

    /// The function error of an invocation.
    pub async fn error(&self, event: &Value) -> String {
        self.end(event, TIME_LEFT).await.expect_err("a function error")
    }

    /// Invokes the function and does not wait for the response.
    pub fn ask(&self, path: &str) {
        self.begin(&super::request("GET", path), TIME_LEFT);
    }

    fn begin(
        &self,
        event: &Value,
        time_left: Duration,
    ) -> oneshot::Receiver<Result<Value, String>> {
        self.begin_with(event.to_string().into(), time_left)
    }

    fn begin_with(
        &self,
        event: Bytes,
        time_left: Duration,
    ) -> oneshot::Receiver<Result<Value, String>> {
        let (reply, answer) = oneshot::channel();
        self.invocations.send(Invocation { event, time_left, reply }).unwrap();
        answer
    }

    /// The result of an invocation.
    pub async fn end(&self, event: &Value, time_left: Duration) -> Result<Value, String> {
        self.in_time(self.begin(event, time_left)).await
    }

    async fn in_time(
        &self,
        answer: oneshot::Receiver<Result<Value, String>>,
    ) -> Result<Value, String> {
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = answer
            .unwrap_or_else(|_| panic!("no answer; the function printed:\n{}", self.output()));
        answer.expect("the Runtime API drops no invocation")
    }

    pub async fn get_within(&self, path: &str, time_left: Duration) -> Reply {
        self.invoke_within(&super::request("GET", path), time_left).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.invoke(&super::request("GET", path)).await
    }

    /// Requests `path` until it is a hit, and returns the responses before that. Each must equal the first hit.
    pub async fn get_until_hit(&self, path: &str) -> Vec<Reply> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        loop {
            let reply = self.get(path).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            if reply.cache_status().starts_with("response-boost; hit; ttl=") {
                assert!(before.iter().all(|other: &Reply| other.body == reply.body));
                return before;
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "no hit: {}\n{}", reply.cache_status(), self.output());
            before.push(reply);
        }
    }

    /// The output of the function, once it contains `text` this many times.
    pub async fn output_with(&self, text: &str, times: usize) -> String {
        let printed = || Some(self.output()).filter(|out| out.matches(text).count() >= times);
        test_peers::wait_for(&format!("{times} times {text:?} in the output"), printed).await
    }

    /// The output read so far; more may follow.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Stops the process (a freeze) or continues it (a thaw).
    pub fn signal(&self, signal: &str) {
        test_peers::signal(self.process.id().expect("it is running"), signal);
    }

    /// A file of the process: `/proc/<pid>/<what>`. Linux only.
    pub fn proc(&self, what: &str) -> std::path::PathBuf {
        let pid = self.process.id().expect("it is running");
        std::path::PathBuf::from(format!("/proc/{pid}/{what}"))
    }
}

impl Reply {
    pub fn new(json: Value) -> Self {
        let mut headers = HashMap::new();
        for member in ["headers", "multiValueHeaders"] {
            for (name, value) in json[member].as_object().into_iter().flatten() {
                let value = if value.is_array() { &value[0] } else { value };
                headers.insert(name.clone(), value.as_str().unwrap().to_owned());
            }
        }
        assert_eq!(json["isBase64Encoded"], false, "{json}");
        Self {
            status: json["statusCode"].as_u64().unwrap_or_else(|| panic!("no status in {json}")),
            body: json["body"].as_str().unwrap_or_default().to_owned(),
            headers,
            json,
        }
    }

    /// The value of a header; empty if the header is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Asserts that this is the response to `GET /users/1`, whatever its source.
    pub fn assert_correct(&self) {
        let (status, body) = (self.status, self.body.as_str());
        assert_eq!((status, body), (200, super::MANAS), "{}", self.cache_status());
    }

    pub fn cache_status(&self) -> &str {
        self.header("cache-status")
    }
}

/// The function's binary with these variables and no others, not yet started.
pub fn command(variables: &[(&str, &str)]) -> Command {
    program(env!("CARGO_BIN_EXE_users"), variables)
}

fn program(path: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(path);
    command
        .env_clear()
        .envs([
            ("AWS_LAMBDA_FUNCTION_NAME", "users"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
            ("RUST_BACKTRACE", "0"),
        ])
        .envs(PATIENT)
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    command
}

/// Reads on a separate thread, so that a test can wait for its end when the runtime ends.
fn collect(mut from: std::io::PipeReader, to: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let to = Arc::clone(to);
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(1..) = from.read(&mut chunk).inspect(|&read| {
            to.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..read]));
        }) {}
    })
}

impl Drop for Function {
    fn drop(&mut self) {
        // One failure is enough.
        if std::thread::panicking() {
            return;
        }
        let _ = self.process.start_kill();
        self.reader.take().unwrap().join().unwrap();
        super::log::assert_printed(&self.output(), self.logs_json);
    }
}

impl RuntimeApi {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> =
            path.trim_start_matches("/2018-06-01/runtime/").split('/').collect();
        match (request.method(), &segments[..]) {
            (&Method::GET, ["invocation", "next"]) => self.next().await,
            (&Method::POST, ["invocation", id, outcome @ ("response" | "error")]) => {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let text = String::from_utf8_lossy(&body).into_owned();
                let outcome = match *outcome {
                    "response" => serde_json::from_str(&text).map_err(|error| error.to_string()),
                    _ => Err(text),
                };
                let reply = self.running.lock().unwrap().remove(*id);
                // The test may have stopped waiting.
                let _ = reply.expect("an id that was given out").send(outcome);
                accepted()
            }
            _ => Response::builder().status(StatusCode::NOT_FOUND).body(Full::default()).unwrap(),
        }
    }

    async fn next(&self) -> Response<Full<Bytes>> {
        self.idle.notify_one();
        let mut waiting = self.waiting.lock().await;
        let Some(Invocation { event, time_left, reply }) = waiting.as_mut().unwrap().recv().await
        else {
            // The test is over.
            return std::future::pending().await;
        };
        let id = uuid::Uuid::new_v4().to_string();
        self.running.lock().unwrap().insert(id.clone(), reply);
        let deadline = SystemTime::now() + time_left;
        let deadline_ms = deadline.duration_since(UNIX_EPOCH).unwrap().as_millis();
        Response::builder()
            .header("lambda-runtime-aws-request-id", id)
            .header("lambda-runtime-deadline-ms", deadline_ms.to_string())
            .header(
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:eu-west-1:1:function:users",
            )
            .header("lambda-runtime-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1")
            .body(event.into())
            .unwrap()
    }
}

fn accepted() -> Response<Full<Bytes>> {
    Response::builder().status(StatusCode::ACCEPTED).body(Full::default()).unwrap()
}
