//! The store in Redis or Valkey: the commands, and the settings they are sent by.

mod breaker;
mod connection;
#[cfg(feature = "iam")]
mod iam;
mod purge;
mod resolver;

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use redis::io::tcp::{TcpSettings, socket2};
#[cfg(feature = "tls")]
use redis::{Client, TlsCertificates};
use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError, Value,
};
use thiserror::Error;
use url::Url;

use self::connection::{Again, Connection};
#[cfg(feature = "iam")]
pub use self::iam::{AwsCredentials, IamName, IamSettings, InvalidIamName, MissingVariable};
use crate::clock::whole_ms;
use crate::{CacheKey, Expected, Found, Store, StoreError};

/// Keeps entries in Redis or Valkey, one key each.
///
/// Nothing is opened before the first call; from then on one connection is used by all calls (in a
/// cluster one to each node), and opened anew when it was lost. Every command touches one key alone,
/// so whoever removes the key (`DEL`) has removed all there is about an answer.
///
/// A call waits for the connect timeout and the response timeout at most. After a fault, calls fail
/// at once for a while ([`StoreError::BreakerOpen`]): 100 ms at first, up to 5 s, until a probe that
/// nobody waits for gets through.
#[derive(Debug)]
pub struct RedisStore {
    connection: Connection,
}

/// Where Redis is, how to sign in, and how long to wait.
///
/// Its `Debug` shows no part of the URL, which may hold a password.
#[derive(Clone)]
pub struct RedisSettings {
    endpoint: ConnectionInfo,
    is_cluster: bool,
    #[cfg(feature = "tls")]
    own_ca: Option<Vec<u8>>,
    #[cfg(feature = "iam")]
    iam: Option<IamSettings>,
    connect_timeout: Duration,
    response_timeout: Duration,
    max_age: Duration,
}

/// A URL that is none of a Redis. It does not show the URL, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "redis://, valkey://, rediss:// or valkeys://, then [user:password@]host[:port][/database]"
)]
pub struct InvalidRedisUrl;

/// Something that is no PEM file of certificates.
#[cfg(feature = "tls")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("certificates in PEM form")]
pub struct InvalidCa;

impl RedisSettings {
    /// The default of [`with_connect_timeout`](Self::with_connect_timeout).
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
    /// The default of [`with_response_timeout`](Self::with_response_timeout).
    pub const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_millis(100);

    /// The default of [`with_max_age`](Self::with_max_age).
    pub const DEFAULT_MAX_AGE: Duration = Duration::from_mins(5);

    /// The Redis at `url`, such as `redis://localhost:6379`, with the default timeouts. `rediss://`
    /// and `valkeys://` mean TLS.
    ///
    /// In the user and the password what a URL cannot hold as it is must be percent-escaped.
    pub fn parse(url: &str) -> Result<Self, InvalidRedisUrl> {
        let url = Url::parse(url).map_err(|_| InvalidRedisUrl)?;
        let names_a_host = url.host_str().is_some_and(|host| !host.is_empty());
        let is_known = ["redis", "valkey", "rediss", "valkeys"].contains(&url.scheme());
        // The redis crate would take `#insecure` for a wish to accept any certificate.
        if !names_a_host || !is_known || url.fragment().is_some() {
            return Err(InvalidRedisUrl);
        }
        // Without the feature `tls`, one that asks for TLS is refused here.
        let endpoint = url.into_connection_info().map_err(|_| InvalidRedisUrl)?;
        // RESP2, which the crate speaks unless told otherwise, and without telling the server the name
        // of the client: a fresh connection can then be asked at once. RESP3 begins with a HELLO, one
        // round trip more, and is no faster after that.
        let redis = endpoint.redis_settings().clone().set_skip_set_lib_name();
        Ok(Self {
            endpoint: endpoint.set_redis_settings(redis).set_tcp_settings(tcp_settings()),
            is_cluster: false,
            #[cfg(feature = "tls")]
            own_ca: None,
            #[cfg(feature = "iam")]
            iam: None,
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            response_timeout: Self::DEFAULT_RESPONSE_TIMEOUT,
            max_age: Self::DEFAULT_MAX_AGE,
        })
    }

    /// Speaks the cluster protocol. Feature `cluster`. (ElastiCache Serverless speaks nothing else.)
    #[cfg(feature = "cluster")]
    #[must_use]
    pub fn with_cluster(mut self) -> Self {
        self.is_cluster = true;
        self
    }

    /// Trusts the certificates of this PEM file alone, and not the public roots. Feature `tls`.
    #[cfg(feature = "tls")]
    pub fn with_own_ca(mut self, pem: Vec<u8>) -> Result<Self, InvalidCa> {
        let has_one = pem.windows(PEM_CERTIFICATE.len()).any(|window| window == PEM_CERTIFICATE);
        self.own_ca = Some(pem).filter(|_| has_one);
        let certificates = self.own_ca().ok_or(InvalidCa)?;
        let readable = Client::build_with_tls(self.endpoint.clone(), certificates);
        readable.map(|_| self).map_err(|_| InvalidCa)
    }

