//! All environment variables of the program, and their parsing.
//!
//! They are read once, at the start, through a lookup argument, so that nothing else depends on the environment and a
//! test can pass a map. An empty value counts as unset. An invalid value stops the start and is never replaced by a
//! default. The error names all invalid variables together.

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;
use tracing_subscriber::filter::{LevelFilter, Targets};

use lambda_gateway::BasePath;

use crate::telemetry::{InvalidLabel, LogFormat, LogSettings};
use crate::users::{DynamoDbUsers, TableName};
use response_boost::{
    IamName, IamSettings, InvalidBeta, InvalidRate, Namespace, Policy, RedisSettings,
};

/// The names of the variables.
pub mod variable {
    /// The URL of Redis; unset: the cache is in the process.
    pub const REDIS_URL: &str = "REDIS_URL";
    /// `true`: speak the cluster protocol. `false`.
    pub const REDIS_CLUSTER: &str = "REDIS_CLUSTER";
    /// The PEM file of a private CA; unset: the public roots.
    pub const REDIS_TLS_CA_FILE: &str = "REDIS_TLS_CA_FILE";
    /// The PEM file of a client certificate; unset: the client presents none.
    pub const REDIS_TLS_CERT_FILE: &str = "REDIS_TLS_CERT_FILE";
    /// The PEM file of that certificate's private key.
    pub const REDIS_TLS_KEY_FILE: &str = "REDIS_TLS_KEY_FILE";
    /// The secret in Secrets Manager that has the password of Redis; unset: the URL has it, or Redis needs none.
    pub const REDIS_PASSWORD_SECRET: &str = "REDIS_PASSWORD_SECRET";
    /// Sign in with IAM as this user; unset: as the URL says.
    pub const REDIS_IAM_USER: &str = "REDIS_IAM_USER";
    /// The name of the cache to sign in to with IAM.
    pub const REDIS_IAM_CACHE: &str = "REDIS_IAM_CACHE";
    /// `true`: that cache is serverless. `true`.
    pub const REDIS_IAM_SERVERLESS: &str = "REDIS_IAM_SERVERLESS";
    /// The service of that cache: `elasticache` or `memorydb`. `elasticache`.
    pub const REDIS_IAM_SERVICE: &str = "REDIS_IAM_SERVICE";
    /// `true`: connect while Lambda initialises the environment. `false`.
    pub const WARM_UP: &str = "WARM_UP";
    /// How long a request waits for a connection, in milliseconds. 500.
    pub const REDIS_CONNECT_TIMEOUT_MS: &str = "REDIS_CONNECT_TIMEOUT_MS";
    /// How long a request waits for one reply, in milliseconds. 100.
    pub const REDIS_RESPONSE_TIMEOUT_MS: &str = "REDIS_RESPONSE_TIMEOUT_MS";
    /// `false`: every request bypasses the cache. `true`.
    pub const CACHE_ENABLED: &str = "CACHE_ENABLED";
    /// The first part of every key. `users`.
    pub const CACHE_NAMESPACE: &str = "CACHE_NAMESPACE";
    /// How long a user is stored, in seconds. 120.
    pub const CACHE_TTL_SECONDS: &str = "CACHE_TTL_SECONDS";
    /// How long a 404 for a user is stored, in seconds. 0: it is not stored.
    pub const CACHE_NOT_FOUND_TTL_SECONDS: &str = "CACHE_NOT_FOUND_TTL_SECONDS";
    /// The most freshness that clients get, in seconds; unset: no limit.
    pub const CACHE_CLIENT_MAX_AGE_SECONDS: &str = "CACHE_CLIENT_MAX_AGE_SECONDS";
    /// The size of the largest entry that is stored, in bytes. 1 MiB.
    pub const CACHE_MAX_ENTRY_BYTES: &str = "CACHE_MAX_ENTRY_BYTES";
    /// How long past its freshness an entry may be served if the load fails, in seconds. 0: not at all.
    pub const CACHE_STALE_IF_ERROR_SECONDS: &str = "CACHE_STALE_IF_ERROR_SECONDS";
    /// How long past its freshness an entry is served at once and refreshed after the reply, in seconds. 0: not at all.
    pub const CACHE_STALE_WHILE_REVALIDATE_SECONDS: &str = "CACHE_STALE_WHILE_REVALIDATE_SECONDS";
    /// `after-reply`, or `inline`: the request that finds an entry about to expire refreshes it itself. `after-reply`.
    pub const CACHE_REFRESH: &str = "CACHE_REFRESH";
    /// How eagerly an entry is refreshed before it expires: the beta of `XFetch`. 1; 0: never.
    pub const CACHE_EARLY_REFRESH: &str = "CACHE_EARLY_REFRESH";
    /// The share of hits that are audited: loaded again after the reply and compared with the entry. 0: none.
    pub const CACHE_AUDIT_RATE: &str = "CACHE_AUDIT_RATE";
    /// How long an invalidation may take before an audit counts it as lost, in seconds. 10.
    pub const CACHE_AUDIT_GRACE_SECONDS: &str = "CACHE_AUDIT_GRACE_SECONDS";
    /// How long a lease lives unless its holder renews it, in milliseconds. 2000; 0: no leases.
    pub const CACHE_LEASE_MS: &str = "CACHE_LEASE_MS";
    /// A path before `/users` that no route of the gateway reveals; unset: empty.
    pub const API_BASE_PATH: &str = "API_BASE_PATH";
    /// The DynamoDB table of users; unset: the three embedded users.
    pub const USERS_TABLE: &str = "USERS_TABLE";
    /// How many requests an environment serves at a time, as Lambda sets it. 1.
    pub const AWS_LAMBDA_MAX_CONCURRENCY: &str = "AWS_LAMBDA_MAX_CONCURRENCY";
    /// `JSON` or `Text`, as Lambda sets it. Text.
    pub const AWS_LAMBDA_LOG_FORMAT: &str = "AWS_LAMBDA_LOG_FORMAT";
    /// The lowest level that is logged, as Lambda sets it. INFO.
    pub const AWS_LAMBDA_LOG_LEVEL: &str = "AWS_LAMBDA_LOG_LEVEL";
    /// More detailed log levels (`info,response_boost=debug`); takes precedence over the other.
    pub const RUST_LOG: &str = "RUST_LOG";
    /// The name of this service in metrics. `users`.
    pub const POWERTOOLS_SERVICE_NAME: &str = "POWERTOOLS_SERVICE_NAME";
    /// The namespace of the metrics in CloudWatch. `ResponseBoost`.
    pub const POWERTOOLS_METRICS_NAMESPACE: &str = "POWERTOOLS_METRICS_NAMESPACE";
    /// For the release check: the ARN of the version to check.
    pub const RELEASE_CHECK_VERSION: &str = "RELEASE_CHECK_VERSION";
    /// For the release check: the id of the user to request. 1.
    pub const RELEASE_CHECK_USER: &str = "RELEASE_CHECK_USER";
    /// For the release check, `true`: a version that does not reach its cache fails. `true`.
    pub const RELEASE_CHECK_CACHE: &str = "RELEASE_CHECK_CACHE";
}

