//! The store in Redis or Valkey: its commands.
//!
//! The path of a command: [`router`] finds the server that has the key. [`node`] asks that server's [`breaker`] for
//! admission and sends the command over its [`link`]. [`fault`] classifies failures. [`background`] runs connection
//! attempts and probes.

mod background;
mod breaker;
mod fault;
#[cfg(feature = "iam")]
mod iam;
mod link;
mod node;
mod purge;
mod resolver;
mod router;
mod settings;
mod shared;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Pipeline, Value};

#[cfg(feature = "iam")]
pub use self::iam::{AwsCredentials, IamName, IamSettings, InvalidIamName, MissingVariable};
use self::node::Resend;
use self::router::Router;
#[cfg(feature = "tls")]
pub use self::settings::{InvalidCa, InvalidClientCertificate};
pub use self::settings::{InvalidRedisUrl, RedisSettings};
use crate::clock::whole_ms;
use crate::join::join_all;
use crate::{CacheKey, Expected, Found, Store, StoreError, mark};

/// Stores entries in Redis or Valkey, one key each.
///
/// The first call opens the connection. All calls share it (in a cluster, one to each node they need), and the store
/// reopens it when it is lost. Everything about a response is in its one key, so removing the key (`DEL`) removes the
/// response completely.
///
/// A call waits for the connect timeout plus the response timeout at most. After a fault, calls fail at once for a
/// while ([`StoreError::BreakerOpen`]): for 100 ms at first and up to 5 s later, until a background probe succeeds.
pub struct RedisStore {
    router: Arc<Router>,
    settings: RedisSettings,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Creates a store with these settings. It does not connect yet.
    #[must_use]
    pub fn new(settings: RedisSettings) -> Self {
        Self { router: Arc::new(Router::new(settings.clone())), settings }
    }

    /// Opens the connection now instead of in the first request. Call it while Lambda initialises the environment and
    /// gives it a full processor.
    ///
    /// It waits no longer than a request would. `Err`: the next request will try again.
    pub async fn warm_up(&self) -> Result<(), StoreError> {
        self.router.open().await
    }
}

impl Store for RedisStore {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        match self.router.read(key.as_str(), get(key)).await {
            Ok(value) => found(value),
            // This store writes only strings, so a list or a hash is foreign.
            Err(StoreError::Reply { code, .. }) if code == "WRONGTYPE" => Ok(Found::Foreign),
            Err(error) => Err(error),
        }
    }

    async fn get_many(&self, keys: &[&CacheKey]) -> Result<Vec<Found>, StoreError> {
        // A cluster rejects a command on keys of several slots.
        if self.settings.is_cluster || keys.len() < 2 {
            return self.get_from_nodes(keys).await;
        }
        // `MGET` is this store's only command on several keys. One `GET` for each key costs the server several times as
        // much.
        let mut mget = Cmd::new();
        mget.arg("MGET");
        for key in keys {
            mget.arg(key.as_str());
        }
        match self.router.read(keys[0].as_str(), mget).await {
            Ok(Value::Array(values)) if values.len() == keys.len() => {
                values.into_iter().map(found).collect()
            }
            Ok(_) => Err(unexpected_reply()),
            Err(StoreError::Reply { .. }) => self.get_from_nodes(keys).await,
            Err(fault) => Err(fault),
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
        // A lease that reappeared after its deletion would let its holder store a response loaded before the
        // invalidation. Any other replacement is harmless: on the second attempt, the value to replace is gone.
        let is_claim = mark::token_of(&value).is_some();
        let resend = if is_claim { Resend::Forbidden } else { Resend::Allowed };
        match self.run(script, key, (&value, life, start), resend).await? {
            Value::Int(done) => Ok(done == 1),
            _ => Err(unexpected_reply()),
        }
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        let mut delete = Cmd::new();
        delete.arg("DEL").arg(key.as_str());
        match self.router.insist(key.as_str(), delete).await? {
            Value::Int(_) => Ok(()),
            _ => Err(unexpected_reply()),
        }
    }

    async fn stamp(&self, key: &CacheKey, id: Bytes, life: Duration) -> Result<Bytes, StoreError> {
        match self.run(&STAMP, key, (&id, life, b""), Resend::Forbidden).await? {
            Value::BulkString(id) => Ok(id.into()),
            _ => Err(unexpected_reply()),
        }
    }

    fn get_limit(&self) -> Option<Duration> {
        Some(self.router.limit())
    }

    fn breaker_open_for(&self) -> Option<Duration> {
        self.router.breaker_open_for()
    }

    fn name(&self) -> &'static str {
        "redis"
    }
}

fn get(key: &CacheKey) -> Cmd {
    const NAME: &str = "GET";
    let mut get = Cmd::with_capacity(2, NAME.len() + key.as_str().len());
    get.arg(NAME).arg(key.as_str());
    get
}

fn found(value: Value) -> Result<Found, StoreError> {
    match value {
        Value::BulkString(bytes) => Ok(Found::Value(bytes.into())),
        Value::Nil => Ok(Found::Nothing),
        _ => Err(unexpected_reply()),
    }
}

