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
use response_boost::users::{EmbeddedUsers, UsersApi, requested_user};
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
    match config.redis.clone() {
        Some(redis) => {
            let store = RedisStore::new(redis);
            if config.warm_up
                && let Err(fault) = store.warm_up().await
            {
                warn!(fault = fault.detail(), error = %fault, "not warmed up; the first request will connect");
            }
            serve(store, config).await
        }
        None => serve(MemoryStore::default(), config).await,
    }
}

async fn serve(store: impl Store, config: Config) -> Result<(), Error> {
    let Config { namespace, policy, .. } = config;
    let cache = ResponseCache::new(store, policy, move |request: &Request| {
        Some(namespace.key(["user", &requested_user(request)?.to_string()]))
    });
    lambda_runtime::run(Gateway::new(cache.layer(UsersApi::new(EmbeddedUsers)))).await
}
