//! The cache around a plain `service_fn` on Lambda, with Redis at `REDIS_URL`.

use std::time::Duration;

use http::Response;
use lambda_http::{Body, Error, Request, RequestExt as _};
use response_boost::{Namespace, Policy, RedisSettings, RedisStore, ResponseCacheLayer};
use tower::{ServiceBuilder, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // The store connects with the first cacheable request.
    let redis = RedisStore::new(RedisSettings::parse(&std::env::var("REDIS_URL")?)?);

    // Put everything in the key that the response depends on, including the caller if responses differ by caller. With
    // `None` a request bypasses the cache.
    let greetings = Namespace::parse("greetings")?;
    let key_of = move |request: &Request| Some(greetings.key(["to", name(request)]));

    let cache = ResponseCacheLayer::new(redis, Policy::new(Duration::from_secs(30)), key_of);
    lambda_http::run(ServiceBuilder::new().layer(cache).service(service_fn(greet))).await
}

/// The work that the cache saves.
async fn greet(request: Request) -> Result<Response<Body>, Error> {
    Ok(Response::new(format!("Hello, {}!\n", name(&request)).into()))
}

fn name(request: &Request) -> &str {
    request.raw_http_path().trim_start_matches('/')
}
