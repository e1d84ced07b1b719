//! The servers that the functions call: Redis alone, behind TLS and as a cluster, and a DynamoDB.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::{Result, folder};

/// A certificate for this machine, and the CA that signed it.
pub(crate) struct Certificates {
    pub(crate) ca_file: PathBuf,
    certificate_file: PathBuf,
    key_file: PathBuf,
    server: Arc<ServerConfig>,
}

impl Certificates {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        // The CA needs another name than the certificate, which would otherwise look self-signed.
        params.distinguished_name.push(DnType::CommonName, "response-boost");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate()?;
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate()?;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = folder()?.join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let key_der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key_der)?;
        Ok(Self {
            ca_file: write("ca.pem", ca.pem())?,
            certificate_file: write("certificate.pem", certificate.pem())?,
            key_file: write("key.pem", key.serialize_pem())?,
            server: Arc::new(server),
        })
    }

    /// The root certificates of this machine and the CA: as many as a client on Lambda has to read.
    pub(crate) fn roots_file(&self) -> Result<PathBuf> {
        let path = folder()?.join("roots.pem");
        let mut roots = std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
        roots.extend(std::fs::read(&self.ca_file)?);
        std::fs::write(&path, roots)?;
        Ok(path)
    }
}

/// The server that `make bench` has found.
pub(crate) fn redis_server() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// A redis-server on its own port, which listens on loopback only and writes nothing to disk.
pub(crate) struct Redis {
    process: Child,
    port: u16,
    tls_port: u16,
}

impl Redis {
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(free_port()?, 0, &[])
    }

    pub(crate) fn start_with_tls(certificates: &Certificates) -> Result<Self> {
        Self::start_with(free_port()?, free_port()?, &tls_arguments(certificates))
    }

    fn start_with(port: u16, tls_port: u16, arguments: &[String]) -> Result<Self> {
        // A server built without TLS rejects the option.
        let tls =
            if tls_port == 0 { vec![] } else { vec!["--tls-port".into(), tls_port.to_string()] };
        let process = Command::new(redis_server())
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder()?)
            .args(tls)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut redis = Self { process, port, tls_port };
        wait_for("redis-server", || {
            if let Some(status) = redis.process.try_wait()? {
                return Err(format!("redis-server has ended: {status}").into());
            }
            Ok(redis.connect().is_ok())
        })?;
        Ok(redis)
    }

    pub(crate) fn connect(&self) -> Result<redis::Connection> {
        Ok(redis::Client::open(("127.0.0.1", self.port))?.get_connection()?)
    }

    pub(crate) fn command<T: redis::FromRedisValue>(&self, command: &[&str]) -> Result<T> {
        let (name, arguments) = command.split_first().ok_or("no command")?;
        Ok(redis::cmd(name).arg(arguments).query(&mut self.connect()?)?)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port)
    }

    /// Suspends the server: its sockets stay open, but it does not respond.
    pub(crate) fn stop(&self) -> Result<()> {
        signal(self.process.id(), Signal::STOP)
    }

    /// Lets it run again.
    pub(crate) fn resume(&self) -> Result<()> {
        signal(self.process.id(), Signal::CONT)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).ok_or("no process")?;
    Ok(kill_process(pid, signal)?)
}

