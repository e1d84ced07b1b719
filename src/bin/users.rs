//! The users function: wires configuration, cache and API together and runs them on Lambda.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use lambda_http::tower::Layer as _;
use lambda_http::{Error, Request, lambda_runtime};
use response_boost::cache::{MemoryStore, RedisStore, ResponseCache, Store};
use response_boost::config::Config;
use response_boost::event::Gateway;
use response_boost::telemetry;
use response_boost::users::{DynamoDbUsers, EmbeddedUsers, UserStore, UsersApi, requested_user};
use tracing::warn;

// One environment serves one request at a time: a second thread would only cost its start.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "there may be no log to write to yet")]
            {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn start() -> Result<(), Error> {
    let config = Config::from_lookup(|name| std::env::var_os(name))?;
    telemetry::init(config.log.clone());
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        return Err("AWS_LAMBDA_RUNTIME_API is not set: Lambda, or something that plays it, must \
                    start this program. To try it here: make run"
            .into());
    }
    match config.users_table.clone() {
        Some(table) => with_users(DynamoDbUsers::new(table), config).await,
        None => with_users(EmbeddedUsers, config).await,
    }
}

async fn with_users(users: impl UserStore, config: Config) -> Result<(), Error> {
    let Some(redis) = config.redis.clone() else {
        if config.warm_up {
            warm_up_users(&users).await;
        }
        return serve(MemoryStore::default(), users, config).await;
    };
    let store = RedisStore::new(redis);
    if config.warm_up {
        // Beside each other: either may take as long as its limit.
        tokio::join!(warm_up_cache(&store), warm_up_users(&users));
    }
    serve(store, users, config).await
}

async fn warm_up_cache(store: &RedisStore) {
    if let Err(fault) = store.warm_up().await {
        warn!(fault = fault.detail(), error = %fault, "cache not warmed up; the first request will connect");
    }
}

async fn warm_up_users(users: &impl UserStore) {
    if let Err(failure) = users.warm_up().await {
        let cause = std::error::Error::source(&failure).map(ToString::to_string);
        warn!(cause, "user store not warmed up; the first miss will connect");
    }
}

async fn serve(store: impl Store, users: impl UserStore, config: Config) -> Result<(), Error> {
    let Config { namespace, policy, .. } = config;
    let cache = ResponseCache::new(store, policy, move |request: &Request| {
        Some(namespace.key(["user", &requested_user(request)?.to_string()]))
    });
    lambda_runtime::run(Gateway::new(cache.layer(UsersApi::new(users)))).await
}
