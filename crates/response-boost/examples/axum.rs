//! The cache in an axum server: `cargo run --example axum`, then `curl -i http://localhost:3000/prices/7` twice.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request};
use axum::routing::get;
use response_boost::{MemoryStore, Namespace, Policy, ResponseCacheLayer};
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let prices = Namespace::parse("prices")?;
    let cache = ResponseCacheLayer::new(
        MemoryStore::default(),
        Policy::new(Duration::from_secs(30)),
        move |request: &Request| Some(prices.path_key(request.uri())),
    );
    let app = Router::new().route("/prices/{sku}", get(price)).layer(cache);

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}/prices/7", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

/// The work that the cache saves.
async fn price(Path(sku): Path<u32>) -> String {
    format!("{} cents\n", sku * 100)
}
