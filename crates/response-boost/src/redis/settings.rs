//! The settings of the Redis store: address, sign-in and timeouts.

use std::fmt;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::{Host, Url};

#[cfg(feature = "iam")]
use super::iam::IamSettings;
#[cfg(feature = "tls")]
use super::tls::Tls;
#[cfg(feature = "tls")]
pub use super::tls::{InvalidCa, InvalidClientCertificate};

/// The port if the URL has none.
const DEFAULT_PORT: u16 = 6379;

/// Where Redis is, how to sign in, and how long to wait.
///
/// Its `Debug` shows no part of the URL, which may contain a password.
#[derive(Clone)]
pub struct RedisSettings {
    pub(super) endpoint: Address,
    pub(super) credentials: Credentials,
    pub(super) database: u32,
    pub(super) is_cluster: bool,
    is_tls: bool,
    #[cfg(feature = "tls")]
    pub(super) tls: Arc<Tls>,
    #[cfg(feature = "iam")]
    iam: Option<IamSettings>,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) max_age: Duration,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

/// The credentials of a connection. Without a password it does not sign in.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

/// Why a URL was refused. It does not show the URL, which may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidRedisUrl {
    /// The URL is malformed.
    #[error("{FORM}")]
    Form,
    /// The URL has a query string or a fragment.
    #[error("{FORM}, without a query string or a fragment: settings have variables of their own")]
    Query,
    /// The URL has a user but no password. A password without a colon in front of it reads as a user.
    #[error("{FORM}: a user has a password, and a password alone begins with a colon")]
    NoPassword,
    /// The URL requires TLS, but the feature `tls` is off.
    #[error("redis:// or valkey://: this program was built without TLS")]
    NoTls,
}

const FORM: &str =
    "redis://, valkey://, rediss:// or valkeys://, then [user:password@]host[:port][/database]";

impl RedisSettings {
    /// The default of [`with_connect_timeout`](Self::with_connect_timeout).
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
    /// The default of [`with_response_timeout`](Self::with_response_timeout).
    pub const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_millis(100);
    /// The default of [`with_max_age`](Self::with_max_age).
    pub const DEFAULT_MAX_AGE: Duration = Duration::from_mins(5);