fn tls_arguments(certificates: &Certificates) -> Vec<String> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    [
        ("--tls-cert-file", path(&certificates.certificate_file)),
        ("--tls-key-file", path(&certificates.key_file)),
        ("--tls-ca-cert-file", path(&certificates.ca_file)),
        ("--tls-auth-clients", "no".to_owned()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect()
}

/// The number of slots in a cluster.
const SLOTS: usize = 16_384;

/// Primaries that share all slots, with or without TLS.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

impl Cluster {
    pub(crate) fn start(size: usize, certificates: Option<&Certificates>) -> Result<Self> {
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..size {
            let bus = free_port()?.to_string();
            let mut arguments: Vec<String> =
                ["--cluster-enabled", "yes", "--cluster-port", &bus].map(Into::into).to_vec();
            // One file for each node, since all use the same folder.
            arguments.extend(["--cluster-config-file".to_owned(), format!("nodes-{bus}.conf")]);
            let mut tls_port = 0;
            if let Some(certificates) = certificates {
                arguments.extend(tls_arguments(certificates));
                // The nodes tell TLS clients the right port only if they use TLS among themselves too.
                arguments.extend(["--tls-cluster".to_owned(), "yes".to_owned()]);
                tls_port = free_port()?;
            }
            nodes.push(Redis::start_with(free_port()?, tls_port, &arguments)?);
            buses.push(bus);
        }
        for (number, (node, bus)) in nodes.iter().zip(&buses).enumerate() {
            let [first, after] = [number, number + 1].map(|number| number * SLOTS / size);
            let (first, last) = (first.to_string(), (after - 1).to_string());
            node.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])?;
            let epoch = (number + 1).to_string();
            node.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])?;
            let port = if certificates.is_some() { node.tls_port } else { node.port };
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), bus];
            nodes[0].command::<()>(&meet)?;
        }
        wait_for("the cluster", || {
            for node in &nodes {
                let (state, known): (String, String) =
                    (node.command(&["CLUSTER", "INFO"])?, node.command(&["CLUSTER", "NODES"])?);
                if !state.contains("cluster_state:ok") || known.lines().count() != size {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(Self { nodes })
    }
}

/// Answers each request as DynamoDB answers the lookup of a user, and does nothing else, so that the benchmark measures
/// the function and not an emulator. It runs until the process ends.
pub(crate) struct DynamoDb {
    pub(crate) url: String,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    latency: Duration,
    /// Whether it refuses lookups, with an error that the SDK does not retry.
    is_down: bool,
    /// When each lookup arrived.
    lookups: Vec<Instant>,
}

impl DynamoDb {
    pub(crate) fn start(certificates: Option<&Certificates>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let config = certificates.map(|certificates| Arc::clone(&certificates.server));
        let scheme = if config.is_some() { "https" } else { "http" };
        let table = Arc::<Mutex<Table>>::default();
        let shared = Arc::clone(&table);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(io::Result::ok) {
                let config = config.clone();
                let table = Arc::clone(&shared);
                std::thread::spawn(move || -> Result<()> {
                    stream.set_nodelay(true)?;
                    match config {
                        None => answer(stream, &table),
                        Some(config) => {
                            let connection = ServerConnection::new(config)?;
                            answer(StreamOwned::new(connection, stream), &table)
                        }
                    }
                });
            }
        });
        Ok(Self { url: format!("{scheme}://localhost:{port}"), table })
    }

    /// Sets how long it takes to answer.
    pub(crate) fn set_latency(&self, latency: Duration) {
        locked(&self.table).latency = latency;
    }

    /// Sets whether lookups fail.
    pub(crate) fn set_down(&self, is_down: bool) {
        locked(&self.table).is_down = is_down;
    }

    /// When each lookup since the previous call of this function arrived.
    pub(crate) fn take_lookups(&self) -> Vec<Instant> {
        std::mem::take(&mut locked(&self.table).lookups)
    }
}

fn locked(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Nothing panics while it holds the lock.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(mut stream: impl Read + Write, table: &Mutex<Table>) -> Result<()> {
    const ITEM: &str = r#"{"Item":{"id":{"N":"1"},"name":{"S":"Manas"},"email":{"S":"manas@example.com"},"age":{"N":"25"}}}"#;
    const REFUSAL: &str =
        r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"down"}"#;
    let [found, refused] = [("200 OK", ITEM), ("400 Bad Request", REFUSAL)].map(|(status, body)| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n{body}",
            body.len(),
        )
    });
    let mut received = Vec::new();
    let mut chunk = [0; 1 << 14];
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        received.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&received).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.ok_or("no content-length")?.parse()? {
            received.clear();
            let (latency, is_down) = {
                let mut table = locked(table);
                table.lookups.push(Instant::now());
                (table.latency, table.is_down)
            };
            if !latency.is_zero() {
                std::thread::sleep(latency);
            }
            let answer = if is_down { &refused } else { &found };
            stream.write_all(answer.as_bytes())?;
            stream.flush()?;
        }
    }
}

/// A port that nothing listens on.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_there()? {
        if Instant::now() > deadline {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