    /// Signs in with IAM, instead of with what the URL says. Feature `iam`.
    #[cfg(feature = "iam")]
    #[must_use]
    pub fn with_iam(mut self, iam: IamSettings) -> Self {
        self.iam = Some(iam);
        self
    }

    /// How long a call waits for a connection: name look-up, connect, TLS and sign-in together.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a call waits for one reply.
    #[must_use]
    pub fn with_response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// How old a connection may become before it is replaced, beside a request and without its
    /// waiting. A primary that was demoted still answers `GET`: who only reads would never notice.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.endpoint.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// What one request may wait for in sum: one connection and one reply. Meant for
    /// [`Policy::with_deadline`](crate::Policy::with_deadline).
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.connect_timeout.saturating_add(self.response_timeout)
    }

    /// The endpoint with the credentials for one connection.
    #[cfg_attr(
        not(feature = "iam"),
        expect(clippy::unused_async, reason = "IAM waits for credentials")
    )]
    async fn endpoint(&self) -> Result<ConnectionInfo, RedisError> {
        let endpoint = self.endpoint.clone();
        #[cfg(feature = "iam")]
        if let Some(iam) = &self.iam {
            let redis = endpoint.redis_settings().clone();
            let redis = redis.set_username(iam.user()).set_password(iam.token().await?);
            return Ok(endpoint.set_redis_settings(redis));
        }
        Ok(endpoint)
    }

    #[cfg(feature = "tls")]
    fn own_ca(&self) -> Option<TlsCertificates> {
        let root_cert = Some(self.own_ca.clone()?);
        Some(TlsCertificates { client_tls: None, root_cert })
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RedisSettings");
        shown.field("is_cluster", &self.is_cluster).field("is_tls", &self.is_tls());
        #[cfg(feature = "tls")]
        shown.field("has_own_ca", &self.own_ca.is_some());
        #[cfg(feature = "iam")]
        shown.field("iam", &self.iam);
        shown
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// A store in the Redis of these settings. Opens nothing yet.
    #[must_use]
    pub fn new(settings: RedisSettings) -> Self {
        #[cfg(feature = "tls")]
        if settings.is_tls() {
            // A program that links another provider beside ours must name one, or TLS panics. This
            // fails where it has done so already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Self { connection: Connection::new(settings) }
    }

    /// Opens the connection now rather than for the first request: for the time in which Lambda
    /// initialises an environment and lends it a full processor.
    ///
    /// It waits no longer than a request would. `Err`: a request will try again.
    pub async fn warm_up(&self) -> Result<(), StoreError> {
        self.connection.open().await
    }
}

impl Store for RedisStore {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        let mut get = Cmd::new();
        get.arg("GET").arg(key.as_str());
        match self.connection.read(get).await {
            Ok(Value::BulkString(bytes)) => Ok(Found::Value(bytes.into())),
            Ok(Value::Nil) => Ok(Found::Nothing),
            Ok(_) => Err(unexpected_reply()),
            // A list or a hash under our key was not put by us.
            Err(StoreError::Reply { code }) if code == "WRONGTYPE" => Ok(Found::Foreign),
            Err(error) => Err(error),
        }
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        let (script, start) = match expected {
            Expected::Anything => return self.set(key, &value, life, None).await,
            Expected::Nothing => return self.set(key, &value, life, Some("NX")).await,
            Expected::StartsWith(start) => (&REPLACE, start),
            Expected::Foreign => (&CLAIM, &b""[..]),
        };
        let run = async |command: &str, script: &str| {
            let mut run = Cmd::new();
            run.arg(command).arg(script).arg(1).arg(key.as_str());
            run.arg(&value[..]).arg(whole_ms(life)).arg(start);
            self.connection.write(&run, Again::Allowed).await
        };
        let mut reply = None;
        if let Some(hash) = script.hash.get() {
            reply = match run("EVALSHA", hash).await {
                // The server does not know it, or has forgotten it.
                Err(StoreError::Reply { code }) if code == "NOSCRIPT" => None,
                reply => Some(reply?),
            };
        }
        let reply = if let Some(reply) = reply {
            reply
        } else {
            let reply = run("EVAL", script.code).await?;
            script.hash.get_or_init(|| redis::Script::new(script.code).get_hash().to_owned());
            reply
        };
        match reply {
            Value::Int(done) => Ok(done == 1),
            _ => Err(unexpected_reply()),
        }
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        let mut delete = Cmd::new();
        delete.arg("DEL").arg(key.as_str());
        match self.connection.insist(&delete).await? {
            Value::Int(_) => Ok(()),
            _ => Err(unexpected_reply()),
        }
    }

    fn get_limit(&self) -> Option<Duration> {
        Some(self.connection.limit())
    }

    fn closed_for(&self) -> Option<Duration> {
        self.connection.closed_for()
    }

    fn name(&self) -> &'static str {
        "redis"
    }
}