impl RedisStore {
    /// Looks up these keys, in one write to each node of a cluster.
    async fn get_from_nodes(&self, keys: &[&CacheKey]) -> Result<Vec<Found>, StoreError> {
        let groups = self.router.by_node(keys);
        let lookups = groups.iter().map(|numbers| {
            let keys: Vec<_> = numbers.iter().map(|&number| keys[number]).collect();
            Box::pin(self.get_group(keys))
        });
        let lookups = join_all(lookups.collect()).await;
        let mut values: Vec<_> = keys.iter().map(|_| Found::Nothing).collect();
        for (numbers, group) in groups.iter().zip(lookups) {
            for (&number, value) in numbers.iter().zip(group?) {
                values[number] = value;
            }
        }
        Ok(values)
    }

    /// Looks up keys of one node.
    async fn get_group(&self, keys: Vec<&CacheKey>) -> Result<Vec<Found>, StoreError> {
        if let [first, _, ..] = keys[..] {
            let mut all = Pipeline::with_capacity(keys.len());
            for key in &keys {
                all.add_command(get(key));
            }
            match self.router.read_all(first.as_str(), all).await? {
                Some(Value::Array(values)) if values.len() == keys.len() => {
                    return values.into_iter().map(found).collect();
                }
                Some(_) => return Err(unexpected_reply()),
                None => {}
            }
        }
        let lookups = keys.into_iter().map(|key| Box::pin(self.get(key))).collect();
        join_all(lookups).await.into_iter().collect()
    }

    /// Runs a script with these arguments and returns its reply.
    async fn run(
        &self,
        script: &Script,
        key: &CacheKey,
        (value, life, start): (&Bytes, Duration, &[u8]),
        resend: Resend,
    ) -> Result<Value, StoreError> {
        let run = async |command: &str, script: &str| {
            let mut run = Cmd::new();
            run.arg(command).arg(script).arg(1).arg(key.as_str());
            run.arg(&value[..]).arg(whole_ms(life)).arg(start);
            self.router.write(key.as_str(), run, resend).await
        };
        if let Some(hash) = script.hash.get() {
            match run("EVALSHA", hash).await {
                // The server does not know or has forgotten the script, or forbids `EVALSHA`.
                Err(StoreError::Reply { code, .. }) if is_refused_by_hash(&code) => {}
                reply => return reply,
            }
        }
        let reply = run("EVAL", script.code).await?;
        script.hash.get_or_init(|| redis::Script::new(script.code).get_hash().to_owned());
        Ok(reply)
    }

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
        // As in `put`: a value written where nothing was must not reappear after its deletion.
        let resend = if condition.is_some() { Resend::Forbidden } else { Resend::Allowed };
        match self.router.write(key.as_str(), set, resend).await? {
            Value::Okay => Ok(true),
            Value::Nil => Ok(false),
            _ => Err(unexpected_reply()),
        }
    }
}

/// A script that the server caches: once sent, it is called by its hash.
struct Script {
    code: &'static str,
    /// Set once this process has sent the script to a server. Until then the store sends the code, because trying the
    /// hash first could cost a round trip.
    hash: OnceLock<String>,
}

impl Script {
    const fn new(code: &'static str) -> Self {
        Self { code, hash: OnceLock::new() }
    }
}

/// Replaces a value that starts with `ARGV[3]` by `ARGV[1]`, for `ARGV[2]` ms.
static REPLACE: Script = Script::new(
    "if redis.call('TYPE', KEYS[1]).ok ~= 'string' then return 0 end \
     local size = #ARGV[3] \
     if size > 0 and redis.call('GETRANGE', KEYS[1], 0, size - 1) ~= ARGV[3] then return 0 end \
     redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1",
);

/// Replaces a value of another type by `ARGV[1]`, for `ARGV[2]` ms.
static CLAIM: Script = Script::new(
    "local held = redis.call('TYPE', KEYS[1]).ok \
     if held == 'string' or held == 'none' then return 0 end \
     redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1",
);

/// Returns the value of a key; if it has none, stores `ARGV[1]` and returns it. The TTL is then `ARGV[2]` ms, or at
/// least half of that. The script renews it only below half, so it usually writes nothing.
static STAMP: Script = Script::new(
    "local id = false \
     if redis.call('TYPE', KEYS[1]).ok == 'string' then id = redis.call('GET', KEYS[1]) end \
     if id and redis.call('PTTL', KEYS[1]) >= ARGV[2] / 2 then return id end \
     id = id or ARGV[1] \
     redis.call('SET', KEYS[1], id, 'PX', ARGV[2]) return id",
);

/// Whether this error reply means that the script did not run and that sending its code may help.
fn is_refused_by_hash(code: &str) -> bool {
    ["NOSCRIPT", "NOPERM", "ERR"].contains(&code)
}

fn unexpected_reply() -> StoreError {
    StoreError::Failed("an unexpected reply".into())
}