/// How much longer the cache lets a lookup take than the lookup's own limit, so that the lookup can report what failed.
const LOAD_MARGIN: Duration = Duration::from_millis(500);

/// The configuration of the program.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where Redis is. `None`: the cache is in the process. `REDIS_*`.
    pub redis: Option<RedisSettings>,
    /// The secret that has the password of Redis. `None`: `redis` has it. `REDIS_PASSWORD_SECRET`.
    pub redis_password_secret: Option<String>,
    /// Whether to connect while Lambda initialises the environment. `WARM_UP`.
    pub warm_up: bool,
    /// Whether requests go through the cache. `CACHE_ENABLED`.
    pub cache_enabled: bool,
    /// The first part of every key. `CACHE_NAMESPACE`.
    pub namespace: Namespace,
    /// What is stored, and for how long. `CACHE_*`.
    pub policy: Policy,
    /// The DynamoDB table of users. `None`: the three embedded users. `USERS_TABLE`.
    pub users_table: Option<TableName>,
    /// A path before `/users`. `API_BASE_PATH`.
    pub base_path: BasePath,
    /// How many requests this environment serves at a time. `AWS_LAMBDA_MAX_CONCURRENCY`.
    pub max_concurrency: u64,
    /// What is logged, and how. `AWS_LAMBDA_LOG_*`, `RUST_LOG`, `POWERTOOLS_*`.
    pub log: LogSettings,
}

/// The configuration of the release check.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReleaseCheckConfig {
    /// The name and the version of the function to check. `RELEASE_CHECK_VERSION`.
    pub function: (String, String),
    /// The user to request. `RELEASE_CHECK_USER`.
    pub user: u64,
    /// Whether a version that does not reach its cache fails. `RELEASE_CHECK_CACHE`.
    pub expects_cache: bool,
    /// What is logged, and how. `AWS_LAMBDA_LOG_*`, `RUST_LOG`, `POWERTOOLS_*`.
    pub log: LogSettings,
}

/// All variables with an invalid value.
#[derive(Debug, PartialEq, Eq, Error)]
pub struct ConfigError(Vec<InvalidVariable>);

/// A variable with an invalid value. Secrets are redacted.
#[derive(Debug, PartialEq, Eq)]
struct InvalidVariable {
    name: &'static str,
    held: String,
    accepted: String,
}