    /// Parses `url`, such as `redis://localhost:6379`, and sets the default timeouts. `rediss://` and `valkeys://` mean
    /// TLS. A password without a user (`redis://:password@host`) signs in as the default user.
    ///
    /// Percent-escape characters in user and password that a URL cannot contain. A query string is an error, because
    /// other clients read settings from it that this one would silently ignore.
    pub fn parse(url: &str) -> Result<Self, InvalidRedisUrl> {
        // The parsed URL does not show an `@` behind an empty user and password.
        let names_somebody = url.contains('@');
        let url = Url::parse(url).map_err(|_| InvalidRedisUrl::Form)?;
        let is_tls = match url.scheme() {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(InvalidRedisUrl::Form),
        };
        if is_tls && !cfg!(feature = "tls") {
            return Err(InvalidRedisUrl::NoTls);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidRedisUrl::Query);
        }
        let endpoint = Address {
            host: host(&url).ok_or(InvalidRedisUrl::Form)?,
            port: url.port().unwrap_or(DEFAULT_PORT),
        };
        let database = match url.path() {
            "" | "/" => 0,
            path => path[1..].parse().map_err(|_| InvalidRedisUrl::Form)?,
        };
        Ok(Self {
            endpoint,
            credentials: credentials(&url, names_somebody)?,
            database,
            is_cluster: false,
            is_tls,
            #[cfg(feature = "tls")]
            tls: Arc::default(),
            #[cfg(feature = "iam")]
            iam: None,
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            response_timeout: Self::DEFAULT_RESPONSE_TIMEOUT,
            max_age: Self::DEFAULT_MAX_AGE,
        })
    }

    /// Speaks the cluster protocol (ElastiCache Serverless speaks no other). Feature `cluster`.
    ///
    /// The store connects only to the nodes whose keys it needs, and never to a replica.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub fn with_cluster(mut self) -> Self {
        self.is_cluster = true;
        self
    }

    /// Trusts only the certificates in this PEM file, and not the public roots. Feature `tls`.
    #[cfg(feature = "tls")]
    pub fn with_own_ca(mut self, pem: &[u8]) -> Result<Self, InvalidCa> {
        self.tls = Arc::new(self.tls.with_own_ca(pem)?);
        Ok(self)
    }

    /// Presents this certificate to a server that asks for one, and proves possession of its private key. The PEM file
    /// has the client's certificate first, then the intermediates. Feature `tls`.
    #[cfg(feature = "tls")]
    pub fn with_client_certificate(
        mut self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, InvalidClientCertificate> {
        self.tls = Arc::new(self.tls.with_client_certificate(certificate, key)?);
        Ok(self)
    }

    /// Signs in with IAM instead of the credentials in the URL. Feature `iam`.
    #[cfg(feature = "iam")]
    #[must_use]
    pub fn with_iam(mut self, iam: IamSettings) -> Self {
        self.iam = Some(iam);
        self
    }

    /// How long a call waits for a connection: name lookup, connect, TLS and sign-in together.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a call waits for a reply while no byte of it arrives. Once a large reply is arriving over a slow link,
    /// the call waits for it until its [`deadline`](Self::deadline).
    #[must_use]
    pub fn with_response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// How old a connection may become before the store replaces it; the replacement runs beside requests and delays
    /// none. This matters after a fail-over: a demoted primary still answers `GET`, so a process that only reads would
    /// never notice.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The longest that one request may wait in total: one connection and one reply. Pass it to
    /// [`Policy::with_deadline`](crate::Policy::with_deadline).
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.connect_timeout.saturating_add(self.response_timeout)
    }

    /// The credentials for one connection. IAM tokens expire, so each connection gets a new one.
    #[cfg_attr(
        not(feature = "iam"),
        expect(clippy::unused_async, reason = "IAM waits for credentials")
    )]
    pub(super) async fn fresh_credentials(&self) -> redis::RedisResult<Credentials> {
        #[cfg(feature = "iam")]
        if let Some(iam) = &self.iam {
            let (user, password) = (iam.user().to_owned(), iam.token().await?);
            return Ok(Credentials { user: Some(user), password: Some(password) });
        }
        Ok(self.credentials.clone())
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RedisSettings");
        shown.field("is_cluster", &self.is_cluster).field("is_tls", &self.is_tls);
        #[cfg(feature = "tls")]
        shown.field("tls", &self.tls);
        #[cfg(feature = "iam")]
        shown.field("iam", &self.iam);
        shown
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The host; an IPv6 address without its brackets.
fn host(url: &Url) -> Option<String> {
    let host = match Host::parse(url.host_str()?).ok()? {
        Host::Ipv6(address) => address.to_string(),
        Host::Ipv4(address) => address.to_string(),
        Host::Domain(name) => name,
    };
    // The kernel would connect an unspecified address to this machine.
    Some(host).filter(|host| !["", "0.0.0.0", "::"].contains(&host.as_str()))
}

fn credentials(url: &Url, names_somebody: bool) -> Result<Credentials, InvalidRedisUrl> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().map_err(|_| InvalidRedisUrl::Form)?;
        Ok(Some(text.into_owned()).filter(|text| !text.is_empty()))
    };
    let user = decoded(url.username())?;
    let password = url.password().map(decoded).transpose()?.flatten();
    if password.is_none() && names_somebody {
        return Err(InvalidRedisUrl::NoPassword);
    }
    Ok(Credentials { user, password })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<RedisSettings, InvalidRedisUrl> {
        RedisSettings::parse(url)
    }

    #[test]
    fn a_redis_url_names_a_host() {
        for (good, address) in [
            ("redis://localhost", "localhost:6379"),
            ("redis://localhost/", "localhost:6379"),
            ("valkey://10.0.0.1:6380/2", "10.0.0.1:6380"),
            ("redis://user:p%40ss@[::1]:6379", "[::1]:6379"),
            ("redis://:secret@cache.example", "cache.example:6379"),
        ] {
            assert_eq!(parsed(good).unwrap().endpoint.to_string(), address, "{good}");
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
            "redis://localhost/0/1",
            "redis://localhost/-1",
            "redis://0.0.0.0",
            "redis://user:pa/ss@localhost",
            "redis://user:%ff@localhost",
        ] {
            assert_eq!(parsed(bad).err(), Some(InvalidRedisUrl::Form), "{bad}");
        }
    }

    #[test]
    fn what_would_be_passed_over_is_refused() {
        for url in ["redis://h?db=2", "redis://h/?protocol=3", "redis://h#insecure", "redis://h?"] {
            assert_eq!(parsed(url).err(), Some(InvalidRedisUrl::Query), "{url}");
        }
        for url in ["redis://bob@h", "redis://bob:@h", "redis://:@h", "redis://@h"] {
            assert_eq!(parsed(url).err(), Some(InvalidRedisUrl::NoPassword), "{url}");
        }
    }

    #[test]
    fn user_password_and_database_are_those_of_the_url() {
        let settings = parsed("redis://al%3Aice:p%40ss%2F@h/15").unwrap();
        let Credentials { user, password } = settings.credentials;
        assert_eq!((user.as_deref(), password.as_deref()), (Some("al:ice"), Some("p@ss/")));
        assert_eq!(settings.database, 15);
        let settings = parsed("redis://:secret@h").unwrap();
        let Credentials { user, password } = settings.credentials;
        assert_eq!((user.as_deref(), password.as_deref()), (None, Some("secret")));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn two_schemes_mean_tls() {
        for (url, is_tls) in [
            ("redis://h", false),
            ("valkey://h", false),
            ("rediss://h", true),
            ("valkeys://h", true),
        ] {
            assert_eq!(parsed(url).unwrap().is_tls(), is_tls, "{url}");
        }
    }

    #[test]
    fn settings_show_nothing_of_the_url() {
        let settings = parsed("redis://alice:hunter2@cache.example").unwrap();
        let shown = format!("{settings:?} {:?}", crate::RedisStore::new(settings.clone()));
        for secret in ["alice", "hunter2", "cache.example"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
