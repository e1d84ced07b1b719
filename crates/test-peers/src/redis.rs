//! A redis-server on its own port: loopback only, no persistence.
//!
//! Clients that do not sign in have exactly the rights that `template.yaml` gives the functions, so all tests run with
//! those rights. The tests' own commands run as a user who may do everything.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::{Client, Connection, FromRedisValue, RedisResult};

use crate::{Folder, PATIENCE, wait_for};

pub struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    process: Option<Process>,
    /// The working folder of the server, for its files such as replication data; removed with it.
    folder: Folder,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_with(|_| Vec::new()).await
    }

    /// Starts a server with more arguments, which may depend on its port.
    pub async fn start_with(arguments: impl Fn(u16) -> Vec<String>) -> Self {
        let folder = Folder::new();
        // Another process may take a free port in the meantime; the server then exits at once.
        for _ in 0..10 {
            let port = free_port();
            let arguments = arguments(port);
            if let Some(process) = Process::start(port, &folder, &arguments).await {
                return Self { port, arguments, folder, process: Some(process) };
            }
        }
        panic!("redis-server did not start; `make setup` installs it");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The URL for tests that need more rights than the functions have.
    pub fn operator_url(&self) -> String {
        operator_url(self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of the cluster bus.
    pub fn bus_port(&self) -> String {
        let (_, port): (String, String) = self.command(&["CONFIG", "GET", "cluster-port"]);
        port
    }

    /// Sends a signal, for example to stop the server (it keeps its sockets and stays silent) or to resume it.
    pub fn signal(&self, signal: &str) {
        crate::signal(self.process.as_ref().unwrap().server.id(), signal);
    }

    /// Kills the server, as if its machine had been switched off: its port is closed.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Restarts the server on its port; it is empty.
    pub async fn restart(&mut self) {
        self.kill();
        self.process = Process::start(self.port, &self.folder, &self.arguments).await;
        assert!(self.process.is_some(), "redis-server did not come back on its port");
    }

    /// Sends one command over a separate connection.
    pub fn command<T: FromRedisValue>(&self, command: &[&str]) -> T {
        send(&mut connect(self.port).unwrap(), command)
    }

    /// Opens a connection, for a test that counts connections.
    pub fn connect(&self) -> Connection {
        connect(self.port).unwrap()
    }

    /// Records all commands from now on.
    pub fn monitor(&self) -> Monitor {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("AUTH {OPERATOR} any\r\nMONITOR\r\n").as_bytes()).unwrap();
        let mut lines = BufReader::new(stream).lines();
        for _ in 0..2 {
            assert_eq!(lines.next().unwrap().unwrap(), "+OK");
        }
        Monitor { lines }
    }

    /// Asserts that this key holds no entry, at most a pass, and removes it.
    pub fn assert_passed(&self, key: &str) {
        let deadline = Instant::now() + PATIENCE;
        // The pass may have expired. A holder that was cancelled releases its lease after the reply.
        let mark: Option<String> = loop {
            let mark: Option<String> = self.command(&["GET", key]);
            let is_lease = mark.as_deref().is_some_and(|mark| mark.starts_with("lease:"));
            if !is_lease || Instant::now() > deadline {
                break mark;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(mark.as_deref().is_none_or(|mark| mark.starts_with("pass:")), "{mark:?}");
        let left_ms: i64 = self.command(&["PTTL", key]);
        assert!(left_ms <= 1_000, "{left_ms}");
        self.command::<()>(&["DEL", key]);
        assert_eq!(self.command::<u64>(&["DBSIZE"]), 0);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.process.is_some()
            && !std::thread::panicking()
            && let Some(refused) = refused_commands(self.port)
        {
            assert_eq!(refused, Vec::<String>::new(), "the functions lack the right to these");
        }
    }
}

/// Commands of the functions that the server has denied since its start: a library may silently ignore a denial and
/// fall back. `None`: the server no longer answers.
fn refused_commands(port: u16) -> Option<Vec<String>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    // A test may have stopped the server.
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(format!("AUTH {OPERATOR} any\r\nACL LOG 100\r\nQUIT\r\n").as_bytes()).ok()?;
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies).ok()?;
    let log = redis::parse_redis_value(replies.strip_prefix(b"+OK\r\n")?).ok()?;
    let entries: Vec<HashMap<String, redis::Value>> = redis::from_redis_value(log).ok()?;
    let text = |value: &redis::Value| redis::from_redis_value(value.clone()).unwrap_or_default();
    let refused =
        entries.iter().map(|entry| ["username", "reason", "object"].map(|name| text(&entry[name])));
    // A replica sends a PING before it signs in.
    let refused = refused.filter(|[user, reason, object]: &[String; 3]| {
        user == "default" && reason != "auth" && object != "ping"
    });
    Some(refused.map(|[_, reason, object]| format!("{reason} {object}")).collect())
}

/// All commands that a server receives, one per line.
pub struct Monitor {
    lines: Lines<BufReader<TcpStream>>,
}

impl Monitor {
    /// The commands so far.
    pub fn until_now(self, redis: &RedisServer) -> Vec<String> {
        const END: &str = "no more";
        redis.command::<String>(&["ECHO", END]);
        let lines = self.lines.map(|line| line.expect("the server says what it is asked"));
        lines.take_while(|line| !line.contains(END)).collect()
    }
}

pub fn send<T: FromRedisValue>(connection: &mut Connection, command: &[&str]) -> T {
    let (name, arguments) = command.split_first().unwrap();
    redis::cmd(name).arg(arguments).query(connection).unwrap()
}

/// A field of `INFO`.
pub fn info(connection: &mut Connection, field: &str) -> u64 {
    let text: String = send(connection, &["INFO"]);
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("INFO has no {field}")).trim().parse().unwrap()
}

