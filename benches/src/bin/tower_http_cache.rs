//! The alternative tower-http-cache: its Redis backend, as its README sets it up, around the look-up of
//! a user.

use std::time::Duration;

use lambda_http::http::Response;
use lambda_http::tower::{ServiceBuilder, service_fn};
use lambda_http::{Error, Request, run};
use redis::aio::ConnectionManagerConfig;
use serde_json::json;
use tower_http_cache::backend::redis::RedisBackend;
use tower_http_cache::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = redis::Client::open(std::env::var("REDIS_URL")?)?;
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(Duration::from_secs(10)))
        .set_connection_timeout(Some(Duration::from_secs(5)));
    let manager = client.get_connection_manager_with_config(config).await?;
    let cache = CacheLayer::builder(RedisBackend::new(manager))
        .ttl(Duration::from_hours(1))
        .stale_while_revalidate(Duration::from_secs(10))
        .build();
    run(ServiceBuilder::new().layer(cache).service(service_fn(async |_: Request| {
        let user = json!({ "id": 1, "name": "Manas", "email": "manas@example.com", "age": 25 });
        Response::builder().header("content-type", "application/json").body(user.to_string())
    })))
    .await
}
