//! The invalidation function: deletes the cached responses of users that changed in their DynamoDB table, by the
//! table's stream. Wires configuration, cache and stream together.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::sync::Arc;

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use response_boost::RedisStore;
use serde_json::value::RawValue;
use users_function::config::Config;
use users_function::stream::{invalidate, read};
use users_function::users::UserId;
use users_function::{environment, secret, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    environment::exit_code(start().await)
}

async fn start() -> Result<(), Error> {
    let config = Config::from_lookup(|name| std::env::var_os(name))?;
    telemetry::init(&config.log);
    environment::expect_lambda()?;
    let config = secret::completed(config, |name| std::env::var_os(name)).await?;
    let redis = config.redis.ok_or("REDIS_URL is not set: there is nothing to delete from")?;
    let store = Arc::new(RedisStore::new(redis));
    let namespace = config.namespace;
    let function = service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        let key_of = |id: UserId| namespace.key(id.key_parts());
        let time_left = lambda_gateway::time_to_answer(&event.context);
        telemetry::within(&event.context, async {
            let batch = read(&event.payload)?;
            invalidate(&batch, &store, key_of, time_left).await.map_err(Error::from)
        })
        .await
    });
    Runtime::new(function).run().await
}
