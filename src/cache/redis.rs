//! The store in Redis or Valkey: the commands, and the settings they are sent by.

mod connection;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use redis::io::tcp::TcpSettings;
use redis::{Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError, Value};
use thiserror::Error;
use url::Url;

use self::connection::Connection;
use crate::cache::clock::whole_ms;
use crate::cache::{CacheKey, Store, StoreError};

/// Keeps entries in Redis or Valkey, one key each.
///
/// Nothing is opened before the first call; from then on one connection is used by all calls, and
/// opened anew when it was lost. Every command touches one key alone, so whoever removes the key
/// (`DEL`) has removed all there is about an answer.
#[derive(Debug)]
pub struct RedisStore {
    connection: Connection,
}

/// Where Redis is and how long to wait for it.
///
/// Its `Debug` shows no part of the URL, which may hold a password.
#[derive(Clone)]
pub struct RedisSettings {
    endpoint: ConnectionInfo,
    connect_timeout: Duration,
    response_timeout: Duration,
}

/// A URL that is none of a Redis. It does not show the URL, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("redis:// or valkey://, then [user:password@]host[:port][/database]")]
pub struct InvalidRedisUrl;

impl RedisSettings {
    /// The default of [`with_connect_timeout`](Self::with_connect_timeout).
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
    /// The default of [`with_response_timeout`](Self::with_response_timeout).
    pub const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_millis(100);

    /// The Redis at `url`, such as `redis://localhost:6379`, with the default timeouts.
    ///
    /// In the user and the password what a URL cannot hold as it is must be percent-escaped.
    pub fn parse(url: &str) -> Result<Self, InvalidRedisUrl> {
        let url = Url::parse(url).map_err(|_| InvalidRedisUrl)?;
        let names_a_host = url.host_str().is_some_and(|host| !host.is_empty());
        if !names_a_host || !["redis", "valkey"].contains(&url.scheme()) {
            return Err(InvalidRedisUrl);
        }
        let endpoint = url.into_connection_info().map_err(|_| InvalidRedisUrl)?;
        Ok(Self {
            // A request is one small packet that waits for one small packet: nothing to gather.
            endpoint: endpoint.set_tcp_settings(TcpSettings::default().set_nodelay(true)),
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            response_timeout: Self::DEFAULT_RESPONSE_TIMEOUT,
        })
    }

    /// How long a call waits for a connection: name look-up, connect and sign-in together.
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

    /// What one request may wait for in sum: one connection and one reply. Meant for
    /// [`Policy::with_deadline`](crate::cache::Policy::with_deadline).
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.connect_timeout.saturating_add(self.response_timeout)
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// A store in the Redis of these settings. Opens nothing yet.
    #[must_use]
    pub fn new(settings: RedisSettings) -> Self {
        Self { connection: Connection::new(settings) }
    }
}

impl Store for RedisStore {
    async fn get(&self, key: &CacheKey) -> Result<Option<Bytes>, StoreError> {
        match self.connection.query(Cmd::new().arg("GET").arg(key.as_str())).await {
            Ok(Value::BulkString(bytes)) => Ok(Some(bytes.into())),
            Ok(Value::Nil) => Ok(None),
            Ok(_) => Err(StoreError::Failed("an unexpected reply".into())),
            // A list or a hash under our key was not put by us: nothing of ours is there.
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn put(&self, key: &CacheKey, value: Bytes, life: Duration) -> Result<(), StoreError> {
        let mut set = Cmd::new();
        set.arg("SET").arg(key.as_str()).arg(&value[..]).arg("PX").arg(whole_ms(life));
        match self.connection.query(&set).await? {
            Value::Okay => Ok(()),
            _ => Err(StoreError::Failed("an unexpected reply".into())),
        }
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.connection.query(Cmd::new().arg("DEL").arg(key.as_str())).await?;
        Ok(())
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_connection_refusal() {
            Self::Refused(cause(&error))
        } else if is_sign_in(&error) {
            Self::Auth(cause(&error))
        } else {
            Self::Failed(cause(&error))
        }
    }
}

/// Whether the server asks for other credentials.
fn is_sign_in(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| ["NOAUTH", "WRONGPASS"].contains(&code))
}

/// What an error of the redis crate says, without what an error reply says after its code: that can
/// name the user and the key.
fn cause(error: &RedisError) -> Box<dyn std::error::Error + Send + Sync> {
    error.code().map_or_else(|| error.to_string(), |code| format!("error reply {code}")).into()
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
        ] {
            assert_eq!(RedisSettings::parse(bad).err(), Some(InvalidRedisUrl), "{bad}");
        }
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