impl RedisStore {
    async fn set(
        &self,
        key: &CacheKey,
        value: &Bytes,
        life: Duration,
        condition: Option<&str>,
    ) -> Result<bool, StoreError> {
        let mut set = Cmd::new();
        set.arg("SET")
            .arg(key.as_str())
            .arg(&value[..])
            .arg("PX")
            .arg(whole_ms(life))
            .arg(condition);
        let again = if condition.is_some() { Again::Forbidden } else { Again::Allowed };
        match self.connection.write(&set, again).await? {
            Value::Okay => Ok(true),
            Value::Nil => Ok(false),
            _ => Err(unexpected_reply()),
        }
    }
}

/// A script that the server keeps: once it has been sent, it is asked for by its hash.
struct Script {
    code: &'static str,
    /// Set when this process has sent the script to a server. Before that it is sent at once: to be
    /// told that it is not known would take a round trip.
    hash: OnceLock<String>,
}

impl Script {
    const fn new(code: &'static str) -> Self {
        Self { code, hash: OnceLock::new() }
    }
}

/// Puts `ARGV[1]` for `ARGV[2]` ms in the place of a value that begins with `ARGV[3]`.
static REPLACE: Script = Script::new(
    "if redis.call('TYPE', KEYS[1]).ok ~= 'string' then return 0 end \
     local size = #ARGV[3] \
     if size > 0 and redis.call('GETRANGE', KEYS[1], 0, size - 1) ~= ARGV[3] then return 0 end \
     redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1",
);

/// Puts `ARGV[1]` for `ARGV[2]` ms in the place of what is no string.
static CLAIM: Script = Script::new(
    "local held = redis.call('TYPE', KEYS[1]).ok \
     if held == 'string' or held == 'none' then return 0 end \
     redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1",
);

#[cfg(feature = "tls")]
const PEM_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn tcp_settings() -> TcpSettings {
    // A request is one small packet that waits for one small packet: nothing to gather. What has
    // died silently is noticed by the response timeout long before these; they keep the kernel from
    // holding on to it, and middle boxes from forgetting an idle connection.
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(10));
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(Duration::from_secs(10));
    settings
}

fn unexpected_reply() -> StoreError {
    StoreError::Failed("an unexpected reply".into())
}

/// Without what an error reply says after its code: that can name the user and the key.
fn store_error(error: &RedisError) -> StoreError {
    let cause = || Box::new(error.clone());
    if error.is_timeout() {
        StoreError::Timeout(cause())
    } else if error.is_connection_refusal() {
        StoreError::Refused(cause())
    } else if is_sign_in(error) {
        StoreError::Auth(error.code().map_or_else(|| cause() as _, Into::into))
    } else if let Some(code) = error.code() {
        StoreError::Reply { code: code.to_owned() }
    } else {
        StoreError::Failed(cause())
    }
}

/// Whether the server asks for other credentials.
fn is_sign_in(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| ["NOAUTH", "WRONGPASS"].contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_url_names_a_host() {
        for good in [
            "redis://localhost",
            "valkey://10.0.0.1:6380/2",
            "redis://user:p%40ss@[::1]:6379",
            "redis://:secret@cache.example",
            "rediss://cache.example",
            "valkeys://cache.example:6380",
        ] {
            assert!(RedisSettings::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost",
            "localhost:6379",
            "redis://",
            "redis:///0",
            "redis://:6379",
            "http://localhost",
            "redis+unix:///tmp/redis.sock",
            "redis://localhost:port",
            "redis://localhost/zero",
            "redis://0.0.0.0",
            "redis://user:pa/ss@localhost",
            "rediss://localhost#insecure",
        ] {
            assert_eq!(RedisSettings::parse(bad).err(), Some(InvalidRedisUrl), "{bad}");
        }
    }

    #[test]
    fn sockets_gather_nothing_and_notice_a_peer_that_has_died() {
        let settings = RedisSettings::parse("redis://localhost").unwrap();
        let tcp = settings.endpoint.tcp_settings();
        assert!(tcp.nodelay());
        assert!(tcp.keepalive().is_some());
        #[cfg(target_os = "linux")]
        assert_eq!(tcp.user_timeout(), Some(Duration::from_secs(10)));
    }

    #[test]
    fn settings_show_nothing_of_the_url() {
        let settings = RedisSettings::parse("redis://alice:hunter2@cache.example").unwrap();
        let shown = format!("{settings:?} {:?}", RedisStore::new(settings.clone()));
        for secret in ["alice", "hunter2", "cache.example"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
