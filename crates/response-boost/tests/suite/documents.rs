//! The Rust code in the documents, which compiles, and does what the documents say. Each block of a document stands here
//! word for word: the first test compares them.

#![allow(
    unknown_lints,
    clippy::duration_suboptimal_units,
    clippy::unused_async,
    reason = "the blocks are those of the documents"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::axum::extract::Request;
use ::axum::response::IntoResponse;
use ::axum::routing::get;
use ::axum::{Extension, Router};
use http::header::{ACCEPT_LANGUAGE, AUTHORIZATION};
use response_boost::{
    CacheKey, DynStore, Keep, MemoryStore, Namespace, Policy, RedisSettings, RedisStore,
    ResponseCacheLayer, ValueCache,
};
use serde::{Deserialize, Serialize};
use test_peers::redis::RedisServer;
use tower::ServiceExt as _;

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Where a block of a document may stand.
const SOURCES: [&str; 2] =
    [include_str!("documents.rs"), include_str!("../../../../src/users/embedded.rs")];

#[test]
fn the_blocks_of_all_documents_compile() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut documents = vec![root.join("README.md"), root.join("crates/response-boost/README.md")];
    documents
        .extend(std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let sources = SOURCES.map(without_indentation);
    let mut blocks = 0;
    for document in documents.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(document).unwrap();
        for block in
            text.split("\n```rust\n").skip(1).map(|rest| rest.split("\n```").next().unwrap())
        {
            let block = without_indentation(block);
            let found = sources.iter().any(|source| source.contains(&block));
            assert!(found, "no test compiles this block of {}:\n{block}", document.display());
            blocks += 1;
        }
    }
    assert!(blocks >= 8, "{blocks} blocks found: is ```rust written in another way?");
}

fn without_indentation(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct User {
    id: u32,
}

async fn find(id: u32) -> Result<Option<User>, std::convert::Infallible> {
    Ok((id == 1).then_some(User { id }))
}

async fn price() -> &'static str {
    "700 cents\n"
}

/// README.md, "Add it to your service". The examples run the same.
#[rustfmt::skip]
#[allow(dead_code, unused_imports, reason = "the examples run it, and the value below needs the last import")]
async fn an_axum_service_on_lambda() -> Result {
    use std::{env, sync::Arc, time::Duration};
    use axum::{Router, extract::Request, routing::get};
    use response_boost::{Namespace, Policy, RedisSettings, RedisStore, ResponseCacheLayer, ValueCache};

    let store = Arc::new(RedisStore::new(RedisSettings::parse(&env::var("REDIS_URL")?)?));  // connects with the first request
    let prices = Namespace::parse("prices")?;
    let cache = ResponseCacheLayer::new(store.clone(), Policy::new(Duration::from_secs(30)), move |request: &Request| {
        Some(prices.path_key(request.uri()).with_query(request.uri(), &["currency"]))       // None: it is not cached
    });
    let app = Router::new().route("/prices/{sku}", get(price)).layer(cache);
    lambda_http::run(app).await
}

#[rustfmt::skip]
async fn a_value(store: Arc<RedisStore>, id: u32) -> Result<Option<User>> {
    let policy = Policy::new(Duration::from_secs(120)).with_not_found_ttl(Duration::from_secs(5));
    let users = ValueCache::<User, _>::new(store, policy, Namespace::parse("users")?);
    let user = users.get_or_load(["user", &id.to_string()], move || find(id)).await?;       // under the key users:user:1
    Ok(user)
}

#[tokio::test]
async fn a_value_of_the_readme_is_kept_under_the_key_it_names() {
    let redis = RedisServer::start().await;
    let store = Arc::new(RedisStore::new(RedisSettings::parse(&redis.url()).unwrap()));
    assert_eq!(a_value(store.clone(), 1).await.unwrap(), Some(User { id: 1 }));
    assert_eq!(a_value(store, 2).await.unwrap(), None);
    for (key, longest) in [("users:user:1", 120), ("users:user:2", 5)] {
        let ttl: i64 = redis.command(&["PTTL", key]);
        assert!((1..=longest * 1_000).contains(&ttl), "{key}: {ttl} ms");
    }
}

/// crates/response-boost/README.md.
#[rustfmt::skip]
fn the_shortest_service() -> Result<Router> {
    let prices = Namespace::parse("prices")?;
    let cache = ResponseCacheLayer::new(
        MemoryStore::default(),
        Policy::new(Duration::from_secs(30)),
        move |request: &Request| Some(prices.path_key(request.uri())),
    );
    let app = axum::Router::new().route("/prices/{sku}", get(price)).layer(cache);
    Ok(app)
}