impl Config {
    /// Reads the variables through `lookup`: `std::env::var_os`, or a map.
    ///
    /// ```
    /// use users_function::config::Config;
    ///
    /// let config = Config::from_lookup(|_| None)?;
    /// assert_eq!(config.namespace.as_str(), "users");
    ///
    /// let error = Config::from_lookup(|name| (name == "CACHE_TTL_SECONDS").then(|| "2m".into()));
    /// assert_eq!(
    ///     error.unwrap_err().to_string(),
    ///     "invalid CACHE_TTL_SECONDS: 2m; accepted: a whole number from 1 to 31536000"
    /// );
    /// # Ok::<(), users_function::config::ConfigError>(())
    /// ```
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let mut variables = Variables { lookup: &lookup, invalid: Vec::new() };
        // All groups are read before any failure is returned, so that every invalid variable is noted.
        let redis = variables.redis();
        let redis_password_secret = variables.password_secret();
        let warm_up = variables.flag(variable::WARM_UP, "false");
        let cache_enabled = variables.flag(variable::CACHE_ENABLED, "true");
        let namespace = variables.read(variable::CACHE_NAMESPACE, "users", |text| {
            Namespace::parse(text).map_err(|error| error.to_string())
        });
        let policy = variables.policy();
        let users_table = variables.read_optional(variable::USERS_TABLE, |text| {
            TableName::parse(text).map_err(|error| error.to_string())
        });
        let base_path = variables.read_optional(variable::API_BASE_PATH, |text| {
            BasePath::parse(text).map_err(|error| error.to_string())
        });
        let max_concurrency =
            variables.number(variable::AWS_LAMBDA_MAX_CONCURRENCY, "1", 1..=u64::from(u32::MAX));
        let log = variables.log();

        let (Ok(redis), Ok(warm_up), Ok(namespace), Ok(mut policy), Ok(users_table)) =
            (redis, warm_up, namespace, policy, users_table)
        else {
            return Err(ConfigError(variables.invalid));
        };
        let (Ok(base_path), Ok(max_concurrency), Ok(log)) = (base_path, max_concurrency, log)
        else {
            return Err(ConfigError(variables.invalid));
        };
        if let Some(redis) = &redis {
            policy = policy.with_deadline(redis.deadline());
        }
        if users_table.is_some() {
            policy = policy.with_load_limit(DynamoDbUsers::TIME_LIMIT + LOAD_MARGIN);
        }
        let (Ok(redis_password_secret), Ok(cache_enabled)) = (redis_password_secret, cache_enabled)
        else {
            return Err(ConfigError(variables.invalid));
        };
        Ok(Self {
            redis,
            redis_password_secret,
            warm_up,
            cache_enabled,
            namespace,
            policy,
            users_table,
            base_path: base_path.unwrap_or_default(),
            max_concurrency,
            log,
        })
    }
}

impl ReleaseCheckConfig {
    /// Reads the variables through `lookup`.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let mut variables = Variables { lookup: &lookup, invalid: Vec::new() };
        let function = variables.read(variable::RELEASE_CHECK_VERSION, "", |arn| {
            let parts: Vec<&str> = arn.split(':').collect();
            match parts[..] {
                [_, _, "lambda", _, _, "function", name, version] => {
                    Ok((name.to_owned(), version.to_owned()))
                }
                _ => Err("the ARN of a version of a function".to_owned()),
            }
        });
        let user = variables.number(variable::RELEASE_CHECK_USER, "1", 1..=u64::MAX >> 1);
        let expects_cache = variables.flag(variable::RELEASE_CHECK_CACHE, "true");
        let log = variables.log();
        let (Ok(function), Ok(user), Ok(expects_cache), Ok(log)) =
            (function, user, expects_cache, log)
        else {
            return Err(ConfigError(variables.invalid));
        };
        Ok(Self { function, user, expects_cache, log })
    }
}

impl fmt::Display for ConfigError {
    /// A line for each variable, which can be read without the others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, InvalidVariable { name, held, accepted }) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}invalid {name}: {held}; accepted: {accepted}")?;
        }
        Ok(())
    }
}

/// The variables, and those found invalid so far.
struct Variables<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
    invalid: Vec<InvalidVariable>,
}

/// An invalid value was found, and noted in [`Variables::invalid`].
struct Noted;

