//! The cache in an axum app on Lambda: `cargo lambda watch`, then twice
//! `curl -i http://localhost:9000/prices/7`.
//!
//! Two layers: `ResponseCacheLayer` around the app, and `AfterReplyLayer` around Lambda's runtime. An entry past its TTL is
//! served at once, and reloaded when the reply has been posted: no client waits for that, and Lambda does not freeze it.
//!
//! With the feature `lambda` the cache finds out by itself until when an invocation must be answered. Responses
//! are stored in Redis where `REDIS_URL` names one, else in each execution environment.

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

/// What the cache saves you from doing each time.
async fn price(Path(sku): Path<u32>) -> String {
    format!("{} cents\n", sku * 100)
}
