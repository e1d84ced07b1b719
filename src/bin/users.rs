//! The users function: wires configuration, cache and API together and runs them on Lambda.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use lambda_gateway::{Gateway, Payloads};
use lambda_http::{Error, Request};
use lambda_runtime::{LambdaInvocation, Runtime};
use response_boost::{
    AfterReplyLayer, Deadline, MemoryStore, RedisStore, ResponseCacheLayer, Store,
};
use tower::util::option_layer;
use tower::{Layer as _, ServiceExt as _};
use tracing::warn;
use users_function::config::Config;
use users_function::telemetry::Telemetry;
use users_function::users::{DynamoDbUsers, EmbeddedUsers, Route, UserStore, UsersApi, routed};
use users_function::{environment, secret, telemetry};

fn main() -> ExitCode {
    environment::exit_code(start())
}

fn start() -> Result<(), Error> {
    let config = Config::from_lookup(|name| std::env::var_os(name))?;
    telemetry::init(&config.log);
    environment::expect_lambda()?;
    // An environment serves one request at a time, so a second thread would only slow down the start. Environments of
    // Lambda Managed Instances serve several.
    let mut runtime = if config.max_concurrency > 1 {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime.enable_all().build()?;
    // Spawned as a task: before a runtime polls the future that it blocks on, it asks the kernel for events, three
    // times per request.
    runtime.block_on(runtime.spawn(run(config)))?
}

async fn run(config: Config) -> Result<(), Error> {
    let mut config = Box::pin(secret::completed(config, |name| std::env::var_os(name))).await?;
    if !config.cache_enabled {
        // The cache is off, so connect to nothing.
        config.redis = None;
    }
    match config.users_table.clone() {
        Some(table) => Box::pin(with_users(DynamoDbUsers::new(table), config)).await,
        None => with_users(EmbeddedUsers, config).await,
    }
}

async fn with_users(users: impl UserStore, config: Config) -> Result<(), Error> {
    let api = UsersApi::new(users);
    let Some(redis) = config.redis.clone() else {
        let warm_up = {
            let api = api.clone();
            move || warm_up_users(api.clone())
        };
        return serve(MemoryStore::default(), api, config, warm_up).await;
    };
    let store = Arc::new(RedisStore::new(redis));
    let warm_up = {
        let (store, api) = (Arc::clone(&store), api.clone());
        move || {
            let (cache, users) = (warm_up_cache(Arc::clone(&store)), warm_up_users(api.clone()));
            // Concurrently, because either may use up its time limit.
            async {
                tokio::join!(cache, users);
            }
        }
    };
    serve(store, api, config, warm_up).await
}

async fn warm_up_cache(store: Arc<RedisStore>) {
    if let Err(fault) = store.warm_up().await {
        let cause = std::error::Error::source(&fault).map(ToString::to_string);
        warn!(fault = fault.word(store.name()).to_string(), error = %fault, cause, "cache not warmed up; the first request will connect");
    }
}

async fn warm_up_users(users: UsersApi<impl UserStore>) {
    if let Err(failure) = users.warm_up().await {
        let cause = std::error::Error::source(&failure).map(ToString::to_string);
        warn!(cause, "user store not warmed up; the first miss will connect");
    }
}

async fn serve<F>(
    store: impl Store,
    api: UsersApi<impl UserStore>,
    config: Config,
    warm_up: impl Fn() -> F + Send + Sync + 'static,
) -> Result<(), Error>
where
    F: Future<Output = ()> + Send + 'static,
{
    if config.warm_up {
        warm_up().await;
    }
    let Config { namespace, policy, log, base_path, max_concurrency, cache_enabled, .. } = config;
    let cache = ResponseCacheLayer::new(store, policy, move |request: &Request| {
        if !cache_enabled {
            return None;
        }
        Some(namespace.key(Route::of(request).user()?.key_parts()))
    });
    let api = cache.layer(api).map_request(|request| {
        let request = routed(request);
        if let Some(pattern) = Route::of(&request).pattern() {
            telemetry::seen_at(pattern);
        }
        request
    });
    let gateway = Gateway::new(api)
        .without_request_context()
        .with_base_path(base_path)
        .on_reply(telemetry::answered)
        .on_warm_up(move || {
            telemetry::not_a_request();
            warm_up()
        });
    // Not `lambda_runtime::run`, which wraps each invocation in a span; the lines have its ids already.
    let runtime = Runtime::new(gateway).layer(Payloads);
    // Lambda does not freeze an environment that serves several requests at a time.
    let after_reply = (max_concurrency == 1).then(|| {
        AfterReplyLayer::new(|invocation: &LambdaInvocation| {
            Deadline::at(invocation.context.deadline())
        })
    });
    // Outermost, because the line of a request includes the work after its reply.
    let runtime = runtime.layer(option_layer(after_reply)).layer(Telemetry::new(&log));
    // The compiler needs the type to see that the future is `Send`.
    let served: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(runtime.run_concurrent());
    served.await
}