impl Variables<'_> {
    /// Anything larger is more likely a wrong unit than intended.
    const SECONDS: RangeInclusive<u64> = 0..=365 * 24 * 60 * 60;
    /// No invocation lasts longer.
    const MILLISECONDS: RangeInclusive<u64> = 1..=15 * 60 * 1000;
    /// Redis accepts no larger value.
    const BYTES: RangeInclusive<u64> = 1..=512 * 1024 * 1024;

    fn redis(&mut self) -> Result<Option<RedisSettings>, Noted> {
        let connect = self.number(variable::REDIS_CONNECT_TIMEOUT_MS, "500", Self::MILLISECONDS);
        let response = self.number(variable::REDIS_RESPONSE_TIMEOUT_MS, "100", Self::MILLISECONDS);
        let url = self.read_optional(variable::REDIS_URL, |url| {
            RedisSettings::parse(url).map_err(|error| error.to_string())
        });
        let is_cluster = self.flag(variable::REDIS_CLUSTER, "false");
        let own_ca = self.file(variable::REDIS_TLS_CA_FILE);
        let client = self.client_certificate();
        let iam = self.iam();
        let (connect, response, is_cluster, own_ca, client, iam) =
            (connect?, response?, is_cluster?, own_ca?, client?, iam?);
        let Some(mut redis) = url? else {
            return Ok(None);
        };

        redis = redis
            .with_connect_timeout(Duration::from_millis(connect))
            .with_response_timeout(Duration::from_millis(response));
        if is_cluster {
            redis = redis.with_cluster();
        }
        let needs_tls = || "only with rediss:// or valkeys:// in REDIS_URL".to_owned();
        if let Some(pem) = own_ca {
            let trusting = if redis.is_tls() {
                redis.with_own_ca(&pem).map_err(|error| error.to_string())
            } else {
                Err(needs_tls())
            };
            redis = self.judge(variable::REDIS_TLS_CA_FILE, trusting)?;
        }
        if let Some([certificate, key]) = client {
            let showing = if redis.is_tls() {
                let showing = redis.with_client_certificate(&certificate, &key);
                showing.map_err(|error| error.to_string())
            } else {
                Err(needs_tls())
            };
            redis = self.judge(variable::REDIS_TLS_CERT_FILE, showing)?;
        }
        if let Some(iam) = iam {
            // Anyone who reads a token on its way could use it for 15 minutes.
            let signing = if redis.is_tls() { Ok(redis.with_iam(iam)) } else { Err(needs_tls()) };
            redis = self.judge(variable::REDIS_IAM_USER, signing)?;
        }
        Ok(Some(redis))
    }

    fn password_secret(&mut self) -> Result<Option<String>, Noted> {
        let secret = self.read_optional(variable::REDIS_PASSWORD_SECRET, |text| {
            Ok::<_, String>(text.to_owned())
        })?;
        if secret.is_none() {
            return Ok(None);
        }
        let is_set = |name| (self.lookup)(name).is_some_and(|value| !value.is_empty());
        if !is_set(variable::REDIS_URL) || is_set(variable::REDIS_IAM_USER) {
            let accepted = format!(
                "only with {}, and without {}",
                variable::REDIS_URL,
                variable::REDIS_IAM_USER
            );
            return self.judge(variable::REDIS_PASSWORD_SECRET, Err(accepted));
        }
        Ok(secret)
    }

    /// A client certificate and its private key, as their files contain them.
    fn client_certificate(&mut self) -> Result<Option<[Vec<u8>; 2]>, Noted> {
        let certificate = self.file(variable::REDIS_TLS_CERT_FILE);
        let key = self.file(variable::REDIS_TLS_KEY_FILE);
        let one_alone = |other| Err(format!("only together with {other}"));
        match (certificate?, key?) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some([certificate, key])),
            (Some(_), None) => {
                self.judge(variable::REDIS_TLS_CERT_FILE, one_alone(variable::REDIS_TLS_KEY_FILE))
            }
            (None, Some(_)) => {
                self.judge(variable::REDIS_TLS_KEY_FILE, one_alone(variable::REDIS_TLS_CERT_FILE))
            }
        }
    }

    fn iam(&mut self) -> Result<Option<IamSettings>, Noted> {
        let parse = |text: &str| IamName::parse(text).map_err(|error| error.to_string());
        let user = self.read_optional(variable::REDIS_IAM_USER, parse);
        let cache = self.read_optional(variable::REDIS_IAM_CACHE, parse);
        let is_serverless = self.flag(variable::REDIS_IAM_SERVERLESS, "true");
        let is_memorydb =
            self.read(variable::REDIS_IAM_SERVICE, "elasticache", |text| match text {
                "elasticache" => Ok(false),
                "memorydb" => Ok(true),
                _ => Err("elasticache or memorydb".to_owned()),
            });
        let (user, cache, is_serverless, is_memorydb) =
            (user?, cache?, is_serverless?, is_memorydb?);
        let one_alone = |other| Err(format!("only together with {other}"));
        match (user, cache) {
            (None, None) => Ok(None),
            (Some(user), Some(cache)) => {
                let serverless = IamSettings::new(user, cache, crate::aws::credentials);
                Ok(Some(match (is_memorydb, is_serverless) {
                    (true, _) => serverless.for_memorydb(),
                    (false, true) => serverless,
                    (false, false) => serverless.without_serverless(),
                }))
            }
            (Some(_), None) => {
                self.judge(variable::REDIS_IAM_USER, one_alone(variable::REDIS_IAM_CACHE))
            }
            (None, Some(_)) => {
                self.judge(variable::REDIS_IAM_CACHE, one_alone(variable::REDIS_IAM_USER))
            }
        }
    }

    fn policy(&mut self) -> Result<Policy, Noted> {
        let ttl = self.number(variable::CACHE_TTL_SECONDS, "120", 1..=*Self::SECONDS.end());
        let not_found = self.number(variable::CACHE_NOT_FOUND_TTL_SECONDS, "0", Self::SECONDS);
        let client = self.read_optional(variable::CACHE_CLIENT_MAX_AGE_SECONDS, |text| {
            whole_number(text, Self::SECONDS)
        });
        let bytes = self.number(variable::CACHE_MAX_ENTRY_BYTES, "1048576", Self::BYTES);
        let stale = self.number(variable::CACHE_STALE_IF_ERROR_SECONDS, "0", Self::SECONDS);
        let window =
            self.number(variable::CACHE_STALE_WHILE_REVALIDATE_SECONDS, "0", Self::SECONDS);
        let is_inline = self.read(variable::CACHE_REFRESH, "after-reply", |text| match text {
            "after-reply" => Ok(false),
            "inline" => Ok(true),
            _ => Err("after-reply or inline".to_owned()),
        });
        let lease = self.number(variable::CACHE_LEASE_MS, "2000", 0..=*Self::MILLISECONDS.end());
        let fresh_for = Duration::from_secs(ttl.as_ref().copied().unwrap_or_default());
        let policy = self.read(variable::CACHE_EARLY_REFRESH, "1", |text| {
            let beta = text.parse().map_err(|_| InvalidBeta);
            let policy = beta.and_then(|beta| Policy::new(fresh_for).with_early_refresh(beta));
            policy.map_err(|error| error.to_string())
        });
        let grace = self.number(variable::CACHE_AUDIT_GRACE_SECONDS, "10", Self::SECONDS);
        let grace_or_none = Duration::from_secs(grace.as_ref().copied().unwrap_or_default());
        let audited = self.read(variable::CACHE_AUDIT_RATE, "0", |text| {
            let rate = text.parse().map_err(|_| InvalidRate);
            let policy = policy.as_ref().map_or_else(|_| Policy::new(fresh_for), Clone::clone);
            let policy = rate.and_then(|rate| policy.with_audit(rate, grace_or_none));
            policy.map_err(|error| error.to_string())
        });

        ttl?;
        policy?;
        let mut policy = audited?;
        grace?;
        if let Some(seconds) = client? {
            policy = policy.with_client_max_age(Duration::from_secs(seconds));
        }
        let not_found = Duration::from_secs(not_found?);
        if !not_found.is_zero() {
            policy = policy.with_not_found_ttl(not_found);
        }
        policy = policy
            .with_stale_if_error(Duration::from_secs(stale?))
            .with_stale_while_revalidate(Duration::from_secs(window?))
            .with_lease(Duration::from_millis(lease?));
        if is_inline? {
            policy = policy.with_inline_refresh();
        }
        Ok(policy.with_max_entry_bytes(usize::try_from(bytes?).unwrap_or(usize::MAX)))
    }

    fn log(&mut self) -> Result<LogSettings, Noted> {
        let format = self.read(variable::AWS_LAMBDA_LOG_FORMAT, "Text", |text| match text {
            "JSON" => Ok(LogFormat::Json),
            "Text" => Ok(LogFormat::Text),
            _ => Err("JSON or Text".to_owned()),
        });
        let level = self.read(variable::AWS_LAMBDA_LOG_LEVEL, "INFO", |text| match text {
            "TRACE" | "DEBUG" | "INFO" | "WARN" | "ERROR" => {
                text.parse().map_err(|_| String::new())
            }
            // Lambda has a level above ERROR that Rust's loggers lack; nothing here logs worse than ERROR.
            "FATAL" => Ok(LevelFilter::ERROR),
            _ => Err("TRACE, DEBUG, INFO, WARN, ERROR or FATAL".to_owned()),
        });
        let filter = self.read_optional(variable::RUST_LOG, |text| {
            text.parse::<Targets>().map_err(|_| {
                "a level or a list of target=level, such as info,response_boost=debug".to_owned()
            })
        });
        let label = |text: &str| text.parse().map_err(|error: InvalidLabel| error.to_string());
        let service = self.read(variable::POWERTOOLS_SERVICE_NAME, "users", label);
        let namespace = variable::POWERTOOLS_METRICS_NAMESPACE;
        let metrics_namespace = self.read(namespace, "ResponseBoost", label);
        let (format, level) = (format?, level?);
        let filter = filter?.unwrap_or_else(|| Targets::new().with_default(level));
        let (service, metrics_namespace) = (service?, metrics_namespace?);
        Ok(LogSettings { format, filter, service, metrics_namespace })
    }

    /// The content of the file that a variable names.
    fn file(&mut self, name: &'static str) -> Result<Option<Vec<u8>>, Noted> {
        self.read_optional(name, |path| {
            std::fs::read(path).map_err(|error| format!("a file that can be read ({error})"))
        })
    }

    fn flag(&mut self, name: &'static str, default: &str) -> Result<bool, Noted> {
        self.read(name, default, |text| text.parse().map_err(|_| "true or false".to_owned()))
    }

    fn number(
        &mut self,
        name: &'static str,
        default: &str,
        accepted: RangeInclusive<u64>,
    ) -> Result<u64, Noted> {
        self.read(name, default, |text| whole_number(text, accepted))
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Noted> {
        let text = self.text(name)?;
        self.note(name, parse(text.as_deref().unwrap_or(default)), text.as_deref())
    }

    fn read_optional<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Noted> {
        let text = self.text(name)?;
        self.note(name, text.as_deref().map(parse).transpose(), text.as_deref())
    }

    /// Notes a value as invalid for a reason that involves another variable.
    fn judge<T>(&mut self, name: &'static str, judged: Result<T, String>) -> Result<T, Noted> {
        let text = self.text(name)?;
        self.note(name, judged, text.as_deref())
    }

    /// The value of the variable; `Ok(None)` if it is unset or empty.
    fn text(&mut self, name: &'static str) -> Result<Option<String>, Noted> {
        match (self.lookup)(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(Err(_)) => self.note(name, Err("UTF-8".to_owned()), None),
        }
    }

    /// Notes an invalid value; `Err` describes the accepted ones.
    fn note<T>(
        &mut self,
        name: &'static str,
        parsed: Result<T, String>,
        text: Option<&str>,
    ) -> Result<T, Noted> {
        parsed.map_err(|accepted| {
            let held = match text {
                Some(url) if name == variable::REDIS_URL => without_secrets(url),
                Some(text) => text.to_owned(),
                None => "<not UTF-8>".to_owned(),
            };
            self.invalid.push(InvalidVariable { name, held, accepted });
            Noted
        })
    }
}