struct Process {
    server: Child,
    /// Kills the server however this process ends, because the pipe closes then.
    watchdog: Child,
}

impl Process {
    /// `None`: the server exited at once.
    async fn start(port: u16, folder: &Folder, arguments: &[String]) -> Option<Self> {
        let server = Command::new(program())
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir", &folder.path()])
            .args(["--user", "default", "nopass"])
            .args(function_rights().split(' '))
            .args(["--user", OPERATOR, "on", "nopass", "~*", "&*", "+@all"])
            // The user as which a replica signs in to its primary.
            .args(["--masteruser", OPERATOR, "--masterauth", "any"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let watchdog = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\" 2>/dev/null", &server.id().to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Self { server, watchdog };
        let is_up = wait_for("redis-server to answer or to end", || {
            if process.server.try_wait().unwrap().is_some() {
                return Some(false);
            }
            // Another server may have taken the port.
            let pid = u64::from(process.server.id());
            let is_this = info(&mut connect(port).ok()?, "process_id") == pid;
            is_this.then_some(true)
        });
        is_up.await.then_some(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The server binary for all tests: `REDIS_SERVER`, as `make test` sets it, or the installed one.
fn program() -> &'static OsStr {
    static PROGRAM: LazyLock<OsString> = LazyLock::new(|| {
        let installed = || ["valkey-server", "redis-server"].map(OsString::from);
        let given = std::env::var_os("REDIS_SERVER").map(|given| vec![given]);
        let starts = |program: &OsString| {
            let version = Command::new(program).arg("--version").stdout(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        };
        let program = given.unwrap_or_else(|| installed().to_vec()).into_iter().find(starts);
        program.expect("a redis-server: `make setup` says where, for REDIS_SERVER")
    });
    &PROGRAM
}

/// Without a timeout: a signal of a child that stops or continues interrupts a read with a timeout, while the kernel
/// restarts a read without one (`SA_RESTART` in signal(7)).
fn connect(port: u16) -> RedisResult<Connection> {
    Client::open(operator_url(port))?.get_connection()
}

/// A user who may do everything, with any password.
pub const OPERATOR: &str = "operator";

fn operator_url(port: u16) -> String {
    format!("redis://{OPERATOR}:any@127.0.0.1:{port}")
}

/// The access string of `template.yaml`, for the namespaces that the tests use.
fn function_rights() -> String {
    let template = include_str!("../../../template.yaml");
    let line = template.lines().find_map(|line| line.trim().strip_prefix("AccessString: !Sub "));
    let keys_of = |namespace| format!("~{namespace}:*");
    // The last pattern is a key without parts, which the contract of a store includes but no function uses.
    let keys = ["users", "contract", "guarantee"].map(keys_of).join(" ") + " ~contract";
    let rights = line.expect("an AccessString").replace(&keys_of("${CacheNamespace}"), &keys);
    assert!(rights.contains("~users:*"), "{rights}");
    rights
}

/// Below the range of ports that the kernel assigns, so that a server that restarts finds its port free.
pub fn free_port() -> u16 {
    const PORTS: Range<u16> = 20_000..32_000;
    loop {
        let number = u16::try_from(uuid::Uuid::new_v4().as_u128() % PORTS.len() as u128).unwrap();
        let port = PORTS.start + number;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
