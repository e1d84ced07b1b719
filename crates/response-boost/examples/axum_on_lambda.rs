//! The cache in an axum app on Lambda: `cargo lambda watch`, then twice
//! `curl -i http://localhost:9000/prices/7`.
//!
//! With the feature `lambda` the cache finds out by itself until when an invocation must be answered. Responses
//! are stored in Redis where `REDIS_URL` names one, else in each execution environment.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request};
use axum::routing::get;
use response_boost::{
    DynStore, MemoryStore, Namespace, Policy, RedisSettings, RedisStore, ResponseCacheLayer,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let store: Arc<dyn DynStore> = match std::env::var("REDIS_URL") {
        Ok(url) => Arc::new(RedisStore::new(RedisSettings::parse(&url)?)),
        Err(_) => Arc::new(MemoryStore::default()),
    };
    let prices = Namespace::parse("prices")?;
    let cache = ResponseCacheLayer::new(
        store,
        Policy::new(Duration::from_secs(30)),
        move |request: &Request| Some(prices.path_key(request.uri())),
    );
    let app = Router::new().route("/prices/{sku}", get(price)).layer(cache);
    lambda_http::run(app).await
}

/// What the cache saves you from doing each time.
async fn price(Path(sku): Path<u32>) -> String {
    format!("{} cents\n", sku * 100)
}