fn whole_number(text: &str, accepted: RangeInclusive<u64>) -> Result<u64, String> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| is_digits && accepted.contains(number));
    number.ok_or_else(|| format!("a whole number from {} to {}", accepted.start(), accepted.end()))
}

/// The scheme of a URL that could not be parsed. Any part of the rest may be the password.
fn without_secrets(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, _))
            if scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'+') =>
        {
            format!("{scheme}://<redacted>")
        }
        _ => "<redacted>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Config, String> {
        let find = |name: &str| {
            let (_, value) = set.iter().rfind(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        };
        Config::from_lookup(find).map_err(|error| error.to_string())
    }

    #[test]
    fn unset_and_empty_mean_the_default() {
        let names = [
            variable::REDIS_URL,
            variable::REDIS_CLUSTER,
            variable::REDIS_TLS_CA_FILE,
            variable::REDIS_TLS_CERT_FILE,
            variable::REDIS_TLS_KEY_FILE,
            variable::REDIS_IAM_USER,
            variable::REDIS_IAM_CACHE,
            variable::REDIS_IAM_SERVERLESS,
            variable::REDIS_IAM_SERVICE,
            variable::REDIS_PASSWORD_SECRET,
            variable::WARM_UP,
            variable::CACHE_ENABLED,
            variable::REDIS_CONNECT_TIMEOUT_MS,
            variable::REDIS_RESPONSE_TIMEOUT_MS,
            variable::CACHE_NAMESPACE,
            variable::CACHE_TTL_SECONDS,
            variable::CACHE_NOT_FOUND_TTL_SECONDS,
            variable::CACHE_CLIENT_MAX_AGE_SECONDS,
            variable::CACHE_MAX_ENTRY_BYTES,
            variable::CACHE_STALE_IF_ERROR_SECONDS,
            variable::CACHE_EARLY_REFRESH,
            variable::CACHE_AUDIT_RATE,
            variable::CACHE_AUDIT_GRACE_SECONDS,
            variable::CACHE_LEASE_MS,
            variable::USERS_TABLE,
            variable::AWS_LAMBDA_MAX_CONCURRENCY,
            variable::AWS_LAMBDA_LOG_FORMAT,
            variable::AWS_LAMBDA_LOG_LEVEL,
            variable::RUST_LOG,
            variable::POWERTOOLS_SERVICE_NAME,
            variable::POWERTOOLS_METRICS_NAMESPACE,
        ];
        for config in [read(&[]).unwrap(), read(&names.map(|name| (name, ""))).unwrap()] {
            assert!(config.redis.is_none());
            assert!(!config.warm_up);
            assert!(config.cache_enabled);
            assert_eq!(config.redis_password_secret, None);
            assert_eq!(config.namespace.as_str(), "users");
            assert_eq!(config.policy, Policy::new(Duration::from_mins(2)));
            assert_eq!(config.users_table, None);
            assert_eq!(config.max_concurrency, 1);
            assert_eq!(config.log.format, LogFormat::Text);
            assert_eq!(config.log.filter, Targets::new().with_default(LevelFilter::INFO));
            assert_eq!(config.log.service.as_str(), "users");
            assert_eq!(config.log.metrics_namespace.as_str(), "ResponseBoost");
        }
    }

    #[test]
    fn every_variable_is_heard() {
        let config = read(&[
            (variable::REDIS_URL, "redis://user:password@localhost:6380/1"),
            (variable::REDIS_CONNECT_TIMEOUT_MS, "700"),
            (variable::REDIS_RESPONSE_TIMEOUT_MS, "50"),
            (variable::REDIS_PASSWORD_SECRET, "arn:aws:secretsmanager:…"),
            (variable::CACHE_ENABLED, "false"),
            (variable::CACHE_NAMESPACE, "people:v2"),
            (variable::CACHE_TTL_SECONDS, "60"),
            (variable::CACHE_NOT_FOUND_TTL_SECONDS, "5"),
            (variable::CACHE_CLIENT_MAX_AGE_SECONDS, "0"),
            (variable::CACHE_MAX_ENTRY_BYTES, "1000"),
            (variable::CACHE_STALE_IF_ERROR_SECONDS, "600"),
            (variable::CACHE_EARLY_REFRESH, "0.5"),
            (variable::CACHE_AUDIT_RATE, "0.01"),
            (variable::CACHE_AUDIT_GRACE_SECONDS, "30"),
            (variable::CACHE_LEASE_MS, "4001"),
            (variable::USERS_TABLE, "people.v-2_a"),
            (variable::AWS_LAMBDA_MAX_CONCURRENCY, "10"),
            (variable::AWS_LAMBDA_LOG_FORMAT, "JSON"),
            (variable::AWS_LAMBDA_LOG_LEVEL, "FATAL"),
            (variable::POWERTOOLS_SERVICE_NAME, "people"),
            (variable::POWERTOOLS_METRICS_NAMESPACE, "Team/People"),
        ])
        .unwrap();
        assert!(config.redis.is_some());
        assert!(!config.cache_enabled);
        assert_eq!(config.redis_password_secret.as_deref(), Some("arn:aws:secretsmanager:…"));
        assert_eq!(config.namespace.as_str(), "people:v2");
        let policy = Policy::new(Duration::from_mins(1))
            .with_not_found_ttl(Duration::from_secs(5))
            .with_client_max_age(Duration::ZERO)
            .with_max_entry_bytes(1_000)
            .with_deadline(Duration::from_millis(750))
            .with_stale_if_error(Duration::from_mins(10))
            .with_lease(Duration::from_millis(4_001))
            .with_load_limit(DynamoDbUsers::TIME_LIMIT + LOAD_MARGIN)
            .with_early_refresh(0.5)
            .unwrap()
            .with_audit(0.01, Duration::from_secs(30))
            .unwrap();
        assert_eq!(config.policy, policy);
        assert_eq!(config.users_table.unwrap().as_str(), "people.v-2_a");
        assert_eq!(config.max_concurrency, 10);
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.log.filter, Targets::new().with_default(LevelFilter::ERROR));
        assert_eq!(config.log.service.as_str(), "people");
        assert_eq!(config.log.metrics_namespace.as_str(), "Team/People");

        let config = read(&[
            (variable::AWS_LAMBDA_LOG_LEVEL, "WARN"),
            (variable::RUST_LOG, "info,response_boost=trace"),
        ])
        .unwrap();
        assert_eq!(config.log.filter, "info,response_boost=trace".parse().unwrap());
    }

    #[test]
    fn all_that_is_invalid_is_named_at_once() {
        let error = read(&[
            (variable::REDIS_URL, "http://alice:hunter2@cache.example"),
            (variable::REDIS_CONNECT_TIMEOUT_MS, "0"),
            (variable::REDIS_RESPONSE_TIMEOUT_MS, "0.1"),
            (variable::CACHE_NAMESPACE, "a b"),
            (variable::CACHE_TTL_SECONDS, "0"),
            (variable::CACHE_NOT_FOUND_TTL_SECONDS, "-1"),
            (variable::CACHE_CLIENT_MAX_AGE_SECONDS, "+5"),
            (variable::CACHE_MAX_ENTRY_BYTES, "99999999999999999999999"),
            (variable::CACHE_STALE_IF_ERROR_SECONDS, "1h"),
            (variable::CACHE_EARLY_REFRESH, "NaN"),
            (variable::CACHE_AUDIT_RATE, "2"),
            (variable::CACHE_AUDIT_GRACE_SECONDS, "soon"),
            (variable::CACHE_LEASE_MS, "900001"),
            (variable::USERS_TABLE, "a/b"),
            (variable::AWS_LAMBDA_MAX_CONCURRENCY, "0"),
            (variable::AWS_LAMBDA_LOG_FORMAT, "XML"),
            (variable::AWS_LAMBDA_LOG_LEVEL, "LOUD"),
            (variable::RUST_LOG, "a=b=c"),
            (variable::POWERTOOLS_SERVICE_NAME, "my service"),
            (variable::POWERTOOLS_METRICS_NAMESPACE, "AWS/Lambda"),
        ])
        .unwrap_err();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(
            lines,
            [
                "invalid REDIS_CONNECT_TIMEOUT_MS: 0; accepted: a whole number from 1 to 900000",
                "invalid REDIS_RESPONSE_TIMEOUT_MS: 0.1; accepted: a whole number from 1 to 900000",
                "invalid REDIS_URL: http://<redacted>; accepted: redis://, valkey://, rediss:// or valkeys://, then [user:password@]host[:port][/database]",
                "invalid CACHE_NAMESPACE: a b; accepted: 1 to 64 characters out of A-Z a-z 0-9 . _ : -",
                "invalid CACHE_TTL_SECONDS: 0; accepted: a whole number from 1 to 31536000",
                "invalid CACHE_NOT_FOUND_TTL_SECONDS: -1; accepted: a whole number from 0 to 31536000",
                "invalid CACHE_CLIENT_MAX_AGE_SECONDS: +5; accepted: a whole number from 0 to 31536000",
                "invalid CACHE_MAX_ENTRY_BYTES: 99999999999999999999999; accepted: a whole number from 1 to 536870912",
                "invalid CACHE_STALE_IF_ERROR_SECONDS: 1h; accepted: a whole number from 0 to 31536000",
                "invalid CACHE_LEASE_MS: 900001; accepted: a whole number from 0 to 900000",
                "invalid CACHE_EARLY_REFRESH: NaN; accepted: a number from 0 to 1000",
                "invalid CACHE_AUDIT_GRACE_SECONDS: soon; accepted: a whole number from 0 to 31536000",
                "invalid CACHE_AUDIT_RATE: 2; accepted: a number from 0 to 1",
                "invalid USERS_TABLE: a/b; accepted: the name of a table: 3 to 255 characters out of A-Z a-z 0-9 _ - .",
                "invalid AWS_LAMBDA_MAX_CONCURRENCY: 0; accepted: a whole number from 1 to 4294967295",
                "invalid AWS_LAMBDA_LOG_FORMAT: XML; accepted: JSON or Text",
                "invalid AWS_LAMBDA_LOG_LEVEL: LOUD; accepted: TRACE, DEBUG, INFO, WARN, ERROR or FATAL",
                "invalid RUST_LOG: a=b=c; accepted: a level or a list of target=level, such as info,response_boost=debug",
                "invalid POWERTOOLS_SERVICE_NAME: my service; accepted: 1 to 128 characters out of A-Z a-z 0-9 . - _ / # :, the first no colon and none of AWS's own (AWS/…)",
                "invalid POWERTOOLS_METRICS_NAMESPACE: AWS/Lambda; accepted: 1 to 128 characters out of A-Z a-z 0-9 . - _ / # :, the first no colon and none of AWS's own (AWS/…)",
            ]
        );
    }

    #[test]
    fn a_secret_is_for_a_redis_that_asks_for_a_password() {
        let secret = (variable::REDIS_PASSWORD_SECRET, "arn:aws:secretsmanager:…");
        let iam = [
            (variable::REDIS_URL, "rediss://h"),
            (variable::REDIS_IAM_USER, "u"),
            (variable::REDIS_IAM_CACHE, "c"),
            secret,
        ];
        for set in [&[secret][..], &iam] {
            let error = read(set).unwrap_err();
            assert!(error.contains("only with REDIS_URL, and without REDIS_IAM_USER"), "{error}");
        }
    }

    #[test]
    fn the_release_check_asks_the_version_of_an_arn() {
        let check = |arn: &'static str| {
            ReleaseCheckConfig::from_lookup(|name| {
                (name == variable::RELEASE_CHECK_VERSION).then(|| arn.into())
            })
        };
        let config = check("arn:aws:lambda:eu-west-1:123456789012:function:users:7").unwrap();
        assert_eq!(config.function, ("users".to_owned(), "7".to_owned()));
        assert!(config.expects_cache && config.user == 1);
        for arn in ["", "users", "arn:aws:lambda:eu-west-1:123456789012:function:users"] {
            assert!(check(arn).unwrap_err().to_string().contains("the ARN of a version"));
        }
    }

    #[test]
    fn a_lease_may_be_shorter_than_a_lookup_or_off() {
        let set = [(variable::CACHE_LEASE_MS, "1"), (variable::USERS_TABLE, "users")];
        assert!(read(&set).is_ok(), "its holder renews it");
        let without_leases = Policy::new(Duration::from_mins(2)).with_lease(Duration::ZERO);
        assert_eq!(read(&[(variable::CACHE_LEASE_MS, "0")]).unwrap().policy, without_leases);
    }

    #[test]
    fn a_url_of_another_form_stops_the_start_and_says_why() {
        for (url, why) in [
            ("redis://h?db=2", "without a query string or a fragment"),
            ("redis://bob@h", "a user has a password"),
            ("redis://hunter2@h", "a user has a password"),
        ] {
            let error = read(&[(variable::REDIS_URL, url)]).unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn no_part_of_a_url_that_may_be_secret_is_shown() {
        for url in [
            "hunter2",
            "http://user:hunter2@host",
            "redis://user:hunter2@",
            "redis://user:hunter2",
            "redis://user:hun/hunter2@host",
            "redis://host/hunter2",
            "hunter2://host",
        ] {
            let error = read(&[(variable::REDIS_URL, url)]).unwrap_err();
            assert!(error.starts_with("invalid REDIS_URL: "), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf_8_is_named() {
        use std::os::unix::ffi::OsStringExt as _;

        let error = Config::from_lookup(|name| {
            (name == variable::CACHE_NAMESPACE).then(|| OsString::from_vec(vec![0xff]))
        });
        assert_eq!(
            error.unwrap_err().to_string(),
            "invalid CACHE_NAMESPACE: <not UTF-8>; accepted: UTF-8"
        );
    }
}
