//! The cache in an axum app on Lambda. Run `cargo lambda watch`, then call
//! `curl -i http://localhost:9000/prices/7` twice.
//!
//! It has two layers: `ResponseCacheLayer` around the app, and `AfterReplyLayer` around Lambda's runtime. A stale entry
//! is served at once, and reloaded after the reply. No client waits for the reload, and Lambda does not freeze the
//! process during it.
//!
//! The feature `lambda` lets the cache find out the deadline of each invocation by itself. Responses are stored in
//! Redis if `REDIS_URL` is set, otherwise in the memory of each execution environment.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request};
use axum::routing::get;
use lambda_http::Adapter;
use lambda_http::lambda_runtime::{LambdaInvocation, Runtime};
use response_boost::{
    AfterReplyLayer, Deadline, DynStore, MemoryStore, Namespace, Policy, RedisSettings, RedisStore,
    ResponseCacheLayer,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let store: Arc<dyn DynStore> = match std::env::var("REDIS_URL") {
        Ok(url) => Arc::new(RedisStore::new(RedisSettings::parse(&url)?)),
        Err(_) => Arc::new(MemoryStore::default()),
    };
    let prices = Namespace::parse("prices")?;
    let policy =
        Policy::new(Duration::from_secs(30)).with_stale_while_revalidate(Duration::from_mins(10));
    let cache = ResponseCacheLayer::new(store, policy, move |request: &Request| {
        Some(prices.path_key(request.uri()))
    });
    let app = Router::new().route("/prices/{sku}", get(price)).layer(cache);
    let after_reply = AfterReplyLayer::new(|invocation: &LambdaInvocation| {
        Deadline::at(invocation.context.deadline())
    });
    Runtime::new(Adapter::from(app)).layer(after_reply).run().await
}

/// The work that the cache saves.
async fn price(Path(sku): Path<u32>) -> String {
    format!("{} cents\n", sku * 100)
}