#[rustfmt::skip]
async fn the_shortest_value(store: MemoryStore) -> Result<Option<User>> {
    let users = ValueCache::new(store, Policy::new(Duration::from_secs(120)), Namespace::parse("users")?);
    let user: Option<User> = users.get_or_load(["user", "1"], || find(1)).await?;
    Ok(user)
}

#[tokio::test]
async fn the_shortest_uses_work() {
    let app = the_shortest_service().unwrap();
    for status in ["fwd=uri-miss; stored", "hit; ttl="] {
        let request = http::Request::get("/prices/7").body(::axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let said = response.headers()["cache-status"].to_str().unwrap();
        assert!(said.contains(status), "{said}");
    }
    assert_eq!(the_shortest_value(MemoryStore::default()).await.unwrap(), Some(User { id: 1 }));
}

/// docs/http.md.
mod of_one_route {
    use super::*;

    #[rustfmt::skip]
    async fn price() -> impl IntoResponse {
        (Extension(Keep::new(Duration::from_secs(5))), "42")        // this route alone: five seconds
    }

    #[tokio::test]
    async fn a_route_has_a_ttl_of_its_own() {
        let shop = Namespace::parse("shop").unwrap();
        let cache = ResponseCacheLayer::new(
            MemoryStore::default(),
            Policy::new(Duration::from_secs(120)),
            move |request: &Request| Some(shop.path_key(request.uri())),
        );
        let app = Router::new().route("/answer", get(price)).layer(cache);
        let ask = || http::Request::get("/answer").body(::axum::body::Body::empty()).unwrap();
        app.clone().oneshot(ask()).await.unwrap();
        let hit = app.oneshot(ask()).await.unwrap();
        let said = hit.headers()["cache-status"].to_str().unwrap();
        let ttl = said.strip_prefix("response-boost; hit; ttl=").unwrap().parse::<u32>().unwrap();
        assert!(ttl <= 5, "{said}");
    }
}

#[rustfmt::skip]
fn keys(shop: Namespace, ttl: Duration) -> (impl Fn(&Request) -> Option<CacheKey>, Policy) {
    let key_of = move |request: &Request| {
        Some(shop.path_key(request.uri())                              // shop:path:/shoes
            .with_query(request.uri(), &["page", "sort"])              // :?page=2&sort=price, the others dropped
            .with_header(request.headers(), &ACCEPT_LANGUAGE)          // :accept-language=de
            .with_secret_header(request.headers(), &AUTHORIZATION))    // :authorization=#cd62…, hashed
    };
    let policy = Policy::new(ttl).with_key_headers([ACCEPT_LANGUAGE]); // a Vary of it is covered
    (key_of, policy)
}

#[test]
fn keys_are_made_as_the_comments_say() {
    let (key_of, _) = keys(Namespace::parse("shop").unwrap(), Duration::from_secs(60));
    let request = http::Request::get("/shoes?sort=price&utm=1&page=2")
        .header(ACCEPT_LANGUAGE, "de")
        .header(AUTHORIZATION, "Bearer 1")
        .body(::axum::body::Body::empty())
        .unwrap();
    let key = key_of(&request).unwrap().to_string();
    let start = "shop:path:/shoes:?page=2&sort=price:accept-language=de:authorization=#";
    assert!(key.starts_with(start), "{key}");
}

/// What the README says to do "on a clone of the layer", in a handler, which a server spawns.
#[tokio::test]
async fn a_handler_can_invalidate_with_a_store_chosen_at_run_time() {
    let store: Arc<dyn DynStore> = Arc::new(MemoryStore::default());
    let key_of: fn(&Request) -> Option<CacheKey> = |_| None;
    let cache = ResponseCacheLayer::new(store, Policy::new(Duration::from_secs(30)), key_of);
    let key = Namespace::parse("prices").unwrap().key(["7"]);
    let handler = async move {
        cache.invalidate(&key).await?;
        cache.invalidate_all([&key]).await
    };
    tokio::spawn(handler).await.unwrap().unwrap();
}

/// docs/invalidation.md.
#[rustfmt::skip]
#[allow(dead_code, reason = "it is compiled; the tests of tags run it")]
async fn a_tag<K>(cache: ResponseCacheLayer<MemoryStore, K>, users: Namespace) -> Result {
    cache.invalidate_tag(&users.tag("team-7")?).await?;     // after the write; `users` is the Namespace
    Ok(())
}
